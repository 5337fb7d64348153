"""Lists the image and caption files of a folder.

The order of images is natural ("a2" before "a10") and the same on every system. Links that lead out
of the allowed folders are not followed.
"""

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ....mmd_core.files.reference_file import NOT_IN_NAMES
from ...base.safe_paths import inside, nfc
from .file_kinds import (
    CAPTION_FILE,
    IMAGE_FILE,
    OTHER_IMAGE_FILE,
    OTHER_TEXT_FILE,
    has_ending,
    sniffed,
)
from .problems import Problem, Problems
from .trainer_names import left_out

LOOKED_AT = 1000  # files and folders, before the server begins to work on a workflow
MATTER = (IMAGE_FILE, CAPTION_FILE, OTHER_IMAGE_FILE, OTHER_TEXT_FILE)  # all that is read or named
SYSTEM = "folders of the system"
# Folders in which systems and network drives keep deleted, repaired or older files, in lower case.
SYSTEM_FOLDERS = (
    "#recycle", "@recycle", "$recycle.bin", "recycle.bin", "recycler", "lost+found", "found.000",
    "#snapshot", "@recently-snapshot", "system volume information", "__macosx",
    "network trash folder", "temporary items",
)  # fmt: skip


class Listing(NamedTuple):
    """The image and caption files of a folder.

    Attributes:
        images: The absolute path of each image file, by its path relative to the folder, in natural
            order.
        captions: The same for the caption files, in no particular order.
        problems: The files and folders that cannot be read, each with the reason.
        left_out: The images that are no references and the folders of the system, each with what
            it is (`SYSTEM`, or as in `trainer_names`).
        others: The other files.
    """

    images: dict[str, Path]
    captions: dict[str, Path]
    problems: Problems
    left_out: dict[str, str]
    others: dict[str, Path]


def natural_key(name: str) -> tuple[list[list[str | int]], str]:
    """Sort key for paths: numbers by value, letters without case, one path component at a time."""
    parts = nfc(name).casefold().split("/")
    split = [re.split(r"(\d+)", part) for part in parts]  # text, digits, text and so on
    return [[int(t) if i % 2 else t for i, t in enumerate(texts)] for texts in split], name


def printable(name: str) -> str:
    """The file name as one line of valid UTF-8, with unsafe characters escaped."""
    return NOT_IN_NAMES.sub(lambda match: ascii(match[0])[1:-1], name)


def _look_at(entry: os.DirEntry, roots: Iterable[Path]) -> tuple[str, str]:
    """The real path of a file or folder, and why it must not be read ("" if it may be read)."""
    if not entry.is_symlink():
        if entry.is_dir(follow_symlinks=False):
            # A Windows junction looks like a folder, but leads to another one.
            same = os.path.realpath(entry.path) == entry.path
            return entry.path, "" if same else "leads to another folder: links are not followed"
        return entry.path, "" if entry.is_file(follow_symlinks=False) else "is not a file"
    target = os.path.realpath(entry.path)
    if not inside(Path(target), roots):
        return "", "is a link to a place outside of the input folder"
    if os.path.isdir(target):
        return "", "is a link to a folder: links to folders are not followed"
    return target, "" if os.path.isfile(target) else "is a link to nothing"


def _walk(
    folder: Path, recursive: bool, roots: Iterable[Path]
) -> Iterator[tuple[str, os.DirEntry | None, str, str]]:
    """All files that are not hidden, and all entries that must not be read.

    Yields the path relative to `folder`, the directory entry (None for an unreadable folder), the
    real path, and why it must not be read ("" if it may be read).
    """
    top = os.path.realpath(folder)
    roots = (Path(top), *roots)
    pending = [("", top)]
    while pending:
        prefix, place = pending.pop()
        try:
            with os.scandir(place) as entries:
                found = list(entries)
        except OSError as error:
            yield prefix or ".", None, "", f"cannot be read ({error.strerror})"
            continue
        for entry in found:
            if entry.name.startswith((".", "@eaDir")):  # @eaDir: thumbnails of Synology NAS
                continue
            path, problem = _look_at(entry, roots)
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder and entry.name.casefold() in SYSTEM_FOLDERS and not problem:
                problem = SYSTEM
            if problem or not is_folder:
                yield prefix + entry.name, entry, path, problem
            elif recursive:
                pending.append((f"{prefix}{entry.name}/", path))


def may_hold_images(folder: Path) -> bool:
    """Whether images may be below `folder`. It takes little time, however large the folder is.

    False only if all files and folders in it are known: at most `LOOKED_AT` are looked at.
    """
    pending, looked = deque([str(folder)]), 0
    while pending:
        try:
            with os.scandir(pending.popleft()) as entries:
                for entry in entries:
                    looked += 1
                    if looked > LOOKED_AT:
                        return True
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif IMAGE_FILE.fullmatch(entry.name) or not has_ending(entry.name):
                        return True
        except OSError:  # `list_files` will say why
            return True
    return False


def list_files(
    folder: Path,
    recursive: bool,
    roots: Iterable[Path] = (),
    on_progress: Callable[[int], None] = lambda found: None,
) -> Listing:
    """The image and caption files below `folder`.

    Links to files are followed if they lead into `folder` or into `roots`. A file whose name has no
    ending is an image if it begins like one.

    Arguments:
        folder: The folder.
        recursive: Whether to list its subfolders, too.
        roots: Folders into which links may lead, besides `folder`.
        on_progress: Is called often, with the number of files found so far, or 0. It may raise an
            exception to stop.
    """
    images, captions, others, problems, unused = {}, {}, {}, [], {}
    kinds = ((IMAGE_FILE, images), (CAPTION_FILE, captions))
    for count, (name, _, path, problem) in enumerate(_walk(folder, recursive, roots), 1):
        on_progress(count)
        found = next((found for pattern, found in kinds if pattern.fullmatch(name)), others)
        if problem == SYSTEM:
            unused |= {name: SYSTEM} if recursive else {}
        elif problem and (recursive or found is not others):
            problems.append(Problem(name, problem))
        elif not problem:
            is_image = found is others and not has_ending(name) and sniffed(Path(path))
            (images if is_image else found)[name] = Path(path)

    def place(name: str) -> Any:
        on_progress(0)
        return natural_key(name)

    unused |= left_out(images)
    order = sorted(images.keys() - unused.keys(), key=place)
    images = {name: images[name] for name in order}
    return Listing(images, captions, problems, unused, others)


def fingerprint(
    folder: Path,
    recursive: bool,
    roots: Iterable[Path] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> str:
    """A hash that changes if a file below `folder` that matters is added, removed or written.

    It depends on the names, sizes and modification times of the files. It is "" once `stopped`,
    which is asked often, returns True.
    """
    digest, files = hashlib.sha256(), []
    for name, entry, _, problem in _walk(folder, recursive, roots):
        if stopped():
            return ""
        if not problem:
            files.append((name, entry))
    for name, entry in sorted(files, key=lambda file: file[0]):
        if stopped():
            return ""
        if any(kind.fullmatch(name) for kind in MATTER) or not has_ending(name):
            with suppress(OSError):  # deleted since it was listed
                about = entry.stat()
                digest.update(repr((name, about.st_size, about.st_mtime_ns)).encode())
    return digest.hexdigest()
