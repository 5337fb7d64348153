"""TSMCRewardReference: the witness function of MMD as a reward."""

from dataclasses import dataclass, replace

import torch
from comfy_api.latest import io
from torch import Tensor

from ...mmd_core import KernelConfig, References
from ...mmd_core.tsmc import Witness
from ..base.schema import schema_options
from ..base.sockets import (
    CATEGORY,
    KernelSocket,
    ReferencesSocket,
    RewardSocket,
)
from ..host.vae_match import wrong_vae
from .rewards.reward import settled_witness

NODE = "TSMCRewardReference"


@dataclass(frozen=True, eq=False)
class ReferenceReward:
    """The MMD witness: high where references are denser than samples that the model draws without steering.

    Arguments:
        references: The references.
        config: The kernel and the feature space; the prompt kernel is not used.
        base: Unsteered samples of the model as the LATENT socket carries them, with shape `(n, C, *)`; None means that
            `settled` provides them.
        drawn: The unsteered samples in the latent space of the model; None until they are known.
        y: The references in the latent space of the model, on its device; None before `on`.
        witness: The witness function; None until `y` and `drawn` are known.
    """

    references: References
    config: KernelConfig
    base: Tensor | None = None
    drawn: Tensor | None = None
    y: Tensor | None = None
    witness: Witness | None = None

    space = "latent"
    vae = None

    @property
    def name(self) -> str:
        n, config = len(self.references), self.config
        parts = [config.kernel]
        if config.feature_space != "latent":
            parts.append(f"by {config.feature_space}")
        if config.prompt_kernel != "none":
            parts.append("the prompt kernel is left out")
        return f"MMD witness of {n} reference{'s' * (n > 1)} ({', '.join(parts)})"

    @property
    def fixed(self) -> bool:
        return self.base is not None or self.drawn is not None

    @property
    def gradient(self):
        return None if self.witness is None else self.witness.gradient

    def on(self, latent_format, device) -> "ReferenceReward":
        trouble = wrong_vae(self.references, latent_format)
        if trouble:
            raise ValueError(f"{NODE}: {trouble}")

        def prepared(latents: Tensor) -> Tensor:
            # Video models take an image as a video of one frame.
            frame = latent_format.latent_dimensions == 3 and latents.ndim == 4
            return latent_format.process_in(latents.unsqueeze(2) if frame else latents).to(device)

        placed = replace(self, y=prepared(self.references.latents), witness=None)
        if not self.fixed:
            return placed
        drawn = prepared(self.base) if self.drawn is None else self.drawn
        return placed._against(drawn.to(device))[1]

    def settled(self, batch: Tensor) -> tuple[Tensor, "ReferenceReward"]:
        return (self.value(batch), self) if self.fixed else self._against(batch)

    def value(self, batch: Tensor) -> Tensor:
        self.check(batch)
        return self.witness.value(batch).float().cpu()

    def _against(self, drawn: Tensor) -> tuple[Tensor, "ReferenceReward"]:
        """The scores of unsteered samples of the model, and the reward whose witness uses these samples."""
        self.check(drawn)
        drawn = drawn.to(self.y)
        weights = self.references.weights.to(self.y)
        scores, witness = settled_witness(self.config, self.y, weights, drawn, NODE)
        return scores, replace(self, drawn=drawn.cpu(), witness=witness)

    def check(self, batch: Tensor) -> None:
        have, want = self.y.shape[1:], batch.shape[1:]
        if have == want:
            return
        if have[-2:] == want[-2:]:
            raise ValueError(
                f"{NODE}: the latents of the references have shape {tuple(have)}, those being drawn {tuple(want)}: "
                "references are single images, so draw one frame"
            )
        raise ValueError(
            f"{NODE}: the references were encoded for another picture size: their latents are "
            f"{have[-1]}×{have[-2]}, those being drawn {want[-1]}×{want[-2]}. Connect the latent_image of the "
            "sampler to target of EncodeReferenceLatents."
        )


def check_base(base: Tensor, references: References) -> None:
    """Raises ValueError unless `base` is finite and its latents have the shape of the references."""
    have, want = base.shape, references.latents.shape
    if len(have) == len(want) + 1 and have[2] == 1:
        have = have[:2] + have[3:]  # a video of one frame
    if have[1:] != want[1:]:
        raise ValueError(
            f"{NODE}: the latents of base have shape {tuple(have[1:])}, those of the references {tuple(want[1:])}: "
            "draw base with the same model and size as the references were encoded for"
        )
    if not torch.isfinite(base).all():
        raise ValueError(f"{NODE}: base contains NaN or infinite numbers: draw it again")


class TSMCRewardReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TSMCRewardReference",
            display_name="TSMC Reward Reference",
            category=CATEGORY,
            description="A reward for TRI-TSMC: images count more the likelier they are among the references than "
            "among what the model draws by itself (the witness function of MMD).",
            inputs=[
                ReferencesSocket.Input(
                    "references",
                    tooltip="What images should be like (y), encoded for the size that is drawn.",
                ),
                KernelSocket.Input(
                    "kernel",
                    optional=True,
                    tooltip="How images are compared (k), from MMDKernel; feature_space patches is not possible. "
                    "Unconnected: rbf with three bandwidths.",
                ),
                io.Latent.Input(
                    "base",
                    optional=True,
                    tooltip="What the model draws by itself (x): latents of a sampler with the same prompt, 16 or "
                    "more. Unconnected: the first pass draws them.",
                ),
            ],
            outputs=[RewardSocket.Output("reward", tooltip="For reward of the TSMC nodes.")],
            **schema_options(search_aliases=["tsmc", "mmd", "witness", "reward", "steering"]),
        )

    @classmethod
    def execute(cls, references, kernel=None, base=None):
        kernel = kernel or KernelConfig()
        if kernel.feature_space == "patches":
            raise ValueError(
                f"{NODE}: kernel compares patches, of which an image has many: set feature_space of MMDKernel to "
                "latent, low_pass or channel_stats"
            )
        if base is not None:
            base = base["samples"].float().cpu()
            check_base(base, references)
        return io.NodeOutput(ReferenceReward(references, kernel, base))
