"""The inputs that TRITSMCSampler and TSMCInit share, and their conversion to a `TSMCConfig`."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ....mmd_core.tsmc import TWIST_FEATURES, TSMCConfig
from ...base.schema import advanced

__all__ = ["config_of", "learning_inputs", "noise_input", "schedule_inputs"]

DEFAULTS = TSMCConfig()


def noise_input() -> io.Input:
    """The input of the initial noise."""
    return io.Noise.Input(
        "noise", tooltip="The initial noise and the seed of the run, from RandomNoise."
    )


def schedule_inputs() -> list[io.Input]:
    """The inputs of the chain: noise schedule and initial latent."""
    return [
        io.Sigmas.Input(
            "sigmas",
            tooltip="The whole noise schedule, down to 0, from BasicScheduler or a similar node "
            "(σ).",
        ),
        io.Latent.Input(
            "latent",
            tooltip="An empty latent of the size to draw, or an image to start from. Only its "
            "first image is used: particles sets the number of images. With a noise mask, only "
            "the masked part is drawn and steered.",
        ),
    ]


def learning_inputs() -> list[io.Input]:
    """The inputs for the fields of `TSMCConfig`, and `micro_batch`."""
    return [
        io.Int.Input(
            "particles",
            default=DEFAULTS.particles,
            min=2,
            max=4096,
            tooltip="The number of images in each batch. More make weights and log Z more exact "
            "(N).",
        ),
        io.Int.Input(
            "iterations",
            default=DEFAULTS.iterations,
            min=0,
            max=100,
            tooltip="The number of updates of the steering. One more batch than this is drawn: "
            "with 3 and 16 particles, 64 images (K).",
        ),
        io.Float.Input(
            "reward_scale",
            default=DEFAULTS.reward_scale,
            min=0.0,
            max=1000.0,
            step=0.1,
            round=0.001,
            tooltip="The strength of the reward. With a standardized reward, 2 gives images like "
            "the best of 20, and 3 like the best of 245. 0 does not steer (λ).",
        ),
        io.Boolean.Input(
            "standardize_reward",
            default=DEFAULTS.standardize,
            tooltip="On: the reward is measured in standard deviations over the first batch, which "
            "is drawn without steering. reward_scale then means the same for every reward. Off: "
            "the reward is used as it is.",
        ),
        io.Combo.Input(
            "feature",
            options=list(TWIST_FEATURES),
            default=DEFAULTS.feature,
            tooltip="What steers the images. gradient: the gradient of the reward; only rewards of "
            "latents have one. surrogate: the gradient of a regression on the scores of the first "
            "batch, for every other reward. none: no steering, images are only weighted. auto: "
            "gradient if there is one, else surrogate (φ).",
        ),
        io.Int.Input(
            "micro_batch",
            default=4,
            min=0,
            max=4096,
            tooltip="The number of images in one call of the model. Lower it if memory is short. "
            "0: the whole batch. The images stay the same, up to rounding. Use 0 with IP-Adapter "
            "with one picture per image.",
        ),
        advanced(
            io.Float.Input(
                "kl_budget",
                default=DEFAULTS.kl_budget,
                min=0.01,
                max=10.0,
                step=0.05,
                round=0.001,
                tooltip="The maximum size of one update, below log(particles). Smaller is safer "
                "and slower. It matters with many time_blocks. About particles × e^−ε images "
                "decide an update (ε, a KL divergence in nats).",
            )
        ),
        advanced(
            io.Int.Input(
                "time_blocks",
                default=DEFAULTS.time_blocks,
                min=1,
                max=64,
                tooltip="The number of parts of the schedule, each with its own strengths of "
                "steering. Each part needs 32 images.",
            )
        ),
        advanced(
            io.Float.Input(
                "theta_init",
                default=DEFAULTS.theta_init,
                min=-10.0,
                max=10.0,
                step=0.05,
                round=0.001,
                tooltip="The strength of steering in the first steered batch, and the mean of the "
                "prior for learning. 1: the full gradient (θ₀).",
            )
        ),
        advanced(
            io.Float.Input(
                "theta_prior_sd",
                default=DEFAULTS.theta_prior_sd,
                min=0.01,
                max=100.0,
                step=0.05,
                round=0.001,
                tooltip="How far learning may move the strength from theta_init: the standard "
                "deviation of the prior. With a larger value, few images change it more (σ_θ).",
            )
        ),
        advanced(
            io.Float.Input(
                "eta",
                default=DEFAULTS.eta,
                min=0.0,
                max=1.0,
                step=0.01,
                tooltip="The amount of new noise at each step, as in euler_ancestral. It must be "
                "above 0 (η).",
            )
        ),
        advanced(
            io.Float.Input(
                "max_total_kl",
                default=DEFAULTS.max_total_kl,
                min=0.1,
                max=1000.0,
                step=0.5,
                round=0.01,
                tooltip="The maximum distance of steering from the model: 1 is near, 10 is far. "
                "Lower it if images score high but look bad (KL divergence, in nats).",
            )
        ),
    ]


def config_of(node: str, **settings: Any) -> TSMCConfig:
    """The settings as a `TSMCConfig`.

    Arguments:
        node: The name of the node, for messages.
        settings: The values of the inputs for `TSMCConfig`, by their names.

    Raises:
        ValueError: A setting is out of range; the message names the node.
    """
    settings["standardize"] = settings.pop("standardize_reward")
    try:
        return TSMCConfig(**settings)
    except ValueError as error:
        raise ValueError(f"{node}: {error}") from error
