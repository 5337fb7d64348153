"""Runs of TRI-TSMC in core's graph, in process: what the tests of its nodes have in common."""

from dataclasses import dataclass, replace

import torch
from mmd_tests.support.tiny_models import family_latent, family_prompt


@dataclass(frozen=True, eq=False)
class LinearReward:
    """r = a · z of latents of the model, or whatever `of` makes of that.

    Arguments:
        a: Broadcast against latents `(B, *)`.
        of: What becomes of the scores.
    """

    a: torch.Tensor
    of: object = None

    name, space, vae, fixed = "linear", "latent", None, True

    def for_model(self, latent_format, device):
        return replace(self, a=self.a.to(device))

    def check(self, batch):
        assert batch.shape[1:] == self.a.shape[1:]

    def value(self, batch):
        scores = (batch * self.a).flatten(1).sum(1).float().cpu()
        return scores if self.of is None else self.of(scores)

    def fixed_by(self, batch):
        return self.value(batch), self

    def gradient(self, x):
        return self.a.to(x).expand_as(x)


def direction(family: str = "SD15", length: float = 1.0, seed: int = 3) -> torch.Tensor:
    """A direction in the latents of a family, with shape `(1, C, *)`."""
    shape = family_latent(family, 1)["samples"].shape
    a = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return a * (length / a.norm())


def graph(
    model, family: str = "SD15", cfg: float = 1.0, steps: int = 6, seed: int = 5, batch: int = 1
):
    """NOISE, GUIDER, SIGMAS and LATENT from core's nodes."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler, CFGGuider, RandomNoise

    positive, negative = family_prompt(family, 1), family_prompt(family, 2)
    return {
        "noise": RandomNoise.execute(seed)[0],
        "guider": CFGGuider.execute(model, positive, negative, cfg)[0],
        "sigmas": BasicScheduler.execute(model, "karras", steps, 1.0)[0],
        "latent": family_latent(family, batch),
    }


SETTINGS = {
    "particles": 4,
    "iterations": 2,
    "reward_scale": 2.0,
    "standardize_reward": True,
    "feature": "auto",
    "micro_batch": 0,
}


def settings(**changed) -> dict:
    """Settings of a small run."""
    return {**SETTINGS, **changed}


def steered(given: dict, reward, **changed):
    """The outputs of TRITSMCSampler, as a workflow would run it."""
    from mmd_pack.nodes.tsmc.tri_tsmc_sampler import TRITSMCSampler

    finishing = {key: changed.pop(key) for key in ("final", "out_count") if key in changed}
    with torch.inference_mode():
        return TRITSMCSampler.execute(
            **given, reward=reward, **settings(**changed), **finishing
        ).result


def learned_state(learning, steps=(), latent=None):
    """A run whose scored batches are those of `learning`, steered by the identity."""
    from mmd_pack.nodes.tsmc.run.plan import ModelInfo, Plan
    from mmd_pack.nodes.tsmc.run.state import Cost, Learned
    from mmd_pack.nodes.tsmc.run.steering import Steered

    latent = latent or {"samples": torch.zeros(1, 4, 2, 2)}
    n = len(learning.rewards)
    return Learned(
        plan=Plan(learning.config, None, torch.zeros(5), latent, 4),
        model=ModelInfo(steps, None, torch.device("cpu")), cost=Cost(n * len(steps), n),
        learning=learning, steering=Steered(feature="gradient", gradient=lambda x: x),
        scored=tuple(torch.zeros(count, 4, 2, 2) for count in learning.counts),
    )  # fmt: skip
