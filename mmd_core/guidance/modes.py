"""The modes of guidance: how each changes x̂0. `guidance.py` gives the formulas.

Everything that differs between modes is here, so nothing else compares names of modes.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..comparison.by_features import Compared, FeatureComparison, Pulls
from ..comparison.by_patches import PatchComparison, Patched
from ..comparison.coupling import Coupling
from ..comparison.noise import NoiseModel, Step
from ..kernels.config import KernelConfig
from .memory import Memory

__all__ = ["MODES", "Mode", "Move", "Run", "norms"]

MAX_REACH = 50.0  # largest λ · rate of one step: the flow then rests, and more copies references
GROUP_SHARE = 0.5  # least share in P̂ of the samples being drawn; finished samples have the rest
OFFICIAL_LIMIT = 100  # remembered samples at which the authors' code forgets all but the last
EPSILON = 1e-5  # added to the norm of the gradient, as in the authors' code
TINY = 1e-30  # prevents division by 0
# Published steps have no bound: with too much strength, samples go farther at each step until
# numbers overflow. The longest step, in standard deviations of noise, and the longest gradient:
FARTHEST, STEEPEST = 1e5, 1e18

RBF, POLYNOMIAL = KernelConfig(), KernelConfig("polynomial")
UNIT_RBF = KernelConfig("rbf", "fixed", 0.75, (1.0,))  # of the authors' code; for unit length


class Strength(Protocol):
    """The settings that a mode uses."""

    strength: float
    preserve: float


class Run(Protocol):
    """The part of `Guidance` that a mode uses."""

    config: Strength
    comparison: FeatureComparison | PatchComparison
    noise: NoiseModel
    weights: Tensor
    memory: Memory | None
    record: bool


class Move(NamedTuple):
    """What guidance does in one step. The change of x̂0 is `scale · displacement`.

    Attributes:
        start: The samples before guidance.
        end: The samples after guidance.
        displacement: With shape `(B, *shape)`; None where guidance does not act.
        scale: One factor for each sample, with shape `(B,)`.
        substeps: The number of sub-steps; 0 where guidance does not act.
    """

    start: Compared | Patched
    end: Compared | Patched
    displacement: Tensor | None
    scale: Tensor
    substeps: int = 1

    @property
    def lengths(self) -> Tensor:
        """The length of each sample's displacement, with shape `(B,)`."""
        return norms(self.displacement)


