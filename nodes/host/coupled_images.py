"""Recognizes patches of a model with which an image depends on the others of its batch.

Parts of such a batch are not drawn like the whole batch. A patch is recognized

- by the pictures it holds, one for each image of the batch (`pictures_by_image`),
- by what it keeps of the network's work for the time after all images (`kept_for_later`), or
- by trying it: an image is put beside other ones, and must not change (`Trial`).

What else couples images cannot be recognized: changes inside of the network's own modules, and
patches of whole blocks.
"""

from __future__ import annotations

import dis
import logging
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

__all__ = ["SHARED", "coupling", "kept_for_later", "tried"]

log = logging.getLogger("mmd_guidance")

PICTURES = "a patch of the model has one picture for each image of the batch (such as IP-Adapter)"
SHARED = "the images of a batch share their attention (as with StyleAligned or layerdiffuse)"
KEPT = (
    "a patch of the model keeps the attention of the last call for the whole batch (such as "
    "Self-Attention Guidance)"
)
SELF_ATTENTION = ("attn1_patch", "attn1_output_patch")
AFTER_ALL_IMAGES = (
    "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function",
)  # fmt: skip
UNCHANGED = 1e-3  # largest relative change of an image that counts as rounding


def coupling(patcher: ModelPatcher, model_options: dict[str, Any]) -> str | None:
    """How images of a batch depend on each other, in words; None if that is not recognized.

    Arguments:
        patcher: The model that draws.
        model_options: The options of the run.
    """
    if any(map(pictures_by_image, _patches(model_options.get("transformer_options", {})))):
        return PICTURES
    # layerdiffuse puts attention over so many images in place of modules.
    frames = (getattr(part, "frames", None) for part in patcher.object_patches.values())
    if any(isinstance(count, int) and count > 1 for count in frames):
        return SHARED
    return None


def pictures_by_image(patch: object) -> bool:
    """Whether a patch holds several pictures, masks or weights.

    IP-Adapter then uses one for each image, and core's patches with pictures do as well.
    """
    held = getattr(patch, "__dict__", {})
    inner = [d for v in held.values() if isinstance(v, list) for d in v if isinstance(d, dict)]
    for names in (held, *inner):
        if names.keys() & {"ipadapter", "ipadapters", "model_patch"}:
            values = [
                v for one in names.values() for v in (one if isinstance(one, list) else [one])
            ]
            if any(torch.is_tensor(v) and v.ndim > 2 and len(v) > 1 for v in values):
                return True
    return False


def kept_for_later(model_options: dict[str, Any]) -> str | None:
    """Whether attention leaves something that is used after all images, in words, or None.

    That is a variable which a patch of attention sets and a function around cfg uses, too.
    """
    later: set[int] = set()
    for name in AFTER_ALL_IMAGES:
        functions = model_options.get(name) or []
        for function in functions if isinstance(functions, list) else [functions]:
            later.update(map(id, getattr(function, "__closure__", None) or ()))
    for patch in _patches(model_options.get("transformer_options", {})):
        code, cells = getattr(patch, "__code__", None), getattr(patch, "__closure__", None)
        if code is None or not cells:
            continue
        sets = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_DEREF"}
        if any(
            id(cell) in later and name in sets
            for name, cell in zip(code.co_freevars, cells, strict=True)
        ):
            return KEPT
    return None


def _patches(options: dict[str, Any]) -> Iterator[object]:
    for patches in options.get("patches", {}).values():
        yield from patches
    for patches in options.get("patches_replace", {}).values():
        yield from patches.values()


def tried(options: dict[str, Any], found: list[bool]) -> dict[str, Any] | None:
    """The transformer options with patches of self-attention that are tried at their next call.

    Arguments:
        options: The transformer options. They are not changed.
        found: Becomes longer with each patch that couples images.

    Returns:
        None if there are no such patches but those of ComfyUI.
    """
    patches, replaced = options.get("patches", {}), options.get("patches_replace", {})
    mine = {n: [_tried(p, found) for p in patches[n]] for n in SELF_ATTENTION if n in patches}
    others = {key: _tried(patch, found) for key, patch in replaced.get("attn1", {}).items()}
    if not any(isinstance(p, Trial) for p in (*sum(mine.values(), []), *others.values())):
        return None
    return {
        **options,
        "patches": {**patches, **mine},
        "patches_replace": {**replaced, **({"attn1": others} if others else {})},
    }


def _tried(patch: Callable, found: list[bool]) -> Callable:
    # The patches of ComfyUI treat images one by one. Its server names modules by their files.
    module = getattr(patch, "__module__", None) or type(patch).__module__
    own = module.startswith("comfy.") or "comfy_extras" in re.split(r"[./\\]", module)
    return patch if own else Trial(patch, found)


class Trial:
    """A patch of self-attention that is tried once, on two images, before its next call.

    One image must stay as it is, whatever the other one is and whichever of them comes first.

    Arguments:
        patch: It gets tensors with a row for each image of each prompt, and extra options.
        found: Becomes longer if the images depend on each other.
    """

    def __init__(self, patch: Callable, found: list[bool]) -> None:
        self.patch, self.found, self.waiting = patch, found, True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a copy asks for them before it has a patch
            raise AttributeError(name)
        return getattr(self.patch, name)  # ComfyUI moves patches to a device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.waiting:
            self.waiting = False
            try:
                if self.couples(*args, **kwargs):
                    self.found.append(True)
            except Exception as error:
                # Patches of others may not work on two images. Nothing is known about them then.
                log.debug("%r could not be tried: %s", self.patch, error)
        return self.patch(*args, **kwargs)

    def couples(self, *args: Any, **kwargs: Any) -> bool:
        """Whether an image changes with the one beside it."""
        options = kwargs.get("extra_options", args[-1])
        prompts, rows = len(options["cond_or_uncond"]), len(args[0])
        devices = [args[0].device] if args[0].device.type == "cuda" else []

        def beside(change: Callable[[Tensor], Tensor], place: int) -> list[Tensor]:
            """What the first image becomes at `place`, with a changed copy at the other one."""

            def pair(value: Any) -> Any:
                if value is options:
                    return of_two(options, prompts)
                if not torch.is_tensor(value) or value.ndim < 2 or len(value) != rows:
                    return value
                image = value.unflatten(0, (prompts, -1))[:, :1]
                both = [image, change(image)] if place == 0 else [change(image), image]
                return torch.cat(both, 1).flatten(0, 1)

            with torch.random.fork_rng(devices):  # the same random numbers each time
                out = self.patch(*map(pair, args), **{n: pair(v) for n, v in kwargs.items()})
            if isinstance(out, dict):
                out = list(out.values())
            tensors = out if isinstance(out, (list, tuple)) else [out]
            tensors = [t for t in tensors if torch.is_tensor(t) and len(t) == 2 * prompts]
            return [t.unflatten(0, (prompts, 2))[:, place].float() for t in tensors]

        for place in (0, 1):
            one, other = beside(torch.neg, place), beside(lambda image: 2 * image, place)
            for a, b in zip(one, other, strict=True):
                if a.shape != b.shape or (a - b).norm() > UNCHANGED * a.norm():
                    return True
        return False


def of_two(options: dict[str, Any], prompts: int) -> dict[str, Any]:
    """Extra options as for two images with these prompts."""
    changed = dict(options)
    if "original_shape" in options:
        changed["original_shape"] = [2 * prompts, *options["original_shape"][1:]]
    if torch.is_tensor(options.get("sigmas")):
        changed["sigmas"] = options["sigmas"][:1].repeat(2)
    return changed
