"""The value of MMD_TRACE: what guidance did in the runs of one node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from comfy_execution.utils import get_executing_context

from ....mmd_core import GuidanceConfig, RunTrace, TraceRow
from ...base.remark import Remark


@dataclass
class Trace:
    """What guidance did, run by run: groups of one batch, stages of one drawing, or tiles.

    Arguments:
        config: The settings.
        names: The names of the references.
        warnings: Problems that were found before anything was drawn, in sentences.
        runs: One record for each run that has ended.
        prompt_id: The queued workflow to which the runs belong; None before the first run.
        remembered: How many images of a memory counted as drawn together with those of the first
            run.
        problems: Problems of the runs, apart from those that the records show.
        base: How many base images the references are contrasted with; 0 if there are none.
        resized: The heights and widths of latents to which the references were resized.
        frames: The number of frames of films that were compared with pictures; otherwise 1.
        masked: Whether a mask kept a part of the images, which was not compared.
    """

    config: GuidanceConfig
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    runs: list[RunTrace] = field(default_factory=list)
    prompt_id: str | None = None
    remembered: int = 0
    problems: list[Remark] = field(default_factory=list)
    base: int = 0
    resized: set[tuple[int, int]] = field(default_factory=set)
    frames: int = 1
    masked: bool = False

    def begin(self, frames: int = 1, masked: bool = False) -> None:
        """Begins a run. The first run of a queued workflow removes the records of earlier ones."""
        self.frames, self.masked = frames, masked
        context = get_executing_context()
        prompt_id = None if context is None else context.prompt_id
        if prompt_id != self.prompt_id:
            self.prompt_id, self.runs, self.remembered, self.problems = prompt_id, [], 0, []
            self.resized = set()

    def note(self, problem: Remark) -> bool:
        """Adds a problem of a run; returns whether it is new."""
        if problem in self.problems:
            return False
        self.problems.append(problem)
        return True

    def told(self, short: str) -> Callable[[str], None]:
        """A function that adds problems, given in sentences, under this name."""

        def note(text: str) -> None:
            self.note(Remark(short, text))

        return note

    @property
    def rows(self) -> list[TraceRow]:
        """All model calls, in order."""
        return [row for run in self.runs for row in run.rows]

    @property
    def acted(self) -> list[TraceRow]:
        """The calls at which guidance acted."""
        return [row for run in self.runs for row in run.acted]

    @property
    def finished(self) -> list[RunTrace]:
        """The runs that finished their images."""
        return [run for run in self.runs if run.finished]

    @property
    def drawings(self) -> list[list[RunTrace]]:
        """The runs of each drawing, in order: one, or several stages and parts of the images."""
        found: list[list[RunTrace]] = []
        for run in self.runs:
            before = found[-1][-1] if found else None
            goes_on = before is not None and not before.finished and before.batch == run.batch
            if goes_on or (found and run.again):
                found[-1].append(run)
            else:
                found.append([run])
        return found

    @property
    def batch(self) -> int:
        """How many images were finished."""
        return sum(run.batch for run in self.finished if not run.again)

    @property
    def distances(self) -> list[float]:
        """The distance of each finished image from its nearest reference."""
        return [distance for run in self.runs for distance in run.distances]
