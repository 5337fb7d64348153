"""TSMCInit: the beginning of a run whose scores come from other nodes."""

from comfy_api.latest import io

from ..base.schema import schema_options
from ..base.sockets import CATEGORY, StateSocket
from .run.settings import config_of, learning_inputs, schedule_inputs
from .run.state import planned_state

NODE = "TSMCInit"


class TSMCInit(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TSMCInit",
            display_name="TSMC Init",
            category=CATEGORY,
            description="Begins a run of TRI-TSMC in which nodes of your own score the images: TSMCPropose draws a batch, "
            "you score it, TSMCUpdate learns from the scores, and so on; TSMCSelect ends it.",
            inputs=[
                io.Noise.Input(
                    "noise",
                    tooltip="The noise to begin with, and the seed of the run: RandomNoise.",
                ),
                *schedule_inputs(),
                *learning_inputs(),
            ],
            outputs=[StateSocket.Output("state", tooltip="The run, for TSMCPropose.")],
            **schema_options(search_aliases=["tsmc", "smc", "steering", "custom reward", "scorer"]),
        )

    @classmethod
    def execute(
        cls, noise, sigmas, latent, particles, iterations, reward_scale, standardize_reward, feature, micro_batch,
        kl_budget=1.0, time_blocks=1, theta_init=0.5, theta_prior_sd=0.5, eta=1.0, max_total_kl=10.0,
    ):  # fmt: skip
        config = config_of(
            NODE, particles=particles, iterations=iterations, reward_scale=reward_scale,
            standardize_reward=standardize_reward, feature=feature, kl_budget=kl_budget, time_blocks=time_blocks,
            theta_init=theta_init, theta_prior_sd=theta_prior_sd, eta=eta, max_total_kl=max_total_kl,
        )  # fmt: skip
        return io.NodeOutput(planned_state(config, noise, sigmas, latent, micro_batch, NODE))
