"""TSMCRewardCLIPVision: the CLIP similarity to reference pictures as a reward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ...mmd_core import KernelConfig
from ...mmd_core.tsmc import Witness
from ..base.counted import counted
from ..base.schema import schema_options
from ..base.sockets import STEERING, RewardSocket
from .rewards.decode import check_vae
from .rewards.reward import fixed_witness

if TYPE_CHECKING:
    from comfy.clip_vision import ClipVisionModel
    from comfy.latent_formats import LatentFormat
    from comfy.sd import VAE

NODE = "TSMCRewardCLIPVision"
MEAN, MAX, WITNESS = CLIP_MODES = ("mean cosine", "max cosine", "MMD witness")


def embeddings(clip_vision: ClipVisionModel, images: Iterable[Tensor]) -> Tensor:
    """The CLIP embeddings of images, with shape `(B, F)` and norm 1, float32 on the CPU.

    Images are encoded one by one, so that an embedding does not depend on the other images.

    Arguments:
        clip_vision: The CLIP vision model of ComfyUI.
        images: Images of any size, with shape `(H, W, 3)` each.
    """
    found = []
    for image in images:
        comfy.model_management.throw_exception_if_processing_interrupted()
        embedding = clip_vision.encode_image(image[None])["image_embeds"].detach().float().cpu()
        # SigLIP gives one embedding per image patch: take their mean.
        found.append(embedding.mean(1) if embedding.ndim == 3 else embedding)
    return torch.nn.functional.normalize(torch.cat(found), dim=1)


@dataclass(frozen=True, eq=False)
class CLIPVisionReward:
    """What the rewards by CLIP have in common.

    Arguments:
        clip_vision: The CLIP vision model of ComfyUI.
        vae: Decodes samples to images.
        references: The embeddings of the reference pictures, with shape `(m, F)`.
    """

    clip_vision: ClipVisionModel
    vae: VAE
    references: Tensor

    space = "image"
    gradient = None

    @property
    def pictures(self) -> str:
        """The number of reference pictures, as text."""
        return counted(len(self.references), "picture")

    def for_model(self, latent_format: LatentFormat, device: torch.device) -> CLIPVisionReward:
        check_vae(self.vae, latent_format, NODE)
        return self


@dataclass(frozen=True, eq=False)
class CosineReward(CLIPVisionReward):
    """The mean or the maximum of the cosines to the reference pictures.

    Arguments:
        mode: `MEAN` or `MAX`.
    """

    mode: str

    fixed = True

    @property
    def name(self) -> str:
        if self.mode == MEAN:
            return f"mean CLIP similarity to {self.pictures}"
        return f"CLIP similarity to the nearest of {self.pictures}"

    def fixed_by(self, batch: Iterable[Tensor]) -> tuple[Tensor, CosineReward]:
        return self.value(batch), self

    def value(self, batch: Iterable[Tensor]) -> Tensor:
        cosines = embeddings(self.clip_vision, batch) @ self.references.T
        return cosines.mean(1) if self.mode == MEAN else cosines.amax(1)


@dataclass(frozen=True, eq=False)
class CLIPWitnessReward(CLIPVisionReward):
    """The MMD witness of CLIP embeddings, before samples of the model are known."""

    fixed = False

    @property
    def name(self) -> str:
        return f"MMD witness of {self.pictures}, by CLIP"

    def fixed_by(self, batch: Iterable[Tensor]) -> tuple[Tensor, FixedCLIPWitnessReward]:
        m, y = len(self.references), self.references
        base, weights = embeddings(self.clip_vision, batch), torch.full((m,), 1 / m)
        scores, witness = fixed_witness(KernelConfig(), y, weights, base, NODE)
        return scores, FixedCLIPWitnessReward(self.clip_vision, self.vae, y, witness)


@dataclass(frozen=True, eq=False)
class FixedCLIPWitnessReward(CLIPWitnessReward):
    """The MMD witness of CLIP embeddings.

    Arguments:
        witness: The witness function of the embeddings.
    """

    witness: Witness

    fixed = True

    def fixed_by(self, batch: Iterable[Tensor]) -> tuple[Tensor, FixedCLIPWitnessReward]:
        return self.value(batch), self

    def value(self, batch: Iterable[Tensor]) -> Tensor:
        return self.witness.value(embeddings(self.clip_vision, batch))


class TSMCRewardCLIPVision(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TSMCRewardCLIPVision",
            display_name="TSMC Reward CLIP Vision",
            category=STEERING,
            description="A reward for TRI-TSMC: an image scores high if CLIP finds it similar to "
            "your reference pictures. Texts are not compared.",
            is_input_list=True,
            inputs=[
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The CLIP vision model that compares images, from Load CLIP Vision.",
                ),
                io.Vae.Input(
                    "vae",
                    tooltip="Decodes the drawn images. Connect the VAE of the checkpoint that "
                    "draws.",
                ),
                io.Image.Input(
                    "reference",
                    tooltip="The pictures that images should be like, of any size: a batch or a "
                    "list. CLIP looks at a square from the middle of each (y).",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(CLIP_MODES),
                    default=MEAN,
                    tooltip="mean cosine: similar to all pictures on average. max cosine: similar "
                    "to any one of them. MMD witness: more like the pictures than like images of "
                    "the model without steering.",
                ),
                io.Image.Input(
                    "base",
                    optional=True,
                    tooltip="Only for MMD witness: images that the model draws without steering, "
                    "16 or more. Not connected: the first batch is used (x).",
                ),
            ],
            outputs=[
                RewardSocket.Output(
                    "reward", tooltip="Connect it to reward of a TSMC node or of TSMCScoreImages."
                )
            ],
            **schema_options(
                search_aliases=["tsmc", "clip", "image similarity", "reward", "steering"]
            ),
        )

    @classmethod
    def execute(
        cls,
        clip_vision: Sequence[ClipVisionModel],
        vae: Sequence[VAE],
        reference: Sequence[Tensor],
        mode: Sequence[str],
        base: Sequence[Tensor] | None = None,
    ) -> io.NodeOutput:
        # Every input is a list, since is_input_list is set.
        references = embeddings(clip_vision[0], (image for batch in reference for image in batch))
        if not torch.isfinite(references).all():
            raise ValueError(
                f"{NODE}: clip_vision gives NaN for a picture of reference: leave out damaged "
                "pictures, or load another CLIP vision model"
            )
        shared = clip_vision[0], vae[0], references
        if mode[0] != WITNESS:
            return io.NodeOutput(CosineReward(*shared, mode[0]))
        reward = CLIPWitnessReward(*shared)
        if base is None:
            return io.NodeOutput(reward)
        return io.NodeOutput(reward.fixed_by([image for batch in base for image in batch])[1])
