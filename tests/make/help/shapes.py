"""Feature spaces and steering in pictures: shapes, because with emoji both show little."""

from __future__ import annotations

import comfy.samplers
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from mmd_demo.drawing import HUES, draw
from mmd_demo.worlds import load_world
from mmd_pack.mmd_core import KernelConfig, References
from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler
from mmd_pack.nodes.tsmc import tsmc_plot as tsmc
from mmd_pack.nodes.tsmc.reward_reference import TSMCRewardReference
from mmd_pack.nodes.tsmc.tri_tsmc_sampler import TRITSMCSampler
from mmd_tests.make.help.sheets import rows_of
from mmd_tests.studies.quality.shapes_worlds import CornerCase
from PIL import Image
from torch import Tensor

SEED, STEPS, SHOWN = 1, 25, 10
BATCH, LATENT = 32, (3, 32, 32)
MIXTURE = [(2, 4)] * 6 + [(0, 0)] * 2  # kinds and hues: blue triangles and red discs
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
        model=model, references=References(references), seed=SEED, steps=STEPS, cfg=1.0,
        sampler_name="euler_ancestral", scheduler="karras", positive=nothing, negative=nothing,
        latent_image={"samples": torch.zeros(BATCH, *LATENT)}, denoise=1.0, strength=strength,
        start_percent=0.0, end_percent=0.75, mode="flow", kernel=kernel,
    ).result  # fmt: skip
    return latent["samples"]


def pictures(latents: Tensor) -> list[Image.Image]:
    """The pictures of this world, whose latents are pixels from -1 to 1."""
    shades = latents[:SHOWN].clamp(-1, 1).add(1).mul(127.5).round().byte()
    return [Image.fromarray(each.movedim(0, -1).numpy()) for each in shades]


def tsmc_plot() -> Image.Image:
    """What TSMCPlot makes of a run with the defaults, narrower than on the node."""
    model, clip, _ = load_world("shapes")
    nothing = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(nothing, nothing)
    guider.set_cfg(1.0)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "karras", STEPS)
    *_, state = TRITSMCSampler.execute(
        Noise_RandomNoise(SEED), guider, sigmas, {"samples": torch.zeros(1, *LATENT)},
        TSMCRewardReference.execute(References(mixture())).result[0], particles=16, iterations=3,
        reward_scale=2.0, standardize_reward=True, feature="auto", micro_batch=0,
    ).result  # fmt: skip
    tsmc.WIDTH, tsmc.HEIGHT = 1100, 360
    return tsmc.plot(state)


def mixture() -> Tensor:
    """64 pictures with shape `(64, 3, 32, 32)`: three quarters blue triangles, the others red discs."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor(MIXTURE * 8)
    spread = (torch.rand(len(labels), generator=rng) - 0.5) * 0.6  # of a hue
    return draw(labels[:, 0], (labels[:, 1] + spread) % len(HUES), rng).clamp(-1, 1)
