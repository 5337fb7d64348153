"""TSMCRewardReference: the witness function of MMD as a reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...mmd_core import KernelConfig, References
from ...mmd_core.tsmc import Witness
from ..base.counted import counted
from ..base.schema import schema_options
from ..base.sockets import STEERING, KernelSocket, ReferencesSocket, RewardSocket
from ..host.picture import picture
from ..host.vae_match import wrong_vae
from .rewards.reward import fixed_witness

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat

NODE = "TSMCRewardReference"


@dataclass(frozen=True, eq=False)
class ReferenceReward:
    """The MMD witness: high where references are denser than samples of the model.

    Arguments:
        references: The references.
        config: The kernel and the feature space; the prompt kernel is not used.
        base: Samples of the model without steering, as the LATENT socket carries them, with shape
            `(n, C, *)`. None means that `fixed_by` gets them.
    """

    references: References
    config: KernelConfig
    base: Tensor | None = None

    space = "latent"
    vae = None

    @property
    def name(self) -> str:
        config = self.config
        parts = [config.kernel]
        if config.feature_space != "latent":
            parts.append(f"by {config.feature_space}")
        if config.prompt_kernel != "none":
            parts.append("the prompt kernel is not used")
        return f"MMD witness of {counted(len(self.references), 'reference')} ({', '.join(parts)})"

    @property
    def fixed(self) -> bool:
        return self.base is not None

    def for_model(
        self, latent_format: LatentFormat, device: torch.device
    ) -> UnfixedReferenceReward | FixedReferenceReward:
        unfixed = self.unfixed(latent_format, device)
        if self.base is None:
            return unfixed
        return unfixed.fixed_by(prepared(self.base, latent_format, device))[1]

    def unfixed(self, latent_format: LatentFormat, device: torch.device) -> UnfixedReferenceReward:
        """The reward for a model, without base samples; raises what `for_model` raises."""
        problem = wrong_vae(self.references, latent_format)
        if problem:
            raise ValueError(f"{NODE}: {problem}")
        y = prepared(self.references.latents, latent_format, device)
        return UnfixedReferenceReward(self, y)


def prepared(latents: Tensor, latent_format: LatentFormat, device: torch.device) -> Tensor:
    """Raw LATENT samples in the latent space of the model, on `device`."""
    # Video models take an image as a video of one frame.
    frame = latent_format.latent_dimensions == 3 and latents.ndim == 4
    return latent_format.process_in(latents.unsqueeze(2) if frame else latents).to(device)


@dataclass(frozen=True, eq=False)
class UnfixedReferenceReward:
    """A `ReferenceReward` for one model that has no base samples yet.

    Arguments:
        source: The reward for any model.
        y: The references in the latent space of the model, on its device.
    """

    source: ReferenceReward
    y: Tensor

    space = "latent"
    vae = None
    fixed = False
    gradient = None

    @property
    def name(self) -> str:
        return self.source.name

    def for_model(
        self, latent_format: LatentFormat, device: torch.device
    ) -> UnfixedReferenceReward | FixedReferenceReward:
        return self.source.for_model(latent_format, device)

    def check(self, batch: Tensor) -> None:
        have, want = self.y.shape[1:], batch.shape[1:]
        if have == want:
            return
        if have[-2:] == want[-2:]:
            raise ValueError(
                f"{NODE}: the latents of the references have shape {tuple(have)}, those being "
                f"drawn {tuple(want)}: references are single images, so draw one frame"
            )
        raise ValueError(
            f"{NODE}: the references were encoded for another image size: their latents are "
            f"{have[-1]}×{have[-2]}, those being drawn {want[-1]}×{want[-2]}: connect the "
            "latent_image of the sampler to target of EncodeReferenceLatents"
        )

    def fixed_by(self, batch: Tensor) -> tuple[Tensor, FixedReferenceReward]:
        self.check(batch)
        batch = batch.to(self.y)
        references = self.source.references
        scores, witness = fixed_witness(
            self.source.config, self.y, references.weights.to(self.y), batch, NODE
        )
        return scores, FixedReferenceReward(self.source, self.y, batch.cpu(), witness)


@dataclass(frozen=True, eq=False)
class FixedReferenceReward(UnfixedReferenceReward):
    """A `ReferenceReward` for one model with its base samples.

    Arguments:
        base: The base samples in the latent space of the model, on the CPU.
        witness: The witness function of `y` and `base`.
    """

    base: Tensor
    witness: Witness

    fixed = True

    def for_model(self, latent_format: LatentFormat, device: torch.device) -> FixedReferenceReward:
        return self.source.unfixed(latent_format, device).fixed_by(self.base.to(device))[1]

    def fixed_by(self, batch: Tensor) -> tuple[Tensor, FixedReferenceReward]:
        return self.value(batch), self

    def value(self, batch: Tensor) -> Tensor:
        self.check(batch)
        return self.witness.value(batch).float().cpu()

    def gradient(self, x: Tensor) -> Tensor:
        return self.witness.gradient(x)


def check_base(base: Tensor, references: References) -> None:
    """Checks the input `base` of the node.

    Raises:
        ValueError: `base` is not finite, or its latents have another shape than the references.
    """
    have, want = base.shape, references.latents.shape
    if len(have) == len(want) + 1 and have[2] == 1:
        have = have[:2] + have[3:]  # a video of one frame
    if have[1:] != want[1:]:
        raise ValueError(
            f"{NODE}: the latents of base have shape {tuple(have[1:])}, those of the references "
            f"{tuple(want[1:])}: draw base with the model and the size that the references were "
            "encoded for"
        )
    if not torch.isfinite(base).all():
        raise ValueError(f"{NODE}: base contains NaN or infinite numbers: draw it again")


class TSMCRewardReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TSMCRewardReference",
            display_name="TSMC Reward Reference",
            category=STEERING,
            description="A reward for TRI-TSMC: an image scores high if it is more like your "
            "references than like images of the model without steering (the witness function of "
            "MMD).",
            inputs=[
                ReferencesSocket.Input(
                    "references",
                    tooltip="The references that images should be like, encoded for the size that "
                    "is drawn (y).",
                ),
                KernelSocket.Input(
                    "kernel",
                    optional=True,
                    tooltip="How images are compared, from MMDKernel. Not connected: rbf with "
                    "three bandwidths. feature_space patches is not possible (k).",
                ),
                io.Latent.Input(
                    "base",
                    optional=True,
                    tooltip="Latents that the model draws without steering, 16 or more, from a "
                    "sampler with the same prompt. Not connected: the first batch is used (x).",
                ),
            ],
            outputs=[RewardSocket.Output("reward", tooltip="Connect it to reward of a TSMC node.")],
            **schema_options(search_aliases=["tsmc", "mmd", "witness", "reward", "steering"]),
        )

    @classmethod
    def execute(
        cls,
        references: References,
        kernel: KernelConfig | None = None,
        base: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        kernel = kernel or KernelConfig()
        if kernel.feature_space == "patches":
            raise ValueError(
                f"{NODE}: kernel compares patches, but a reward needs whole images: set "
                "feature_space of MMDKernel to latent, low_pass or palette"
            )
        if base is None:
            return io.NodeOutput(ReferenceReward(references, kernel))
        samples = picture(base["samples"]).float().cpu()
        check_base(samples, references)
        return io.NodeOutput(ReferenceReward(references, kernel, samples))
