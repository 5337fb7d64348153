"""TSMCRewardImageStats: brightness, saturation or sharpness as a reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io
from torch import Tensor

from ..base.schema import schema_options
from ..base.sockets import STEERING, RewardSocket
from .rewards.decode import check_vae

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.sd import VAE

NODE = "TSMCRewardImageStats"
MORE, LESS = DIRECTIONS = ("more", "less")
FLOOR = 1e-6  # keeps the logarithm finite; smaller than the square of one step of 8 bits


def luma(images: Tensor) -> Tensor:
    """The luma (perceived brightness) of each pixel, with shape `(B, H, W)`.

    Arguments:
        images: With shape `(B, H, W, 3)`, in [0, 1].

    References:
        Recommendation ITU-R BT.709-6, 2015, item 3.2. https://www.itu.int/rec/R-REC-BT.709
    """
    return images.float() @ torch.tensor([0.2126, 0.7152, 0.0722], device=images.device)


def brightness(images: Tensor) -> Tensor:
    """The mean luma, in [0, 1], with shape `(B,)`."""
    return luma(images).mean((1, 2))


def saturation(images: Tensor) -> Tensor:
    """The mean saturation of HSV: (max − min) / max, 0 for black; in [0, 1], with shape `(B,)`."""
    high, low = images.float().amax(-1), images.float().amin(-1)
    return torch.where(high == 0, 0.0, (high - low) / high).mean((1, 2))


def sharpness(images: Tensor) -> Tensor:
    """log(mean (∇² luma)² + `FLOOR`), with shape `(B,)`.

    The Laplacian ∇² is the sum of the four neighbors − 4 · pixel. The pixels at the edge are
    repeated beyond it.
    """
    y = luma(images)
    padded = torch.nn.functional.pad(y[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    down = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    return (across + down - 4 * y).square().mean((1, 2)).add(FLOOR).log()


STATISTICS = {"brightness": brightness, "saturation": saturation, "sharpness": sharpness}


@dataclass(frozen=True, eq=False)
class ImageStatsReward:
    """An image statistic as a reward.

    Arguments:
        vae: Decodes samples to images.
        statistic: One of `STATISTICS`.
        direction: One of `DIRECTIONS`; `less` changes the sign.
    """

    vae: VAE
    statistic: str
    direction: str

    space = "image"
    fixed = True
    gradient = None

    @property
    def name(self) -> str:
        return f"{self.direction} {self.statistic}"

    def for_model(self, latent_format: LatentFormat, device: torch.device) -> ImageStatsReward:
        check_vae(self.vae, latent_format, NODE)
        return self

    def fixed_by(self, batch: Tensor) -> tuple[Tensor, ImageStatsReward]:
        return self.value(batch), self

    def value(self, batch: Tensor) -> Tensor:
        values = STATISTICS[self.statistic](batch[..., :3]).cpu()
        return -values if self.direction == LESS else values


class TSMCRewardImageStats(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TSMCRewardImageStats",
            display_name="TSMC Reward Image Stats",
            category=STEERING,
            description="A reward for TRI-TSMC that needs no other model: brightness, saturation "
            "or sharpness. Good for a first try.",
            inputs=[
                io.Vae.Input(
                    "vae",
                    tooltip="Decodes the drawn images. Connect the VAE of the checkpoint that "
                    "draws.",
                ),
                io.Combo.Input(
                    "statistic",
                    options=list(STATISTICS),
                    default="brightness",
                    tooltip="What is measured. brightness: the mean luma. saturation: the mean "
                    "saturation of HSV. sharpness: how much neighboring pixels differ, as a "
                    "logarithm.",
                ),
                io.Combo.Input(
                    "direction",
                    options=list(DIRECTIONS),
                    default=MORE,
                    tooltip="more: higher values score higher. less: lower values score higher.",
                ),
            ],
            outputs=[
                RewardSocket.Output(
                    "reward", tooltip="Connect it to reward of a TSMC node or of TSMCScoreImages."
                )
            ],
            **schema_options(
                search_aliases=["tsmc", "brightness", "saturation", "sharpness", "reward"]
            ),
        )

    @classmethod
    def execute(cls, vae: VAE, statistic: str, direction: str) -> io.NodeOutput:
        return io.NodeOutput(ImageStatsReward(vae, statistic, direction))
