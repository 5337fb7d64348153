"""TSMCInit: the beginning of a run whose scores come from other nodes."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import STEERING, StateSocket
from ..host.particle_noise import InitialNoise
from .run.plan import Latent
from .run.settings import config_of, learning_inputs, noise_input, schedule_inputs
from .run.state import planned_state

NODE = "TSMCInit"


class TSMCInit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TSMCInit",
            display_name="TSMC Init",
            category=STEERING,
            description="Begins a run of TRI-TSMC in which other nodes score the images. "
            "TSMCPropose draws a batch, you score it, TSMCUpdate learns from the scores. Repeat "
            "these three, and end with TSMCSelect.",
            inputs=[noise_input(), *schedule_inputs(), *learning_inputs()],
            outputs=[StateSocket.Output("state", tooltip="The run, for TSMCPropose.")],
            **schema_options(search_aliases=["tsmc", "smc", "steering", "custom reward", "scorer"]),
        )

    @classmethod
    @within_limits
    def execute(
        cls,
        noise: InitialNoise,
        sigmas: Tensor,
        latent: Latent,
        particles: int,
        iterations: int,
        reward_scale: float,
        standardize_reward: bool,
        feature: str,
        micro_batch: int,
        kl_budget: float = 1.0,
        time_blocks: int = 1,
        theta_init: float = 0.5,
        theta_prior_sd: float = 0.5,
        eta: float = 1.0,
        max_total_kl: float = 10.0,
    ) -> io.NodeOutput:
        config = config_of(
            NODE, particles=particles, iterations=iterations, reward_scale=reward_scale,
            standardize_reward=standardize_reward, feature=feature, kl_budget=kl_budget,
            time_blocks=time_blocks, theta_init=theta_init, theta_prior_sd=theta_prior_sd, eta=eta,
            max_total_kl=max_total_kl,
        )  # fmt: skip
        return io.NodeOutput(planned_state(config, noise, sigmas, latent, micro_batch, NODE))
