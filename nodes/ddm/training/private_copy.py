"""A model of one's own weights, through which gradients can go."""

import copy

import comfy.model_management as management
import torch

__all__ = ["plain", "private_copy", "training_dtype"]

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def private_copy(model, dtype: torch.dtype | None):
    """A ModelPatcher that shares no weight with `model`, to be called with inference mode off.

    Nodes run in inference mode, and what was made in it, the weights too, can take part in no graph. What the user
    put on the model (LoRA, other noise schedules, patches of attention) is on the copy, too.

    Arguments:
        dtype: What the network computes in; None as it does.
    """
    with torch.inference_mode():  # as ComfyUI made them
        management.unload_all_models()  # so that weights are the model's own, and the card is free
    if getattr(model, "is_dynamic", lambda: False)():
        return _computing_in(model.clone(disable_dynamic=True, force_deepcopy=True), dtype)
    own = model.clone()
    shared = model.model.model_config  # settings, of a class that cannot be copied
    weights = {id(weight): _copied(weight) for weight in model.model.parameters()}
    own.model = copy.deepcopy(model.model, {id(shared): shared, **weights})
    own.backup, own.object_patches_backup, own.pinned = {}, {}, set()
    if hasattr(own, "backup_buffers"):
        own.backup_buffers = {}
    return _computing_in(own, dtype)


def _copied(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    """Quantised ones cannot be copied by `copy`."""
    return torch.nn.Parameter(weight.detach().clone(), requires_grad=False)


def _computing_in(model, dtype: torch.dtype | None):
    model.model.requires_grad_(False)
    model.model.eval()
    if dtype is not None:
        model.set_model_compute_dtype(dtype)
    return model


def training_dtype(model, name: str) -> torch.dtype | None:
    """What a network computes in for `auto`, `bf16` or `fp32`; None: as it does.

    The gradients of MMD are too small for fp16.
    """
    if name != "auto":
        return DTYPES[name]
    computes = model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
    if computes != torch.float16:
        return None
    return torch.bfloat16 if management.should_use_bf16(model.load_device) else torch.float32


def plain(value):
    """Conditioning, or another nest of lists and dictionaries, with tensors that a graph can hold."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value
