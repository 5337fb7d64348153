"""Gradient checkpointing per block: the backward pass computes a block's activations again."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .lora import LoRA

__all__ = ["blocks", "checkpointed"]

CONTAINERS = nn.ModuleList | nn.Sequential | nn.ModuleDict


def blocks(network: nn.Module) -> list[nn.Module]:
    """The residual and transformer blocks of a network.

    These are the outermost modules in its module lists that have submodules.
    """
    found = []
    for child in network.children():
        if isinstance(child, CONTAINERS):
            found += _blocks_in(child)
    return found


def _blocks_in(container: nn.Module) -> list[nn.Module]:
    found = []
    for child in container.children():
        if isinstance(child, CONTAINERS):
            found += _blocks_in(child)
        elif any(True for _ in child.children()):
            found.append(child)
    return found


@contextlib.contextmanager
def checkpointed(network: nn.Module, lora: LoRA) -> Iterator[int]:
    """A context in which the blocks of a network store only their inputs.

    It yields the number of blocks. The network must be a private copy, because the context replaces
    the `forward` of its blocks. When a block is computed again, the adapters are on or off as they
    were the first time.
    """
    changed = [(block, block.__dict__.get("forward")) for block in blocks(network)]
    for block, _ in changed:
        block.forward = _checkpointed_forward(block.forward, lora)
    try:
        yield len(changed)
    finally:
        for block, own in changed:
            del block.forward
            if own is not None:
                block.forward = own


def _checkpointed_forward(forward: Callable, lora: LoRA) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Networks write into dictionaries that they pass from block to block. With copies, both
        # computations start from the same content.
        args, kwargs, active = _copied(args), _copied(kwargs), lora.active

        def block() -> tuple[Any, bool]:
            """The output, and whether the block modified an input in place, as Flux blocks do."""
            given, named = _copied(args, True), _copied(kwargs, True)
            with lora.set_active(active):
                output = forward(*given, **named)
            tensors = [t for t in (*given, *named.values()) if isinstance(t, Tensor)]
            return output, any(t._version for t in tensors)

        return _output_of(block)

    return run


def _output_of(block: Callable[[], tuple[Any, bool]]) -> Any:
    """The output of `block`, whose graph holds no activations of the block.

    The backward pass calls `block` once more to get the tensors that autograd needs.
    `torch.utils.checkpoint` is not used: it returns these tensors after later in-place writes have
    changed them.
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


def _copied(value: Any, tensors: bool = False, depth: int = 3) -> Any:
    """Copies the dictionaries in arguments and, with `tensors`, also the tensors.

    Tensors in nested dictionaries stay shared.
    """
    if type(value) is tuple and depth:
        return tuple(_copied(part, tensors, depth - 1) for part in value)
    if type(value) is dict and depth:
        whole = tensors and depth == 3
        return {name: _copied(part, whole, depth - 1) for name, part in value.items()}
    return value.clone() if tensors and isinstance(value, Tensor) else value
