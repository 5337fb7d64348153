"""Feature spaces in pictures: shapes, because emoji keep their colors in most of these spaces."""

from __future__ import annotations

import torch
from mmd_demo.worlds import load_world
from mmd_pack.mmd_core import KernelConfig, References
from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler
from mmd_tests.make.help.sheets import rows_of
from mmd_tests.studies.quality.shapes_worlds import CornerCase
from PIL import Image
from torch import Tensor

SEED, SHOWN = 1, 10
BATCH, LATENT = 32, (3, 32, 32)
SPACES = {
    "latent": KernelConfig(),
    "low_pass": KernelConfig(feature_space="low_pass", pool=8),
    "channel_stats": KernelConfig(feature_space="channel_stats"),
    "palette": KernelConfig(feature_space="palette"),
    "patches": KernelConfig(feature_space="patches", patch_size=5, kernel="energy"),
}


def feature_spaces() -> Image.Image:
    """The same noise for each of what can be compared: wide outlines in one corner, red and blue."""
    references = CornerCase().draw_references(SEED).latents
    rows = [("references", references), ("no guidance", guided(references, 0.0))]
    rows += [(space, guided(references, 100.0, kernel)) for space, kernel in SPACES.items()]
    return rows_of([(label, pictures(shown)) for label, shown in rows], SHOWN, apart=1)


def guided(references: Tensor, strength: float, kernel: KernelConfig | None = None) -> Tensor:
    """A batch `(n, 3, 32, 32)` drawn towards references."""
    model, clip, _ = load_world("shapes")
    nothing = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    latent, *_ = MMDGuidedKSampler.execute(
        model=model, references=References(references), seed=SEED, steps=25, cfg=1.0,
        sampler_name="euler_ancestral", scheduler="karras", positive=nothing, negative=nothing,
        latent_image={"samples": torch.zeros(BATCH, *LATENT)}, denoise=1.0, strength=strength,
        start_percent=0.0, end_percent=0.75, mode="flow", kernel=kernel,
    ).result  # fmt: skip
    return latent["samples"]


def pictures(latents: Tensor) -> list[Image.Image]:
    """The pictures of this world, whose latents are pixels from -1 to 1."""
    shades = latents[:SHOWN].clamp(-1, 1).add(1).mul(127.5).round().byte()
    return [Image.fromarray(each.movedim(0, -1).numpy()) for each in shades]
