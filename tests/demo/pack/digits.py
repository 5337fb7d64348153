"""The pictures of the world *digits*: scikit-learn's 8x8 digits, split once and for all."""

from functools import cache

import numpy as np
import torch

TRAINING = 1000
CLASSES = 10


@cache
def _shuffled():
    """All images (1797, 8, 8) in [0, 1] and labels (1797,), in one fixed random order.

    The seventeen grey levels are rounded to bytes here, so that a PNG file holds them exactly.
    """
    from sklearn.datasets import load_digits  # only training and judging need scikit-learn

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    levels = np.round(data.images[order] * (255 / 16)).astype(np.float32) / 255
    return torch.from_numpy(levels), torch.from_numpy(data.target[order]).long()


def as_pictures(images: torch.Tensor) -> torch.Tensor:
    """Grey images (B, 8, 8) as ComfyUI's pictures (B, 8, 8, 3)."""
    return images[..., None].repeat(1, 1, 1, 3)


def digits_split():
    """Training pictures (1000, 8, 8, 3) in [0, 1], labels; held-out pictures (797), labels."""
    images, labels = _shuffled()
    pictures = as_pictures(images)
    return pictures[:TRAINING], labels[:TRAINING], pictures[TRAINING:], labels[TRAINING:]


def digits_draw(proportions: dict[int, float], n: int, seed: int):
    """References (n, 8, 8, 3) and as many other target pictures (m, 8, 8, 3) as there are.

    Both hold the classes in the given proportions, none of them was trained on, and no picture
    is in both.
    """
    _, _, pictures, labels = digits_split()
    generator = torch.Generator().manual_seed(seed)
    pools = {}
    for digit in proportions:
        places = torch.where(labels == digit)[0]
        pools[digit] = places[torch.randperm(len(places), generator=generator)]
    counts = {digit: round(n * share) for digit, share in proportions.items()}
    if any(counts[digit] > len(pools[digit]) for digit in counts):
        raise ValueError(f"The held-out half has too few of some digit to draw {n} references.")
    left = min((len(pools[d]) - counts[d]) / share for d, share in proportions.items() if share)
    references = torch.cat([pools[digit][: counts[digit]] for digit in proportions])
    targets = torch.cat(
        [pools[d][counts[d] : counts[d] + int(left * share)] for d, share in proportions.items()]
    )
    return pictures[references], pictures[targets]
