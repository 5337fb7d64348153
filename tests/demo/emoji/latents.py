"""The latents of all pictures that the denoiser learns from or is measured on, kept in one file."""

import re
from pathlib import Path

import numpy as np
import torch
from mmd_demo.emoji.precision import fast_math
from mmd_demo.emoji.vae import EmojiVAE
from mmd_tests.demo.emoji.files import write_at_once
from mmd_tests.demo.emoji.pictures import read_pictures, read_table, shift_pixels, to_float
from safetensors.torch import load_file, save_file

SHIFTS = ((0, 0), (1, -2), (-1, 1), (2, 2), (-2, -1))
ONE_WAY = re.compile(
    r"\b(left|right|facing|clock|watch|button|abcd?|calendar|newspaper|words|text|letters?|"
    r"alphabet|numbers?|musical|keyboard|input|atm|hundred|sign|arrow|label|ticket|dollar|yen|"
    r"euro|pound|bank|hotel|store|office|hospital|chart|stop|wheelchair|squared?)\b"
)
"""Emoji with these words would mean something else, or nothing, when mirrored."""


def load_vae(path: Path) -> EmojiVAE:
    """The autoencoder with the weights of a file."""
    network = EmojiVAE()
    network.load_state_dict(load_file(path))
    return network.eval().to(memory_format=torch.channels_last)


def may_be_mirrored(table: dict[str, np.ndarray]) -> torch.Tensor:
    """Whether a picture means the same when mirrored."""
    texts = zip(*(table[column] for column in ("name", "short", "tags")), strict=True)
    free = [ONE_WAY.search(" ".join(row).replace("-", " ")) is None for row in texts]
    return torch.tensor(free) & torch.from_numpy(table["category"] != "Symbols")


@torch.no_grad()
def encode(network: EmojiVAE, pixels: torch.Tensor) -> torch.Tensor:
    """Latents (N, 4, 16, 16) in half precision."""
    parts = []
    for part in pixels.split(128):
        pictures = to_float(part).contiguous(memory_format=torch.channels_last)
        with fast_math():
            parts.append(network.encode(pictures).half().contiguous())
    return torch.cat(parts)


def read_latents(cache: Path) -> torch.Tensor:
    """Latents (copies, N, 4, 16, 16), made at the first call.

    The copies are moved by some pixels, the second half of them mirrored where that is harmless;
    copy 0 is the picture as it is. OpenMoji, which nothing is trained on, has zeros.
    """
    path = cache / "latents.safetensors"
    if not path.exists():
        table = read_table(cache)
        rows = np.flatnonzero(table["split"] != "style_never_seen")
        pixels = read_pictures(cache, rows)
        mirrored = torch.where(
            may_be_mirrored(table)[rows, None, None, None], pixels.flip(3), pixels
        )
        network = load_vae(cache / "vae.safetensors")
        latents = torch.zeros(2 * len(SHIFTS), len(table["split"]), 4, 16, 16, dtype=torch.half)
        copies = [(source, shift) for source in (pixels, mirrored) for shift in SHIFTS]
        for number, (source, shift) in enumerate(copies):
            latents[number, rows] = encode(network, shift_pixels(source, *shift))
        write_at_once(path, lambda part: save_file({"latents": latents}, part))
    return load_file(path)["latents"]
