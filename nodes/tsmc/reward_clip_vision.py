"""TSMCRewardCLIPVision: the CLIP similarity to reference images as a reward."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ...mmd_core import KernelConfig
from ...mmd_core.tsmc import Witness
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, RewardSocket
from .rewards.decode import check_vae
from .rewards.reward import settled_witness

NODE = "TSMCRewardCLIPVision"
MEAN, MAX, WITNESS = CLIP_MODES = ("mean cosine", "max cosine", "MMD witness")


def embeddings(clip_vision, images: Iterable[Tensor]) -> Tensor:
    """The CLIP embeddings of images, with shape `(B, F)` and norm 1, float32 on the CPU.

    Images are encoded one by one, so that an embedding does not depend on the other images.

    Arguments:
        clip_vision: The CLIP vision model of ComfyUI.
        images: Images of any size, `(H, W, 3)` each.
    """
    found = []
    for image in images:
        comfy.model_management.throw_exception_if_processing_interrupted()
        features = clip_vision.encode_image(image[None])["image_embeds"].detach().float().cpu()
        # SigLIP gives one embedding per image patch: take their mean.
        found.append(features.mean(1) if features.ndim == 3 else features)
    return torch.nn.functional.normalize(torch.cat(found), dim=1)


@dataclass(frozen=True, eq=False)
class CLIPVisionReward:
    """The CLIP similarity to reference images.

    Arguments:
        clip_vision: The CLIP vision model of ComfyUI.
        vae: Decodes samples to images.
        references: The embeddings of the reference images, with shape `(m, F)`.
        mode: One of `CLIP_MODES`.
        witness: The witness function of the mode `MMD witness`; None until samples of the model are known.
    """

    clip_vision: object
    vae: object
    references: Tensor
    mode: str
    witness: Witness | None = None

    space = "image"
    gradient = None

    @property
    def name(self) -> str:
        m = len(self.references)
        images = f"{m} image{'s' * (m > 1)}"
        return {
            MEAN: f"mean CLIP similarity to {images}",
            MAX: f"CLIP similarity to the nearest of {images}",
            WITNESS: f"MMD witness of {images}, by CLIP",
        }[self.mode]

    @property
    def fixed(self) -> bool:
        return self.mode != WITNESS or self.witness is not None

    def on(self, latent_format, device) -> "CLIPVisionReward":
        check_vae(self.vae, latent_format, NODE)
        return self

    def settled(self, batch: Iterable[Tensor]) -> tuple[Tensor, "CLIPVisionReward"]:
        if self.fixed:
            return self.value(batch), self
        m = len(self.references)
        seen, alike = embeddings(self.clip_vision, batch), torch.full((m,), 1 / m)
        scores, witness = settled_witness(KernelConfig(), self.references, alike, seen, NODE)
        return scores, replace(self, witness=witness)

    def value(self, batch: Tensor) -> Tensor:
        seen = embeddings(self.clip_vision, batch)
        if self.mode == WITNESS:
            return self.witness.value(seen)
        cosines = seen @ self.references.T
        return cosines.mean(1) if self.mode == MEAN else cosines.amax(1)


class TSMCRewardCLIPVision(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TSMCRewardCLIPVision",
            display_name="TSMC Reward CLIP Vision",
            category=CATEGORY,
            description="A reward for TRI-TSMC: images count more the more they are like the given pictures, as CLIP "
            "sees them. Texts are not compared.",
            is_input_list=True,
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="What sees, from Load CLIP Vision."),
                io.Vae.Input(
                    "vae",
                    tooltip="Decodes what is drawn: the VAE of the checkpoint that draws.",
                ),
                io.Image.Input(
                    "reference",
                    tooltip="The pictures to resemble (y), of any size: a batch or a list. CLIP sees a square from "
                    "their middle.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(CLIP_MODES),
                    default=MEAN,
                    tooltip="mean cosine: like all pictures on average. max cosine: like any one of them. MMD "
                    "witness: likelier among the pictures than among what the model draws by itself.",
                ),
                io.Image.Input(
                    "base",
                    optional=True,
                    tooltip="For MMD witness: what the model draws by itself (x), 16 images or more. Unconnected: "
                    "the first pass draws them. No effect otherwise.",
                ),
            ],
            outputs=[
                RewardSocket.Output(
                    "reward", tooltip="For reward of the TSMC nodes and of TSMCScoreImages."
                )
            ],
            **schema_options(
                search_aliases=["tsmc", "clip", "image similarity", "reward", "steering"]
            ),
        )

    @classmethod
    def execute(cls, clip_vision, vae, reference, mode, base=None):
        clip_vision, vae, mode = clip_vision[0], vae[0], mode[0]
        references = embeddings(clip_vision, (image for batch in reference for image in batch))
        if not torch.isfinite(references).all():
            raise ValueError(
                f"{NODE}: clip_vision sees NaN in a picture of reference: leave out pictures that are damaged, or "
                "load another CLIP vision model"
            )
        reward = CLIPVisionReward(clip_vision, vae, references, mode)
        if base is not None and not reward.fixed:
            reward = reward.settled([image for batch in base for image in batch])[1]
        return io.NodeOutput(reward)
