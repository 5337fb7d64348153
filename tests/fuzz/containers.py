"""Where the numbers and parts lie in picture files; of broken files as much as can be found."""

import struct
import zlib
from collections.abc import Iterator

from hypothesis import strategies as st
from mmd_tests.fuzz.edits import BYTE_EDITS, Field, Form


def number(data: bytes, start: int, size: int, order: str = "big") -> int:
    return int.from_bytes(data[start : start + size], order)


def numbers(start: int, *sizes: int, order: str = "big") -> Iterator[Field]:
    """Fields one behind the other."""
    for size in sizes:
        yield Field(start, size, order)
        start += size


def inside(fields: Iterator[Field], data: bytes) -> Iterator[Field]:
    return (field for field in fields if field.start >= 0 and field.start + field.size <= len(data))


# PNG: chunks of length, type, content and checksum

PNG = b"\x89PNG\r\n\x1a\n"


def png_blocks(data):
    start = len(PNG)
    while data.startswith(PNG) and start + 12 <= len(data):
        end = start + 12 + number(data, start, 4)
        if end > len(data):
            return
        yield start, end
        start = end


def png_fields(data):
    for start, end in png_blocks(data):
        yield from numbers(start, 4, 4)  # length and type
        sizes = {
            b"IHDR": (4, 4, 1, 1, 1, 1, 1),
            b"acTL": (4, 4),
            b"tRNS": (2,) * ((end - start - 12) // 2),
        }
        yield from numbers(start + 8, *sizes.get(data[start + 4 : start + 8], ()))


def png_repair(data):
    for start, end in png_blocks(data):
        checksum = zlib.crc32(data[start + 4 : end - 4])
        data = data[: end - 4] + struct.pack(">I", checksum) + data[end:]
    return data


def png_pixels(draw, data, pool, form):
    """Changes the pixels before they are compressed."""
    chunks = [data[start:end] for start, end in png_blocks(data)]
    pixels = [chunk for chunk in chunks if chunk[4:8] == b"IDAT"]
    try:
        raw = zlib.decompress(b"".join(chunk[8:-4] for chunk in pixels))
    except zlib.error:
        return data
    raw = zlib.compress(draw(st.sampled_from(BYTE_EDITS))(draw, raw, {"": raw}, Form()))
    place = min(map(chunks.index, pixels), default=0)
    rest = [chunk for chunk in chunks if chunk not in pixels]
    rest.insert(place, struct.pack(">I", len(raw)) + b"IDAT" + raw + b"none")
    return png_repair(PNG + b"".join(rest))


# JPEG: segments that begin with a marker, and the pixels behind the last of them


def jpeg_blocks(data):
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] >= 0xC0:
        end = start + 2 + number(data, start + 2, 2)
        if end > len(data):
            return
        yield start, end
        if data[start + 1] == 0xDA:
            yield end, len(data)
            return
        start = end


def jpeg_fields(data):
    for start, end in jpeg_blocks(data):
        if data[start : start + 1] == b"\xff" and end < len(data):
            yield from numbers(start, 2, 2)
            if data[start + 1] in (0xC0, 0xC1, 0xC2):
                # precision, height, width, number of channels, 3 bytes for each of them
                yield from numbers(start + 4, 1, 2, 2, 1, *[1] * min(12, end - start - 10))
            elif data[start + 1] in (0xDA, 0xDD):
                yield from numbers(start + 4, *[1] * min(12, end - start - 4))
            elif data[start + 1] == 0xE1:  # EXIF is a TIFF
                shifted = tiff_fields(data[start + 10 : end])
                yield from (Field(f.start + start + 10, f.size, f.order) for f in shifted)


# TIFF: a chain of directories of tags


def _tiff_directories(data):
    order = {b"II": "little", b"MM": "big"}.get(data[:2])
    place, seen = number(data, 4, 4, order or "big"), set()
    while order and 8 <= place <= len(data) - 2 and place not in seen:
        seen.add(place)
        n = number(data, place, 2, order)
        yield place, n, order
        place = number(data, place + 2 + 12 * n, 4, order)


def tiff_fields(data):
    def all_of_them():
        for place, n, order in _tiff_directories(data):
            yield from numbers(place, 2, order=order)
            for i in range(min(n, 64)):
                yield from numbers(place + 2 + 12 * i, 2, 2, 4, 4, order=order)
            yield from numbers(place + 2 + 12 * n, 4, order=order)

    if data[:2] in (b"II", b"MM"):
        yield from numbers(4, 4, order="little" if data[:2] == b"II" else "big")
        yield from inside(all_of_them(), data)


