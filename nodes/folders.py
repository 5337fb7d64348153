"""Where this pack reads and writes: a workflow names a place below a folder of the server, nothing else."""

import stat
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import BinaryIO


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
