"""The model that is trained.

ComfyUI's guider runs it, so prompts, cfg and model patches have the same effect as in sampling.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_management as management
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....mmd_core.ddm import (
    DDMConfig,
    LoRA,
    checkpointed,
    layers,
)
from ...base.log import log
from ...host.conditioning_parts import conds_part
from ...host.control_parts import ControlParts
from ...host.faults import out_of_memory
from ...host.prompts import prompt_count
from .private_copy import compute_dtype, normal_tensors, private_copy

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor
    from comfy.samplers import CFGGuider

__all__ = ["Engine", "ModelSetup", "with_engine"]

TENSOR_PREFIX = "diffusion_model."  # of the tensor names in LoRA files
# Memory of a call with gradients, in calls without; ComfyUI frees this much before training.
MEMORY_FACTOR = 3


@dataclass(frozen=True, eq=False)
class ModelSetup:
    """The model to train, and how it runs.

    Attributes:
        model: The model; it does not change.
        positive: The positive CONDITIONING, with P prompts as rows of one entry.
        negative: The negative CONDITIONING; may be None if cfg is 1.
        cfg: The classifier-free guidance scale.
        dtype: One of `TRAINING_DTYPES`.
        checkpointing: Whether the backward pass computes blocks again, which needs less memory.
        existing_lora: The tensors of a LoRA from which training continues, or None.
    """

    model: ModelPatcher
    positive: list
    negative: list | None
    cfg: float
    dtype: str
    checkpointing: bool
    existing_lora: dict[str, Tensor] | None

    @property
    def prompts(self) -> int:
        """P, the number of prompts in `positive`."""
        return prompt_count(comfy.sampler_helpers.convert_cond(self.positive))


class Engine:
    """A loaded model with adapters, during a run of a guider.

    Arguments:
        guider: The guider.
        extra_args: What ComfyUI passes from samplers to the guider.
        lora: The adapters on the diffusion model.
        prompts: P, the number of prompts.
        device: The device of the model.

    Attributes:
        network: The diffusion model.
        sampling: Its noise schedule.
    """

    def __init__(
        self,
        guider: CFGGuider,
        extra_args: dict[str, Any],
        lora: LoRA,
        prompts: int,
        device: torch.device,
    ) -> None:
        self.guider, self.extra_args, self.prompts = guider, extra_args, prompts
        self.lora, self.device = lora, device
        self.model = guider.inner_model
        self.network, self.sampling = self.model.diffusion_model, self.model.model_sampling
        self.conds, self.cfg = guider.conds, guider.cfg

    def estimate(
        self, x: Tensor, sigma: float, prompts: Sequence[int], guided: bool = True
    ) -> Tensor:
        """x̂0 of samples, with the shape of `x`.

        Each sample gets its own row of one conditioning entry, because ComfyUI averages over
        several entries.

        Arguments:
            x: The noisy samples, with shape `(b, *)`.
            sigma: Their noise level.
            prompts: The index of the prompt of each sample.
            guided: Whether cfg applies; otherwise the network runs with `positive` only.
        """
        management.throw_exception_if_processing_interrupted()
        guider = self.guider
        guider.cfg = self.cfg if guided else 1.0
        guider.conds = {
            name: conds_part(entries, list(prompts), self.prompts, ControlParts())
            for name, entries in self.conds.items()
            if guided or name == "positive"
        }
        return guider(x, x.new_full((len(x),), sigma), **self.extra_args)

    def scaled(self, noise: Tensor, sigma: float, max_denoise: bool = True) -> Tensor:
        """Standard normal `noise`, scaled to the first noise level of a schedule."""
        return self.sampling.noise_scaling(
            noise.new_tensor([sigma]), noise.clone(), torch.zeros_like(noise), max_denoise
        )

    def in_model_space(self, latents: Tensor) -> Tensor:
        """Latents of ComfyUI in the units of the network, float32 on its device."""
        return self.model.process_latent_in(latents.to(self.device, torch.float32))


class _RunInSampler(comfy.samplers.Sampler):
    """A sampler that draws nothing, but calls `run` once the model is loaded."""

    def __init__(self, run: Callable[[CFGGuider, dict[str, Any], bool], None]) -> None:
        self.run = run

    def sample(
        self, model_wrap: CFGGuider, sigmas: Tensor, extra_args: dict[str, Any],
        callback: Callable[..., None] | None, noise: Tensor, latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        self.run(model_wrap, extra_args, self.max_denoise(model_wrap, sigmas))
        return torch.zeros_like(noise)


def with_engine(
    setup: ModelSetup,
    config: DDMConfig,
    sigmas: Tensor,
    shape: tuple[int, ...],
    body: Callable[[Engine, bool], None],
) -> None:
    """Calls `body(engine, max_denoise)` with a copy of the model that can be trained.

    Arguments:
        setup: The model, and how it runs.
        config: The settings of the training.
        sigmas: The noise levels of the sampler.
        shape: The shape of one latent.
        body: The training. `max_denoise` is ComfyUI's argument of `noise_scaling`.

    Raises:
        ValueError: The model, its patches or the prompts allow no gradients.
    """
    with torch.inference_mode(False), torch.enable_grad(), _gradients_in_layers():
        own = private_copy(setup.model, compute_dtype(setup.model, setup.dtype))
        network, prompts = own.model.diffusion_model, setup.prompts
        initial = setup.existing_lora
        lora = LoRA(
            network, layers(network, config.targets), config.rank, config.alpha or config.rank,
            config.seed, None if initial is None else normal_tensors(initial), TENSOR_PREFIX,
        )  # fmt: skip
        guider = comfy.samplers.CFGGuider(own)
        if setup.negative is None:
            guider.inner_set_conds({"positive": normal_tensors(setup.positive)})
        else:
            guider.set_conds(normal_tensors(setup.positive), normal_tensors(setup.negative))
        guider.set_cfg(setup.cfg)
        own.add_wrapper_with_key(
            WrappersMP.PREPARE_SAMPLING, "mmd_ddm", _memory_for_gradients(config.micro_batch)
        )

        def run(guider: CFGGuider, extra_args: dict[str, Any], max_denoise: bool) -> None:
            lora.to(own.load_device).requires_grad(True)
            engine = Engine(guider, extra_args, lora, prompts, own.load_device)
            if not setup.checkpointing:
                body(engine, max_denoise)
                return
            with checkpointed(network, lora) as blocks:
                log.info("MMD-DDM: gradient checkpointing of %s blocks.", blocks)
                body(engine, max_denoise)

        empty = torch.zeros(prompts, *shape)
        try:
            guider.sample(
                empty, empty.clone(), _RunInSampler(run), sigmas.clone(), disable_pbar=True,
                seed=config.seed,
            )  # fmt: skip
        except Exception as error:
            if out_of_memory(error):
                log.error("MMD-DDM: the memory is not enough. %s.", _memory_advice(config))
            reason = _no_gradient_reason(error)
            if not reason:
                raise
            raise ValueError(reason) from error
        finally:
            lora.remove()


@contextlib.contextmanager
def _gradients_in_layers() -> Iterator[None]:
    """A context in which ComfyUI's layers compute gradients.

    Versions without the flag `in_training` always do.
    """
    if not hasattr(management, "in_training"):
        yield
        return
    before, management.in_training = management.in_training, True
    try:
        yield
    finally:
        management.in_training = before


def _memory_for_gradients(micro_batch: int) -> Callable[..., Any]:
    """A PREPARE_SAMPLING wrapper: ComfyUI frees memory for a micro-batch with gradients."""

    def prepare(
        executor: WrapperExecutor, model: ModelPatcher, noise_shape: Sequence[int],
        *args: Any, **kwargs: Any,
    ) -> tuple[BaseModel, dict[str, list], list]:  # fmt: skip
        shape = [MEMORY_FACTOR * micro_batch, *noise_shape[1:]]
        return executor(model, shape, *args, **kwargs)

    return prepare


def _memory_advice(config: DDMConfig) -> str:
    if config.micro_batch > 1:
        return f"Set micro_batch to {config.micro_batch // 2}"
    return "Turn gradient_checkpointing on, or take references of a smaller size"


def _no_gradient_reason(error: Exception) -> str:
    """Why this error shows that there are no gradients, and the fix; "" for other errors."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    if "modified by an inplace operation" in text:
        return (
            "this network overwrites tensors that gradients need: set gradient_checkpointing to "
            "true"
        )
    if "no autograd formula" in text:
        return "this version of ComfyUI has no gradients for such a network: update ComfyUI"
    if "nference tensors" in text:
        return (
            "a patch of the model or a prompt (IP-Adapter, ControlNet) has tensors without "
            "gradients: train on the plain model, and use the LoRA together with the patch "
            "afterwards"
        )
    return ""
