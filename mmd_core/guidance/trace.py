"""What guidance did: one row for each model call, one record for each run."""

from typing import NamedTuple

from .config import GuidanceConfig

__all__ = ["RunTrace", "TraceRow"]


class TraceRow(NamedTuple):
    """What guidance measured and did at one model call.

    Attributes:
        sigma: σ of the call.
        progress: The share of the schedule's steps before this call, in [0, 1].
        mmd2_before: Biased MMD² between samples (finished ones included) and references. `flow`
            compares x̂0 with its posterior variance added, the published modes compare the noisy
            latent.
        mmd2_after: The same after guidance.
        change: How far guidance moves a sample in this step, divided by the spread of the
            references; the mean over samples.
        substeps: How many sub-steps were integrated; 0 where guidance did not act.
        relative: How far guidance moves a sample, divided by the length of the sampler's own
            (Euler) step; the mean over samples.
        saturated: The share of saturated kernel values between samples and references, in [0, 1].
        nearest: The distance of a sample from its nearest reference after guidance, divided by the
            spacing of the references (`nearest.py`); the mean over samples. NaN for patches.
        by_prompt: How far guidance moves x̂0, divided by how far the prompt (cfg) moves it
            (`by_prompt.py`). None where guidance did not act, or the model was not called without
            the prompt.
        along_prompt: The part of that move along the prompt's: 1 doubles it, −1 takes it back.
            None as for `by_prompt`.
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
    by_prompt: float | None = None
    along_prompt: float | None = None


class RunTrace(NamedTuple):
    """What guidance did in one sampling run.

    Attributes:
        config: The settings.
        batch: How many samples were drawn, B.
        references: How many references there were, N.
        rows: One for each model call.
        mmd2: MMD² between the finished samples (remembered ones included) and the references;
            unbiased if there are at least two of each. None if the run left noise in its samples:
            these are not judged.
        nearest: The index of the reference nearest to each finished sample of this run.
        distances: The distance of each finished sample from that reference, in the unit of
            `TraceRow.nearest`.
        again: Whether these samples were finished before, in another part.
    """

    config: GuidanceConfig
    batch: int
    references: int
    rows: tuple[TraceRow, ...]
    mmd2: float | None = None
    nearest: tuple[int, ...] = ()
    distances: tuple[float, ...] = ()
    again: bool = False

    @property
    def finished(self) -> bool:
        """Whether no noise is left in the samples."""
        return self.mmd2 is not None

    @property
    def acted(self) -> tuple[TraceRow, ...]:
        """The calls at which guidance acted."""
        return tuple(row for row in self.rows if row.substeps)
