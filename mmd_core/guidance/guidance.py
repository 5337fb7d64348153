"""MMD guidance: x̂0 follows the gradient of MMD² between the batch being drawn and the references.

Modes, with z the noisy latent and Ĝ the gradient of `coupling.py`
    flow         w := w − λ·Ĝ(w) from x̂0, integrated in log-noise time, so that strength λ is a
                 rate per unit of ln σ and hardly depends on the number of steps; x̂0 stands for
                 the samples that it is the mean of (`posterior.py`)
    keep_prompt  flow without what takes the prompt back (`by_prompt.py`); new nodes begin with it
    paper        equation 5: the gradient at the noisy latent, z := sampler(z) − λ ∂MMD²/∂z
    official     the authors' code: the gradient at the latent at which the step arrives,
                 normalised, z := z − α · g / (‖g‖ + 1e-5) · ‖z‖
    official_l2norm  the same with their option `l2norm_img`: latents are compared at unit length

Each is expressed as a change of x̂0; an Euler step from σ to σ' carries it into x by 1 − σ'/σ.

References:
    Sani, Jamali, Jalali, Farnia, Training-Free Distribution Adaptation for Diffusion Models via
    Maximum Mean Discrepancy Guidance, 2026. https://arxiv.org/abs/2601.08379
"""

import math

import torch
from torch import Tensor

from ..comparison.by_features import Compared, FeatureComparison, Pulls
from ..comparison.by_patches import PatchComparison
from ..comparison.coupling import Coupling
from ..comparison.feature_maps import UnitLength
from ..comparison.latents import Latents
from ..comparison.noise import Step, euler_carry
from ..kernels.kernels import Gram
from ..kernels.precision import full_precision
from ..kernels.transfers import placed
from .by_prompt import ByPrompt
from .companions import Finished, companions, followed, is_open, nearest_companions
from .config import GuidanceConfig
from .contrast import Base, check_base
from .couplings import Couplings
from .measured import NotFinite, measured
from .memory import Memory
from .modes import Move, norms
from .schedule import PLAIN, Course, Execution, Schedule
from .trace import RunTrace, TraceRow

__all__ = ["Guidance", "NotFinite"]


