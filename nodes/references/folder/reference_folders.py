"""Finds folders of reference images.

They are in ComfyUI's input folder, or in folders that the owner of the server allows.
"""

import difflib
import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import folder_paths

from ....mmd_core.kernels.quoted import quoted
from ...base.safe_paths import below, nfc
from .list_files import SYSTEM, Listing, list_files, may_hold_images, printable

# The key in extra_model_paths.yaml of other folders that the owner of the server allows.
REGISTERED = "mmd_reference_images"
# Of each allowed folder, because the server lists them whenever a page or a workflow asks.
MAX_LISTED = 10_000  # subfolders
MAX_ENTRIES = 200_000  # files and folders that are looked at for them
MAX_COMPARED = 1000  # names, to find the one that was meant


def allowed_folders() -> list[Path]:
    """The input folder, then the registered folders, with links resolved."""
    registered = folder_paths.folder_names_and_paths.get(REGISTERED, ([],))[0]
    return [Path(root).resolve() for root in (folder_paths.get_input_directory(), *registered)]


def _label(root: Path) -> str:
    """The first component of the names of folders in `root`: its own name, or its drive letter."""
    return root.name or root.drive.rstrip(":")


def _subfolders(root: Path, name: str) -> Iterator[str]:
    """The names of the subfolders of an allowed folder called `name`, breadth first."""
    pending, looked = deque([(name and f"{name}/", str(root))]), 0
    while pending and looked < MAX_ENTRIES:
        prefix, path = pending.popleft()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    looked += 1
                    if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                        yield prefix + entry.name
                        pending.append((f"{prefix}{entry.name}/", entry.path))
        except OSError:  # if it is not readable, its subfolders are not readable either
            continue


def list_folders() -> list[str]:
    """The names of all folders that may hold reference images.

    At most `MAX_LISTED` of each allowed folder are listed.
    """
    main, *registered = allowed_folders()
    names = sorted(islice(_subfolders(main, ""), MAX_LISTED))
    for root in filter(os.path.isdir, registered):
        label = _label(root)
        names += [label, *sorted(islice(_subfolders(root, label), MAX_LISTED))]
    return list(dict.fromkeys(names))


def locate(folder: str) -> tuple[Path | None, bool]:
    """Finds the folder called `folder` in the input folder, then in the registered folders.

    Returns:
        Its path, or None if it does not exist; and whether an allowed folder can contain this name.
    """
    folder = folder.replace("\\", "/").rstrip("/")
    main, *registered = roots = allowed_folders()
    paths = [below(main, folder, roots)]
    for root in registered:
        label, _, rest = folder.partition("/")
        if label and nfc(label) == nfc(_label(root)):
            paths.append(below(root, rest, roots))
    # The input folder itself is not allowed as a folder of references.
    paths = [path for path in paths if path not in (None, main)]
    return next(filter(os.path.isdir, paths), None), bool(paths)


def find_folder(folder: str) -> Path:
    """The path of the allowed folder called `folder`.

    Raises:
        ValueError: The folder is not allowed, does not exist or holds no images for certain, as far
            as that can be known at once. The message says how to fix it.
    """
    path, allowed = locate(folder)
    if not folder:
        problem = (
            "no folder is chosen: put a folder of images into ComfyUI's input folder and press R"
        )
    elif not allowed:
        problem = (
            f"{quoted(folder)} is not in ComfyUI's input folder: copy the images to a folder "
            "there, or let the owner of the server allow their folder in extra_model_paths.yaml "
            f"({REGISTERED}: PATH)"
        )
    elif path is None:
        names = list_folders()[:MAX_COMPARED]
        similar = difflib.get_close_matches(folder, names, n=1)
        hint = f" (there is {similar[0]!r})" if similar else ""
        problem = (
            f"ComfyUI's input folder has no {quoted(folder)}{hint}: create it and put the images "
            "into it"
        )
    elif may_hold_images(path):
        return path
    else:
        problem = _no_images(folder)
    raise ValueError(f"LoadReferenceSet: {problem}, or choose another folder in `folder`")


def _no_images(folder: str, first: str = "") -> str:
    """That a folder holds no images, and how to fix it; `first`: a file that cannot be read."""
    return (
        f"the folder {quoted(folder)} holds no images{first}: put images such as .png or .jpg into "
        "it"
    )


def list_images(
    folder: str, recursive: bool, on_progress: Callable[[int], None]
) -> tuple[Path, Listing]:
    """The path of the allowed folder called `folder`, and its files, of which some are images.

    Arguments:
        folder: The name of the folder.
        recursive: Whether to list its subfolders, too.
        on_progress: As in `list_files`.

    Raises:
        ValueError: As in `find_folder`, or the folder holds no images.
    """
    path, roots = find_folder(folder), allowed_folders()
    listing = list_files(path, recursive, roots, on_progress)
    if listing.images:
        return path, listing
    if not recursive and list_files(path, True, roots, on_progress).images:
        problem = f"all images of {quoted(folder)} are in folders inside it: switch `recursive` on"
    elif left_out := [item for item in listing.left_out.items() if item[1] != SYSTEM]:
        name, kind = left_out[0]
        problem = f"all images of {quoted(folder)} are {kind} ({printable(name)}): rename them"
    else:
        first = "".join(f" ({printable(name)} {why})" for name, why, _ in listing.problems[:1])
        problem = _no_images(folder, first)
    raise ValueError(f"LoadReferenceSet: {problem}, or choose another folder in `folder`")
