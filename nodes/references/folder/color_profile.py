"""Converts pictures with a color profile to sRGB, the color space of models and screens."""

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageFile

from ....mmd_core.files import limits

MAX_NAME = 60  # characters that are shown
CHANNELS = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # modes of Pillow by color space
SAME = 1  # levels of 255 that a profile may differ from sRGB and still be taken as sRGB
UNUSABLE = "a color profile that cannot be used"


class Profile(NamedTuple):
    """The color profile of a picture.

    Attributes:
        name: What to call the profile; "" if the colors need no conversion.
        usable: Whether the colors can be converted.
        mode: The mode of Pillow from which they are converted.
        data: The profile.
    """

    name: str = ""
    usable: bool = True
    mode: str = ""
    data: bytes = b""

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """The picture in sRGB, as RGB. It has no alpha channel."""
        if self.mode and self.usable:
            image = image if image.mode == self.mode else image.convert(self.mode)
            return ImageCms.applyTransform(image, _transform(self.data, self.mode))
        return image.convert("RGB")


def profile_of(opened: ImageFile.ImageFile) -> Profile:
    """The color profile in a picture. It has a name only if it changes colors or is damaged."""
    data = opened.info.get("icc_profile")
    if not isinstance(data, bytes) or not data or opened.mode == "LAB":
        return Profile()
    grey = opened.mode in ("1", "L", "LA", "La") or opened.mode.startswith("I")
    own = "L" if grey else "CMYK" if opened.mode == "CMYK" else "RGB"
    try:
        mode, name, same = _read(data)
    except Exception:  # of a damaged profile, decoders raise many types
        return Profile(UNUSABLE, False)
    if same or (own == "L" and mode == "RGB"):  # as other programs do
        return Profile()
    return Profile(name, True, mode, data) if mode == own else Profile(UNUSABLE, False)


# Folders often hold thousands of pictures with the same profile.
@lru_cache(maxsize=8)
def _transform(data: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """The conversion to sRGB, relative to white, as other programs convert by default."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent)


@lru_cache(maxsize=8)
def _read(data: bytes) -> tuple[str, str, bool]:
    """The mode of Pillow, the name, and whether the profile is sRGB, also under another name.

    Raises:
        Exception: The profile is damaged or is for another kind of device.
    """
    if len(data) > limits.IMAGE_METADATA:
        raise ValueError("the profile is too large")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data)).profile
    mode = CHANNELS[profile.xcolor_space]
    transform = _transform(data, mode)
    name = " ".join((profile.profile_description or "").split())[:MAX_NAME] or "unnamed"
    if mode == "CMYK":
        return mode, name, False
    levels = np.arange(256, dtype=np.uint8)
    if mode == "L":
        probe = Image.fromarray(levels[None])
    else:
        some = levels[::17]
        grid = np.stack(np.meshgrid(some, some, some), -1).reshape(16, 256, 3)
        probe = Image.fromarray(grid)
    after = np.asarray(ImageCms.applyTransform(probe, transform), dtype=np.int16)
    before = np.asarray(probe.convert("RGB"), dtype=np.int16)
    return mode, name, bool(np.abs(after - before).max() <= SAME)
