"""TSMCUpdate: updates the twist with the scores of a batch."""

from collections.abc import Sequence

import torch
from comfy_api.latest import io
from torch import Tensor

from ..base.schema import schema_options
from ..base.sockets import CATEGORY, RewardSocket, StateSocket
from ..host.progress import executing_node, show_text
from .rewards.reward import Reward
from .run.account import result_line, run_report
from .run.iterations import add_scores, feature_for, score_batch
from .run.state import Learned, PilotProposed, Proposed, TSMCState

NODE = "TSMCUpdate"
Scores = Sequence[float | Sequence[float] | Tensor]


def numbers(scores: Scores, count: int) -> Tensor:
    """One score for each of `count` images, from numbers, lists and tensors; with shape `(count,)`, float64.

    Raises:
        ValueError: The number of scores is not `count`, or a score is not a number.
    """
    try:
        flat = torch.cat([torch.as_tensor(one, dtype=torch.float64).reshape(-1) for one in scores])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{NODE}: scores must be numbers, one for each image ({error})") from error
    if len(flat) != count:
        raise ValueError(
            f"{NODE}: {len(flat)} scores came for {count} images: score all images of latent of TSMCPropose, one number "
            "for each, in their order"
        )
    return flat


class TSMCUpdate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TSMCUpdate",
            display_name="TSMC Update",
            category=CATEGORY,
            description="Learns from the scores of a batch how to turn the next one. Connect scores of your own nodes, or "
            "a reward.",
            inputs=[
                StateSocket.Input("state", tooltip="From TSMCPropose."),
                io.Float.Input(
                    "scores",
                    optional=True,
                    force_input=True,
                    tooltip="A score for each image of the batch, in their order: higher is better. A list of numbers "
                    "from any scorer, or from TSMCScoreImages.",
                ),
                RewardSocket.Input(
                    "reward",
                    optional=True,
                    tooltip="Instead of scores: scores the batch by itself, with a TSMC Reward node.",
                ),
            ],
            outputs=[
                StateSocket.Output("state", tooltip="For the next TSMCPropose, or TSMCSelect."),
                io.String.Output("report", tooltip="In words: each batch, and what to change."),
            ],
            is_input_list=True,
            **schema_options(search_aliases=["tsmc", "smc", "steering", "scores"]),
        )

    @classmethod
    def execute(cls, state, scores=None, reward=None):
        # Every input is a list, since is_input_list is set.
        (state, *_), reward = state, reward[0] if reward else None
        state = updated(state, scores, reward)
        show_text(result_line(state), executing_node())
        return io.NodeOutput(state, run_report(state))


def updated(state: TSMCState, scores: Scores | None, reward: Reward | None) -> Learned:
    """The state whose waiting batch is scored, by `scores` or by `reward`.

    After the first batch, the stored reward is used, not `reward`.

    Raises:
        ValueError: No batch waits; both or none of scores and reward are given; there is a reward, but the batch before
            was scored by numbers; or the feature `gradient` needs a reward of latents.
    """
    if not isinstance(state, (PilotProposed, Proposed)):
        raise ValueError(f"{NODE}: there is no batch to score: connect state of TSMCPropose")
    if (scores is None) == (reward is None):
        both = "both are" if reward is not None else "neither is"
        raise ValueError(f"{NODE}: connect scores or a reward; {both} connected")
    if isinstance(state, PilotProposed):
        feature_for(state.config.feature, reward, NODE)
    if reward is None:
        return add_scores(state, numbers(scores, len(state.batch.samples)))
    if isinstance(state, Proposed):
        if state.reward is None:
            raise ValueError(
                f"{NODE}: the first batch was scored by scores: score all batches in the same way"
            )
        return score_batch(state, state.reward)  # in the form that the first batch fixed
    return score_batch(state, reward.on(state.model.latent_format, state.model.device))
