"""The model that is trained, run by core's guider: prompts, cfg and patches act as they do when images are drawn."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

import comfy.model_management as management
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
from ...host.conditioning_parts import ControlParts
from ...host.faults import out_of_memory
from ...host.micro_batch import conds_part
from .private_copy import plain, private_copy, training_dtype

__all__ = ["Engine", "with_engine"]

PREFIX = "diffusion_model."
GRADIENTS = 3  # times what a call takes without them, that ComfyUI makes room for

log = logging.getLogger("mmd_guidance")


class Engine:
    """A loaded model with adapters, within a run of a guider.

    Attributes:
        network: The diffusion model.
        sampling: Its noise schedule.
        lora: The adapters on it.
        device: Where it works.
    """

    def __init__(self, guider, extra_args: dict, lora: LoRA, prompts: int, device: torch.device):
        self.guider, self.extra_args, self.prompts = guider, extra_args, prompts
        self.lora, self.device = lora, device
        self.model = guider.inner_model
        self.network, self.sampling = self.model.diffusion_model, self.model.model_sampling
        self.conds, self.cfg = guider.conds, guider.cfg

    def estimate(
        self, x: Tensor, sigma: float, prompts: Sequence[int], guided: bool = True
    ) -> Tensor:
        """x̂0 of samples, one prompt for each, with the shape of `x`.

        Each gets its own row of one conditioning entry: ComfyUI would average over several entries. Not `guided`, the
        network is asked about positive alone.
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
        """Noise at the first level of a schedule."""
        return self.sampling.noise_scaling(
            noise.new_tensor([sigma]), noise.clone(), torch.zeros_like(noise), max_denoise
        )

    def in_model_space(self, latents: Tensor) -> Tensor:
        """Raw latents as the network knows them, on its device."""
        return self.model.process_latent_in(latents.to(self.device, torch.float32))


class _Within(comfy.samplers.Sampler):
    """Does `body` where a sampler would draw."""

    def __init__(self, body: Callable):
        self.body = body

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None,
        disable_pbar=False,
    ):  # fmt: skip
        self.body(model_wrap, extra_args, self.max_denoise(model_wrap, sigmas))
        return torch.zeros_like(noise)


def with_engine(
    model, positive, negative, cfg: float, config: DDMConfig, dtype: str, sigmas: Tensor, shape: tuple[int, ...],
    prompts: int, initial: dict[str, Tensor] | None, save_memory: bool, body: Callable,
) -> None:  # fmt: skip
    """Calls `body(engine, max_denoise)` with a copy of the model that can be trained.

    Arguments:
        shape: Of one latent.
        prompts: P, how many prompts the conditioning holds.
        initial: An existing LoRA to go on from.
        save_memory: Whether blocks are computed again for gradients.

    Raises:
        ValueError: What is on the model or its prompts cannot be trained through.
    """
    with torch.inference_mode(False), torch.enable_grad(), _training():
        own = private_copy(model, training_dtype(model, dtype))
        network = own.model.diffusion_model
        lora = LoRA(
            network, layers(network, config.targets), config.rank, config.alpha or config.rank, config.seed,
            plain(initial) if initial is not None else None, PREFIX,
        )  # fmt: skip
        guider = comfy.samplers.CFGGuider(own)
        if negative is None:
            guider.inner_set_conds({"positive": plain(positive)})
        else:
            guider.set_conds(plain(positive), plain(negative))
        guider.set_cfg(cfg)
        own.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "mmd_ddm", _room(config.micro_batch))

        def trained(guider, extra_args, max_denoise):
            lora.to(own.load_device).requires_grad(True)
            engine = Engine(guider, extra_args, lora, prompts, own.load_device)
            if not save_memory:
                body(engine, max_denoise)
                return
            with checkpointed(network, lora) as blocks:
                log.info("MMD-DDM: %s blocks are computed again for gradients.", blocks)
                body(engine, max_denoise)

        empty = torch.zeros(prompts, *shape)
        try:
            guider.sample(empty, empty.clone(), _Within(trained), sigmas.clone(), disable_pbar=True, seed=config.seed)  # fmt: skip
        except Exception as error:
            told = _explained(error, config)
            if told is None:
                raise
            raise told from error
        finally:
            lora.remove()


@contextlib.contextmanager
def _training() -> Iterator[None]:
    """Tells ComfyUI's layers that gradients are needed, where it wants to know."""
    if not hasattr(management, "in_training"):
        yield
        return
    before, management.in_training = management.in_training, True
    try:
        yield
    finally:
        management.in_training = before


def _room(micro_batch: int):
    def prepare(executor, model, noise_shape, *args, **kwargs):
        return executor(model, [GRADIENTS * micro_batch, *noise_shape[1:]], *args, **kwargs)

    return prepare


def _explained(error: Exception, config: DDMConfig) -> Exception | None:
    """What to tell instead of an error; None: it as it is."""
    if isinstance(error, RuntimeError) and "modified by an inplace operation" in str(error):
        return ValueError(
            "this network writes into what gradients need: set gradient_checkpointing to true"
        )
    if isinstance(error, RuntimeError) and "no autograd formula" in str(error):
        return ValueError(
            "this version of ComfyUI has no gradients for such a network: update ComfyUI"
        )
    if isinstance(error, RuntimeError) and "nference tensors" in str(error):
        return ValueError(
            "something on the model or in positive holds tensors of its own (IP-Adapter, ControlNet …), through which no "
            "gradient can go: train on the plain model, and use the LoRA together with it afterwards"
        )
    if out_of_memory(error):
        advice = (
            f"set micro_batch to {config.micro_batch // 2}"
            if config.micro_batch > 1
            else "turn gradient_checkpointing on, or take references of a smaller size"
        )
        log.error("MMD-DDM: the memory is not enough. %s.", advice[0].upper() + advice[1:])
    return None
