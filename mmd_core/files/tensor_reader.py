"""Reads `.safetensors` files of strangers.

Each size that a file claims is compared with the size of the file before memory is used for it.
Files are not memory-mapped: if a mapped file is shortened, or its network drive fails, the
operating system kills the process.
"""

import math
import os
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from .json_text import parsed
from .tensor_file import CODES, PIECE, Digest

__all__ = ["BadFile", "Header", "Place", "read_header", "read_tensors"]

TYPES = {code: dtype for dtype, code in CODES.items()}
SIZES = {  # bytes of a number
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
MAX_SIDES = 8  # of a tensor


class BadFile(ValueError):
    """The file is damaged, or it is no `.safetensors` file. The message is the reason."""


class Place(NamedTuple):
    """Where a tensor is in a file.

    Attributes:
        dtype: Its type, such as "F32".
        shape: Its shape.
        start: The position of its first byte in the file.
        size: The number of its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class Header(NamedTuple):
    """What a file says about its content.

    Attributes:
        metadata: Texts by name.
        tensors: The places of tensors by name. Together they fill the file.
    """

    metadata: dict[str, str]
    tensors: dict[str, Place]


def read_header(file: BinaryIO, longest: int, entries: int) -> Header:
    """The header of a file.

    Arguments:
        file: The file, at its start.
        longest: The maximum number of bytes of the header.
        entries: The maximum number of tensors and metadata entries.

    Raises:
        BadFile: The header is damaged, or larger, or does not describe the file.
        OSError: The file cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= size - 8:
        raise BadFile("its header does not end")
    if length > longest:
        raise BadFile(f"its header has more than {longest / 1e6:g} MB")
    try:
        content = parsed(file.read(length).decode(), 12 * entries)
        metadata = content.pop("__metadata__", {})
        for text in (*metadata, *metadata.values()):
            text.encode()  # fails for anything but a text, and for half a character
        places = {name: _place(entry, 8 + length) for name, entry in content.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Other errors have the words of libraries.
        reason = f": {error}" if type(error) is ValueError else ""
        raise BadFile(f"its header is damaged{reason}") from None
    end = 8 + length
    for place in sorted(places.values(), key=lambda place: (place.start, place.size)):
        if place.start != end:
            raise BadFile("its tensors overlap, or there are gaps between them")
        end += place.size
    if end != size:
        raise BadFile("it is cut off, or has more than its header says")
    return Header(metadata, places)


def _place(entry: dict, start: int) -> Place:
    """The place of a tensor; `start` is that of the first one.

    Raises:
        ValueError, TypeError, KeyError: The entry is damaged.
    """
    shape, ends = entry["shape"], entry["data_offsets"]
    if len(ends) != 2:
        raise ValueError("a tensor has no place")
    first, last = ends
    if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise ValueError("a size is no number")
    if len(shape) > MAX_SIDES or len(entry) != 3:
        raise ValueError("a tensor has too many sides or entries")
    size = SIZES[entry["dtype"]] * math.prod(shape)
    if size != last - first:
        raise ValueError("a tensor has another size than its shape")
    return Place(entry["dtype"], tuple(shape), start + first, size)


def read_tensors(
    file: BinaryIO, header: Header, allocate: Callable[[tuple[int, ...]], Tensor] = torch.empty
) -> tuple[dict[str, Tensor], str]:
    """All tensors of a file, and the digest of its content.

    Arguments:
        file: The file that has this header, with tensors of the types in `CODES`.
        header: What `read_header` returned.
        allocate: Returns an uninitialized float32 tensor on the CPU for a shape.

    Returns:
        Float32 tensors by name, of F32 and F16 in the file, and uint8 tensors of U8; and the digest
        that a file with this content has.

    Raises:
        BadFile: The file was shortened meanwhile.
        OSError: The file cannot be read.
    """
    found, tensors = Digest(header.metadata), {}
    for name, place in sorted(header.tensors.items()):
        stored = TYPES[place.dtype]
        tensor = (
            torch.empty(place.shape, dtype=stored)
            if stored == torch.uint8
            else allocate(place.shape)
        )
        found.begin(name, place.dtype, place.shape, place.size)
        file.seek(place.start)
        for part in tensor.view(-1).split(PIECE):
            piece = part if part.dtype == stored else torch.empty(len(part), dtype=stored)
            data = memoryview(piece.view(torch.uint8).numpy())
            if file.readinto(data) != len(data):
                raise BadFile("it was shortened while it was read")
            found.add(data)
            part.copy_(piece)
        tensors[name] = tensor
    return tensors, found.hexdigest()
