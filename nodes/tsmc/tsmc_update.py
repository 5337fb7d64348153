"""TSMCUpdate: updates the twist with the scores of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy_api.latest import io
from torch import Tensor

from ..base.counted import counted
from ..base.schema import schema_options
from ..base.sockets import STEERING, RewardSocket, StateSocket
from ..base.told import told
from ..host.progress import executing_node, show_text
from .rewards.reward import Reward
from .run.account import result_line, run_report
from .run.iterations import add_scores, feature_for, score_batch
from .run.state import Learned, PilotProposed, Proposed, TSMCState

NODE = "TSMCUpdate"
Scores = Sequence[float | Sequence[float] | Tensor]


def numbers(scores: Scores, count: int) -> Tensor:
    """The scores of `count` images, with shape `(count,)`, float64.

    Raises:
        ValueError: The number of scores is not `count`, or a score is not a number.
    """
    try:
        flat = torch.cat([torch.as_tensor(one, dtype=torch.float64).reshape(-1) for one in scores])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{NODE}: scores must be numbers, one for each image ({error})") from error
    if len(flat) != count:
        raise ValueError(
            f"{NODE}: {counted(len(flat), 'score')} came for {counted(count, 'image')}: score all "
            "images of latent of TSMCPropose, one number for each, in their order"
        )
    return flat


class TSMCUpdate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TSMCUpdate",
            display_name="TSMC Update",
            category=STEERING,
            description="Learns from the scores of a batch how to steer the next batch. Connect "
            "scores of other nodes, or a reward.",
            inputs=[
                StateSocket.Input("state", tooltip="The run, from TSMCPropose."),
                io.Float.Input(
                    "scores",
                    optional=True,
                    force_input=True,
                    tooltip="One number for each image of the batch, in their order; higher is "
                    "better. From TSMCScoreImages, or from any node that scores images (r).",
                ),
                RewardSocket.Input(
                    "reward",
                    optional=True,
                    tooltip="Connect a TSMC Reward node here instead of scores: it then scores the "
                    "batch.",
                ),
            ],
            outputs=[
                StateSocket.Output("state", tooltip="For the next TSMCPropose, or TSMCSelect."),
                io.String.Output(
                    "report", tooltip="The result of each batch, and what to change, as text."
                ),
            ],
            is_input_list=True,
            **schema_options(
                search_aliases=["tsmc", "smc", "steering", "scores"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def execute(
        cls,
        state: Sequence[TSMCState],
        scores: Scores | None = None,
        reward: Sequence[Reward] | None = None,
    ) -> io.NodeOutput:
        # Every input is a list, since is_input_list is set.
        learned = updated(state[0], scores, reward[0] if reward else None)
        show_text(result_line(learned), executing_node())
        text = run_report(learned)
        return told(learned, text, says=text)


def updated(state: TSMCState, scores: Scores | None, reward: Reward | None) -> Learned:
    """The state after its waiting batch was scored, by `scores` or by `reward`.

    `reward` scores the first batch. Later batches are scored with the reward that this batch fixed.

    Raises:
        ValueError: No batch waits for scores; both or none of scores and reward are given; the
            scores are not one number for each image, or none is finite; there is a reward, but the
            first batch was scored with numbers; the feature `gradient` needs a reward of latents.
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
                f"{NODE}: the first batch was scored by other nodes: connect scores here, not "
                "reward"
            )
        return score_batch(state, state.reward)
    return score_batch(state, reward.for_model(state.model.latent_format, state.model.device))
