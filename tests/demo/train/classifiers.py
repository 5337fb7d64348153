"""Learn the judges of both worlds: python tests/demo/train/classifiers.py --minutes 5"""

import argparse
import math
import sys
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_demo.catalog import WEIGHTS
from mmd_demo.classifier import digits_classifier, shapes_classifier
from mmd_demo.digits import digits_split
from mmd_demo.drawing import HUES, draw_random
from mmd_tests.demo.train.diffusion import save_half


def learn(network, draw_batch, minutes: float) -> None:
    """Cross-entropy for some minutes of wall time, the rate falling along a cosine."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    start = time.monotonic()
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        optimizer.param_groups[0]["lr"] = 2e-3 * (0.5 + 0.5 * math.cos(math.pi * done))
        pictures, labels = draw_batch()
        loss = torch.nn.functional.cross_entropy(network(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(network, pictures, labels) -> float:
    return (network(pictures).argmax(1) == labels).float().mean().item()


def draw_shapes(size: int, generator: torch.Generator, noise: float = 0.0):
    """Pictures (B, 3, 32, 32) and classes (B,); a little noise, as a denoiser leaves some."""
    pictures, kind, hue = draw_random(size, generator)
    return pictures + noise * torch.rand(size, 1, 1, 1) * torch.randn_like(pictures), (
        kind * len(HUES) + hue
    )


def draw_digits(pictures, labels, size: int, noise: float = 0.1):
    """Training digits (B, 1, 8, 8), some of them moved by a pixel, with a little noise."""
    chosen = torch.randint(len(labels), (size,))
    moved = pictures[chosen]
    for axis in (2, 3):
        step = torch.randint(-1, 2, (1,)).item() if torch.rand(()) < 0.3 else 0
        moved = torch.roll(moved, step, axis)
    return moved + noise * torch.randn_like(moved), labels[chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    pictures, labels, held_pictures, held_labels = digits_split()
    pictures, held_pictures = (p[..., 0][:, None] * 2 - 1 for p in (pictures, held_pictures))
    judge = digits_classifier()
    learn(judge, lambda: draw_digits(pictures, labels, 128), options.minutes * 0.2)
    print(f"digits: {accuracy(judge, held_pictures, held_labels):.4f} of the held-out pictures")  # noqa: T201
    save_half(judge, options.out / "digits_judge.safetensors")

    generator = torch.Generator().manual_seed(options.seed)
    judge = shapes_classifier().to(memory_format=torch.channels_last)
    learn(judge, lambda: draw_shapes(128, generator, noise=0.1), options.minutes * 0.8)
    print(f"shapes: {accuracy(judge, *draw_shapes(4000, generator)):.4f} of fresh pictures")  # noqa: T201
    save_half(judge, options.out / "shapes_judge.safetensors")


if __name__ == "__main__":
    main()
