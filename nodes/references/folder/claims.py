"""What the first bytes of a picture claim, where opening it would already take memory or time.

Decoders of WebP, AVIF, HEIF and JPEG XL make room for all pixels when they open a file. A list of
the strips of a TIFF takes seconds if there are millions, and so do parts before the pixels of a
JPEG or GIF, which may have no content at all.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

HEAD = 2**16  # bytes that are looked at
UNKNOWN = 2**63  # pixels of a format whose header is not read here
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}  # markers of a JPEG
STRIPS = (273, 324)  # TIFF tags with one value for each strip or tile
MAX_TAGS = 4096


def claimed_pixels(file: BinaryIO) -> int:
    """The number of pixels for which the decoder makes room when it opens the file.

    It is 0 for formats that take none, and `UNKNOWN` for JPEG XL. The file is then at its start.
    """
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    if _is_webp(head):
        return _webp_pixels(head[12:].ljust(18, b"\0"))
    if head[4:8] == b"ftyp":  # AVIF and HEIF: each picture and each of its tiles says its size
        sizes = (head[at + 8 : at + 16] for at in _places(head, b"ispe"))
        sides = (struct.unpack(">II", size) for size in sizes if len(size) == 8)
        return max((width * height for width, height in sides), default=UNKNOWN)
    is_jxl = head[:2] == b"\xff\x0a" or head[4:8] == b"JXL "
    return UNKNOWN if is_jxl else 0


def is_webp(file: BinaryIO) -> bool:
    """Whether the file begins like a WebP. It is then at its start."""
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    return _is_webp(head)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def claimed_parts(file: BinaryIO, most: int) -> int:
    """The number of strips or tiles of a TIFF, or of parts before the pixels of a JPEG or GIF.

    Where these have more than `most`, it is `most + 1`; 0 for other formats. A byte between two
    parts counts as one. The file is then at its start.
    """
    file.seek(0)
    start = file.read(3)
    file.seek(0)
    if start == b"GIF":
        parts = _gif_parts(file)
    elif start[:2] == b"\xff\xd8":
        parts = _jpeg_parts(file)
    else:
        parts = ()
    try:
        return sum(1 for _ in islice(parts, most + 1)) or _tiff_strips(file)
    except (struct.error, OverflowError):  # the decoder will say that it is damaged
        return 0
    finally:
        file.seek(0)


def _jpeg_parts(file: BinaryIO) -> Iterator[None]:
    """One for each part before the pixels."""
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[:2] != b"\xff\xda":
        yield
        if head[0] != 0xFF or head[1] in (0, 0xFF):  # a byte between parts
            file.seek(-3, 1)
        elif head[1] in WITHOUT_LENGTH:
            file.seek(-2, 1)
        else:
            file.seek(max(0, int.from_bytes(head[2:], "big") - 2), 1)


def _gif_parts(file: BinaryIO) -> Iterator[None]:
    """One for each piece of a block before the first frame."""
    head = file.read(13).ljust(13, b"\0")
    file.seek(3 * 2 ** (1 + (head[10] & 7)) * (head[10] >> 7), 1)  # the colors
    while (kind := file.read(1)) not in (b"", b",", b";"):
        yield
        if kind == b"!":
            file.seek(1, 1)
            while size := file.read(1).strip(b"\0"):
                yield
                file.seek(size[0], 1)


def _webp_pixels(chunk: bytes) -> int:
    """The pixels of the picture whose first chunk begins so."""
    kind, content = chunk[:4], chunk[8:18]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[i : i + 3], "little") for i in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (n & 0x3FFF for n in struct.unpack("<HH", content[6:10]))
    return width * height


def _places(head: bytes, name: bytes) -> list[int]:
    """Where the name is in the bytes."""
    found, at = [], head.find(name)
    while at >= 0:
        found.append(at)
        at = head.find(name, at + 1)
    return found


def _tiff_strips(file: BinaryIO) -> int:
    """The strips or tiles of a TIFF, else 0; struct.error if the file ends early."""
    file.seek(0)
    start = file.read(8)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or start[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        return 0
    is_big = b"+" in start[2:4]  # BigTIFF
    place = file.read(8) if is_big else start[4:]
    file.seek(*struct.unpack(order + ("Q" if is_big else "I"), place))
    count, entry = ("Q", "HHQ8s") if is_big else ("H", "HHI4s")
    (tags,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
    size = struct.calcsize(order + entry)
    data = file.read(size * min(tags, MAX_TAGS))
    found = struct.iter_unpack(order + entry, data[: len(data) // size * size])
    return max((values for tag, _, values, _ in found if tag in STRIPS), default=0)