class Guidance:
    """Guidance of one sampling run. Make a new one for each run.

    Arguments:
        config: What the user set.
        references: References in the space of the samples, with shape `(N, *shape)`.
        schedule: The noise levels of the run.
        memory: Samples finished earlier that count as drawn together with the batch, or None.
        captions: Prompt features of the references, with shape `(N, E)`, if the kernel compares
            prompts.
        execution: How guidance is carried out.
        base: What the model itself draws for the captions of the references. Samples then follow
            the contrast of both (`contrast.py`).
        known: Companions that an earlier run of these samples chose (`unfinished.py`), negative
            where it chose none, with shape `(B,)`; or None.
        alike: How alike the kept part of each sample is to the references (`kept.py`), with shape
            `(B, N)`; or None.
        begun: The pictures from which the run starts, with shape `(B, *shape)`; None if it starts
            from noise, or goes on.

    Attributes:
        trace: One row for each model call, if `execution.record`.
        chosen: The index of each sample's companion, with shape `(B,)`; empty before the first
            guided call.
    """

    @full_precision()
    def __init__(
        self,
        config: GuidanceConfig,
        references: Latents,
        schedule: Schedule,
        memory: Memory | None = None,
        captions: Tensor | None = None,
        execution: Execution = PLAIN,
        base: Base | None = None,
        known: Tensor | None = None,
        alike: Tensor | None = None,
        begun: Tensor | None = None,
    ) -> None:
        check_base(config, base)
        self.config, self.schedule, self.noise = config, schedule, schedule.noise
        self.course = Course(schedule)
        self.mode, self.captions = config.rules, captions
        self.record, self.workers = execution.record, execution.workers
        self.memory = None if memory is None else self.mode.recalled(memory)
        self.weights, self.spread = references.weights, references.spread
        self.trace: list[TraceRow] = []
        self.chosen = torch.empty(0, dtype=torch.long)
        self.base, self.known, self.begun = base, known, begun
        alike = None if alike is None else self.workers.gather(alike)
        self.couplings = Couplings(config, self.weights, captions, self.memory, base, alike)
        parts = [part.latents for part in (self.memory, base) if part is not None]
        added = torch.cat([placed(part, self.weights) for part in parts]) if parts else None
        self.workers.agree(
            self.weights.device,
            references=len(references),
            remembered=0 if added is None else len(added),
            strength=config.strength,
            record=self.record,
        )
        kernel = config.kernel_config
        if config.patches:
            self.comparison = PatchComparison(kernel, references, added, execution.check)
        else:
            budget = self.workers.least(execution.budget, self.weights.device)
            self.comparison = FeatureComparison(
                kernel,
                references,
                self.noise,
                added,
                budget,
                each=base is not None,
                check=execution.check,
                features=UnitLength() if self.mode.unit_length else None,
            )

    @full_precision()
    def __call__(
        self,
        x0: Tensor,
        x: Tensor,
        sigma: float,
        prompts: Tensor | None = None,
        by_prompt: ByPrompt | None = None,
    ) -> Tensor:
        """The guided x̂0, with the shape of `x0`.

        Arguments:
            x0: The model's estimate of the clean samples, with shape `(b, *shape)`.
            x: The noisy samples, with the same shape.
            sigma: Their noise level.
            prompts: Prompt features of the samples, with shape `(b, E)`, if the kernel compares
                prompts.
            by_prompt: How the prompt moved `x0`, to record how guidance compares with it.

        Raises:
            NotFinite: If `record`, and `x0` or `x` is not finite.
        """
        self._agree(x0, sigma, prompts)
        self.course.reach(sigma)
        step = self._step(sigma)
        if step is None and not self.record:
            return x0
        gather = self.workers.gather
        prompts = None if prompts is None else gather(prompts)
        by_prompt = None if by_prompt is None else by_prompt.gathered(gather)
        guided = self._guided(gather(x0), gather(x), sigma, step, prompts, by_prompt)
        return self.workers.share(guided)

    def _guided(
        self,
        x0: Tensor,
        x: Tensor,
        sigma: float,
        step: Step | None,
        prompts: Tensor | None,
        by_prompt: ByPrompt | None,
    ) -> Tensor:
        """The guided x̂0 of the whole batch; arguments as in `__call__`."""
        coupling = self.couplings.of(len(x0), prompts)
        x0_ = x0.to(self.weights)
        own = norms(x - x0_) if self.record else None  # first: it takes as much as the batch
        if step is None:
            start = self.mode.seen(self, x0_, x, sigma)
            move = Move(start, start, None, self.weights.new_zeros(len(x0)), 0)
        else:
            move = self.mode.move(self, x0_, x, step, self._pulls(coupling, x0_, x, sigma, prompts))
        carried = 1.0 if step is None else euler_carry(step) / self.schedule.carry(step)
        factors = move.scale if carried == 1 else move.scale * carried
        if self.mode.keeps_prompt and by_prompt is not None and step is not None:
            by_prompt.kept(move.displacement, factors)
            if self.record and isinstance(move.end, Compared):
                share = _per_sample(move.scale * (step.fraction / step.signal), x0)
                move = move._replace(end=move.start.at(share * move.displacement))
        if self.record:
            compared = self.weights.new_full((2,), math.nan)
            if by_prompt is not None and step is not None:
                compared = by_prompt.compared(move.displacement, factors, own)
            self.trace.append(
                measured(sigma, self.course, step, move, coupling, own, compared, self.spread)
            )
        if step is None:
            return x0
        change = move.displacement.mul_(_per_sample(factors, x0))
        return change.add_(x0_).to(x0.dtype)

    @full_precision()
    def finished(self, samples: Tensor, together: Tensor | None = None) -> RunTrace:
        """What was done in this run, at its end.

        Arguments:
            samples: The finished samples of this run, with shape `(b, *shape)`.
            together: All finished samples that count as one batch with them. None: those of this
                run.
        """
        self._agree(samples, 0.0)
        together = self.workers.gather(samples) if together is None else together
        unbiased = min(len(together), len(self.weights)) > 1
        index, distances = self.comparison.nearest(samples)
        mmd2 = self.comparison.mmd2(together, unbiased)
        # Read in one transfer; fp32 holds every index that occurs.
        numbers = torch.cat([mmd2[None], distances, index.to(distances)]).tolist()
        return RunTrace(
            self.config,
            len(samples) * self.workers.size,
            len(self.weights),
            tuple(self.trace),
            numbers[0],
            tuple(map(int, numbers[1 + len(index) :])),
            tuple(numbers[1 : 1 + len(index)]),
        )

    def unfinished(self, batch: int) -> RunTrace:
        """What was done in this run, which leaves noise in its samples.

        Arguments:
            batch: The number of samples of this run.
        """
        drawn, references = batch * self.workers.size, len(self.weights)
        return RunTrace(self.config, drawn, references, tuple(self.trace))

    def _agree(self, x: Tensor, sigma: float, prompts: Tensor | None = None) -> None:
        self.workers.agree(
            self.weights.device,
            samples=len(x),
            sizes=x[0].numel(),
            sigmas=sigma,
            prompts=0 if prompts is None else prompts.shape[1],
        )

    def _step(self, sigma: float) -> Step | None:
        """The step at which guidance acts; None where it does not."""
        if self.config.strength == 0:
            return None
        if self.config.companions:
            schedule = self.schedule
            first = None if schedule.goes_on else max(schedule.sigmas, default=sigma)
            if not is_open(self.comparison.posterior, sigma, first):
                return None
        return self.course.step(sigma)

    def _pulls(
        self, coupling: Coupling, x0: Tensor, x: Tensor, sigma: float, prompts: Tensor | None
    ) -> Pulls:
        """What moves the samples."""
        if self.base is not None:
            return self.couplings.contrast(prompts, self.comparison)
        if self.config.companions:
            return self._to_companions(coupling, x0, x, sigma)
        return coupling

    def _to_companions(self, coupling: Coupling, x0: Tensor, x: Tensor, sigma: float) -> Coupling:
        """A coupling in which each sample is compared with its companion alone."""
        if not len(self.chosen):
            self.chosen = self._companions(coupling, x0, x, sigma)
        return followed(coupling, self.chosen, self.weights)

    def _companions(self, coupling: Coupling, x0: Tensor, x: Tensor, sigma: float) -> Tensor:
        """The companions that are known, else those that pictures or the noise decide."""
        n, known = len(self.weights), self.known
        if known is not None and (known >= 0).all():
            return placed(known, x0, known.dtype)
        weights = self.weights.expand(len(x0), n)
        if coupling.wz is not None:
            alike = coupling.wz[:, :n]
            weights = torch.where((alike > 0).any(1).all(), weights * alike, weights)
        if self.begun is not None:
            pictures = self.workers.gather(self.begun)
            return nearest_companions(self.comparison.distances(pictures), weights)
        noise = (x - self.noise.signal(sigma) * x0) / self.noise.deviation(sigma)
        drawn = companions(noise, weights, self._finished_for_companions(coupling))
        if known is None:
            return drawn
        known = placed(known, drawn)
        return torch.where(known < 0, drawn, known)

    def _finished_for_companions(self, coupling: Coupling) -> Finished | None:
        space, n = self.comparison.space, len(self.weights)
        if self.memory is None or space.gram is None:
            return None
        values = self.comparison.kernel.values(Gram.within(space.gram))[:n]
        values = values if coupling.zz is None else values * coupling.zz[:n]
        return Finished(values[:, n:], values[:, :n], self.weights)


def _per_sample(factors: Tensor, x: Tensor) -> Tensor:
    return factors.reshape(-1, *[1] * (x.ndim - 1))