def norms(x: Tensor) -> Tensor:
    """‖x_i‖ of each sample, with shape `(B,)`."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


@dataclass(frozen=True)
class Mode:
    """One way to guide.

    Attributes:
        features: Whether it can compare features of latents, not only whole latents.
        companions: Whether each image of a small batch may follow a reference of its own.
        balanced: Whether prompt weights are balanced between samples and references.
        contrast: Whether base images can be compared with.
        keeps_prompt: Whether a move leaves out what would take the prompt back.
        kernel: The kernel that it uses if the user chooses none.
        unit_length: Whether latents are compared after each was divided by its length.
    """

    features: bool = False
    companions: bool = False
    balanced: bool = False
    contrast: bool = False
    keeps_prompt: bool = False
    kernel: KernelConfig = RBF
    unit_length: bool = False

    def recalled(self, memory: Memory) -> Memory:
        """The part of the memory that counts for the next samples."""
        return memory

    def share(self, batch: int, finished: int) -> float:
        """The weight that all samples being drawn have together in P̂."""
        return batch / (batch + finished)

    def memory_weights(self, batch: int, finished: int) -> tuple[float, float]:
        """The weight in P̂ of each sample being drawn, and of each finished sample.

        The weights of all samples sum to 1.
        """
        share = self.share(batch, finished)
        return share / batch, (1 - share) / finished if finished else 0.0

    def seen(self, run: Run, x0: Tensor, x: Tensor, sigma: float) -> Compared | Patched:
        """The samples as this mode compares them with the references, before any move."""
        raise TypeError("a mode defines `seen`")

    def move(self, run: Run, x0: Tensor, x: Tensor, step: Step, pulls: Pulls) -> Move:
        """The change of x̂0 at one model call.

        Arguments:
            x0: The denoised estimates, with shape `(B, *shape)`.
            x: The noisy samples, with the same shape.
            step: The sampler's step.
            pulls: What moves the samples: in published modes the coupling of all samples,
                references and finished samples.
        """
        raise TypeError("a mode defines `move`")


class Flow(Mode):
    """w' = −Ĝ(w) from x̂0 for the time λ · rate.

    An Euler step of the sampler then moves x by exactly w − x̂0. With `preserve` p, guidance moves a
    sample at most (1 − p)/p times as far as the model's own step does.
    """

    def share(self, batch: int, finished: int) -> float:
        """The group being drawn has a share of at least `GROUP_SHARE`.

        Otherwise a memory that matches the references would leave the next group unguided. A single
        image counts like any other, because no other images push it away from the average.
        """
        share = super().share(batch, finished)
        return max(share, GROUP_SHARE) if batch > 1 else share

    def seen(self, run: Run, x0: Tensor, x: Tensor, sigma: float) -> Compared | Patched:
        return run.comparison.start(x0, _residual(run, x0, x, sigma), sigma)

    def move(self, run: Run, x0: Tensor, x: Tensor, step: Step, pulls: Pulls) -> Move:
        residual = _residual(run, x0, x, step.sigma)
        own = None if residual is None else norms(residual)
        start = run.comparison.start(x0, residual, step.sigma)
        del residual  # as large as the batch
        end, substeps = start.flowed(pulls, min(run.config.strength * step.rate, MAX_REACH))
        displacement = end.displacement()
        preserve = run.config.preserve
        if preserve == 0 or own is None:
            share = run.weights.new_ones(len(x0))
        else:
            ahead = 1 - run.noise.level(step.sigma_next) / run.noise.level(step.sigma)
            bound = (1 - preserve) / preserve * ahead * own
            share = (bound / norms(displacement).clamp_min(TINY)).clamp_max(1)
            if run.record:
                end = end.shortened(share)
        return Move(start, end, displacement, share * (step.signal / step.fraction), substeps)


class Published(Mode):
    """z := z − rate(g) · g with g = ∂MMD²/∂z, at a noisy latent z."""

    def seen(self, run: Run, x0: Tensor, x: Tensor, sigma: float) -> Compared | Patched:
        return run.comparison.as_it_is(x.to(x0) * run.noise.published_scale(sigma))

    def latent(self, run: Run, x0: Tensor, x: Tensor, step: Step) -> Tensor:
        """z, with shape `(B, *shape)`."""
        raise TypeError("a published mode defines `latent`")

    def rates(self, run: Run, z: Tensor, grad: Tensor, coupling: Coupling) -> Tensor:
        """The step length of each sample along the gradient, with shape `(B,)`."""
        raise TypeError("a published mode defines `rates`")

    def move(self, run: Run, x0: Tensor, x: Tensor, step: Step, coupling: Coupling) -> Move:
        z = self.latent(run, x0, x, step)
        start = end = run.comparison.as_it_is(z)
        kernel = run.comparison.kernel
        by = coupling.velocity(kernel, start.w.gram, in_units=False) * -coupling.p[:, None]
        length = by.abs() @ start.w.gram.sq_z.clamp_min(0).sqrt()  # at least that of the gradient
        by = by * (STEEPEST / length.clamp_min(TINY)).clamp_max(1)[:, None]
        grad = start.moved(by).displacement()
        farthest = FARTHEST * math.sqrt(z[0].numel()) / norms(grad).clamp_min(TINY)
        rates = self.rates(run, z, grad, coupling).minimum(farthest)
        if run.record:
            end = start.moved(-rates[:, None] * by)
            if self.unit_length:  # what moved is z, not what is compared
                end = start.at(grad * -rates.reshape(-1, *[1] * (grad.ndim - 1)))
        carried = run.noise.published_scale(step.sigma_next) * step.fraction  # of x̂0 into z
        return Move(start, end, grad, -rates / carried)


class Paper(Published):
    """−λ ∂MMD²/∂z at the noisy latent z of this call."""

    def latent(self, run: Run, x0: Tensor, x: Tensor, step: Step) -> Tensor:
        return x.to(x0) * run.noise.published_scale(step.sigma)

    def rates(self, run: Run, z: Tensor, grad: Tensor, coupling: Coupling) -> Tensor:
        return z.new_full((len(z),), run.config.strength)


class Official(Published):
    """−α · g / (‖g‖ + 1e-5) · ‖z‖ at the latent z at which an Euler step arrives.

    As in the authors' code, a single image is not guided if none was finished before it. With
    `unit_length`, their option `l2norm_img`, it is also as in their code: g is the gradient with
    respect to z/‖z‖, and z moves along it as it is. The gradient with respect to z would have no
    part along z.
    """

    def recalled(self, memory: Memory) -> Memory:
        """As in the authors' code: at 100 samples all but the last are forgotten.

        Then the memory grows again.
        """
        n = len(memory.latents)
        if n < OFFICIAL_LIMIT:
            return memory
        return memory.last((n - OFFICIAL_LIMIT) % (OFFICIAL_LIMIT - 1) + 1)

    def latent(self, run: Run, x0: Tensor, x: Tensor, step: Step) -> Tensor:
        z = torch.lerp(x0, x.to(x0), step.sigma_next / step.sigma)
        return z.mul_(run.noise.published_scale(step.sigma_next))

    def rates(self, run: Run, z: Tensor, grad: Tensor, coupling: Coupling) -> Tensor:
        alone = len(coupling.p) == 1 and run.memory is None
        return run.config.strength * (not alone) * norms(z) / (norms(grad) + EPSILON)


def _residual(run: Run, x0: Tensor, x: Tensor, sigma: float) -> Tensor | None:
    """x − x̂0 with x per unit of signal, with shape `(B, *shape)`; None where there is no signal."""
    signal = run.noise.signal(sigma)
    if signal == 1:
        return x - x0
    return torch.sub(x, x0, alpha=signal).div_(signal) if signal > 0 else None


_FLOW = Flow(features=True, companions=True, balanced=True, contrast=True)
MODES = {
    "flow": _FLOW,
    "paper": Paper(),
    "official": Official(kernel=POLYNOMIAL),
    "keep_prompt": replace(_FLOW, keeps_prompt=True),
    "official_l2norm": Official(kernel=UNIT_RBF, unit_length=True),
}
