"""Decoding a picture that anyone may have made: the result is what it shows, or an error that says why not."""

import math
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from ...base.safe_paths import open_file

SHORT_SIDE = 2048  # pixels: larger photographs fill the memory, and hardly a model draws larger
MAX_PIXELS = 2 * 89_478_485  # Pillow's own limit; other packs switch that one off
MAX_REDUCED = 8 * SHORT_SIDE**2  # pixels: a few bytes can be a line of a hundred million of them
MAX_BYTES = 2**30
BAND = 2**22  # pixels that are converted at a time

# Not all that Pillow opens: for a .png that is really an EPS it would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "JXL")

# libtiff before 4.7.2 leaves in a damaged one what the memory held, and says nothing.
FAX = ("tiff_ccitt", "group3", "group4")

BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION, SAMPLE_FORMAT = 258, 262, 274, 339  # TIFF and EXIF tags
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
LANCZOS = Image.Resampling.LANCZOS


class _Strict:
    """While a picture is read, a truncated one is an error, and neither size nor odd EXIF a cause for warnings.

    Other packs set Pillow otherwise, for the whole process: the last of our readers brings that back.
    """

    def __init__(self):
        self.lock, self.readers, self.before = threading.Lock(), 0, ()
        self.quiet = warnings.catch_warnings()

    def __enter__(self):
        with self.lock:
            if self.readers == 0:
                self.before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, MAX_PIXELS
                self.quiet = warnings.catch_warnings()
                self.quiet.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.readers += 1

    def __exit__(self, *_):
        with self.lock:
            self.readers -= 1
            if self.readers == 0:
                self.quiet.__exit__(None, None, None)
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = self.before


_STRICT = _Strict()


def reduced(size: tuple[int, int], short_side: float) -> tuple[int, int]:
    """The size with a shorter side of at most `short_side`, and the same aspect ratio."""
    scale = min(1.0, short_side / min(size))
    return tuple(max(1, round(side * scale)) for side in size)


def why(error: Exception) -> str:
    """The reason why a picture cannot be read, in one line. Decoders raise nearly anything."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"has more than {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return text if type(error) is ValueError else f"is damaged ({text})"


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    if not file.read(1):
        raise ValueError("is empty")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        opened = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        known = ", ".join(formats)
        raise ValueError(f"is not a picture that can be read here ({known})") from None
    if opened.width * opened.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if math.prod(reduced(opened.size, SHORT_SIDE)) > MAX_REDUCED:
        raise ValueError("is too long and narrow: cut it into pieces")
    return opened


def header_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as they are stored, without decoding the picture.

    Raises:
        ValueError: It cannot be read; the message is the reason.
    """
    try:
        with _STRICT, open_file(path, MAX_BYTES) as file, _open(file) as opened:
            return opened.size
    except Exception as error:
        raise ValueError(why(error)) from error


def _refuse_unsure(opened: ImageFile.ImageFile) -> None:
    """Raises a ValueError for a TIFF whose damage decoding does not notice."""
    if opened.info.get("compression") in FAX:
        raise ValueError(
            "is compressed like a fax, in which damage goes unnoticed: save it as .png"
        )
    covered = sum((right - left) * (low - top) for _, (left, top, right, low), *_ in opened.tile)
    if covered < opened.width * opened.height:
        raise ValueError("is damaged (it lacks a part of the picture)")


def _white(opened: ImageFile.ImageFile) -> int:
    """The number that is white in a picture with one number per pixel; negative if 0 is white instead.

    Raises:
        ValueError: Nobody knows, since the picture has floats, signed numbers or more than 16 bits.
    """
    tags = getattr(opened, "tag_v2", {})  # of a TIFF
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    # Old versions of Pillow call the 16 bits of a PNG "I", which is 32 bits everywhere else.
    wide = opened.mode == "F" or (opened.mode == "I" and opened.format != "PNG")
    if wide or bits > 16 or tags.get(SAMPLE_FORMAT, (1,))[0] != 1:
        raise ValueError("has numbers of unknown range as pixels: save it with 8 or 16 bits")
    return (2**bits - 1) * (-1 if tags.get(PHOTOMETRIC) == 0 else 1)


