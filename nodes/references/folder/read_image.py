"""Decodes untrusted image files to RGB. For damaged and ambiguous files, it raises an error."""

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from ...base.safe_paths import open_file
from .color_profile import Profile, profile_of

# Pixels. Larger photographs fill the memory, and few models generate larger images.
SHORT_SIDE = 2048
MAX_PIXELS = 2 * 89_478_485  # Pillow's own limit, which other node packs disable
MAX_REDUCED = 8 * SHORT_SIDE**2  # pixels: a tiny file can hold one line of 10^8 pixels
MAX_BYTES = 2**30
BAND = 2**22  # pixels that are converted at once

# Not all formats of Pillow: for an EPS file that is named .png, Pillow would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "JXL")

# For damaged files with these compressions, libtiff before 4.7.2 returns uninitialized memory.
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
    """Context manager for strict decoding: truncated files are errors, without Pillow's warnings.

    These settings of Pillow are global, and other node packs may change them. The first reader
    saves them, and the last one restores them.
    """

    def __init__(self) -> None:
        self.lock, self.readers, self.before = threading.Lock(), 0, ()
        self.quiet = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if self.readers == 0:
                self.before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, MAX_PIXELS
                self.quiet = warnings.catch_warnings()
                self.quiet.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.readers += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.readers -= 1
            if self.readers == 0:
                self.quiet.__exit__(None, None, None)
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = self.before


_STRICT = _Strict()


def reduced(size: tuple[int, int], short_side: float) -> tuple[int, int]:
    """The size downscaled to a shorter side of at most `short_side`, with the same aspect ratio."""
    scale = min(1.0, short_side / min(size))
    return tuple(max(1, round(side * scale)) for side in size)


def why(error: Exception) -> str:
    """The reason why an image cannot be read, in one line.

    `error` can have any type, because decoders raise many types of exceptions.
    """
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
        raise ValueError(f"is not an image in a supported format ({known})") from None
    if opened.width * opened.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if math.prod(reduced(opened.size, SHORT_SIDE)) > MAX_REDUCED:
        raise ValueError("is too long and narrow: cut it into pieces")
    return opened


