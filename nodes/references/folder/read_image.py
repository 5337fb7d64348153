"""Decodes untrusted image files to RGB. For damaged and ambiguous files, it raises an error."""

from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from .color_profile import Profile, profile_of
from .jpeg_end import is_jpeg, with_end
from .open_image import SHORT_SIDE, open_image, opened_file, reduced
from .refused import CUT_OFF, Refused, why

Size = tuple[int, int]  # width and height in pixels

BAND = 2**22  # pixels that are converted at once

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
TURNED = ("TIFF", "HEIF", "JXL")  # formats whose decoders have already turned the image
WHITE = ((255, 255),) * 3  # darkest and lightest value of each channel
LANCZOS = Image.Resampling.LANCZOS


def _check_tiff(opened: ImageFile.ImageFile) -> None:
    """Checks a TIFF for damage that the decoder does not detect.

    Raises:
        Refused: Its compression hides damage, or its tiles do not cover the image.
    """
    if opened.info.get("compression") in FAX:
        raise Refused("has the compression of a fax, which hides damage: save it as .png")
    covered = sum((right - left) * (low - top) for _, (left, top, right, low), *_ in opened.tile)
    if covered < opened.width * opened.height:
        raise Refused(CUT_OFF)


def _white(opened: ImageFile.ImageFile) -> int:
    """The largest possible value of an integer grey image.

    It is negative if the value 0 is white (TIFF PhotometricInterpretation 0).

    Raises:
        Refused: The range is unknown, because the pixels are floats, signed numbers, or have
            more than 16 bits.
    """
    tags = getattr(opened, "tag_v2", {})  # of a TIFF
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    # Old versions of Pillow use mode "I" for a PNG of 16 bits; in other formats "I" means 32 bits.
    wide = opened.mode == "F" or (opened.mode == "I" and opened.format != "PNG")
    if wide or bits > 16 or tags.get(SAMPLE_FORMAT, (1,))[0] != 1:
        raise Refused("has pixel values of unknown range: save it with 8 or 16 bits")
    return (2**bits - 1) * (-1 if tags.get(PHOTOMETRIC) == 0 else 1)


def _fix_transparency(opened: ImageFile.ImageFile) -> None:
    """Scales the transparent color of a PNG to 8 bits. Pillow scales only the pixels.

    Raises:
        Refused: The color has three channels of 16 bits.
    """
    if opened.format == "PNG" and "transparency" in opened.info and opened.tile:
        raw = opened.tile[0][3]
        if raw == "RGB;16B":
            raise Refused("has a transparent color of 16 bits: save it with an alpha channel")
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
    # A JXL that was made from a JPEG is decoded by way of that, and is not turned yet.
    if opened.format in TURNED and not getattr(opened, "jpeg", False):
        return 1
    try:
        return opened.getexif().get(ORIENTATION, 1)
    except Exception:  # invalid EXIF is ignored, because the pixels are intact
        return 1


def _is_invisible(image: Image.Image) -> bool:
    """Whether all of the image is transparent."""
    if image.mode.startswith("I"):
        return bool((np.asarray(image) == image.info.get("transparency", -1)).all())
    image = image.convert("RGBA") if "transparency" in image.info else image
    alpha = image.getbands()[-1]
    return alpha in "Aa" and image.getchannel(alpha).getbbox() is None


class _Loaded(NamedTuple):
    """An image of which all pixels are decoded.

    Attributes:
        image: The image.
        size: Its width and height in the file. A JPEG may be decoded at a smaller size.
        inner: Its width and height as it is decoded; it may end within its last pixel.
        white: The result of `_white`.
    """

    image: ImageFile.ImageFile
    size: Size
    inner: Size
    white: int


def _load(file: BinaryIO, short_side: float) -> _Loaded:
    opened = open_image(file)
    if opened.format == "TIFF":
        _check_tiff(opened)
    size, white = opened.size, _white(opened)
    _fix_transparency(opened)
    # JPEG decoders can downscale while decoding. 1.5 times the target size keeps the quality.
    draft = opened.draft(opened.mode, tuple(3 * side // 2 for side in reduced(size, short_side)))
    opened.load()
    size = size if draft else opened.size
    return _Loaded(opened, size, draft[1][2:] if draft else size, white)


def _decode(file: BinaryIO, short_side: float) -> tuple[Image.Image, Size]:
    load = partial(_load, short_side=short_side)
    try:
        opened, size, inner, white = load(file)
    except OSError as error:
        if why(error) != CUT_OFF or not is_jpeg(file):
            raise
        opened, size, inner, white = with_end(file, load)
    turn, profile = _orientation(opened), profile_of(opened)
    image = opened
    if opened.format == "BMP" and _is_invisible(opened):
        image = opened.convert("RGB")  # many programs write no alpha, but say that there is some
    reduced_image = _reduced(image, inner, white, profile, reduced(size, short_side))
    if reduced_image.getextrema() == WHITE and _is_invisible(image):
        raise Refused("is transparent everywhere: save it without transparency")
    opened.close()
    if turn in TURNS:
        reduced_image = reduced_image.transpose(TURNS[turn])
    return reduced_image, size[::-1] if turn in SIDEWAYS else size


def _reduced(
    image: Image.Image, inner: Size, white: int, profile: Profile, target: Size
) -> Image.Image:
    """The image as in `_rgb`, downscaled to the size `target`.

    `inner` and `white` are as in `_Loaded`.
    """
    # In bands, because a second full-size copy could exceed the memory. First the width is resized,
    # then the height.
    factor = max(1, int(min(image.size) / min(target) / 3))
    width, height = image.size
    rows = max(1, BAND // (width * factor)) * factor
    found = Image.new("RGB", (target[0], -(-height // factor)))
    for top in range(0, height, rows):
        band = _rgb(image.crop((0, top, width, min(top + rows, height))), white, profile)
        band = band.reduce(factor) if factor > 1 else band
        box = (0, 0, inner[0] / factor, band.height)
        found.paste(band.resize((target[0], band.height), LANCZOS, box), (0, top // factor))
    return found.resize(target, LANCZOS, (0, 0, target[0], inner[1] / factor))


def read_sized(file: str | Path | BinaryIO, short_side: float = SHORT_SIDE) -> tuple[Tensor, Size]:
    """The image as in `read_image`, and its original width and height, after EXIF rotation.

    Raises:
        Refused: The file cannot be read; the message is the reason.
    """
    with opened_file(file) as data:
        image, size = _decode(data, short_side)
        pixels = np.asarray(image, dtype=np.float32)
    pixels /= 255
    return torch.from_numpy(pixels)[None], size


def read_image(file: str | Path | BinaryIO, short_side: float = SHORT_SIDE) -> Tensor:
    """The image in sRGB after EXIF rotation, on white; of an animation, the first frame.

    If its shorter side has more than `short_side` pixels, it is downscaled to that.

    Returns:
        The pixels, with shape `(1, H, W, 3)`, float32 in [0, 1].

    Raises:
        Refused: The file cannot be read; the message is the reason.
    """
    return read_sized(file, short_side)[0]
