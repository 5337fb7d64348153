"""Tries patches of a model on two images: an image must not change with the one beside it.

Patches of self-attention and of whole blocks are tried, because there images can see each other.
So are modules of the network that another pack has replaced, or whose `forward` it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..base.log import log
from .coupled_images import is_of_comfyui

if TYPE_CHECKING:
    from comfy.model_base import BaseModel

__all__ = ["called", "is_time_for_trials"]


PATCHES = ("attn1_patch", "attn1_output_patch", "double_block", "single_block")
REPLACED = ("attn1", "dit")  # attention of U-Nets, and blocks of transformers
# Layers of which packs have classes of their own, for weights in other formats. There are many of
# them, and they never see two images at once.
LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
UNCHANGED = 1e-3  # largest relative change of an image that counts as rounding


def is_time_for_trials(calls: int) -> bool:
    """Patches may start at any step, so they are tried at calls 1, 2, 4, 8 and so on."""
    return calls & (calls - 1) == 0


def called(
    executor: Callable[..., list[Tensor]],
    model: BaseModel,
    conds: list[list[dict] | None],
    x_in: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
    found: list[bool],
) -> list[Tensor]:
    """The estimates of the network, whose patches and changed modules are tried.

    Arguments:
        executor: Calls the network, with the next five arguments.
        found: Becomes longer if something is found that couples images.
    """
    trials = tried(model_options.get("transformer_options", {}), found)
    if trials is not None:
        model_options = {**model_options, "transformer_options": trials}
    with modules_tried(model.diffusion_model, found):
        return executor(model, conds, x_in, timestep, model_options)


def tried(options: dict[str, Any], found: list[bool]) -> dict[str, Any] | None:
    """The transformer options with patches that are tried at their next call.

    Arguments:
        options: The transformer options. They are not changed.
        found: Becomes longer when a patch is found that couples images.

    Returns:
        None if there are no such patches but those of ComfyUI.
    """
    patches, replaced = options.get("patches", {}), options.get("patches_replace", {})
    mine = {name: [_tried(p, found) for p in patches[name]] for name in PATCHES if name in patches}
    others = {
        name: {key: _tried(patch, found) for key, patch in replaced[name].items()}
        for name in REPLACED
        if name in replaced
    }
    all_of_them = [*mine.values(), *(each.values() for each in others.values())]
    if not any(isinstance(patch, Trial) for each in all_of_them for patch in each):
        return None
    return {
        **options,
        "patches": {**patches, **mine},
        "patches_replace": {**replaced, **others},
    }


@contextmanager
def modules_tried(network: nn.Module, found: list[bool]) -> Iterator[None]:
    """Within it, modules of another pack, or with a `forward` of one, are tried at the next call.

    Arguments:
        network: The network that is called.
        found: Becomes longer when a module is found that couples images.
    """
    home = _package(network)
    inner = [module for module in network.modules() if module is not network]
    changed = [m for m in inner if _has_other_forward(m) or _is_of_another_pack(m, home)]
    given: dict[str, Any] = {}

    def note(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given.update(next(filter(is_options, parts((args, kwargs))), {}))

    def hook(trial: Trial) -> Callable[..., None]:
        return lambda _, args, kwargs: trial.once(*args, **kwargs)

    with ExitStack() as stack:
        if changed:
            stack.enter_context(network.register_forward_pre_hook(note, with_kwargs=True))
        for module in changed:
            each = hook(Trial(module.forward, found, given))
            stack.enter_context(module.register_forward_pre_hook(each, with_kwargs=True))
        yield


def _has_other_forward(module: nn.Module) -> bool:
    """Whether another pack has put a function in place of a module's own `forward`."""
    forward = vars(module).get("forward")
    # A compiled module is not called with other sizes, because it would be compiled anew.
    of_torch = str(getattr(forward, "__module__", "")).startswith("torch")
    return forward is not None and not of_torch and not is_of_comfyui(forward)


def _is_of_another_pack(module: nn.Module, home: str) -> bool:
    """Whether another pack than that of the network, `home`, has made the class of a module."""
    package = _package(module)
    known = package in (home, "torch") or is_of_comfyui(module)
    return not known and not isinstance(module, LAYERS)


def _package(module: nn.Module) -> str:
    return type(module).__module__.split(".")[0]


