"""An average of a network's weights over its last steps."""

import copy

import torch
from torch import nn


class Average:
    """A copy of the network that follows it, with a memory that grows up to `horizon` steps."""

    def __init__(self, network: nn.Module, horizon: int):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.horizon = horizon

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network as it is after `step` steps."""
        weight = 1 / min(self.horizon, 1 + step / 10)
        for slow, fast in zip(self.network.parameters(), network.parameters(), strict=True):
            slow.lerp_(fast, weight)
