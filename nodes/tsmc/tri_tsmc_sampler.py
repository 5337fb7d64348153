"""TRITSMCSampler: a whole run of TRI-TSMC in one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...mmd_core.kernels.quoted import quoted
from ...mmd_core.tsmc import FINALS
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import STEERING, RewardSocket, StateSocket
from ..base.told import told
from ..host.particle_noise import InitialNoise
from ..host.progress import executing_node, show_text
from .rewards.reward import Reward
from .run.account import PlannedCost, batch_line, result_line, run_report
from .run.drawing import draw_batch, evaluations_per_estimate, with_model
from .run.finishing import final_smc, selected_latent
from .run.iterations import batch_sizes, feature_for, score_batch, with_reward
from .run.plan import Latent
from .run.settings import config_of, learning_inputs, noise_input, schedule_inputs
from .run.state import Pilot, planned_state
from .run.watch import Watch

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

NODE = "TRITSMCSampler"


class TRITSMCSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TRITSMCSampler",
            display_name="Steering Sampler (TRI-TSMC)",
            category=STEERING,
            description="Steers any model towards a reward, without training. It draws batches, "
            "learns from their scores how to steer the next batch, and weights all images so that "
            "together they are samples of the model tilted towards the reward.",
            inputs=[
                noise_input(),
                io.Guider.Input(
                    "guider",
                    tooltip="The model with its prompts, from CFGGuider, BasicGuider or another "
                    "guider. LoRA, ControlNet and other patches of the model are included.",
                ),
                *schedule_inputs(),
                RewardSocket.Input(
                    "reward",
                    tooltip="What images should score high in, from a TSMC Reward node. For scores "
                    "of other nodes, use TSMCInit, TSMCPropose and TSMCUpdate instead (r).",
                ),
                *learning_inputs(),
                io.Combo.Input(
                    "final",
                    options=list(FINALS),
                    default="best",
                    tooltip="The images of the output latent. best: those with the highest reward. "
                    "resample: chosen at random by weight, so they are samples of the tilted "
                    "model; if ESS is small, some appear twice. all: all images. smc: one more "
                    "batch, in which images with a high reward are duplicated during sampling.",
                ),
                io.Int.Input(
                    "out_count",
                    default=4,
                    min=1,
                    max=4096,
                    tooltip="The number of images of the output latent. It has no effect if final "
                    "is all.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="The images that final selects, for VAE Decode."
                ),
                io.Latent.Output("all", tooltip="All images that were drawn and scored."),
                io.Float.Output(
                    "weights",
                    is_output_list=True,
                    tooltip="The weight of each image of all; the sum is 1 (W).",
                ),
                io.Float.Output(
                    "log_z",
                    tooltip="How much the model has to offer for this reward, estimated from all "
                    "images (log Z).",
                ),
                io.Float.Output(
                    "ess", tooltip="The effective sample size of all images, by their weights."
                ),
                io.String.Output(
                    "report", tooltip="Cost, result of each batch, and what to change, as text."
                ),
                StateSocket.Output("state", tooltip="The run, for TSMCPlot and TSMCSelect."),
            ],
            **schema_options(
                search_aliases=[
                    "tsmc",
                    "tri-tsmc sampler",
                    "smc",
                    "steer",
                    "steering",
                    "reward",
                    "best of n",
                    "alignment",
                    "sampler",
                    "search",
                ],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @within_limits
    def execute(
        cls,
        noise: InitialNoise,
        guider: CFGGuider,
        sigmas: Tensor,
        latent: Latent,
        reward: Reward,
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
        final: str = "best",
        out_count: int = 4,
    ) -> io.NodeOutput:
        config = config_of(
            NODE, particles=particles, iterations=iterations, reward_scale=reward_scale,
            standardize_reward=standardize_reward, feature=feature, kl_budget=kl_budget,
            time_blocks=time_blocks, theta_init=theta_init, theta_prior_sd=theta_prior_sd, eta=eta,
            max_total_kl=max_total_kl,
        )  # fmt: skip
        if final not in FINALS:
            raise ValueError(
                f"{NODE}: unknown final {quoted(final)}: choose one of {', '.join(FINALS)}"
            )
        state = planned_state(config, noise, sigmas, latent, micro_batch, NODE)
        state = with_reward(with_model(state, guider, NODE), reward, NODE)
        counts = batch_sizes(config, feature_for(config.feature, reward, NODE))
        node_id, per_estimate = executing_node(), evaluations_per_estimate(guider)
        steps = len(state.model.steps)
        smc_particles = config.particles if final == "smc" else 0
        cost = PlannedCost.of(
            counts, steps, latent["samples"][0].numel(), per_estimate, isinstance(state, Pilot),
            smc_particles, reward.space == "latent",
        )  # fmt: skip
        size = state.plan.at_once(max(counts))
        calls = (sum(-(-count // size) for count in counts) + (smc_particles > 0)) * steps
        watch = Watch(NODE, node_id, guider, calls)
        watch.say(str(cost))
        for i, count in enumerate(counts):
            proposed = draw_batch(state, guider, count, watch, alike=final == "smc")
            state = score_batch(proposed, proposed.reward)
            watch.say(batch_line(i, state.learning.summaries[-1]))
        more: tuple[str, ...] = ()
        if final == "smc":
            state, chosen, sentence = final_smc(state, guider, out_count, watch)
            more = (sentence,)
        else:
            chosen = selected_latent(state, final, out_count)
        everything = selected_latent(state, "all", out_count)
        show_text(result_line(state), node_id)
        learning = state.learning
        text = run_report(state, per_estimate, more)
        return told(
            chosen, everything, learning.weights.tolist(), learning.log_z, learning.ess, text,
            state, says=text,
        )  # fmt: skip
