"""Fingerprints of networks: which weights they have and, for the cache, all else that results depend on."""

import hashlib
import re

import torch
from torch import Tensor

SAMPLE = 4096  # numbers of each weight: enough, since training moves them all
# The parts of a VAE that only decode, by the beginning of their names.
DECODES = re.compile(r"(taesd_)?decoder|post_quant_conv|conv2\.|previewer")
# What a model patcher can change without touching the weights that it shows.
PATCHES = (
    "patches", "object_patches", "weight_wrapper_patches", "hook_patches", "forced_hooks",
    "injections", "wrappers", "callbacks", "additional_models", "model_options", "load_device",
)  # fmt: skip


def vae_fingerprint(vae) -> str:
    """A fingerprint of the weights that encode, "" for a VAE that does not show them.

    VAEs that differ in their decoders alone have the same one, since they make the same latents. So do
    copies in float32 and bfloat16, ComfyUI's usual types, and on different devices.
    """
    weights = getattr(getattr(vae, "first_stage_model", None), "state_dict", dict)()
    weights = {n: w for n, w in weights.items() if w.is_floating_point() and not w.is_meta}
    digest = hashlib.sha256()
    _add_weights(digest, _encoding(weights), torch.bfloat16)
    return digest.hexdigest() if weights else ""


def vae_key(vae) -> str:
    """The same only for VAEs that encode alike to the last bit, "" for one that cannot be judged."""
    model = getattr(vae, "first_stage_model", None)
    output_type = getattr(vae, "vae_output_dtype", lambda: None)()
    return _network_key(vae, model, {"types": (getattr(vae, "vae_dtype", None), output_type)})


def clip_key(clip) -> str:
    """The same only for text encoders that encode tokens alike to the last bit, "" if that is unknown."""
    parts = ("cond_stage_model", "tokenizer", "patcher")
    options = {k: v for k, v in getattr(clip, "__dict__", {}).items() if k not in parts}
    return _network_key(clip, getattr(clip, "cond_stage_model", None), options)


def is_plain(value) -> bool:
    """Whether `repr` tells all of it: numbers and texts, in lists and dictionaries."""
    if isinstance(value, dict):
        return all(map(is_plain, value.keys())) and all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    known = bool | int | float | str | torch.dtype | torch.device
    return value is None or isinstance(value, known)


def _network_key(owner, model, options: dict) -> str:
    patcher = getattr(owner, "patcher", None)
    if patcher is None or not isinstance(model, torch.nn.Module):
        return ""
    options = options | {name: getattr(patcher, name, None) for name in PATCHES}
    if not is_plain(options) or any(map(_is_altered, [owner, *model.modules()])):
        return ""
    # Weights may be patched at the moment, for another copy of the patcher: these are its own.
    own = {name: kept.weight for name, kept in getattr(patcher, "backup", {}).items()}
    weights = {**model.state_dict(), **own}
    if not weights or any(not isinstance(w, Tensor) or w.is_meta for w in weights.values()):
        return ""
    kinds = [(type(part).__module__, type(part).__qualname__) for part in (owner, model)]
    digest = hashlib.sha256(repr((kinds, sorted(options.items()), model)).encode())
    _add_weights(digest, _encoding(weights))
    return digest.hexdigest()


def _encoding(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that encode, all if none does."""
    return {n: w for n, w in weights.items() if not DECODES.match(n)} or weights


def _is_altered(part) -> bool:
    """Whether someone put other methods or hooks on it, as nodes for seamless textures do."""
    hooks = (getattr(part, name, None) for name in ("_forward_hooks", "_forward_pre_hooks"))
    return any(hooks) or any(callable(getattr(type(part), name, None)) for name in vars(part))


def _add_weights(digest, weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Adds a sample of each weight to the digest, rounded to `dtype` if one is given."""
    for name in sorted(weights):
        weight = weights[name].detach()
        step = max(1, -(-weight.numel() // SAMPLE))
        sample = weight.reshape(-1)[::step].cpu().to(dtype or weight.dtype).contiguous()
        digest.update(f"{name} {tuple(weight.shape)} {sample.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy())
