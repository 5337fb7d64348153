"""The charts of MMDPlot and TSMCPlot, of runs with emoji."""

from __future__ import annotations

import comfy.samplers
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from mmd_pack.mmd_core import References
from mmd_pack.nodes.guidance import mmd_plot
from mmd_pack.nodes.tsmc import tsmc_plot as tsmc
from mmd_pack.nodes.tsmc.reward_reference import TSMCRewardReference
from mmd_pack.nodes.tsmc.tri_tsmc_sampler import TRITSMCSampler
from mmd_tests.make.help.drawing import CFG, LATENT, SEED, STEPS, encoded, faces, world
from mmd_tests.make.help.guidance import SWEEP, swept
from mmd_tests.make.help.sheets import PAGE
from PIL import Image


def plot() -> Image.Image:
    """What MMDPlot makes of several strengths, narrower than on the node."""
    mmd_plot.WIDTH, mmd_plot.HEIGHT = PAGE, 360
    traces = [swept(strength).trace for strength in SWEEP]
    return mmd_plot.plot(traces, [None for _ in traces])


def tsmc_plot() -> Image.Image:
    """What TSMCPlot makes of a run with the defaults, narrower than on the node."""
    model, clip, _ = world()
    told, nothing = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("smiling face", "")
    )
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(told, nothing)
    guider.set_cfg(CFG)
    sigmas = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "karras", STEPS
    )
    references = References(encoded([picture for picture, _ in faces("blue")]))
    reward = TSMCRewardReference.execute(references).result[0]
    latent = {"samples": torch.zeros(1, *LATENT)}
    *_, state = TRITSMCSampler.execute(
        Noise_RandomNoise(SEED), guider, sigmas, latent, reward, particles=16, iterations=3,
        reward_scale=2.0, standardize_reward=True, feature="auto", micro_batch=0,
    ).result  # fmt: skip
    tsmc.WIDTH, tsmc.HEIGHT = 1100, 360
    return tsmc.plot(state)
