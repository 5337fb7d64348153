"""Backward passes with the memory of one block: what blocks compute within is computed again when it is needed."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

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
            with lora.set_active(active):
                return forward(*_copied(args), **_copied(kwargs))

        return checkpoint(block, use_reentrant=False, preserve_rng_state=False)

    return run


def _copied(value, depth: int = 2):
    """Arguments with dictionaries of their own; what these hold is shared."""
    if isinstance(value, tuple) and depth:
        return tuple(_copied(part, depth - 1) for part in value)
    if isinstance(value, dict) and depth:
        return {name: _copied(part, depth - 1) for name, part in value.items()}
    return value
