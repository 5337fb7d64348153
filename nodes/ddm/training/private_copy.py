"""A copy of a model with its own weights, through which gradients can pass."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import comfy.model_management as management
import torch

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

__all__ = ["TRAINING_DTYPES", "compute_dtype", "normal_tensors", "private_copy"]

COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TRAINING_DTYPES = ("auto", *COMPUTE_DTYPES)

Nested = TypeVar("Nested")


def private_copy(model: ModelPatcher, dtype: torch.dtype | None) -> ModelPatcher:
    """A copy that shares no weight with `model`. Call it with inference mode off.

    Nodes run in inference mode, and autograd cannot use tensors that were created in it, weights
    included. The copy has the LoRAs, noise schedules and attention patches of the model.

    Arguments:
        model: The model.
        dtype: The dtype in which the network computes; None keeps it.
    """
    with torch.inference_mode():  # ComfyUI loaded the weights in this mode
        # Restores the weights that LoRAs have changed, and frees the device memory.
        management.unload_all_models()
    if getattr(model, "is_dynamic", lambda: False)():
        return _for_training(model.clone(disable_dynamic=True, force_deepcopy=True), dtype)
    own = model.clone()
    shared = model.model.model_config  # its class cannot be copied
    weights = {id(weight): _copied(weight) for weight in model.model.parameters()}
    own.model = copy.deepcopy(model.model, {id(shared): shared, **weights})
    own.backup, own.object_patches_backup, own.pinned = {}, {}, set()
    if hasattr(own, "backup_buffers"):
        own.backup_buffers = {}
    return _for_training(own, dtype)


def _copied(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    """A copy of a weight. `copy.deepcopy` cannot copy quantised weights."""
    return torch.nn.Parameter(weight.detach().clone(), requires_grad=False)


def _for_training(model: ModelPatcher, dtype: torch.dtype | None) -> ModelPatcher:
    """Freezes the weights and sets the compute dtype; changes and returns `model`."""
    model.model.requires_grad_(False)
    model.model.eval()
    if dtype is not None:
        model.set_model_compute_dtype(dtype)
    return model


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
