"""Where this pack reads and writes: a workflow names a place below a folder of the server, nothing else."""

import re
import stat
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from ...mmd_core.files.reference_file import NOT_IN_NAMES

# Windows keeps these for devices, whatever follows the first dot.
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
MAX_BYTES = 200  # of a part of a path; systems have 255, and a number and the ending are added


def inside(path: Path, roots: Iterable[Path]) -> bool:
    """Whether a place lies at or below one of `roots`; all with links resolved."""
    return any(path == root or root in path.parents for root in roots)


def below(root: str | Path, name: str, others: Iterable[Path] = ()) -> Path | None:
    """The place called `name` at or below `root`, links resolved; None if it leads out of `root`.

    Separators of all systems are understood, so that workflows can be shared. A link may also lead into one of
    the `others`, whose links are resolved.
    """
    name = name.replace("\\", "/")
    if name.startswith("/") or PureWindowsPath(name).drive:
        return None  # before anything is asked of it: //server/share would be a call to that server
    root = Path(root).resolve()
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError):  # loops of links, names that no system has
        return None
    return path if inside(path, (root, *others)) else None


def name_parts(name: str) -> list[str]:
    """The parts of a name for something new, separators of all systems understood.

    Raises:
        ValueError: Not every system can have it, or it would lead out of where it is.
    """
    parts = name.replace("\\", "/").split("/")
    for trouble in filter(None, map(_trouble_with, parts)):
        raise ValueError(trouble)
    return parts


def _trouble_with(part: str) -> str | None:
    """Why some system cannot have a file or folder of that name, or would take it for something else."""
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
    """Opens a file for reading, and nothing else: a pipe would never end, a device might do something.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no file, or has more than `limit` bytes.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("is not a file")
    if about.st_size > limit:
        raise ValueError(f"has more than {limit >> 20} MB")
    return path.open("rb")
