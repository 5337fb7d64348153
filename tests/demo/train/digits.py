"""Learn the denoiser of the world *digits*: python tests/demo/train/digits.py --minutes 8"""

import argparse
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_demo.catalog import WEIGHTS
from mmd_demo.dense import DenseNet
from mmd_demo.digits import CLASSES, digits_split
from mmd_tests.demo.train.diffusion import train


def batches(size: int, seed: int):
    """A function that draws pictures (B, 1, 8, 8) and words (B, 10), half of them empty."""
    pictures, labels, _, _ = digits_split()
    pictures = pictures[..., 0][:, None] * 2 - 1
    words = torch.nn.functional.one_hot(labels, CLASSES).float()
    generator = torch.Generator().manual_seed(seed)

    def draw_batch():
        chosen = torch.randint(len(labels), (size,), generator=generator)
        spoken = torch.rand(size, 1, generator=generator) < 0.5
        return pictures[chosen], words[chosen] * spoken

    return draw_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "digits.safetensors")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    network = DenseNet(words=CLASSES)
    draw_batch = batches(256, options.seed)
    train(network, draw_batch, options.out, options.minutes, sigma_data=0.75, sigma=(-0.4, 1.4))


if __name__ == "__main__":
    main()
