"""Which images and captions a folder holds.

The order is natural ("a2" before "a10") and the same on every system. No link leads out of the places allowed.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ....mmd_core.files.reference_file import NOT_IN_NAMES
from ...base.safe_paths import inside
from .captions import CAPTION_FILE, Problems

IMAGE_FILE = re.compile(
    r".+\.(png|jpe?g|jfif|webp|bmp|gif|tiff?|avif|heic|jxl)", re.IGNORECASE | re.DOTALL
)


class Listing(NamedTuple):
    """What a folder holds.

    Attributes:
        images: The image files by their paths below the folder, in natural order, and where they lie.
        captions: The caption files, likewise.
        problems: What is left out, each with the reason.
    """

    images: dict[str, Path]
    captions: dict[str, Path]
    problems: Problems


def natural_key(name: str) -> tuple:
    """Sorts numbers by value and letters without case, folder by folder."""
    parts = unicodedata.normalize("NFC", name).casefold().split("/")
    split = [re.split(r"(\d+)", part) for part in parts]  # text, digits, text …
    return [[int(t) if i % 2 else t for i, t in enumerate(texts)] for texts in split], name


def printable(name: str) -> str:
    """The name of a file, which may hold anything, so that it takes one line and can be written as UTF-8."""
    return NOT_IN_NAMES.sub(lambda match: ascii(match[0])[1:-1], name)


def _look_at(entry: os.DirEntry, roots) -> tuple[str, str]:
    """Where a file or folder really lies, and why it is not to be read, or ""."""
    if not entry.is_symlink():
        if entry.is_dir(follow_symlinks=False):
            # On Windows a junction is a folder and leads elsewhere.
            same = os.path.realpath(entry.path) == entry.path
            return entry.path, "" if same else "leads to another folder: links are not followed"
        return entry.path, "" if entry.is_file(follow_symlinks=False) else "is not a file"
    target = os.path.realpath(entry.path)
    if not inside(Path(target), roots):
        return "", "is a link to a place outside of the input folder"
    if os.path.isdir(target):
        return "", "is a link to a folder: links to folders are not followed"
    return target, "" if os.path.isfile(target) else "is a link to nothing"


def _walk(folder: Path, recursive: bool, roots) -> Iterator[tuple[str, os.DirEntry, str, str]]:
    """All that is not hidden: its path below `folder`, what the system says, where it lies, why not to read it."""
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
            if entry.name.startswith((".", "@eaDir")):  # the latter are thumbnails of NAS boxes
                continue
            path, trouble = _look_at(entry, roots)
            if trouble or not entry.is_dir(follow_symlinks=False):
                yield prefix + entry.name, entry, path, trouble
            elif recursive:
                pending.append((f"{prefix}{entry.name}/", path))


def list_files(folder: Path, recursive: bool, roots: Iterable[Path] = ()) -> Listing:
    """The images and captions below `folder`; links are good within it and within `roots`."""
    images, captions, problems = {}, {}, []
    for name, _, path, trouble in _walk(folder, recursive, roots):
        kinds = ((IMAGE_FILE, images), (CAPTION_FILE, captions))
        found = next((found for pattern, found in kinds if pattern.fullmatch(name)), None)
        if trouble and (recursive or found is not None):
            problems.append((name, trouble))
        elif found is not None:
            found[name] = Path(path)
    images = {name: images[name] for name in sorted(images, key=natural_key)}
    return Listing(images, captions, problems)


def fingerprint(folder: Path, recursive: bool, roots: Iterable[Path] = ()) -> str:
    """Changes whenever an image or a caption file below `folder` is added, removed or written."""
    digest = hashlib.sha256()
    files = [(name, entry) for name, entry, _, why in _walk(folder, recursive, roots) if not why]
    for name, entry in sorted(files, key=lambda file: file[0]):
        if IMAGE_FILE.fullmatch(name) or CAPTION_FILE.fullmatch(name):
            with suppress(OSError):  # gone since it was listed
                about = entry.stat()
                digest.update(repr((name, about.st_size, about.st_mtime_ns)).encode())
    return digest.hexdigest()
