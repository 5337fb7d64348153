"""Recognizes patches of a model with which an image depends on the others of its batch.

Parts of such a batch are not drawn like the whole batch. A patch is recognized

- by the pictures it holds, one for each image of the batch (`pictures_by_image`),
- by what it keeps of the network's work for the time after all images (`kept_for_later`),
- by what it may keep from call to call (`kept_between_calls`), or
- by trying it: an image is put beside other ones, and must not change (`trial.py`).

What else couples images cannot be recognized: for example linear layers of another pack.
"""

from __future__ import annotations

import dis
import re
from collections.abc import Iterator
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

__all__ = ["SHARED", "coupling", "is_of_comfyui", "kept_between_calls", "kept_for_later"]

PICTURES = (
    "a patch of the model has a picture or a mask for each image of the batch (such as IP-Adapter)"
)
SHARED = "the images of a batch share their attention (as with StyleAligned or layerdiffuse)"
KEPT = (
    "a patch of the model keeps the attention of the last call for the whole batch (such as "
    "Self-Attention Guidance)"
)
BETWEEN_CALLS = (
    "a node around the model may keep its work from one call to the next (such as TeaCache, "
    "DeepCache, WaveSpeed or Tiled Diffusion)"
)
AFTER_ALL_IMAGES = (
    "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function",
)  # fmt: skip
DEPTH = 3  # how deep dictionaries and lists are searched
COMFYUI = ("comfy", "comfy_api", "comfy_execution", "comfy_extras")  # its packages
AROUND_THE_MODEL = (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
# What a function does that keeps something, or that changes the network while it runs.
STORING = ("STORE_ATTR", "STORE_GLOBAL", "STORE_SUBSCR")
WITHIN = ("SETUP_WITH", "BEFORE_WITH", "LOAD_SPECIAL")  # `with`, by the version of Python


def coupling(patcher: ModelPatcher, model_options: dict[str, Any], batch: int) -> str | None:
    """How images of a batch depend on each other, in words; None if that is not recognized.

    Arguments:
        patcher: The model that draws.
        model_options: The options of the run.
        batch: The number of images.
    """
    patches = list(_patches(model_options.get("transformer_options", {})))
    if any(pictures_by_image(patch) or holds_by_image(patch, batch) for patch in patches):
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


def holds_by_image(patch: object, batch: int) -> bool:
    """Whether a patch of another pack holds tensors of which each image has one or a row."""
    if batch < 2 or is_of_comfyui(patch):
        return False

    def by_image(value: object, depth: int = 0) -> bool:
        if torch.is_tensor(value):
            return (
                value.ndim > 1 and len(value) == batch and not isinstance(value, torch.nn.Parameter)
            )
        if depth > DEPTH or not isinstance(value, (dict, list, tuple)):
            return False
        held = list(value.values()) if isinstance(value, dict) else value
        tensors = [v for v in held if torch.is_tensor(v) and v.ndim > 1]
        if isinstance(value, (list, tuple)) and len(tensors) == len(held) == batch:
            return True
        return any(by_image(v, depth + 1) for v in held)

    outer = outer_values(patch) if isinstance(patch, FunctionType) else []
    return any(map(by_image, (*getattr(patch, "__dict__", {}).values(), *outer)))


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


def kept_between_calls(patcher: ModelPatcher, model_options: dict[str, Any]) -> str | None:
    """Whether a function around the model may keep something for its next call, in words, or None.

    If a batch is split, the next call is for other images. ComfyUI's own functions take care.

    Arguments:
        patcher: The model that draws.
        model_options: The options of the run.
    """
    around = [model_options.get("model_function_wrapper")]
    of_run = model_options.get("transformer_options", {}).get("wrappers", {})
    for wrappers in (patcher.wrappers, of_run):
        for kind in AROUND_THE_MODEL:
            around += sum(wrappers.get(kind, {}).values(), [])
    return BETWEEN_CALLS if any(map(may_keep, filter(None, around))) else None


def may_keep(function: object, seen: tuple[object, ...] = ()) -> bool:
    """Whether a function of another pack may keep something for its next call, by its code.

    Of an object nothing is known, so it may.

    Arguments:
        function: The function or object.
        seen: Functions that know this one.
    """
    if not isinstance(function, FunctionType):
        return not is_of_comfyui(function)
    seen = (*seen, function)
    inner = [v for v in outer_values(function) if _acts(v) and not any(v is s for s in seen)]
    if any(may_keep(value, seen) for value in inner):
        return True
    if is_of_comfyui(function):
        return False
    code = function.__code__
    return any(
        i.opname in (*STORING, *WITHIN)
        or (i.opname == "STORE_DEREF" and i.argval in code.co_freevars)
        for i in dis.get_instructions(code)
    )


def outer_values(function: FunctionType) -> list[Any]:
    """What a function knows of the functions around it."""
    values = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # the variable has no value yet
            values.append(cell.cell_contents)
    return values


def _acts(value: object) -> bool:
    """Whether it is a function of ComfyUI or of a pack, or an object that can be called."""
    of_torch = str(getattr(value, "__module__", None)).startswith("torch")
    passive = (type, torch.nn.Module, BuiltinFunctionType)
    return callable(value) and not of_torch and not isinstance(value, passive)


def is_of_comfyui(function: object) -> bool:
    """Whether a function or a patch is one of ComfyUI itself."""
    # Its server names modules of comfy_extras by their files.
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.split(".")[0] in COMFYUI or "comfy_extras" in re.split(r"[./\\]", module)


def _patches(options: dict[str, Any]) -> Iterator[object]:
    for patches in options.get("patches", {}).values():
        yield from patches
    for patches in options.get("patches_replace", {}).values():
        yield from patches.values()
