"""Muon (K. Jordan, 2024) for inner matrices and AdamW for everything else."""

from collections.abc import Iterable

import torch
from mmd_demo.emoji.precision import FAST
from torch import nn


def orthogonalise(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Nearly the closest semi-orthogonal matrix (m, n), by a quintic Newton-Schulz iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(FAST)
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(matrix)


class Muon(torch.optim.Optimizer):
    """For weights of two and more dimensions; the first dimension is the output."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                buffer = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                buffer.lerp_(weight.grad, 1 - group["momentum"])
                step = weight.grad.lerp(buffer, group["momentum"]).flatten(1)
                scale = max(1.0, step.shape[0] / step.shape[1]) ** 0.5
                step = orthogonalise(step).view_as(weight)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(step, alpha=-group["lr"] * scale)


class Optimizers:
    """Both optimizers as one, with a common factor on their rates."""

    def __init__(
        self, network: nn.Module, outer: tuple[str, ...], muon: float, adam: float, decay: float = 0
    ):
        """`outer`: how the names of matrices begin that are not Muon's (first and last layers)."""
        inner, others = [], []
        for name, weight in network.named_parameters():
            (inner if weight.ndim >= 2 and not name.startswith(outer) else others).append(weight)
        self.parts: list[torch.optim.Optimizer] = [
            Muon(inner, lr=muon, weight_decay=decay),
            torch.optim.AdamW(others, lr=adam, betas=(0.9, 0.99), weight_decay=0.0),
        ]
        self.rates = [muon, adam]

    def step(self, factor: float) -> None:
        """One step at the full rates times `factor`; the gradients are cleared."""
        for part, rate in zip(self.parts, self.rates, strict=True):
            part.param_groups[0]["lr"] = rate * factor
            part.step()
            part.zero_grad()

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
