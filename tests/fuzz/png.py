"""PNG by its specification, independent of Pillow: files of every kind, and what one shows."""

import struct
import zlib

import numpy as np
from mmd_tests.fuzz.containers import PNG

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type: grey, RGB, palette, grey and alpha, RGBA
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
WHOLE = ((0, 0, 1, 1),)
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# What may stand where, so that nobody can understand it otherwise.
ANYWHERE = {
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"tIME",
    b"pHYs",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"sBIT",
    b"bKGD",
}
# What may be damaged without harm to the pixels.
HARMLESS = ANYWHERE | {b"eXIf", b"iCCP", b"acTL", b"fcTL", b"fdAT", b"hIST", b"sPLT"}
MAX_BYTES = 2**20  # of pixels


class Damaged(Exception):
    """The file is not as it was written: every reader must notice it."""


class Unclear(Exception):
    """The checksums fit, but the specification does not say what it shows, or says it at length."""


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _filtered(row: bytes, above: bytes, step: int, kind: int) -> bytes:
    return bytes(
        (value - _prediction(row, above, i, step, kind)) % 256 for i, value in enumerate(row)
    )


def _prediction(row, above, i, step, kind) -> int:
    a = row[i - step] if i >= step else 0
    b = above[i]
    c = above[i - step] if i >= step else 0
    if kind == 4:
        p = a + b - c
        return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
    return (0, a, b, (a + b) // 2)[kind]


def _packed(row: np.ndarray, depth: int) -> bytes:
    bits = "".join(f"{value:0{depth}b}" for value in row.reshape(-1))
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def encode(
    samples: np.ndarray, depth: int, color: int, interlaced: bool = False, before: bytes = b""
) -> bytes:
    """A file that shows `samples`, with shape `(H, W, channels)`; `before` are chunks before the pixels."""
    height, width, channels = samples.shape
    rows, step = b"", max(1, channels * depth // 8)
    for x, y, dx, dy in ADAM7 if interlaced else WHOLE:
        part = samples[y::dy, x::dx]
        above = bytes(len(_packed(part[0], depth))) if part.size else b""
        for i, row in enumerate(part if part.size else ()):
            packed = _packed(row, depth)
            rows += bytes([i % 5]) + _filtered(packed, above, step, i % 5)
            above = packed
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    data = zlib.compress(rows)
    pixels = chunk(b"IDAT", data[: len(data) // 2]) + chunk(b"IDAT", data[len(data) // 2 :])
    return PNG + chunk(b"IHDR", header) + before + pixels + chunk(b"IEND", b"")


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    if not data.startswith(PNG):
        raise Damaged("no PNG")
    start, found = len(PNG), []
    while True:
        kind, size = data[start + 4 : start + 8], int.from_bytes(data[start : start + 4], "big")
        if kind == b"IEND" or len(kind) < 4:  # has no content, and is not needed
            return found
        content, checksum = data[start + 8 : start + 8 + size], data[start + 8 + size :][:4]
        if len(checksum) == 4 and zlib.crc32(kind + content) == int.from_bytes(checksum, "big"):
            found.append((kind, content))
        elif kind not in HARMLESS:
            raise Damaged(f"checksum of {kind}")
        start += 12 + size


def mended(data: bytes) -> bytes:
    """The first picture of the file, without parts that are damaged and harmless, and with an end."""
    parts = [part for part in _chunks(data) if part[0] not in (b"acTL", b"fcTL", b"fdAT")]
    return PNG + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


def _samples(
    raw: bytes, width: int, height: int, depth: int, channels: int, interlaced
) -> np.ndarray:
    samples = np.zeros((height, width, channels), dtype=np.int64)
    step, place = max(1, channels * depth // 8), 0
    for x, y, dx, dy in ADAM7 if interlaced else WHOLE:
        part = samples[y::dy, x::dx]
        if not part.size:
            continue
        size = -(-part.shape[1] * channels * depth // 8)
        above = bytes(size)
        for i in range(part.shape[0]):
            kind, coded = raw[place], raw[place + 1 : place + 1 + size]
            if kind > 4:
                raise Unclear("a filter that there is not")
            row = bytearray()
            for j, value in enumerate(coded):
                row.append((value + _prediction(row, above, j, step, kind)) % 256)
            bits = np.unpackbits(np.frombuffer(bytes(row), np.uint8))
            bits = bits[: part.shape[1] * channels * depth].reshape(-1, depth)
            part[i] = (bits @ (1 << np.arange(depth)[::-1])).reshape(-1, channels)
            above, place = bytes(row), place + 1 + size
    return samples


def decode(data: bytes) -> np.ndarray:
    """What the file shows on white, with shape `(H, W, 3)`, in [0, 255], not rounded.

    Raises:
        Damaged, Unclear: see there.
    """
    chunks = _chunks(data)
    kinds = [kind for kind, _ in chunks]
    pixels = [i for i, kind in enumerate(kinds) if kind == b"IDAT"]
    if not pixels:
        raise Damaged("no pixels")
    content = dict(chunks)
    first, last = pixels[0], pixels[-1]
    special = [kind for kind in kinds if kind not in ANYWHERE | {b"IDAT"}]
    if (
        special
        not in ([b"IHDR"], [b"IHDR", b"PLTE"], [b"IHDR", b"tRNS"], [b"IHDR", b"PLTE", b"tRNS"])
        or kinds[0] != b"IHDR"
        or pixels != list(range(first, last + 1))
        or {b"PLTE", b"tRNS"} & set(kinds[last:])
        or any(b"exif" in text or b"XML" in text for _, text in chunks)  # may turn the picture
        or len(content[b"IHDR"]) != 13
    ):
        raise Unclear("parts that are unknown, too many, or in a wrong place")
    width, height, depth, color, method, filters, interlaced = struct.unpack(
        ">IIBBBBB", content[b"IHDR"]
    )
    palette, clear = content.get(b"PLTE"), content.get(b"tRNS")
    if (
        depth not in DEPTHS.get(color, ())
        or (method, filters) != (0, 0)
        or interlaced > 1
        or not 0 < width * height * 8 <= MAX_BYTES
        or (color == 3) != (palette is not None)
        or len(palette or b"") not in range(0, 769, 3)
        or (clear is not None and len(clear) != {0: 2, 2: 6, 3: min(len(clear), 256)}.get(color))
    ):
        raise Unclear("a header that makes no sense")
    channels = CHANNELS[color]
    parts = (
        (-(-(width - x) // dx), -(-(height - y) // dy))
        for x, y, dx, dy in (ADAM7 if interlaced else WHOLE)
    )
    needed = sum((1 + -(-w * channels * depth // 8)) * h for w, h in parts if w > 0 and h > 0)
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(b"".join(c for k, c in chunks if k == b"IDAT"), needed)
    except zlib.error as error:
        raise Unclear("pixels that are not compressed as they should be") from error
    if len(raw) < needed:
        raise Unclear("fewer pixels, and all of them") if stream.eof else Damaged("too few pixels")
    samples = _samples(raw, width, height, depth, channels, interlaced)
    return _on_white(samples, depth, color, palette, clear)


def _on_white(samples, depth, color, palette, clear) -> np.ndarray:
    most = 2**depth - 1
    if color == 3:
        colors = np.frombuffer(palette, np.uint8).reshape(-1, 3).astype(float)
        if samples.max() >= len(colors):
            raise Unclear("colors that are not in the palette")
        alphas = np.full(256, 255.0)
        alphas[: len(clear or b"")] = np.frombuffer(clear or b"", np.uint8)
        rgb, alpha = colors[samples[..., 0]], alphas[samples] / 255
    else:
        channels = samples.shape[2]
        rgb = samples[..., : 3 if channels > 2 else 1] * (255 / most)
        alpha = samples[..., -1:] / most if channels in (2, 4) else np.ones((*samples.shape[:2], 1))
        if clear is not None:
            key = np.frombuffer(clear, ">u2")
            if (key > most).any():
                raise Unclear("a transparent color that the picture cannot have")
            alpha = 1.0 - (samples == key).all(-1, keepdims=True)
    return np.broadcast_to(rgb * alpha + 255 * (1 - alpha), (*samples.shape[:2], 3))
