"""What guidance did: one row for each model call, one record for each run."""

from typing import NamedTuple

from .config import GuidanceConfig

__all__ = ["RunTrace", "TraceRow"]


class TraceRow(NamedTuple):
    """What guidance found and did at one model call.

    Attributes:
        sigma: σ of the call.
        progress: The share of the schedule's steps that lie behind, in [0, 1].
        mmd2_before: Biased MMD² between the references and what is compared with them, finished samples
            included: x̂0 with the spread it lacks in `flow`, the noisy latent in the published modes.
        mmd2_after: The same after guidance.
        change: How far guidance moves a sample in this step, the mean over samples, relative to the
            distance of a reference from their mean.
        substeps: How many sub-steps were integrated; 0 where guidance only looked on.
        relative: How far guidance moves a sample relative to the sampler's own (Euler) step, the mean
            over samples.
        saturated: The share of kernel values between samples and references that tell nothing, in [0, 1].
        nearest: The distance of a sample from its nearest reference after guidance, the mean over samples,
            relative to that between a reference and the nearest other one (`nearest.py`); NaN for patches.
    """

    sigma: float
    progress: float
    mmd2_before: float
    mmd2_after: float
    change: float
    substeps: int
    relative: float
    saturated: float
    nearest: float


class RunTrace(NamedTuple):
    """What guidance did in one sampling run.

    Attributes:
        config: What was set.
        batch: How many samples were drawn, B.
        references: How many references there were, N.
        rows: One for each model call.
        mmd2: MMD² between the finished samples (of earlier runs too, where these count) and the
            references; unbiased if there are at least two of each.
        nearest: The index of the reference nearest to each sample of this run.
        distances: How far each sample is from it, in units as in `TraceRow`.
    """

    config: GuidanceConfig
    batch: int
    references: int
    rows: tuple[TraceRow, ...]
    mmd2: float
    nearest: tuple[int, ...]
    distances: tuple[float, ...]

    @property
    def acted(self) -> tuple[TraceRow, ...]:
        """The calls at which guidance did not just look on."""
        return tuple(row for row in self.rows if row.substeps)
