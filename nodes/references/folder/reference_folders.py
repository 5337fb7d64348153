"""Finds folders of reference images.

They are in ComfyUI's input folder, or in folders that the owner of the server allows.
"""

import difflib
import os
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import folder_paths

from ....mmd_core.kernels.quoted import quoted
from ...base.safe_paths import below, nfc
from .list_files import SYSTEM, list_files, printable

# The key in extra_model_paths.yaml of other folders that the owner of the server allows.
REGISTERED = "mmd_reference_images"
MAX_LISTED = 1000  # subfolders of each registered folder


def allowed_folders() -> list[Path]:
    """The input folder, then the registered folders, with links resolved."""
    registered = folder_paths.folder_names_and_paths.get(REGISTERED, ([],))[0]
    return [Path(root).resolve() for root in (folder_paths.get_input_directory(), *registered)]


def _label(root: Path) -> str:
    """The first component of the names of folders in `root`: its own name, or its drive letter."""
    return root.name or root.drive.rstrip(":")


def _subfolders(root: Path) -> Iterator[str]:
    """The names of a registered folder and of its subfolders, breadth first."""
    pending = deque([(_label(root), str(root))])
    while pending:
        name, path = pending.popleft()
        yield name
        try:
            with os.scandir(path) as entries:
                found = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # if it is not readable, its subfolders are not readable either
            continue
        pending += [(f"{name}/{e.name}", e.path) for e in found if not e.name.startswith(".")]


def list_folders() -> list[str]:
    """The names of all folders that may hold reference images.

    At most `MAX_LISTED` of each registered folder are listed.
    """
    names = folder_paths.get_input_subfolders()
    for root in filter(os.path.isdir, allowed_folders()[1:]):
        names += sorted(islice(_subfolders(root), MAX_LISTED))
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


def find_folder(folder: str, recursive: bool = True) -> Path:
    """The path of the allowed folder called `folder`, which holds images.

    Raises:
        ValueError: The folder is not allowed, does not exist or holds no images. The message says
            how to fix it.
    """
    path, allowed = locate(folder)
    roots = allowed_folders()
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
        similar = difflib.get_close_matches(folder, list_folders(), n=1)
        hint = f" (there is {similar[0]!r})" if similar else ""
        problem = (
            f"ComfyUI's input folder has no {quoted(folder)}{hint}: create it and put the images "
            "into it"
        )
    elif (listing := list_files(path, recursive, roots)).images:
        return path
    elif list_files(path, True, roots).images:
        problem = f"all images of {quoted(folder)} are in folders inside it: switch `recursive` on"
    elif left_out := [item for item in listing.left_out.items() if item[1] != SYSTEM]:
        name, kind = left_out[0]
        problem = f"all images of {quoted(folder)} are {kind} ({printable(name)}): rename them"
    else:
        first = "".join(f" ({printable(name)} {why})" for name, why, _ in listing.problems[:1])
        problem = (
            f"the folder {quoted(folder)} holds no images{first}: put images such as .png or .jpg "
            "into it"
        )
    raise ValueError(f"LoadReferenceSet: {problem}, or choose another folder in `folder`")
