"""What our `.safetensors` files have in common: they are there as a whole or not at all, and a digest finds damage.

The digest is the SHA-256, in lower-case hex, of the following, each preceded by its length in bytes as 8 bytes,
little-endian, and all text in UTF-8: the number of metadata entries without `digest`, in decimals; the key and
the value of each of them, sorted by key; the name, dtype ("F32"), shape ("64,4,8,8") and bytes of each tensor,
sorted by name.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["CODES", "Stored", "abandoned", "digest", "file_bytes", "remove", "write_whole"]

CODES = {torch.float32: "F32", torch.float16: "F16", torch.uint8: "U8"}
MAX_HEADER = 100_000_000  # bytes, of any .safetensors file
DRAFT = ".tmp"  # the ending of a file that is not complete
ABANDONED = 24 * 3600  # seconds: nobody still writes a draft of this age
PIECE = 2**22  # numbers that are converted, hashed or written at once

Stored = dict[str, tuple[Tensor, torch.dtype]]  # by name: a tensor, and its type in the file


def write_whole(path: Path, pieces: Iterable[bytes], lasting: bool = True) -> None:
    """Writes the file, or leaves what was there: it is complete before it gets its name.

    Arguments:
        path: The file, in a folder that exists. A link there is replaced, not followed.
        pieces: Its content.
        lasting: Whether it outlives a loss of power from now on, which takes a little longer.

    Raises:
        OSError: The file cannot be written.
    """
    draft = path.with_name(f".{uuid.uuid4().hex}{DRAFT}")
    try:
        with open(draft, "xb") as file:
            for piece in pieces:
                file.write(piece)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
    finally:  # after an interrupt as well
        draft.unlink(missing_ok=True)
    if lasting:
        with contextlib.suppress(OSError):  # not every system can do this with a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def abandoned(entry: os.DirEntry) -> bool:
    """Whether it is a draft that somebody left behind who died while writing.

    Raises:
        OSError: It is gone.
    """
    return entry.name.endswith(DRAFT) and entry.stat().st_mtime < time.time() - ABANDONED


def remove(path: str | Path) -> bool:
    """Whether it could be removed; not what is in use on Windows, or what somebody else removed already."""
    with contextlib.suppress(OSError):
        os.unlink(path)
        return True
    return False


def file_bytes(metadata: dict[str, str], tensors: Stored) -> Iterator[bytes]:
    """The file's bytes, the digest included, the tensors in the order of `tensors`.

    safetensors' own writer orders metadata by chance, and older ones copy all tensors.

    Raises:
        ValueError: More metadata than a file holds; when the first piece is asked for.
    """
    entries = {"__metadata__": {**metadata, "digest": digest(metadata, tensors)}}
    end = 0
    for name, (tensor, kind) in tensors.items():
        start, end = end, end + tensor.numel() * kind.itemsize
        shape = list(tensor.shape)
        entries[name] = {"dtype": CODES[kind], "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER:
        raise ValueError(
            f"names and captions take {len(header) / 1e6:.0f} MB, and a file holds 100 MB of them: "
            "leave out captions or references"
        )
    yield len(header).to_bytes(8, "little") + header
    for tensor, kind in tensors.values():
        yield from _pieces(tensor, kind)


def digest(metadata: dict[str, str], tensors: Stored) -> str:
    """The digest of a file's content."""
    found = hashlib.sha256()

    def add(n_bytes: int, pieces: Iterable[bytes]) -> None:
        found.update(n_bytes.to_bytes(8, "little"))
        for piece in pieces:
            found.update(piece)

    def add_texts(*texts: str) -> None:
        for text in map(str.encode, texts):
            add(len(text), [text])

    entries = sorted(entry for entry in metadata.items() if entry[0] != "digest")
    add_texts(str(len(entries)), *chain.from_iterable(entries))
    for name, (tensor, dtype) in sorted(tensors.items()):
        add_texts(name, CODES[dtype], ",".join(map(str, tensor.shape)))
        add(tensor.numel() * dtype.itemsize, _pieces(tensor, dtype))
    return found.hexdigest()


def _pieces(tensor: Tensor, dtype: torch.dtype) -> Iterator[bytes]:
    """The bytes of the tensor as `dtype`, a few megabytes at a time."""
    for part in tensor.detach().flatten().split(PIECE):
        if dtype == torch.uint8 and part.is_floating_point():
            part = part.nan_to_num(0).clamp(0, 1).mul(255).round()
        yield part.to("cpu", dtype).view(torch.uint8).numpy().tobytes()
