"""TRITSMCSampler: a whole run of TRI-TSMC in one node."""

from comfy_api.latest import io

from ...mmd_core.tsmc import FINALS
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, RewardSocket, StateSocket
from ..host.progress import executing_node, show_text
from .run.account import Budget, batch_line, result_line, run_report
from .run.drawing import draw_batch, evaluations, with_model
from .run.finishing import final_smc, selected_latent
from .run.iterations import batch_sizes, feature_for, score_batch, with_reward
from .run.settings import config_of, learning_inputs, schedule_inputs
from .run.state import Pilot, planned_state
from .run.watch import Watch

NODE = "TRITSMCSampler"


class TRITSMCSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TRITSMCSampler",
            display_name="TRI-TSMC Sampler",
            category=CATEGORY,
            description="Steers any model towards a reward, without training: draws some batches, learns from their "
            "scores how to turn the next ones, and weights all images such that together they are samples of the model "
            "tilted to the reward.",
            inputs=[
                io.Noise.Input(
                    "noise",
                    tooltip="The noise to begin with, and the seed of the run: RandomNoise.",
                ),
                io.Guider.Input(
                    "guider",
                    tooltip="The model with its prompts: CFGGuider, BasicGuider or another. LoRA, ControlNet and other "
                    "patches of the model belong to it.",
                ),
                *schedule_inputs(),
                RewardSocket.Input(
                    "reward",
                    tooltip="What images should score high in (r), from one of the TSMC Reward nodes. For scores of your "
                    "own nodes use TSMCInit, TSMCPropose and TSMCUpdate.",
                ),
                *learning_inputs(),
                io.Combo.Input(
                    "final",
                    options=list(FINALS),
                    default="best",
                    tooltip="What latent holds. best: the images of the highest reward. resample: images drawn by their "
                    "weights, which are samples of the tilted model; some come twice if few count. all: every image drawn. "
                    "smc: a last batch in which images of high reward are duplicated on the way.",
                ),
                io.Int.Input(
                    "out_count",
                    default=4,
                    min=1,
                    max=4096,
                    tooltip="How many images latent holds, unless final is all.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The images chosen by final, for VAE Decode."),
                io.Latent.Output("all", tooltip="Every image that was drawn and scored."),
                io.Float.Output(
                    "weights",
                    is_output_list=True,
                    tooltip="The weight W of each image of all; they sum to 1.",
                ),
                io.Float.Output(
                    "log_z",
                    tooltip="log Z: how much the reward is worth under the model, from all images.",
                ),
                io.Float.Output("ess", tooltip="How many of all images count, in effect."),
                io.String.Output(
                    "report", tooltip="In words: cost, each batch, and what to change."
                ),
                StateSocket.Output("state", tooltip="The run, for TSMCPlot and TSMCSelect."),
            ],
            **schema_options(
                search_aliases=[
                    "tsmc",
                    "smc",
                    "steering",
                    "reward",
                    "best of n",
                    "alignment",
                    "sampler",
                ]
            ),
        )

    @classmethod
    def execute(
        cls, noise, guider, sigmas, latent, reward, particles, iterations, reward_scale, standardize_reward, feature,
        micro_batch, kl_budget=1.0, time_blocks=1, theta_init=0.5, theta_prior_sd=0.5, eta=1.0, max_total_kl=10.0,
        final="best", out_count=4,
    ):  # fmt: skip
        config = config_of(
            NODE, particles=particles, iterations=iterations, reward_scale=reward_scale,
            standardize_reward=standardize_reward, feature=feature, kl_budget=kl_budget, time_blocks=time_blocks,
            theta_init=theta_init, theta_prior_sd=theta_prior_sd, eta=eta, max_total_kl=max_total_kl,
        )  # fmt: skip
        if final not in FINALS:
            raise ValueError(f"{NODE}: unknown final {final!r}: choose one of {', '.join(FINALS)}")
        state = planned_state(config, noise, sigmas, latent, micro_batch, NODE)
        state = with_reward(with_model(state, guider, NODE), reward, NODE)
        counts = batch_sizes(config, feature_for(config.feature, reward, NODE))
        node_id, per_estimate = executing_node(), evaluations(guider)
        steps = len(state.model.steps)
        swarm = config.particles if final == "smc" else 0
        budget = Budget.of(
            counts, steps, latent["samples"][0].numel(), per_estimate, isinstance(state, Pilot),
            swarm, reward.space == "latent",
        )  # fmt: skip
        size = state.plan.at_once(max(counts))
        calls = (sum(-(-count // size) for count in counts) + (swarm > 0)) * steps
        watch = Watch(NODE, node_id, guider, calls)
        watch.say(str(budget))
        for i, count in enumerate(counts):
            proposed = draw_batch(state, guider, count, watch)
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
        return io.NodeOutput(
            chosen, everything, learning.weights.tolist(), learning.log_z, learning.ess,
            run_report(state, per_estimate, more), state,
        )  # fmt: skip
