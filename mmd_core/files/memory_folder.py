"""The files of a memory: which there are, which go, and the trash of what was forgotten."""

import os
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from . import limits
from .memory_part import DamagedPart, read_group, samples_in
from .tensor_file import remove, remove_drafts

__all__ = ["KEPT", "TRASH", "disk_use", "file_names", "parts", "remove_old", "reset"]

KEPT = 1024  # an append keeps at least this many of the newest samples of each group
TRASH = ".trash"  # the folder in a memory with what the last reset removed


def parts(folder: Path) -> list[str]:
    """The file names of all parts, oldest first; empty if the folder does not exist.

    Raises:
        OSError: The folder cannot be read.
    """
    return sorted(name for name in file_names(folder) if samples_in(name) is not None)


def file_names(folder: Path) -> list[str]:
    """The names of all files in the folder, without links; empty if it does not exist.

    Raises:
        OSError: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def disk_use(folder: Path) -> tuple[int, int]:
    """The bytes of all parts, and those in the trash; 0 for a folder that cannot be read."""
    found = [0, 0]
    for number, place in enumerate((folder, folder / TRASH)):
        with suppress(OSError):
            found[number] = sum(_sizes(place).values())
    return found[0], found[1]


def remove_old(folder: Path, kept: int, own: Collection[str]) -> None:
    """Removes the oldest parts beyond the newest `kept` samples of each group.

    If the memory then has more than `limits.MEMORY_DISK` bytes, more of the oldest parts go.
    Damaged parts stay.

    Arguments:
        folder: The memory.
        kept: How many samples of each group to keep.
        own: Parts that stay.

    Raises:
        OSError: The folder cannot be read.
    """
    sizes = _sizes(folder)
    size = sum(sizes.values())
    if sum(map(samples_in, sizes)) <= kept and size <= limits.MEMORY_DISK:
        return  # names may be wrong, but reading each part would take long
    newer, rest = Counter(), []
    for name in sorted(sizes, reverse=True):
        try:
            samples, group = read_group(folder / name)
        except (DamagedPart, OSError):
            continue
        if newer[group] >= kept and name not in own:
            size -= sizes[name] * remove(folder / name)
        else:
            rest.append(name)
        newer[group] += samples
    for name in reversed(rest):
        if size > limits.MEMORY_DISK and name not in own:
            size -= sizes[name] * remove(folder / name)


def reset(folder: Path) -> int:
    """Moves all parts to the trash, and removes what was there and the abandoned drafts.

    Returns:
        How many samples there were.

    Raises:
        OSError: The folder cannot be read, or a part cannot be moved or removed.
    """
    trash, forgotten = folder / TRASH, 0
    if trash.is_symlink():  # it could lead out of the memory
        trash.unlink()
    for name in parts(trash):
        (trash / name).unlink(missing_ok=True)
    names = parts(folder)
    if names:
        trash.mkdir(exist_ok=True)
    for name in names:
        with suppress(DamagedPart, FileNotFoundError):
            forgotten += read_group(folder / name)[0]
        with suppress(FileNotFoundError):  # another reset was faster
            os.replace(folder / name, trash / name)
    remove_drafts(folder)
    return forgotten


def _sizes(folder: Path) -> dict[str, int]:
    """The bytes of each part by file name."""
    sizes = {}
    for name in parts(folder):
        with suppress(FileNotFoundError):  # another writer has just removed it
            sizes[name] = os.stat(folder / name, follow_symlinks=False).st_size
    return sizes