@contextmanager
def _opened(file: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """The open file, while decoding is strict."""
    named = isinstance(file, str | Path)
    with _STRICT, open_file(Path(file), MAX_BYTES) if named else nullcontext(file) as data:
        yield data


class Header(NamedTuple):
    """What a picture is, without its pixels.

    Attributes:
        size: Width and height in pixels, before EXIF rotation.
        profile: The name of the color profile from which it is converted, "" if it is not, or
            `UNUSABLE`.
    """

    size: tuple[int, int]
    profile: str


def read_header(file: str | Path | BinaryIO) -> Header:
    """Reads what a picture is, without decoding it.

    Raises:
        ValueError: The file cannot be read; the message is the reason.
    """
    try:
        with _opened(file) as data, _open(data) as opened:
            return Header(opened.size, profile_of(opened).name)
    except Exception as error:
        raise ValueError(why(error)) from error


def _check_tiff(opened: ImageFile.ImageFile) -> None:
    """Checks a TIFF for damage that the decoder does not detect.

    Raises:
        ValueError: Its compression hides damage, or its tiles do not cover the image.
    """
    if opened.info.get("compression") in FAX:
        raise ValueError("has the compression of a fax, which hides damage: save it as .png")
    covered = sum((right - left) * (low - top) for _, (left, top, right, low), *_ in opened.tile)
    if covered < opened.width * opened.height:
        raise ValueError("is damaged (a part of the image is missing)")


def _white(opened: ImageFile.ImageFile) -> int:
    """The largest possible value of an integer grey image.

    It is negative if the value 0 is white (TIFF PhotometricInterpretation 0).

    Raises:
        ValueError: The range is unknown, because the pixels are floats, signed numbers, or have
            more than 16 bits.
    """
    tags = getattr(opened, "tag_v2", {})  # of a TIFF
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    # Old versions of Pillow use mode "I" for a PNG of 16 bits; in other formats "I" means 32 bits.
    wide = opened.mode == "F" or (opened.mode == "I" and opened.format != "PNG")
    if wide or bits > 16 or tags.get(SAMPLE_FORMAT, (1,))[0] != 1:
        raise ValueError("has pixel values of unknown range: save it with 8 or 16 bits")
    return (2**bits - 1) * (-1 if tags.get(PHOTOMETRIC) == 0 else 1)


def _fix_transparency(opened: ImageFile.ImageFile) -> None:
    """Scales the transparent color of a PNG to 8 bits. Pillow scales only the pixels.

    Raises:
        ValueError: The color has three channels of 16 bits.
    """
    if opened.format == "PNG" and "transparency" in opened.info and opened.tile:
        raw = opened.tile[0][3]
        if raw == "RGB;16B":
            raise ValueError("has a transparent color of 16 bits: save it with an alpha channel")
        opened.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(raw, 1)


def _rgb(image: Image.Image, white: int, profile: Profile) -> Image.Image:
    """The image as sRGB with 8 bits per channel, on a white background.

    `white` is the result of `_white`.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float32)
        grey = np.rint(values.clip(0, abs(white)) * (255 / abs(white)))
        grey = Image.fromarray((255 - grey if white < 0 else grey).astype(np.uint8))
        found = profile.to_srgb(grey)
        if "transparency" in image.info:
            clear = Image.fromarray(values == image.info["transparency"])
            found.paste("white", mask=clear)
        return found
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if "transparency" not in image.info and image.mode not in ("RGBA", "LA", "PA"):
        return profile.to_srgb(image)
    veiled = image.convert("RGBA")
    colors = profile.to_srgb(image if profile.mode == "L" else veiled)
    colors.putalpha(veiled.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colors).convert("RGB")


def _orientation(opened: ImageFile.ImageFile) -> int:
    """The EXIF orientation that still has to be applied to a loaded image; 1 if none."""
    if opened.format == "TIFF":  # load() has already rotated it
        return 1
    try:
        return opened.getexif().get(ORIENTATION, 1)
    except Exception:  # invalid EXIF is ignored, because the pixels are intact
        return 1


def _decode(file: BinaryIO, short_side: float) -> tuple[Image.Image, tuple[int, int]]:
    opened = _open(file)
    if opened.format == "PNG":
        opened.verify()  # checks the CRC of all chunks, which decoding does not
        opened = _open(file)
    if opened.format == "TIFF":
        _check_tiff(opened)
    size, white, profile = opened.size, _white(opened), profile_of(opened)
    _fix_transparency(opened)
    # JPEG decoders can downscale while decoding. 1.5 times the target size keeps the quality.
    draft = opened.draft(opened.mode, tuple(3 * side // 2 for side in reduced(size, short_side)))
    opened.load()
    turn = _orientation(opened)  # after load(): a PNG may store EXIF after the pixels
    size = size if draft else opened.size
    target = reduced(size, short_side)
    inner = draft[1][2:] if draft else size  # (width, height); may end within the last pixel
    # In bands, because a second full-size copy could exceed the memory. First the width is resized,
    # then the height.
    factor = max(1, int(min(opened.size) / min(target) / 3))
    width, height = opened.size
    rows = max(1, BAND // (width * factor)) * factor
    image = Image.new("RGB", (target[0], -(-height // factor)))
    for top in range(0, height, rows):
        band = _rgb(opened.crop((0, top, width, min(top + rows, height))), white, profile)
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
    """The image as in `read_image`, and its original width and height, after EXIF rotation.

    Raises:
        ValueError: The file cannot be read; the message is the reason.
    """
    try:
        with _opened(file) as data:
            image, size = _decode(data, short_side)
            pixels = np.asarray(image, dtype=np.float32)
    except Exception as error:
        raise ValueError(why(error)) from error
    pixels /= 255
    return torch.from_numpy(pixels)[None], size


def read_image(file: str | Path | BinaryIO, short_side: float = SHORT_SIDE) -> Tensor:
    """The image in sRGB after EXIF rotation, on white; of an animation, the first frame.

    If its shorter side has more than `short_side` pixels, it is downscaled to that.

    Returns:
        The pixels, with shape `(1, H, W, 3)`, float32 in [0, 1].

    Raises:
        ValueError: The file cannot be read; the message is the reason.
    """
    return read_sized(file, short_side)[0]
