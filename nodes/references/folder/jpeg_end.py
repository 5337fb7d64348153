"""JPEG files without the marker at their end. Their pixels may all be there."""

from collections.abc import Callable
from typing import BinaryIO, TypeVar

from .joined_file import joined
from .refused import CUT_OFF, Refused

Decoded = TypeVar("Decoded", bound=tuple)
END = b"\xff\xd9"
# In place of pixels that are missing, the decoder would show these.
FILLERS = (b"", b"\x55" * 4096, b"\xa6" * 4096)


def is_jpeg(file: BinaryIO) -> bool:
    """Whether the file begins like a JPEG."""
    file.seek(0)
    return file.read(2) == b"\xff\xd8"


def with_end(file: BinaryIO, load: Callable[[BinaryIO], Decoded]) -> Decoded:
    """The picture in a JPEG file whose end is missing.

    Arguments:
        file: The file.
        load: Decodes such a file; the first part of the result is the image.

    Raises:
        Refused: Pixels may be missing, too.
    """
    if not _has_one_part(file):
        raise Refused(CUT_OFF)
    size = file.seek(-1, 2)
    size += file.read() != END[:1]
    found, *others = (load(joined(file, [(0, size), filler + END])) for filler in FILLERS)
    if any(other[0].tobytes() != found[0].tobytes() for other in others):
        raise Refused(CUT_OFF)
    return found


def _has_one_part(file: BinaryIO) -> bool:
    """Whether all pixels are in one part of the file. Other files may end between two parts."""
    file.seek(2)
    colors = 0
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        content = file.read(int.from_bytes(head[2:], "big") - 2)
        if head[1] in (0xC0, 0xC1):  # the kinds that are not progressive
            colors = content[5]
        if head[1] == 0xDD and any(content):  # restarts divide the pixels into parts
            return False
        if head[1] == 0xDA:
            return content[0] == colors
    return False
