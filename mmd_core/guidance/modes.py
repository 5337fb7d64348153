"""What each mode of guidance makes of a batch, as a change of x̂0; `guidance.py` describes them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..comparison.by_features import Compared
from ..comparison.by_patches import Patched
from ..comparison.coupling import Coupling
from ..comparison.noise import Step

if TYPE_CHECKING:
    from .guidance import Guidance

__all__ = ["MODES", "Move", "norms", "seen"]

MAX_REACH = 50.0  # λ · rate of one step: by then the flow has come to rest, and would only copy


class Move(NamedTuple):
    """Where guidance found the compared samples, where it leaves them, and the change of x̂0.

    The change is `scale · displacement`, with one scale for each sample of this worker, with shape `(b,)`.
    """

    start: Compared | Patched
    end: Compared | Patched
    displacement: Tensor | None
    scale: Tensor
    substeps: int = 1

    @property
    def lengths(self) -> Tensor:
        """How long the displacement of each sample is, with shape `(b,)`."""
        return norms(self.displacement)


def norms(x: Tensor) -> Tensor:
    """‖x_i‖ of each sample, with shape `(b,)`."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def seen(run: "Guidance", x0: Tensor, x: Tensor, sigma: float) -> Compared | Patched:
    """What the mode compares with the references, as it is."""
    if run.config.mode == "flow":
        return run.comparison.start(x0, _residual(run, x0, x, sigma), sigma)
    return run.comparison.as_it_is(x.to(x0) * run.noise.published_scale(sigma), sigma)


def _residual(run: "Guidance", x0: Tensor, x: Tensor, sigma: float) -> Tensor | None:
    """x − x̂0 with x per unit of signal; None where there is no signal."""
    signal = run.noise.signal(sigma)
    return torch.sub(x, x0, alpha=signal).div_(signal) if signal > 0 else None


def _flow(run: "Guidance", x0: Tensor, x: Tensor, step: Step, coupling: Coupling) -> Move:
    """w' = −Ĝ(w) from x̂0 for the time λ · rate; an Euler step then moves x by exactly w − x̂0.

    `preserve` p keeps that below (1 − p)/p of how far the model's own step moves a sample.
    """
    residual = _residual(run, x0, x, step.sigma)
    own = None if residual is None else norms(residual)
    start = run.comparison.start(x0, residual, step.sigma)
    del residual  # as large as the batch
    end, substeps = start.flowed(coupling, min(run.config.strength * step.rate, MAX_REACH))
    displacement = end.displacement()
    share = torch.ones(len(x0)).to(run.weights)
    preserve = run.config.preserve
    if preserve > 0 and own is not None:
        ahead = 1 - run.noise.level(step.sigma_next) / run.noise.level(step.sigma)
        bound = (1 - preserve) / preserve * ahead * own
        share = (bound / norms(displacement).clamp_min(1e-30)).clamp_max(1)
        if run.record:
            end = end.shortened(run.workers.gather(share))
    return Move(start, end, displacement, share * (step.signal / step.fraction), substeps)


def _paper(run: "Guidance", x0: Tensor, x: Tensor, step: Step, coupling: Coupling) -> Move:
    """−λ ∂MMD²/∂z at the noisy latent z."""
    z = x.to(x0) * run.noise.published_scale(step.sigma)
    return _published_move(run, z, step, coupling, lambda grad: run.config.strength)


def _official(run: "Guidance", x0: Tensor, x: Tensor, step: Step, coupling: Coupling) -> Move:
    """−α · g / (‖g‖ + 1e-5) · ‖z‖ at the latent z that an Euler step arrives at.

    As in the authors' code, a single image without finished ones before it is not guided.
    """
    z = torch.lerp(x0, x.to(x0), step.sigma_next / step.sigma)
    z.mul_(run.noise.published_scale(step.sigma_next))
    alone = len(coupling.p) == 1 and run.memory is None
    lengths = norms(z)
    return _published_move(
        run,
        z,
        step,
        coupling,
        lambda grad: run.config.strength * (not alone) * lengths / (norms(grad) + 1e-5),
    )


def _published_move(
    run: "Guidance",
    z: Tensor,
    step: Step,
    coupling: Coupling,
    rate: Callable[[Tensor], Tensor | float],
) -> Move:
    """z ← z − rate(g) · g with g = ∂MMD²/∂z, and the change of x̂0 that makes an Euler step do so."""
    start = end = run.comparison.as_it_is(z, step.sigma)
    kernel = run.comparison.kernel
    by = coupling.velocity(kernel, start.w.gram, in_units=False) * -coupling.p[:, None]
    grad = start.moved(by).displacement()
    rates = torch.as_tensor(rate(grad)).to(z).expand(len(z))
    if run.record:
        end = start.moved(-run.workers.gather(rates)[:, None] * by)
    carried = run.noise.published_scale(step.sigma_next) * step.fraction
    return Move(start, end, grad, -rates / carried)


MODES = {"flow": _flow, "paper": _paper, "official": _official}
