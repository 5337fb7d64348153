"""Learn the denoiser of the world *shapes*: python tests/demo/train/shapes.py --minutes 45"""

import argparse
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_demo.catalog import WEIGHTS
from mmd_demo.drawing import HUES, KINDS, draw_random
from mmd_demo.unet import UNet
from mmd_tests.demo.train.diffusion import train
from safetensors.torch import load_file


def batches(size: int, seed: int):
    """A function that draws pictures and words; half of the words are empty, some are partial."""
    generator = torch.Generator().manual_seed(seed)

    def draw_batch():
        pictures, kind, hue = draw_random(size, generator)
        kind = torch.nn.functional.one_hot(kind, len(KINDS))
        hue = torch.nn.functional.one_hot(hue, len(HUES))
        spoken = torch.rand(size, 3, generator=generator) < torch.tensor([0.5, 0.75, 0.75])
        words = torch.cat([kind * spoken[:, 1:2], hue * spoken[:, 2:3]], 1) * spoken[:, :1]
        return pictures.contiguous(memory_format=torch.channels_last), words.float()

    return draw_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "shapes.safetensors")
    parser.add_argument("--start", type=Path, help="weights to go on from")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    network = UNet(words=len(KINDS) + len(HUES)).to(memory_format=torch.channels_last)
    if options.start:
        network.load_state_dict({k: w.float() for k, w in load_file(options.start).items()})
    train(network, batches(48, options.seed), options.out, options.minutes, sigma_data=0.6)


if __name__ == "__main__":
    main()
