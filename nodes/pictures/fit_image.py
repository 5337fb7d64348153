"""Resizes an image to the size at which the VAE encodes it."""

import comfy.utils
import torch
from torch import Tensor


def fit_image(image: Tensor, width: int, height: int, fit: str) -> Tensor:
    """The image at the given size, with shape `(1, height, width, C)`.

    An image that has this size already is returned unchanged.

    Arguments:
        image: One image with shape `(1, H, W, C)`, in [0, 1].
        width: The new width in pixels.
        height: The new height in pixels.
        fit: "crop" keeps the middle; "stretch" ignores the aspect ratio; "pad" adds strips at two
            opposite edges, each in the mean color of its edge.
    """
    h, w = image.shape[1:3]
    if (w, h) == (width, height):
        return image
    scale = min(width / w, height / h)
    inner = [max(1, round(side * scale)) for side in (w, h)] if fit == "pad" else [width, height]
    crop = {"crop": "center", "pad": "disabled", "stretch": "disabled"}[fit]
    image = comfy.utils.common_upscale(image.movedim(-1, 1), *inner, "lanczos", crop).clamp(0, 1)
    for dim, missing in ((3, width - inner[0]), (2, height - inner[1])):
        strips = (missing // 2, missing - missing // 2)
        edges = image.narrow(dim, 0, 1), image.narrow(dim, image.shape[dim] - 1, 1)
        before, after = (
            edge.mean(5 - dim, keepdim=True).expand_as(edge).repeat_interleave(strip, dim)
            for edge, strip in zip(edges, strips, strict=True)
        )
        image = torch.cat([before, image, after], dim)
    return image.movedim(1, -1)
