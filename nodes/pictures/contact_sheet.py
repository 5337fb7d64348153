"""A contact sheet: one picture with the thumbnails of many."""

import math

import numpy as np
import torch
from PIL import Image, ImageOps

MAX_THUMBNAILS = 64


def contact_sheet(images: list[torch.Tensor], gap: int = 4) -> torch.Tensor:
    """A sheet of up to 64 images, chosen at equal intervals, in rows of equal width.

    Arguments:
        images: Images with shape `(1, h, w, 3)`, in [0, 1].
        gap: Pixels between the images.

    Returns:
        The sheet, with shape `(1, H, W, 3)`, float32 in [0, 1].
    """
    n = min(len(images), MAX_THUMBNAILS)
    shown = [images[i * len(images) // n] for i in range(n)]
    # Very long pictures are cropped to 2:1, because they would leave no room for the others.
    aspects = np.array([min(max(image.shape[2] / image.shape[1], 0.5), 2.0) for image in shown])
    n_rows = round(math.sqrt(aspects.sum())) or 1  # makes the sheet about as high as wide
    row_of = ((np.cumsum(aspects) - aspects / 2) / aspects.sum() * n_rows).astype(int)
    width = min(1024, round(512 * math.sqrt(aspects.sum())))
    strips = []
    for members in (np.flatnonzero(row_of == row) for row in np.unique(row_of)):
        height = (width - gap * (len(members) - 1)) / aspects[members].sum()
        edges = np.rint(np.cumsum([0, *aspects[members]]) * height).astype(int).tolist()
        strip = Image.new("RGB", (width, round(height) + gap), (32, 32, 32))
        for place, i in enumerate(members):
            step = max(
                1, min(shown[i].shape[1:3]) // 1024
            )  # a subset of the pixels is enough for a thumbnail
            picture = (shown[i][0, ::step, ::step].numpy() * 255).round().astype(np.uint8)
            size = (edges[place + 1] - edges[place], round(height))
            picture = ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.LANCZOS)
            strip.paste(picture, (edges[place] + gap * place, 0))
        strips.append(np.asarray(strip))
    sheet = np.concatenate(strips)[:-gap]
    return torch.from_numpy(sheet.astype(np.float32) / 255)[None]
