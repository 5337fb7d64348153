"""Writes `.safetensors` files: complete or not at all, with a digest that detects damage.

A file is written under a temporary name, as a draft, and gets its name when it is complete. Names
of drafts have 32 random hexadecimal digits: `.ID.tmp`.

The digest is a SHA-256 in lower-case hex. It covers the following items, in this order. Each item
is preceded by its length in bytes as a little-endian number of 8 bytes, and all text is UTF-8.

1. The number of metadata entries without `digest`, in decimal.
2. The key and the value of each of these entries, sorted by key.
3. The name, dtype ("F32"), shape ("64,4,8,8") and bytes of each tensor, sorted by name.
"""

import contextlib
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from . import limits

__all__ = [
    "CODES", "Digest", "Stored", "digest", "file_bytes", "remove", "remove_drafts",
    "write_new", "write_whole",
]  # fmt: skip

CODES = {torch.float32: "F32", torch.float16: "F16", torch.uint8: "U8"}
DRAFT = re.compile(r"\.[0-9a-f]{32}\.tmp")  # the names of drafts
ABANDONED = 24 * 3600  # seconds: no process still writes a draft that is older
PIECE = 2**22  # numbers that are converted, hashed or written at once

Stored = dict[str, tuple[Tensor, torch.dtype]]  # by name: a tensor and its type in the file


def write_whole(path: Path, pieces: Iterable[bytes], lasting: bool = True) -> None:
    """Writes a complete file. If this fails, an existing file at `path` is unchanged.

    Arguments:
        path: The file, in a folder that exists. An existing file is replaced, and so is a link.
        pieces: The content.
        lasting: Whether the file must survive a power failure after the return. This takes longer.

    Raises:
        OSError: The file cannot be written.
    """
    with _draft(path.parent, pieces, lasting) as draft:
        os.replace(draft, path)


def write_new(path: Path, pieces: Iterable[bytes]) -> None:
    """Writes a complete file that survives a power failure, but never in the place of another one.

    If several processes write to the same path at once, one of them succeeds.

    Arguments:
        path: The file, in a folder that exists.
        pieces: The content.

    Raises:
        FileExistsError: Something has this name already.
        OSError: The file cannot be written.
    """
    with _draft(path.parent, pieces, lasting=True) as draft:
        _give_free_name(draft, path)


@contextlib.contextmanager
def _draft(folder: Path, pieces: Iterable[bytes], lasting: bool) -> Iterator[Path]:
    """A complete draft, which the body gives its name. It is removed if the body fails.

    If the file is lasting, old drafts of interrupted processes in the folder are removed, too.
    """
    draft = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        with open(draft, "xb") as file:
            for piece in pieces:
                file.write(piece)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
                now = os.fstat(file.fileno()).st_mtime  # a network drive has a clock of its own
        yield draft
    finally:  # also after an interrupt
        remove(draft)
    if lasting:
        with contextlib.suppress(OSError):  # some systems cannot open a folder
            opened = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
        remove_drafts(folder, now)


def _give_free_name(draft: Path, path: Path) -> None:
    """Gives a draft the name `path`, unless something has this name.

    Raises:
        FileExistsError: Something has this name already.
        OSError: The folder cannot be written.
    """
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except (AttributeError, OSError):  # some systems and file systems have no hard links
        # This reserves the name. If the process is killed here, an empty file remains.
        with open(path, "xb"):
            pass
        try:
            os.replace(draft, path)
        except BaseException:
            remove(path)
            raise


def remove_drafts(folder: Path, now: float | None = None) -> None:
    """Removes the drafts that interrupted processes left in a folder.

    Arguments:
        folder: The folder.
        now: The time by the clock of its file system, in seconds; by default that of this machine.
    """
    now = time.time() if now is None else now
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if DRAFT.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < now - ABANDONED:
                        remove(entry.path)


def remove(path: str | Path) -> bool:
    """Removes a file if possible, and returns whether this call removed it.

    It fails if the file is in use on Windows, or if it does not exist any more.
    """
    with contextlib.suppress(OSError):
        os.unlink(path)
        return True
    return False


def file_bytes(metadata: dict[str, str], tensors: Stored) -> Iterator[bytes]:
    """The bytes of a `.safetensors` file with the digest, in pieces.

    The writer of the safetensors package is not used: its order of metadata is random, and older
    versions copy all tensors.

    Arguments:
        metadata: The metadata without the digest.
        tensors: The tensors, in their order in the file.

    Raises:
        ValueError: The metadata is too large. Raised at the first piece.
    """
    entries = {"__metadata__": {**metadata, "digest": digest(metadata, tensors)}}
    end = 0
    for name, (tensor, kind) in tensors.items():
        start, end = end, end + tensor.numel() * kind.itemsize
        shape = list(tensor.shape)
        entries[name] = {"dtype": CODES[kind], "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > limits.SET_HEADER:
        raise ValueError(
            f"names and captions take {len(header) / 1e6:.0f} MB, but a file can hold 100 MB of "
            "them: leave out captions or references"
        )
    yield len(header).to_bytes(8, "little") + header
    for tensor, kind in tensors.values():
        yield from _pieces(tensor, kind)


def digest(metadata: dict[str, str], tensors: Stored) -> str:
    """The digest of a file with this content."""
    found = Digest(metadata)
    for name, (tensor, dtype) in sorted(tensors.items()):
        found.begin(name, CODES[dtype], tensor.shape, tensor.numel() * dtype.itemsize)
        for piece in _pieces(tensor, dtype):
            found.add(piece)
    return found.hexdigest()


class Digest:
    """The digest of a file whose tensors are added one after the other, sorted by name.

    Arguments:
        metadata: The metadata of the file, with or without the digest.
    """

    def __init__(self, metadata: dict[str, str]) -> None:
        self._hash = hashlib.sha256()
        entries = sorted(entry for entry in metadata.items() if entry[0] != "digest")
        self._add_texts(str(len(entries)), *chain.from_iterable(entries))

    def begin(self, name: str, code: str, shape: Sequence[int], size: int) -> None:
        """Begins a tensor. Its bytes follow.

        Arguments:
            name: Its name.
            code: Its type, one of the values of `CODES`.
            shape: Its shape.
            size: The number of its bytes.
        """
        self._add_texts(name, code, ",".join(map(str, shape)))
        self._hash.update(size.to_bytes(8, "little"))

    def add(self, data: bytes | memoryview) -> None:
        """Adds the next bytes of the tensor."""
        self._hash.update(data)

    def hexdigest(self) -> str:
        """The digest in lower-case hex."""
        return self._hash.hexdigest()

    def _add_texts(self, *texts: str) -> None:
        for text in map(str.encode, texts):
            self._hash.update(len(text).to_bytes(8, "little"))
            self._hash.update(text)


def _pieces(tensor: Tensor, dtype: torch.dtype) -> Iterator[bytes]:
    """The bytes of the tensor as `dtype`, a few megabytes at a time."""
    for part in tensor.detach().flatten().split(PIECE):
        if dtype == torch.uint8 and part.is_floating_point():
            part = part.nan_to_num(0).clamp(0, 1).mul(255).round()
        yield part.to("cpu", dtype).view(torch.uint8).numpy().tobytes()
