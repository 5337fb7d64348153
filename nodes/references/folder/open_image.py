"""Opens untrusted image files: their header is read, and their pixels are not decoded yet."""

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageFile, UnidentifiedImageError

from ....mmd_core.files import limits
from ...base.safe_paths import open_file
from .claims import claimed_parts, claimed_pixels, is_webp
from .color_profile import profile_of
from .png_parts import SIGNATURE, png_parts
from .refused import Refused, why

# Pixels. Larger photographs fill the memory, and few models generate larger images.
SHORT_SIDE = 2048
MAX_REDUCED = 8 * SHORT_SIDE**2  # pixels: a tiny file can hold one line of 10^8 pixels

# Not all formats of Pillow: for an EPS file that is named .png, Pillow would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "JXL")


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
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, limits.IMAGE_PIXELS
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


@contextmanager
def opened_file(file: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """The open file, while decoding is strict.

    Raises:
        Refused: For whatever goes wrong.
    """
    named = isinstance(file, str | Path)
    try:
        with (
            _STRICT,
            open_file(Path(file), limits.IMAGE_BYTES) if named else nullcontext(file) as opened,
        ):
            yield opened
    except Exception as error:
        raise Refused(why(error)) from error


def open_image(file: BinaryIO, whole: bool = True) -> ImageFile.ImageFile:
    """Opens an image.

    Arguments:
        file: The file.
        whole: Whether to check all of the file, not only its header.

    Raises:
        Exception: The file is no image in a known format, is damaged, or has too many pixels.
    """
    start = file.read(len(SIGNATURE))
    if not start:
        raise Refused("is empty")
    profile = None
    if start == SIGNATURE:
        file, profile = png_parts(file, whole)
    else:
        _check_claims(file)
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        opened = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        known = ", ".join(formats)
        raise Refused(f"is not an image in a supported format ({known})") from None
    if profile is not None:
        opened.info["icc_profile"] = profile or b"damaged"
    if opened.width * opened.height > limits.IMAGE_PIXELS:
        raise Image.DecompressionBombError
    if math.prod(reduced(opened.size, SHORT_SIDE)) > MAX_REDUCED:
        raise Refused("is too long and narrow: cut it into pieces")
    return opened


def _check_claims(file: BinaryIO) -> None:
    """Looks at the first bytes of an image before its decoder does.

    Raises:
        Refused: The decoder would need too much time or memory.
    """
    if claimed_parts(file, limits.IMAGE_PARTS) > limits.IMAGE_PARTS:
        raise Refused(f"has more than {limits.IMAGE_PARTS} parts: save it anew as .png or .jpg")
    if is_webp(file) and claimed_pixels(file) > limits.WEBP_PIXELS:
        most = limits.WEBP_PIXELS // 10**6
        raise Refused(f"has more than {most} megapixels, too many for a .webp: save it as .png")


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
        Refused: The file cannot be read; the message is the reason.
    """
    with opened_file(file) as data, open_image(data, whole=False) as opened:
        return Header(opened.size, profile_of(opened).name)