def tiff_blocks(data):
    for place, n, _ in _tiff_directories(data):
        if place + 2 + 12 * n <= len(data):
            yield from ((place + 2 + 12 * i, place + 14 + 12 * i) for i in range(n))
        return


# WebP: chunks of type, length and content in a RIFF


def webp_blocks(data):
    start = 12
    while start + 8 <= len(data):
        size = number(data, start + 4, 4, "little")
        end = start + 8 + size + size % 2
        if end > len(data):
            return
        yield start, end
        start = end


def webp_fields(data):
    def all_of_them():
        yield Field(4, 4, "little")
        for start, _ in webp_blocks(data):
            yield from numbers(start, 4, 4, order="little")
            sizes = {
                b"VP8X": (4, 3, 3),
                b"ANMF": (3, 3, 3, 3, 3, 1, 4, 4),
                b"ANIM": (4, 2),
                b"VP8 ": (3, 3, 2, 2),
                b"VP8L": (1, 4),
            }.get(data[start : start + 4], ())
            yield from numbers(start + 8, *sizes, order="little")

    return inside(all_of_them(), data)


# GIF: a header, then blocks


def gif_blocks(data):
    def behind_subblocks(place):
        while place < len(data) and data[place]:
            place += 1 + data[place]
        return place + 1

    def behind_table(place, flags):
        return place + 3 * 2 ** (flags % 8 + 1) * (flags >> 7)

    start = behind_table(13, number(data, 10, 1))
    while start < len(data):
        if data[start] == 0x21:
            end = behind_subblocks(start + 2)
        elif data[start] == 0x2C:
            end = behind_subblocks(behind_table(start + 10, number(data, start + 9, 1)) + 1)
        else:
            return
        if end > len(data):
            return
        yield start, end
        start = end


def gif_fields(data):
    def all_of_them():
        yield from numbers(6, 2, 2, 1, 1, 1, order="little")
        for start, _ in gif_blocks(data):
            if data[start] == 0x2C:
                yield from numbers(start + 1, 2, 2, 2, 2, 1, order="little")
            else:
                yield from numbers(start + 1, 1, 1, 1, 2, 1, order="little")

    return inside(all_of_them(), data)


def bmp_fields(data):
    sizes = (4, 2, 2, 4, 4, 4, 4, 2, 2, 4, 4, 4, 4, 4, 4)
    return inside(numbers(2, *sizes, order="little"), data)


# AVIF: boxes of length, type and content, in each other

NESTED = (b"meta", b"iprp", b"ipco", b"iinf", b"moov", b"trak", b"mdia", b"minf", b"stbl")


def _boxes(data, start, end):
    while start + 8 <= end:
        stop = start + max(8, number(data, start, 4))
        if stop > end:
            return
        yield start, stop
        kind = data[start + 4 : start + 8]
        if kind in NESTED:  # the first have a version, and some a count, before the boxes in them
            skip = {b"meta": 12, b"iinf": 14}.get(kind, 8)
            yield from _boxes(data, start + skip, stop)
        start = stop


def avif_fields(data):
    def all_of_them():
        for start, end in _boxes(data, 0, len(data)):
            yield from numbers(start, 4, 4)
            if data[start + 4 : start + 8] != b"mdat":
                yield from numbers(start + 8, *[4] * min(8, (end - start - 8) // 4))

    return inside(all_of_them(), data)


def avif_blocks(data):
    start = 0
    for begin, end in _boxes(data, 0, len(data)):
        if begin >= start:  # not those in others
            yield begin, end
            start = end


FORMS = {
    "png": Form(PNG, png_fields, png_blocks, png_repair, (png_pixels,) * 6),
    "jpeg": Form(b"\xff\xd8\xff", jpeg_fields, jpeg_blocks),
    "tiff": Form(b"II*\0", tiff_fields, tiff_blocks),
    "webp": Form(b"RIFF\x00\x10\x00\x00WEBPVP8", webp_fields, webp_blocks),
    "gif": Form(b"GIF89a", gif_fields, gif_blocks),
    "bmp": Form(b"BM", bmp_fields),
    "avif": Form(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf", avif_fields, avif_blocks),
}