def _tried(patch: Callable, found: list[bool]) -> Callable:
    # The patches of ComfyUI treat images one by one.
    return patch if is_of_comfyui(patch) else Trial(patch, found)


class Trial:
    """A patch that is tried once, on two images, before its next call.

    One image must stay as it is, whatever the other one is and whichever of them comes first.

    Arguments:
        patch: It gets tensors with a row for each image of each prompt, and transformer options.
        found: Becomes longer if the images depend on each other.
        options: The transformer options, if the patch does not get them.
    """

    def __init__(
        self, patch: Callable, found: list[bool], options: dict[str, Any] | None = None
    ) -> None:
        self.patch, self.found, self.options, self.waiting = patch, found, options, True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a copy asks for them before it has a patch
            raise AttributeError(name)
        return getattr(self.patch, name)  # ComfyUI moves patches to a device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.once(*args, **kwargs)
        return self.patch(*args, **kwargs)

    def once(self, *args: Any, **kwargs: Any) -> None:
        """Tries the patch if it was not tried before."""
        if not self.waiting or self.found:
            return
        self.waiting = False
        try:
            if self.couples(*args, **kwargs):
                self.found.append(True)
        except Exception as error:
            # Patches of others may not work on two images. Nothing is known about them then.
            log.debug("%r could not be tried: %s", self.patch, error)

    def couples(self, *args: Any, **kwargs: Any) -> bool:
        """Whether an image changes with the one beside it."""
        options = next(filter(is_options, parts((args, kwargs))), self.options)
        first = next(part for part in parts((args, kwargs)) if torch.is_tensor(part))
        prompts, rows = len(options["cond_or_uncond"]), len(first)
        devices = [first.device] if first.device.type == "cuda" else []

        def beside(change: Callable[[Tensor], Tensor], place: int) -> list[Tensor]:
            """What the first image becomes at `place`, with a changed copy at the other one."""

            def pair(tensor: Tensor) -> Tensor:
                if tensor.ndim < 2 or len(tensor) != rows:
                    return tensor
                image = tensor.unflatten(0, (prompts, -1))[:, :1]
                both = [image, change(image)] if place == 0 else [change(image), image]
                return torch.cat(both, 1).flatten(0, 1)

            two, named = of_two((args, kwargs), pair)
            with torch.random.fork_rng(devices):  # the same random numbers each time
                out = self.patch(*two, **named)
            tensors = [t for t in parts(out) if torch.is_tensor(t) and len(t) == 2 * prompts]
            return [t.unflatten(0, (prompts, 2))[:, place].float() for t in tensors]

        for place in (0, 1):
            one, other = beside(torch.neg, place), beside(lambda image: 2 * image, place)
            for a, b in zip(one, other, strict=True):
                if a.shape != b.shape or (a - b).norm() > UNCHANGED * a.norm():
                    return True
        return False


def is_options(value: object) -> bool:
    """Whether this is the transformer options of a call of the model."""
    return isinstance(value, dict) and "cond_or_uncond" in value


def parts(value: Any) -> Iterator[Any]:
    """What a patch is given or returns: the value, then all that it holds, but for options."""
    yield value
    if isinstance(value, (list, tuple)):
        held = list(value)
    elif isinstance(value, dict) and not is_options(value):
        held = list(value.values())
    else:
        return
    for each in held:
        yield from parts(each)


def of_two(value: Any, pair: Callable[[Tensor], Tensor]) -> Any:
    """What a patch is given, for two images: `pair` is applied to each of its tensors."""
    if torch.is_tensor(value):
        return pair(value)
    if is_options(value):
        return options_of_two(value)
    if isinstance(value, dict):
        return {name: of_two(held, pair) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        held = [of_two(each, pair) for each in value]
        return type(value)(*held) if hasattr(value, "_fields") else type(value)(held)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        held = {name: of_two(getattr(value, name), pair) for name in names}
        return dataclasses.replace(value, **held)
    return value


def options_of_two(options: dict[str, Any]) -> dict[str, Any]:
    """Transformer options as for two images with the same prompts."""
    changed = dict(options)
    if "original_shape" in options:
        rows = 2 * len(options["cond_or_uncond"])
        changed["original_shape"] = [rows, *options["original_shape"][1:]]
    if torch.is_tensor(options.get("sigmas")):
        changed["sigmas"] = options["sigmas"][:1].repeat(2)
    return changed
