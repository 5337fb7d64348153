"""What it costs to scale the latents of references that were encoded at another size.

    python tests/studies/quality/emoji/other_sizes.py

It takes the options of `run.py` for the cache folder and the weights.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[3]))
    import support.packages  # noqa: F401

import torch
from mmd_pack.mmd_core import GuidanceConfig
from mmd_tests.demo.emoji.pictures import to_float
from mmd_tests.studies.quality.emoji.cases import CASES
from mmd_tests.studies.quality.emoji.options import make_parser
from mmd_tests.studies.quality.emoji.run import setup_of
from mmd_tests.studies.quality.emoji.tasks import Gauge, make_easel, opened
from mmd_tests.studies.quality.emoji.world import World, in_parts
from torch import Tensor
from torch.nn.functional import interpolate

CASE, SEED, SIDE, LATENT = "a fluent", 0, 64, 16
VARIANTS = ((64, False), (48, False), (96, False), (128, False), (96, True), (128, True))
FIGURES = ("sharpness", "var high", "style", "FD")


def scaled(images: Tensor, side: int, antialias: bool = True) -> Tensor:
    """Images or latents at another size."""
    return interpolate(images, (side, side), mode="bicubic", antialias=antialias)


@torch.no_grad()
def references(world: World, pixels: Tensor, side: int, antialias: bool) -> Tensor:
    """Latents of pictures encoded at a size, scaled to the size that is drawn."""
    if side == SIDE:
        return world.encode(pixels)
    latents = in_parts(world.vae.encode, scaled(to_float(pixels), side).clamp(-1, 1))
    return scaled(latents, LATENT, antialias)


def main() -> None:
    setup = setup_of(make_parser().parse_args())
    torch.set_num_threads(1)
    atlas, world = opened(setup)
    easel = make_easel(world, CASES[CASE].make(atlas, SEED), setup)
    gauge = Gauge(easel)
    sys.stdout.write("\t".join(("side", "antialias", *FIGURES)) + "\n")
    for side, antialias in VARIANTS:
        given = references(world, easel.trial.given.pixels, side, antialias)
        folder = setup.images / "other_sizes" / f"{side}_{antialias}"
        drawn = replace(easel, given=given, folder=folder).draw(GuidanceConfig(100.0))
        found = gauge.of_drawn("flow", drawn).figures
        cells = (str(side), str(antialias), *(f"{found[name]:.2f}" for name in FIGURES))
        sys.stdout.write("\t".join(cells) + "\n")


if __name__ == "__main__":
    main()
