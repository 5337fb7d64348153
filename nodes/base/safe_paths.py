"""Protection against path traversal.

A workflow can name only paths inside allowed folders of the server.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from ...mmd_core.files import limits
from ...mmd_core.files.reference_file import NOT_IN_NAMES

# Windows reserves these names for devices, with any file extension.
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
# Bytes of one path component. The usual limit is 255; a number and the extension are added.
MAX_BYTES = 200


class Refused(ValueError):
    """A file is not read; the message is the reason, in the user's words."""


def inside(path: Path, roots: Iterable[Path]) -> bool:
    """Whether `path` is one of `roots` or lies below one.

    The caller has resolved the links of all paths.
    """
    return any(path == root or root in path.parents for root in roots)


def nfc(name: str) -> str:
    """The name in Unicode NFC.

    macOS may store accents in file names as separate characters, other systems do not.
    """
    return unicodedata.normalize("NFC", name)


def below(root: str | Path, name: str, others: Iterable[Path] = ()) -> Path | None:
    """The path `root / name` with links resolved.

    The result is None if the path is outside of `root` and of all `others`. `name` may contain the
    separators of any operating system, so that workflows can be shared. A symbolic link may lead
    into one of the `others`; the caller has resolved the links of these. If nothing has this name,
    the path is that of what is stored under the same name with accents in other characters.
    """
    name = name.replace("\\", "/")
    if name.startswith("/") or PureWindowsPath(name).drive:
        return None  # checked before any file access: //server/share would contact that server
    root = Path(root).resolve()
    roots = (root, *others)
    try:
        path = (root / name).resolve()
        if inside(path, roots) and not os.path.lexists(root / name):
            path = _as_stored(root, name, roots).resolve()
    except (OSError, RuntimeError, ValueError):  # link loops, invalid names
        return None
    return path if inside(path, roots) else None


def _as_stored(place: Path, name: str, roots: Iterable[Path]) -> Path:
    """The path `place / name` as far as it exists, in the spelling of its folders and files.

    These may differ from `name` in how accents are stored, and on Linux they may hold a backslash.
    """

    def comparable(stored: str) -> str:
        return nfc(stored.replace("\\", "/"))

    rest = comparable(name) if len(name) <= limits.NAME else ""
    found = place / name
    if {"", ".", ".."} & set(rest.split("/")):
        return found
    while rest and place.is_dir() and inside(place.resolve(), roots):
        stored = {comparable(entry): entry for entry in sorted(os.listdir(place))}
        ends = [len(rest), *(i for i in reversed(range(len(rest))) if rest[i] == "/")]
        end = next((end for end in ends if rest[:end] in stored), None)
        if end is None:
            break
        place, rest = place / stored[rest[:end]], rest[end + 1 :]
        found = place / rest
    return found


def name_parts(name: str) -> list[str]:
    """The path components of a new file or folder.

    `name` may contain the separators of any operating system.

    Raises:
        ValueError: A component is not a valid file name on every operating system, or is "." or
            "..".
    """
    parts = name.replace("\\", "/").split("/")
    for problem in filter(None, map(_name_problem, parts)):
        raise ValueError(problem)
    return parts


def _name_problem(part: str) -> str | None:
    """Why `part` is not a safe file name on every operating system; None if it is safe."""
    if not part:
        return "a part of it is empty"
    if part[0] in ". " or part[-1] in ". ":
        return "a part of it starts or ends with a dot or space"
    if NOT_IN_NAMES.search(part) or set(part) & set('<>:"|?*'):
        return 'it has a character that file names cannot have, such as : ? * " < > |'
    if DEVICE.fullmatch(part):
        return f"Windows keeps the name {part} for a device"
    if len(part.encode()) > MAX_BYTES:
        return f"a part of it is longer than {MAX_BYTES} bytes"
    return None


def open_file(path: Path, limit: int) -> BinaryIO:
    """Opens a regular file for binary reading.

    Pipes are refused because they can block, devices because reading them can have side effects.

    Raises:
        OSError: The file cannot be opened.
        Refused: The path is not a regular file, or the file has more than `limit` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Refused("is not a file")
    if status.st_size > limit:
        raise Refused(f"has more than {limit >> 20} MB")
    return path.open("rb")
