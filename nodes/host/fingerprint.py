"""Fingerprints of networks.

A fingerprint is a hash of the weights. For cache keys, it also covers everything else that affects
results.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from comfy.sd import CLIP, VAE

SAMPLE = 4096  # numbers per weight tensor: a sample is enough, since training changes all numbers
# Names of the VAE weights that only decode start like this.
DECODES = re.compile(r"(taesd_)?decoder|post_quant_conv|conv2\.|previewer")
# What can change the results of a model patcher without a change of its `state_dict`.
PATCHES = (
    "patches", "object_patches", "weight_wrapper_patches", "hook_patches", "forced_hooks",
    "injections", "wrappers", "callbacks", "additional_models", "model_options", "load_device",
)  # fmt: skip


def vae_fingerprint(vae: VAE) -> str:
    """A fingerprint of the encoder weights; "" for a VAE without accessible weights.

    VAEs that differ only in their decoders have the same fingerprint, because they make the same
    latents. Copies in float32 and bfloat16 (ComfyUI's usual types) and on different devices also
    have the same one.
    """
    weights = getattr(getattr(vae, "first_stage_model", None), "state_dict", dict)()
    weights = {n: w for n, w in weights.items() if w.is_floating_point() and not w.is_meta}
    digest = hashlib.sha256()
    _add_weights(digest, _encoding(weights), torch.bfloat16)
    return digest.hexdigest() if weights else ""


def vae_key(vae: VAE) -> str:
    """A cache key: two VAEs have the same key only if they encode bit-identically.

    The key is "" if that is unknown.
    """
    model = getattr(vae, "first_stage_model", None)
    output_type = getattr(vae, "vae_output_dtype", lambda: None)()
    return _network_key(vae, model, {"types": (getattr(vae, "vae_dtype", None), output_type)})


def clip_key(clip: CLIP) -> str:
    """A cache key: two text encoders have the same key only if they encode bit-identically.

    The key is "" if that is unknown.
    """
    parts = ("cond_stage_model", "tokenizer", "patcher")
    options = {k: v for k, v in getattr(clip, "__dict__", {}).items() if k not in parts}
    return _network_key(clip, getattr(clip, "cond_stage_model", None), options)


def is_plain(value: object) -> bool:
    """Whether `repr` describes the value completely.

    It does for numbers and strings, and for lists and dictionaries of them.
    """
    if isinstance(value, dict):
        return all(map(is_plain, value.keys())) and all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    known = bool | int | float | str | torch.dtype | torch.device
    return value is None or isinstance(value, known)


def _network_key(owner: VAE | CLIP, model: object, options: dict[str, Any]) -> str:
    patcher = getattr(owner, "patcher", None)
    if patcher is None or not isinstance(model, torch.nn.Module):
        return ""
    options = options | {name: getattr(patcher, name, None) for name in PATCHES}
    if not is_plain(options) or any(map(_is_altered, [owner, *model.modules()])):
        return ""
    # Another clone of the patcher may have patched the weights: `backup` holds the unpatched ones.
    own = {name: kept.weight for name, kept in getattr(patcher, "backup", {}).items()}
    weights = {**model.state_dict(), **own}
    if not weights or any(not isinstance(w, Tensor) or w.is_meta for w in weights.values()):
        return ""
    kinds = [(type(part).__module__, type(part).__qualname__) for part in (owner, model)]
    digest = hashlib.sha256(repr((kinds, sorted(options.items()), model)).encode())
    _add_weights(digest, _encoding(weights))
    return digest.hexdigest()


def _encoding(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those that only decode; all weights if none would be left."""
    return {n: w for n, w in weights.items() if not DECODES.match(n)} or weights


def _is_altered(part: object) -> bool:
    """Whether another node replaced methods or added hooks, for example for seamless textures."""
    hooks = (getattr(part, name, None) for name in ("_forward_hooks", "_forward_pre_hooks"))
    return any(hooks) or any(callable(getattr(type(part), name, None)) for name in vars(part))


def _add_weights(
    digest: hashlib._Hash, weights: dict[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Adds a sample of each weight to the digest, converted to `dtype` if it is given."""
    for name in sorted(weights):
        weight = weights[name].detach()
        step = max(1, -(-weight.numel() // SAMPLE))
        sample = weight.reshape(-1)[::step].cpu().to(dtype or weight.dtype).contiguous()
        digest.update(f"{name} {tuple(weight.shape)} {sample.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy())
