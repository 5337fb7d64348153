"""The learned model of digits as a chain in a real ComfyUI, and many paths of it without any steering."""

from pathlib import Path

import torch
from mmd_tests.studies.quality.methods import counted
from mmd_tests.studies.quality.worlds import get_case
from safetensors.torch import load_file, save_file
from torch import Tensor

STEPS = 20
TRUTH = 40_000  # unsteered paths that tell the truth
PART = 2000  # of them at once


class DigitsChain:
    """What the nodes are given: `euler_ancestral`, karras, cfg 1, no prompt.

    Attributes:
        case: The world, which also judges.
        calls: Gets the number of images of each call of the network.
    """

    def __init__(self, steps: int = STEPS):
        from comfy_extras.nodes_custom_sampler import BasicScheduler, Guider_Basic

        self.case, self.steps = get_case("digits", "3/8/1"), steps
        model, self.calls = counted(self.case.model)
        self.guider = Guider_Basic(model)
        self.guider.set_conds(self.case.prompts(1)[0])
        self.sigmas = BasicScheduler.execute(model, "karras", steps, 1.0)[0]
        self.latent = {"samples": torch.zeros(1, *self.case.shape)}

    def inputs(self, seed: int) -> dict:
        """Of TRITSMCSampler, but for its reward."""
        from comfy_extras.nodes_custom_sampler import Noise_RandomNoise

        noise = Noise_RandomNoise(seed)
        return {
            "noise": noise,
            "guider": self.guider,
            "sigmas": self.sigmas,
            "latent": self.latent,
        }

    def state(self, seed: int, particles: int):
        """A run before its first batch."""
        from mmd_pack.mmd_core.tsmc import TSMCConfig
        from mmd_pack.nodes.tsmc.run.drawing import with_model
        from mmd_pack.nodes.tsmc.run.state import planned_state

        given = self.inputs(seed)
        state = planned_state(
            TSMCConfig(particles), given["noise"], self.sigmas, self.latent, 0, "digits"
        )
        return with_model(state, self.guider, "digits")

    def unsteered(self, seed: int, count: int) -> Tensor:
        """z of the first `count` paths that a run with this seed would draw without steering."""
        from mmd_pack.nodes.tsmc.run.drawing import draw_batch

        state = self.state(seed, count)
        return draw_batch(state, self.guider, count, silent).batch.samples


def silent(x0: Tensor) -> None:
    """Nobody watches."""


def long_run(chain: DigitsChain, folder: Path, count: int = TRUTH) -> Tensor:
    """z of many unsteered paths, with shape `(count, 1, 8, 8)`; kept in `folder`."""
    file = folder / f"digits_{chain.steps}_steps_{count}.safetensors"
    if not file.exists():
        parts = [
            chain.unsteered(900_000 + start, min(PART, count - start))
            for start in range(0, count, PART)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"z": torch.cat(parts)}, file)
    return load_file(file)["z"]
