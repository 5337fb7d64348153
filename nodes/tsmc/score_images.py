"""TSMCScoreImages: scores images with a reward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy_api.latest import io
from torch import Tensor

from ..base.counted import counted
from ..base.schema import schema_options
from ..base.sockets import STEERING, RewardSocket
from ..base.told import told
from .rewards.reward import FixedReward, Reward

NODE = "TSMCScoreImages"
MAX_LISTED = 64  # images in the report


def check_scores_images(reward: Reward) -> None:
    """Checks that a reward scores images and is fixed.

    Raises:
        ValueError: It does not, or is not.
    """
    if reward.space != "image":
        raise ValueError(
            f"{NODE}: reward ({reward.name}) scores latents, not images: connect it to reward of "
            "TSMCUpdate or TRITSMCSampler, or use TSMCRewardCLIPVision or TSMCRewardImageStats here"
        )
    if not reward.fixed:
        raise ValueError(
            f"{NODE}: reward ({reward.name}) needs images that the model draws without steering: "
            "connect such images to base of TSMCRewardCLIPVision, or set its mode to mean cosine "
            "or max cosine"
        )


def scores_report(scores: Tensor, name: str) -> str:
    """The scores as text.

    Arguments:
        scores: With shape `(n,)`.
        name: What the reward measures.
    """
    n, usable = len(scores), scores[torch.isfinite(scores)]
    lines = [f"{counted(n, 'image')} scored by {name}."]
    if len(usable):
        best = int(torch.where(torch.isfinite(scores), scores, -torch.inf).argmax())
        lines.append(
            f"Mean {usable.mean():.4g}, standard deviation {usable.std(correction=0):.4g}, largest "
            f"{usable.max():.4g} (image {best + 1})."
        )
    if unusable := n - len(usable):
        lines.append(
            f"{counted(unusable, 'score is', 'scores are')} NaN or infinite: these images will "
            "have no weight."
        )
    lines += [f"{i + 1}: {score:.4g}" for i, score in enumerate(scores[:MAX_LISTED].tolist())]
    return "\n".join(lines + [f"and {n - MAX_LISTED} more"] * (n > MAX_LISTED))


class TSMCScoreImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TSMCScoreImages",
            display_name="TSMC Score Images",
            category=STEERING,
            description="Scores images with a reward. It gives one number for each image, in the "
            "form that TSMCUpdate needs.",
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The images to score, in the order of TSMCPropose: a batch, or a list "
                    "of images of any sizes.",
                ),
                RewardSocket.Input(
                    "reward",
                    tooltip="The reward, from TSMCRewardCLIPVision or TSMCRewardImageStats. "
                    "Connect a reward of latents directly to TSMCUpdate.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "scores",
                    is_output_list=True,
                    tooltip="One number for each image, for scores of TSMCUpdate (r).",
                ),
                io.String.Output("report", tooltip="The scores as text, one line for each image."),
            ],
            **schema_options(
                search_aliases=["tsmc", "reward", "score", "rate images"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def execute(cls, images: Sequence[Tensor], reward: Sequence[FixedReward]) -> io.NodeOutput:
        # Every input is a list, since is_input_list is set.
        if len(reward) > 1:
            raise ValueError(f"{NODE}: reward is a list of {len(reward)}: connect only one reward")
        check_scores_images(reward[0])
        scores = torch.cat([reward[0].value(batch) for batch in images])
        text = scores_report(scores, reward[0].name)
        return told(scores.tolist(), text, says=text)
