"""The value of MMD_TRACE: what guidance did in the runs of one node."""

from __future__ import annotations

from dataclasses import dataclass, field

from comfy_execution.utils import get_executing_context

from ....mmd_core import GuidanceConfig, RunTrace, TraceRow


@dataclass
class Trace:
    """What guidance did, run by run: groups of one batch, stages, or tiles.

    Arguments:
        config: What the user set.
        names: The names of the references.
        noticed: What was wrong before anything was drawn, in sentences.
        runs: One record for each run that has ended.
        prompt: The workflow run that they belong to.
        remembered: How many images of a memory counted with those of its first run.
        said: What went wrong with the memory: in two or three words, and in sentences.
    """

    config: GuidanceConfig
    names: tuple[str, ...] = ()
    noticed: tuple[str, ...] = ()
    runs: list[RunTrace] = field(default_factory=list)
    prompt: str | None = None
    remembered: int = 0
    said: list[tuple[str, str]] = field(default_factory=list)

    def begin(self) -> None:
        """A run begins: what an earlier run of the workflow left is forgotten."""
        context = get_executing_context()
        prompt = None if context is None else context.prompt_id
        if prompt != self.prompt:
            self.prompt, self.runs, self.remembered, self.said = prompt, [], 0, []

    @property
    def rows(self) -> list[TraceRow]:
        """All model calls, in order."""
        return [row for run in self.runs for row in run.rows]

    @property
    def acted(self) -> list[TraceRow]:
        """The calls at which guidance did not just look on."""
        return [row for run in self.runs for row in run.acted]

    @property
    def batch(self) -> int:
        """How many images were drawn."""
        return sum(run.batch for run in self.runs)

    @property
    def distances(self) -> list[float]:
        """How far each image is from its nearest reference."""
        return [distance for run in self.runs for distance in run.distances]