def _mend_transparency(opened: ImageFile.ImageFile) -> None:
    """Pillow gives the transparent color of a PNG as it is stored, but pixels with 8 bits."""
    if opened.format == "PNG" and "transparency" in opened.info and opened.tile:
        raw = opened.tile[0][3]
        if raw == "RGB;16B":
            raise ValueError("has a transparent color of 16 bits: save it with an alpha channel")
        opened.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(raw, 1)


def _rgb(image: Image.Image, white: int) -> Image.Image:
    """With 8 bits, on white."""
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float32)
        grey = np.rint(values.clip(0, abs(white)) * (255 / abs(white)))
        grey = 255 - grey if white < 0 else grey
        if "transparency" in image.info:
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    return image.convert("RGB")


def _orientation(opened: ImageFile.ImageFile) -> int:
    """How a loaded picture still has to be turned."""
    if opened.format == "TIFF":  # Pillow turned it while it was loaded
        return 1
    try:
        return opened.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF that is no EXIF says nothing, and the pixels are whole
        return 1


def _decode(file: BinaryIO, short_side: float) -> tuple[Image.Image, tuple[int, int]]:
    opened = _open(file)
    if opened.format == "PNG":
        opened.verify()  # the checksums of the pixels, at which decoding does not look
        opened = _open(file)
    if opened.format == "TIFF":
        _refuse_unsure(opened)
    size, white = opened.size, _white(opened)
    _mend_transparency(opened)
    # Of a JPEG a smaller version can be decoded right away; half as large again as needed, to lose nothing.
    draft = opened.draft(opened.mode, tuple(3 * side // 2 for side in reduced(size, short_side)))
    opened.load()
    turn = _orientation(opened)  # asked now: a PNG may have it behind the pixels
    size = size if draft else opened.size
    target = reduced(size, short_side)
    inner = draft[1][2:] if draft else size  # may end within the last pixel
    # Band by band, and across before down, since the pixels fill the memory once already.
    factor = max(1, int(min(opened.size) / min(target) / 3))
    width, height = opened.size
    rows = max(1, BAND // (width * factor)) * factor
    image = Image.new("RGB", (target[0], -(-height // factor)))
    for top in range(0, height, rows):
        band = _rgb(opened.crop((0, top, width, min(top + rows, height))), white)
        band = band.reduce(factor) if factor > 1 else band
        box = (0, 0, inner[0] / factor, band.height)
        image.paste(band.resize((target[0], band.height), LANCZOS, box), (0, top // factor))
    opened.close()
    image = image.resize(target, LANCZOS, (0, 0, target[0], inner[1] / factor))
    if turn in TURNS:
        image = image.transpose(TURNS[turn])
    return image, size[::-1] if turn in SIDEWAYS else size


def read_sized(
    file: str | Path | BinaryIO, short_side: float = SHORT_SIDE
) -> tuple[Tensor, tuple[int, int]]:
    """The picture as `read_image` gives it, and the width and height that it has in the file, upright."""
    try:
        named = isinstance(file, str | Path)
        with _STRICT, open_file(Path(file), MAX_BYTES) if named else nullcontext(file) as opened:
            image, size = _decode(opened, short_side)
            pixels = np.asarray(image, dtype=np.float32)
    except Exception as error:
        raise ValueError(why(error)) from error
    pixels /= 255
    return torch.from_numpy(pixels)[None], size


def read_image(file: str | Path | BinaryIO, short_side: float = SHORT_SIDE) -> Tensor:
    """The picture, with shape `(1, H, W, 3)`, float32 in [0, 1]: upright, on white, the first frame.

    Larger ones get a shorter side of `short_side`.

    Raises:
        ValueError: It cannot be read; the message is the reason.
    """
    return read_sized(file, short_side)[0]
