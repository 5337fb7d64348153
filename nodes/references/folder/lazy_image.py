"""Images that are decoded on demand, because thousands of decoded images would fill the memory."""

import contextlib
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ....mmd_core.files import limits
from ...base.safe_paths import open_file
from .color_profile import UNUSABLE
from .open_image import read_header
from .read_image import read_image


class Loaded(NamedTuple):
    """The content of an image.

    Attributes:
        digest: A hash of the content, for cache keys.
        decode: Returns the pixels, with shape `(1, H, W, 3)`, float32 in [0, 1], on the CPU.
    """

    digest: str
    decode: Callable[[], Tensor]


@dataclass(frozen=True)
class FileImage:
    """An image in a file.

    Arguments:
        path: The file.
        size: Its width and height in pixels, after EXIF rotation.
        profile: As in `Header`.
    """

    path: Path
    size: tuple[int, int]
    profile: str = ""

    def load(self) -> Loaded:
        """The current content of the file. The digest and `decode` use the same bytes.

        Raises:
            OSError, ValueError: The file is missing or cannot be read. `decode` may also raise
                ValueError.
        """
        with open_file(self.path, limits.IMAGE_BYTES) as file:
            data = file.read()
        digest = hashlib.sha256(data).hexdigest()
        with contextlib.suppress(ValueError):  # `decode` says why
            if read_header(io.BytesIO(data)).profile not in ("", UNUSABLE):
                digest += " in sRGB"  # earlier versions read the same bytes as other colors
        return Loaded(digest, lambda: read_image(io.BytesIO(data)))


@dataclass(frozen=True, eq=False)
class TensorImage:
    """An image from another node.

    Arguments:
        image: With shape `(1, H, W, C)`. C = 1 is grey; channels after the third are ignored.
    """

    image: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[2], self.image.shape[1]

    def load(self) -> Loaded:
        """The image as float32 RGB on the CPU."""
        image = self.image[..., :3].expand(-1, -1, -1, 3).detach().float().cpu().contiguous()
        digest = hashlib.sha256(repr(tuple(image.shape)).encode())
        digest.update(image.numpy())
        return Loaded(digest.hexdigest(), lambda: image)


LazyImage = FileImage | TensorImage
