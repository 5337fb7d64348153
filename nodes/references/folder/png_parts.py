"""What of a PNG makes its picture. The rest may be damaged or large without harm to the pixels.

A PNG consists of chunks: length, kind, content and checksum.
"""

import re
import struct
import zlib
from typing import BinaryIO, NamedTuple

from ....mmd_core.files import limits
from .joined_file import joined
from .refused import CUT_OFF, DAMAGED, Refused

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 2**20  # bytes: Pillow reads no longer texts
BLOCK = 2**20  # bytes that are read at once
# Kinds that do not change pixels. What has another kind and a wrong checksum may be pixels.
EXTRAS = {
    b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD",
    b"hIST", b"sPLT", b"eXIf", b"zXIf", b"iCCP", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi",
    b"acTL", b"fcTL", b"fdAT", b"oFFs", b"pCAL", b"sCAL", b"sTER", b"gIFg", b"gIFx", b"iDOT",
    b"vpAg", b"caNv", b"orNT", b"prVW", b"mkBF", b"mkTS", b"mkBS", b"mkBT", b"caBX",
}  # fmt: skip
READ = (b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # those that matter
EXIF_TEXT, XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
ORIENTATION = re.compile(rb'tiff:Orientation(="|>)[0-9]')


class PngParts(NamedTuple):
    """The picture in a PNG.

    Attributes:
        file: A PNG with only what the pixels and their orientation need.
        profile: The color profile; empty if it is damaged, None if there is none.
    """

    file: BinaryIO
    profile: bytes | None


def png_parts(file: BinaryIO, whole: bool) -> PngParts:
    """Checks the chunks of a PNG, and leaves out those that the pixels do not need.

    Arguments:
        file: The PNG.
        whole: Whether to read also the pixels and what follows them.

    Raises:
        Refused: A chunk that the pixels need is damaged or cut off, or there are too many chunks.
    """
    parts = [(0, len(SIGNATURE))]  # the first part ends behind the first chunk
    turning: dict[bytes, bytes] = {}  # chunks that say how to turn the picture
    profile, start, has_pixels = None, len(SIGNATURE), False
    for _ in range(limits.IMAGE_PARTS):
        file.seek(start)
        size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        end = start + size + 12
        if len(kind) < 4 or kind == b"IEND":  # if pixels are missing, the decoder says so
            header, *others = parts
            parts = [header, *turning.values(), *others, _chunk(b"IEND", b"")]
            return PngParts(joined(file, parts), profile)
        has_pixels |= kind == b"IDAT"
        if has_pixels and not whole:
            return PngParts(joined(file, [*parts, (start, file.seek(0, 2))]), profile)
        if kind not in EXTRAS:
            if not _is_good(file, kind, size):
                raise Refused(CUT_OFF if file.seek(0, 2) < end else DAMAGED)
            begin, ended = parts[-1]
            if ended == start and (begin > 0 or start == len(SIGNATURE)):
                parts[-1] = (begin, end)
            else:
                parts.append((start, end))
        elif kind in READ and size <= limits.IMAGE_METADATA:
            content = file.read(size)
            good = _is_good(file, kind + content, 0)
            if kind == b"iCCP" and not has_pixels:
                profile = _inflated(content.partition(b"\0")[2][1:]) if good else b""
            elif good:
                turning |= _turning(kind, content)
        elif kind == b"iCCP":
            profile = b""
        start = end
    raise Refused(f"has more than {limits.IMAGE_PARTS} parts: save it anew as .png or .jpg")


def _is_good(file: BinaryIO, begun: bytes, size: int) -> bool:
    """Whether the next `size` bytes of the file and those before them fit to the checksum."""
    checksum = zlib.crc32(begun)
    while size > 0 and (block := file.read(min(size, BLOCK))):
        checksum, size = zlib.crc32(block, checksum), size - len(block)
    return size == 0 and file.read(4) == checksum.to_bytes(4, "big")


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _inflated(data: bytes) -> bytes:
    """The content of compressed data; empty if they are damaged or large."""
    limit = limits.IMAGE_METADATA
    try:
        content = zlib.decompressobj().decompress(data, limit + 1)
    except zlib.error:
        return b""
    return content if len(content) <= limit else b""


def _turning(kind: bytes, content: bytes) -> dict[bytes, bytes]:
    """A chunk that says how to turn the picture, by what it is; empty if the text is another."""
    if kind == b"eXIf":
        return {kind: _chunk(kind, content)} if len(content) <= MAX_TEXT else {}
    key, _, text = content.partition(b"\0")
    if kind == b"zTXt":
        text = _inflated(text[1:])
    elif kind == b"iTXt":
        is_compressed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
        text = _inflated(text) if is_compressed else text
    if key == XMP and (found := ORIENTATION.search(text)):
        text = found[0]  # all other metadata may be larger than Pillow reads
    elif key != EXIF_TEXT or len(text) > MAX_TEXT:
        return {}
    return {key: _chunk(b"tEXt", key + b"\0" + text)}
