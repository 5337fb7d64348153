"""TSMCScoreImages: scores images with a reward."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..base.schema import schema_options
from ..base.sockets import CATEGORY, RewardSocket
from .rewards.reward import Reward

NODE = "TSMCScoreImages"
SHOWN = 64  # most images that the report lists


def check_scores_images(reward: Reward) -> None:
    """Raises ValueError unless a reward scores images and is fixed."""
    if reward.space != "image":
        raise ValueError(
            f"{NODE}: reward ({reward.name}) scores latents, not images: connect it to reward of TSMCUpdate or "
            "TRITSMCSampler, or take TSMCRewardCLIPVision or TSMCRewardImageStats here"
        )
    if not reward.fixed:
        raise ValueError(
            f"{NODE}: reward ({reward.name}) must know what the model draws by itself: connect such images to base "
            "of TSMCRewardCLIPVision, or set its mode to mean cosine or max cosine"
        )


def scores_report(scores: Tensor, name: str) -> str:
    """The scores as text."""
    n, usable = len(scores), scores[torch.isfinite(scores)]
    lines = [f"{n} image{'s' * (n > 1)} scored by {name}."]
    if len(usable):
        best = int(torch.where(torch.isfinite(scores), scores, -torch.inf).argmax())
        lines.append(
            f"Mean {usable.mean():.4g}, standard deviation {usable.std(correction=0):.4g}, largest {usable.max():.4g} "
            f"(image {best + 1})."
        )
    if len(usable) < n:
        lines.append(
            f"{n - len(usable)} scores are NaN or infinite: these images will have no weight."
        )
    lines += [f"{i + 1}: {score:.4g}" for i, score in enumerate(scores[:SHOWN].tolist())]
    return "\n".join(lines + [f"and {n - SHOWN} more"] * (n > SHOWN))


class TSMCScoreImages(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TSMCScoreImages",
            display_name="TSMC Score Images",
            category=CATEGORY,
            description="Scores images by a reward: a list of numbers, one for each image, as TSMCUpdate takes them.",
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="What to score, in the order in which TSMCPropose gave it: a batch, or a list of any "
                    "sizes.",
                ),
                RewardSocket.Input(
                    "reward",
                    tooltip="What counts: from TSMCRewardCLIPVision or TSMCRewardImageStats. A reward of latents goes "
                    "to TSMCUpdate by itself.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "scores",
                    is_output_list=True,
                    tooltip="r: one number for each image, for scores of TSMCUpdate.",
                ),
                io.String.Output("report", tooltip="In words, with a line for each image."),
            ],
            **schema_options(search_aliases=["tsmc", "reward", "score", "rate images"]),
        )

    @classmethod
    def execute(cls, images, reward):
        if len(reward) > 1:
            raise ValueError(f"{NODE}: reward is a list of {len(reward)}: connect a single one")
        reward = reward[0]
        check_scores_images(reward)
        scores = torch.cat([reward.value(batch) for batch in images])
        return io.NodeOutput(scores.tolist(), scores_report(scores, reward.name))
