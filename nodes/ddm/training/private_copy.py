"""A copy of a model with its own weights, through which gradients can pass."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import comfy.model_management as management
import comfy.model_patcher as core
import torch

from ...base.log import log
from ...host.dynamic_vram import is_dynamic
from ...host.faults import out_of_memory

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

__all__ = ["TRAINING_DTYPES", "compute_dtype", "normal_tensors", "private_copy"]

COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TRAINING_DTYPES = ("auto", *COMPUTE_DTYPES)

CPU = torch.device("cpu")
REFUSALS = AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError
# Attributes of modules in which ComfyUI's dynamic VRAM keeps addresses of memory.
ADDRESSES = {"_v", "_v_signature", "_pins", "_pin_state", "dynamic_vbars", "dynamic_pins"}
ADDRESSES |= {"dynamic_patchers"}
PATCHES = "_lowvram_function"  # the end of the names of those that hold LoRAs

Nested = TypeVar("Nested")


def private_copy(model: ModelPatcher, dtype: torch.dtype | None) -> ModelPatcher:
    """A copy that shares no weight with `model`. Call it with inference mode off.

    Nodes run in inference mode, and autograd cannot use tensors that were created in it, weights
    included. The copy has the LoRAs, noise schedules and attention patches of the model.

    Arguments:
        model: The model. Its weights may move to the CPU; ComfyUI loads them again when it draws.
        dtype: The dtype in which the network computes; None keeps it.

    Raises:
        ValueError: The weights of the model cannot be copied.
    """
    with torch.inference_mode():  # ComfyUI loaded the weights in this mode
        # Restores the weights that LoRAs have changed, and frees the device memory.
        management.unload_all_models()
        if any(weight.device.type != CPU.type for weight in model.model.parameters()):
            # With --highvram or --gpu-only they stay there, and there would be two copies.
            log.info("MMD-DDM: the model waits in main memory, so that the GPU holds one copy.")
            model.unpatch_model(CPU)
    try:
        own = (_reloaded(model) if is_dynamic(model) else None) or _copied(model)
    except REFUSALS as error:
        if out_of_memory(error):
            raise
        raise ValueError(
            f"the weights of this model cannot be copied for training ({error}): load it with "
            "Load Checkpoint or Load Diffusion Model"
        ) from error
    if hasattr(own, "remove_additional_models"):
        own.remove_additional_models("multigpu")  # copies on other GPUs would have no adapters
    own.model.requires_grad_(False)
    own.model.train(False)
    if dtype is not None:
        own.set_model_compute_dtype(dtype)
    return own


def _reloaded(model: ModelPatcher) -> ModelPatcher | None:
    """The model from its file once more, without dynamic VRAM; None if its loader cannot do that.

    Loaders of other packs may not remember the file, or may refuse to load it again.
    """
    try:
        own = model.clone(disable_dynamic=True)
    except REFUSALS as error:
        if out_of_memory(error):
            raise
        log.info("MMD-DDM: the model is copied, because it cannot be loaded again (%s).", error)
        return None
    return None if own.model is model.model or is_dynamic(own) else own


def _copied(model: ModelPatcher) -> ModelPatcher:
    """A copy of the model as it is in memory, without dynamic VRAM."""
    shared = model.model.model_config  # its class cannot be copied
    memo: dict[int, Any] = {id(shared): shared}
    memo |= {id(weight): _copied_weight(weight) for weight in model.model.parameters()}
    for module in model.model.modules():
        kept = [getattr(module, name) for name in _of_dynamic_vram(module)]
        memo |= {id(value): 0 for value in kept if not isinstance(value, int | None)}
    network = copy.deepcopy(model.model, memo)
    for module in network.modules():
        for name in _of_dynamic_vram(module):
            delattr(module, name)
    if is_dynamic(model):
        fresh = core.ModelPatcher(network, model.load_device, model.offload_device)
        override = fresh.get_clone_model_override()
        # Not the method of the model, which may refuse.
        return core.ModelPatcher.clone(model, disable_dynamic=True, model_override=override)
    own = model.clone()
    own.model = network
    own.backup, own.object_patches_backup, own.pinned = {}, {}, set()
    if hasattr(own, "backup_buffers"):
        own.backup_buffers = {}
    return own


def _of_dynamic_vram(module: torch.nn.Module) -> list[str]:
    """The attributes in which dynamic VRAM keeps addresses of memory, which cannot be copied."""
    return [name for name in vars(module) if name in ADDRESSES or name.endswith(PATCHES)]


def _copied_weight(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    """A copy of a weight. `copy.deepcopy` cannot copy quantised weights."""
    return torch.nn.Parameter(weight.detach().clone(), requires_grad=False)


def compute_dtype(model: ModelPatcher, name: str) -> torch.dtype | None:
    """The dtype in which the network computes during training; None keeps that of the model.

    The gradients of the MMD are too small for fp16, so `auto` replaces it.

    Arguments:
        model: The model.
        name: One of `TRAINING_DTYPES`.
    """
    if name != "auto":
        return COMPUTE_DTYPES[name]
    computes = model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
    if computes != torch.float16:
        return None
    return torch.bfloat16 if management.should_use_bf16(model.load_device) else torch.float32


def normal_tensors(value: Nested) -> Nested:
    """A copy of nested lists and dictionaries whose tensors autograd can use.

    Call it with inference mode off.
    """
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: normal_tensors(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(normal_tensors, value))
    return value
