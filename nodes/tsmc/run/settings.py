"""The inputs that TRITSMCSampler and TSMCInit share, and their conversion to a `TSMCConfig`."""

from comfy_api.latest import io

from ....mmd_core.tsmc import TWIST_FEATURES, TSMCConfig
from ...base.schema import advanced

__all__ = ["config_of", "learning_inputs", "schedule_inputs"]

DEFAULTS = TSMCConfig()


def schedule_inputs() -> list:
    """The inputs of the chain: noise schedule and initial latent."""
    return [
        io.Sigmas.Input(
            "sigmas", tooltip="The noise schedule (σ) down to 0, from BasicScheduler or another."
        ),
        io.Latent.Input(
            "latent",
            tooltip="The size to draw, from EmptyLatentImage, or an image to start from. Only the first image counts: "
            "particles says how many are drawn. With a noise mask only the masked part is drawn and steered.",
        ),
    ]


def learning_inputs() -> list:
    return [
        io.Int.Input(
            "particles",
            default=DEFAULTS.particles,
            min=2,
            max=4096,
            tooltip="How many images (N) each batch has. More make weights and log Z more exact.",
        ),
        io.Int.Input(
            "iterations",
            default=DEFAULTS.iterations,
            min=0,
            max=100,
            tooltip="How often the steering is improved (K). K + 1 batches are drawn: with 3 and 16 particles 64 images.",
        ),
        io.Float.Input(
            "reward_scale",
            default=DEFAULTS.reward_scale,
            min=0.0,
            max=1000.0,
            step=0.1,
            round=0.001,
            tooltip="How strongly the model is tilted to the reward (λ). Of a standardized reward 2 is like the best of "
            "20 images, 3 like the best of 245. 0: not at all.",
        ),
        io.Boolean.Input(
            "standardize_reward",
            default=DEFAULTS.standardize,
            tooltip="Measures the reward in standard deviations of what the model draws by itself in the first batch, so "
            "that reward_scale means the same for every reward. Off: the reward as it is.",
        ),
        io.Combo.Input(
            "feature",
            options=list(TWIST_FEATURES),
            default=DEFAULTS.feature,
            tooltip="What turns the images on their way (φ). gradient: the reward's own, of rewards of latents. surrogate: "
            "that of a regression fitted to the scores of the first batch, for every other reward. none: nothing, the "
            "images are only weighted. auto: gradient where there is one, else surrogate.",
        ),
        io.Int.Input(
            "micro_batch",
            default=4,
            min=0,
            max=4096,
            tooltip="How many images go through the model at once, for small cards. 0: all of a batch. The result stays "
            "the same, but for rounding.",
        ),
        advanced(
            io.Float.Input(
                "kl_budget",
                default=DEFAULTS.kl_budget,
                min=0.01,
                max=10.0,
                step=0.05,
                round=0.001,
                tooltip="How far one update may go (ε), below log(particles): about particles × e^−ε images "
                "lead it. Matters with many time_blocks; smaller is safer and slower.",
            )
        ),
        advanced(
            io.Int.Input(
                "time_blocks",
                default=DEFAULTS.time_blocks,
                min=1,
                max=64,
                tooltip="Into how many parts the schedule is cut, each with strengths of its own (θ). Needs 32 images "
                "for each part.",
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
                tooltip="The strength that learning starts from and is drawn to (θ₀). 1: what the gradient suggests by "
                "itself.",
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
                tooltip="How far it may go from there (σ_θ). Larger trusts few images more.",
            )
        ),
        advanced(
            io.Float.Input(
                "eta",
                default=DEFAULTS.eta,
                min=0.0,
                max=1.0,
                step=0.01,
                tooltip="How much noise each step draws anew (η), as in euler_ancestral. It must be above 0.",
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
                tooltip="How far from the model steering may lead in all (KL; 1 is a little, 10 far): a guard against images that please the "
                "reward and nobody else.",
            )
        ),
    ]


def config_of(node: str, **settings) -> TSMCConfig:
    """The checked settings.

    Raises:
        ValueError: A setting is out of range; the message names the node.
    """
    settings["standardize"] = settings.pop("standardize_reward")
    try:
        return TSMCConfig(**settings)
    except ValueError as error:
        raise ValueError(f"{node}: {error}") from error
