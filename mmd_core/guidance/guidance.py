"""MMD guidance: x̂0 follows the gradient of MMD² between the batch being drawn and the references.

Modes, with z the noisy latent and Ĝ the gradient of `coupling.py`
    flow      the default: w ← w − λ·Ĝ(w) from x̂0, integrated in log-noise time, so that strength λ is a
              rate per unit of ln σ and hardly depends on the number of steps; x̂0 stands for the
              samples that it is the mean of (`posterior.py`)
    paper     equation 5: the gradient at the noisy latent, z ← sampler(z) − λ ∂MMD²/∂z
    official  the authors' code: the gradient at the latent that the step arrives at, normalised,
              z ← z − α · g / (‖g‖ + 1e-5) · ‖z‖

Each is expressed as a change of x̂0; an Euler step from σ to σ' carries it into x by 1 − σ'/σ.

References:
    Sani, Jamali, Jalali, Farnia, Training-Free Distribution Adaptation for Diffusion Models via Maximum
    Mean Discrepancy Guidance, 2026. https://arxiv.org/abs/2601.08379
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..comparison.by_features import FeatureComparison
from ..comparison.by_patches import PatchComparison
from ..comparison.coupling import Coupling
from ..comparison.latents import Latents
from ..comparison.noise import (
    NoiseModel,
    Step,
    Window,
    euler_carry,
)
from ..comparison.workers import ALONE, Workers
from ..kernels.kernels import Gram
from ..kernels.precision import full_precision
from ..kernels.prompts import balanced, caption_bandwidth, prompt_weights
from .companions import OPEN, Finished, companions
from .config import GuidanceConfig
from .memory import Memory
from .modes import Move, norms
from .trace import RunTrace, TraceRow

__all__ = ["Guidance", "NotFinite"]


class NotFinite(ValueError):
    """An estimate that is NaN or infinite, which would spoil the whole batch: all its samples see each other.

    Attributes:
        sigma: The noise level.
        images: The samples of all workers whose it is, counted from 1.
    """

    def __init__(self, sigma: float, images: list[int]):
        self.sigma, self.images = sigma, images
        which = ", ".join(map(str, images))
        super().__init__(f"the estimate at sigma {sigma:g} is NaN or infinite for samples {which}")


class Guidance:
    """Guidance of one sampling run; it dies with the run.

    Arguments:
        config: What the user set.
        references: References in the space of the samples, with shape `(N, *shape)`.
        sigmas: The noise schedule of the run, decreasing.
        window: Where guidance acts.
        noise: The model's noise.
        memory: Samples finished earlier.
        prompts: Prompt features of the references, with shape `(N, E)`, for a prompt kernel.
        record: Whether to keep a trace.
        carry: By which factor a change of x̂0 enters x in one step of the sampler; an Euler step's by default.
        budget: How many bytes of the device the references may take; beyond, they are streamed to it.
        workers: Those that the batch is drawn by; all make the same calls.
    """

    @full_precision()
    def __init__(
        self,
        config: GuidanceConfig,
        references: Latents,
        sigmas: Sequence[float],
        window: Window,
        noise: NoiseModel,
        memory: Memory | None = None,
        prompts: Tensor | None = None,
        record: bool = False,
        carry: Callable[[Step], float] = euler_carry,
        budget: float = math.inf,
        workers: Workers = ALONE,
    ):
        self.config, self.sigmas, self.window, self.noise = config, list(sigmas), window, noise
        self.mode = config.rules
        self.memory = None if memory is None else self.mode.recalled(memory)
        self.prompts, self.record, self.carry, self.workers = prompts, record, carry, workers
        self.weights = references.weights
        self.trace: list[TraceRow] = []
        self.chosen: Tensor | None = None  # each sample's companion
        # The last one, and of what.
        self.couplings: tuple[int, Tensor | None, Coupling] | None = None
        finished = None if self.memory is None else self.memory.latents.to(self.weights)
        workers.agree(
            self.weights.device,
            references=len(references),
            remembered=0 if finished is None else len(finished),
            strength=config.strength,
            record=record,
        )
        kernel = config.kernel_config
        if config.patches:
            self.comparison = PatchComparison(kernel, references, finished, workers)
        else:
            self.comparison = FeatureComparison(
                kernel, references, noise, finished, budget, workers
            )
        self.spread = references.spread

    @full_precision()
    def __call__(
        self, x0: Tensor, x: Tensor, sigma: float, prompts: Tensor | None = None
    ) -> Tensor:
        """The guided x̂0.

        Arguments:
            x0: The model's estimate of the clean samples, with shape `(B, *shape)`.
            x: The noisy samples, with the same shape.
            sigma: Their noise level.
            prompts: Prompt features of the samples, with shape `(B, E)`, for a prompt kernel.

        Raises:
            NotFinite: If `record`, and `x0` or `x` is not finite.
        """
        self._agree(x0, sigma, prompts)
        step = self._step(sigma)
        if step is None and not self.record:
            return x0
        coupling = self._coupling(len(x0) * self.workers.size, prompts)
        x0_ = x0.to(self.weights)
        own = norms(x - x0_) if self.record else None  # first: it takes as much as the batch
        if step is None:
            start = self.mode.seen(self, x0_, x, sigma)
            move = Move(start, start, None, self.weights.new_zeros(len(x0)), 0)
        else:
            pulls = coupling
            if self.config.companions:
                pulls = self._each_to_its_companion(coupling, x0_, x, sigma)
            move = self.mode.move(self, x0_, x, step, pulls)
        if self.record:
            self.trace.append(self._row(sigma, step, move, coupling, own))
        if step is None:
            return x0
        carried = euler_carry(step) / self.carry(step)
        change = move.displacement.mul_(_per_sample(move.scale * carried, x0))
        return change.add_(x0_).to(x0.dtype)

    @full_precision()
    def finished(self, samples: Tensor, together: Tensor | None = None) -> RunTrace:
        """What was done in this run, at its end.

        Arguments:
            samples: The finished samples of this run, with shape `(B, *shape)`.
            together: All finished samples that count as one batch with them; None for these alone.
        """
        self._agree(samples, 0.0)
        together = self.workers.gather(samples) if together is None else together
        unbiased = min(len(together), len(self.weights)) > 1
        index, distances = self.comparison.nearest(samples)
        return RunTrace(
            self.config,
            len(samples) * self.workers.size,
            len(self.weights),
            tuple(self.trace),
            self.comparison.mmd2(together, unbiased).item(),
            tuple(index.tolist()),
            tuple(distances.tolist()),
        )

    def _agree(self, x: Tensor, sigma: float, prompts: Tensor | None = None) -> None:
        features = 0 if prompts is None else prompts.shape[1]
        self.workers.agree(
            self.weights.device,
            samples=len(x),
            sizes=x[0].numel(),
            sigmas=sigma,
            prompts=features,
        )

    def _step(self, sigma: float) -> Step | None:
        """The step at which guidance acts; None where it does not."""
        if self.config.strength == 0:
            return None
        if self.config.companions and self.comparison.posterior.open(sigma) < OPEN:
            return None
        return Step.find(sigma, self.sigmas, self.window, self.noise)

    def _coupling(self, batch: int, prompts: Tensor | None) -> Coupling:
        """The weights of all rows for B samples, of which this worker's prompts have features `(b, E)`."""
        if prompts is not None:
            prompts = self.workers.gather(prompts)
        if self.couplings is not None:
            b, known, coupling = self.couplings
            same = known is prompts or (
                None not in (known, prompts) and torch.equal(known, prompts)
            )
            if b == batch and same:
                return coupling
        coupling = self._new_coupling(batch, prompts)
        self.couplings = batch, prompts, coupling
        return coupling

    def _new_coupling(self, batch: int, prompts: Tensor | None) -> Coupling:
        finished = 0 if self.memory is None else len(self.memory.latents)
        p, s = self.mode.memory_weights(batch, finished)
        p = self.weights.new_full((batch,), p)
        s = torch.cat([-self.weights, self.weights.new_full((finished,), s)])
        kernel = self.config.kernel_config
        if kernel.prompt_kernel == "none" or prompts is None:
            return Coupling(p, s)
        drawn = prompts if not finished else torch.cat([prompts, self.memory.prompts.to(prompts)])
        drawn, captions = drawn.to(self.weights), self.prompts.to(self.weights)
        bandwidth = kernel.prompt_bandwidth or caption_bandwidth(self.prompts)
        pairs = (drawn, drawn), (drawn, captions), (captions, captions)
        dd, dc, cc = (prompt_weights(kernel.prompt_kernel, a, b, bandwidth) for a, b in pairs)
        if self.mode.balanced:
            shares = torch.cat([p, s[len(captions) :]])
            dd, dc, cc = balanced(dd, dc, cc, shares, self.weights)
        across = dc[batch:].T
        zz = torch.cat([torch.cat([cc, across], 1), torch.cat([across.T, dd[batch:, batch:]], 1)])
        return Coupling(
            p, s, dd[:batch, :batch], torch.cat([dc[:batch], dd[:batch, batch:]], 1), zz
        )

    def _each_to_its_companion(
        self, coupling: Coupling, x0: Tensor, x: Tensor, sigma: float
    ) -> Coupling:
        """A coupling in which a sample sees nothing but the reference that its noise chose."""
        n = len(self.weights)
        batch = len(coupling.p)
        if self.chosen is None:
            weights = self.weights.expand(batch, n)
            if coupling.wz is not None and (coupling.wz[:, :n] > 0).any(1).all():
                weights = weights * coupling.wz[:, :n]
            noise = (x - self.noise.signal(sigma) * x0) / sigma
            finished = self._finished_for_companions(coupling)
            self.chosen = companions(self.workers.gather(noise), weights, finished)
        alone = torch.eye(batch).to(x0) / coupling.p  # a batch of one each
        only = torch.zeros(batch, len(coupling.s)).to(x0)
        only[torch.arange(batch), self.chosen] = 1 / self.weights[self.chosen]
        return Coupling(coupling.p, coupling.s, alone, only, coupling.zz)

    def _finished_for_companions(self, coupling: Coupling) -> Finished | None:
        space, n = self.comparison.space, len(self.weights)
        if self.memory is None or space.gram is None:
            return None
        values = self.comparison.kernel.values(Gram.within(space.gram))[:n]
        values = values if coupling.zz is None else values * coupling.zz[:n]
        return Finished(values[:, n:], values[:, :n], self.weights)

    def _row(
        self, sigma: float, step: Step | None, move: Move, coupling: Coupling, own: Tensor
    ) -> TraceRow:
        """What `move` did; `own` is ‖x − x̂0‖ of each sample, which an Euler step shortens by its fraction."""
        done = sum(s > sigma * (1 + 1e-5) for s in self.sigmas)
        ours = torch.zeros_like(own) if step is None else move.lengths * move.scale.abs()
        each = self.workers.gather(torch.stack([ours, ours / own.clamp_min(1e-30), own], 1))
        sizes = each.mean(0)
        before = move.start.mmd2(coupling)
        numbers = [  # told at once: each number asked of a GPU makes it wait
            before,
            before if step is None else move.end.mmd2(coupling),
            sizes[0] * (0 if step is None else step.fraction / self.spread),
            sizes[1],
            move.start.saturated(),
            move.end.nearest().mean(),
            sizes[2],
        ]
        before, after, change, relative, saturated, nearest, far = torch.stack(numbers).tolist()
        if not math.isfinite(far):
            bad = each[:, 2].isfinite().logical_not().nonzero().flatten()
            raise NotFinite(sigma, (bad + 1).tolist())
        progress = done / max(len(self.sigmas) - 1, 1)
        return TraceRow(
            sigma, progress, before, after, change, move.substeps, relative, saturated, nearest
        )


def _per_sample(factors: Tensor, x: Tensor) -> Tensor:
    return factors.reshape(-1, *[1] * (x.ndim - 1))
