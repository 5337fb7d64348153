"""Backward passes with the memory of one block: what blocks compute within is computed again when it is needed."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .lora import LoRA

__all__ = ["blocks", "checkpointed"]

CONTAINERS = nn.ModuleList | nn.Sequential | nn.ModuleDict


def blocks(network: nn.Module) -> list[nn.Module]:
    """The largest parts within lists of a network that have parts of their own: residual and transformer blocks."""
    found = []
    for child in network.children():
        if isinstance(child, CONTAINERS):
            found += _within(child)
    return found


def _within(container: nn.Module) -> list[nn.Module]:
    found = []
    for child in container.children():
        if isinstance(child, CONTAINERS):
            found += _within(child)
        elif any(True for _ in child.children()):
            found.append(child)
    return found


@contextlib.contextmanager
def checkpointed(network: nn.Module, lora: LoRA) -> Iterator[int]:
    """Within it, the blocks of a network keep only what they are given; how many they are.

    The network must be one's own: its blocks get another `forward` for that time. What is computed again is so with or
    without the adapters as it was the first time.
    """
    changed = [(block, block.__dict__.get("forward")) for block in blocks(network)]
    for block, _ in changed:
        block.forward = _again(block.forward, lora)
    try:
        yield len(changed)
    finally:
        for block, own in changed:
            del block.forward
            if own is not None:
                block.forward = own


def _again(forward: Callable, lora: LoRA) -> Callable:
    def run(*args, **kwargs):
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Networks write into dictionaries that they pass from block to block: each pass sees what was in them here.
        args, kwargs, active = _copied(args), _copied(kwargs), lora.active

        def block():
            """What comes out, and whether the block wrote into what it was given, as those of Flux do."""
            given, named = _copied(args, True), _copied(kwargs, True)
            with lora.set_active(active):
                output = forward(*given, **named)
            tensors = [t for t in (*given, *named.values()) if isinstance(t, Tensor)]
            return output, any(t._version for t in tensors)

        return _forgetting(block)

    return run


def _forgetting(block: Callable):
    """The output of `block`, which is called once more when gradients need what it computed within.

    `torch.utils.checkpoint` would hand out what was saved as later writes in place have left it.
    """
    writes, count, kept = False, 0, []

    def number(tensor: Tensor) -> int:
        nonlocal count
        count += 1
        return count - 1

    def keep(tensor: Tensor) -> None:
        copied = writes and tensor.requires_grad
        kept.append(tensor.detach().clone() if copied else tensor.detach())

    def find(i: int) -> Tensor:
        if not kept:
            with saved_tensors_hooks(keep, lambda nothing: nothing), torch.enable_grad():
                block()
        if len(kept) != count:
            raise RuntimeError("a block of the network does not compute the same twice")
        tensor, kept[i] = kept[i], None
        return tensor

    with saved_tensors_hooks(number, find):
        output, writes = block()
    return output


def _copied(value, tensors: bool = False, depth: int = 3):
    """Arguments with dictionaries, and if asked for tensors, of their own; tensors that dictionaries hold are shared."""
    if type(value) is tuple and depth:
        return tuple(_copied(part, tensors, depth - 1) for part in value)
    if type(value) is dict and depth:
        whole = tensors and depth == 3
        return {name: _copied(part, whole, depth - 1) for name, part in value.items()}
    return value.clone() if tensors and isinstance(value, Tensor) else value
