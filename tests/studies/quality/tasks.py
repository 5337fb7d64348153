"""What is to be drawn and judged, and doing it in several processes."""

import logging
import multiprocessing
import queue
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

from mmd_tests.studies.quality import comfyui

COSTS = {
    "corner": 5,
    "latents": 4,
    "shapes": 3,
    "prompt-shapes": 3,
    "prompt-digits": 2,
    "digits": 2,
    "ring": 1,
}
_rows = None  # of a worker: where it reports


@dataclass(frozen=True)
class Task:
    """One set of samples to be drawn and judged.

    Attributes:
        part: The part of the benchmark: `sweep`, `main` or the name of a study.
        settings: Of the method; what JSON can hold.
        references: How many, where that is not as usual.
    """

    part: str
    world: str
    target: str
    method: str
    seed: int
    settings: dict = field(default_factory=dict)
    references: int | None = None

    @property
    def group(self) -> tuple:
        """Tasks of one group share a truth and are done by one process."""
        return self.world, self.target, self.seed, self.references or 0

    def row(self, **more) -> dict:
        names = ("part", "world", "target", "method", "seed", "settings", "references")
        return {**{name: getattr(self, name) for name in names}, **more}


def run_task(task: Task) -> dict:
    """The row of one task; an error becomes part of it."""
    from mmd_tests.studies.quality.evaluate import evaluate, truth_of
    from mmd_tests.studies.quality.methods import METHODS
    from mmd_tests.studies.quality.studies import STUDIES, STUDY_METHODS

    started = time.perf_counter()
    try:
        truth = truth_of(task.world, task.target, task.seed, task.references)
        method = (STUDY_METHODS if task.part in STUDIES else METHODS)[task.method]
        drawn = method.draw(truth.case, truth.given, task.seed, **task.settings)
        figures = evaluate(truth, drawn, are_references=task.method == "references")
    except Exception:
        return task.row(error=traceback.format_exc())
    return task.row(figures=figures, took=time.perf_counter() - started)


def _start(rows) -> None:
    global _rows
    _rows = rows
    comfyui.start()
    logging.getLogger("mmd_guidance").setLevel(logging.ERROR)  # batches of 1 are meant here


def _run_group(tasks: list[Task]) -> None:
    for task in tasks:
        _rows.put(run_task(task))


def grouped(tasks: list[Task]) -> list[list[Task]]:
    """Tasks by group, costly worlds first, so that all processes end together."""
    ordered = sorted(tasks, key=lambda task: (-COSTS[task.world], task.group))
    return [list(group) for _, group in groupby(ordered, key=lambda task: task.group)]


def run_all(tasks: list[Task], jobs: int) -> Iterator[dict]:
    """The rows of all tasks, as they come."""
    context = multiprocessing.get_context("spawn")
    rows = context.Queue()
    with ProcessPoolExecutor(jobs, context, _start, (rows,)) as pool:
        try:
            left = [pool.submit(_run_group, group) for group in grouped(tasks)]
            done = 0
            while done < len(tasks):
                try:
                    yield rows.get(timeout=1)
                    done += 1
                except queue.Empty:
                    for future in left:
                        if future.done():
                            future.result()  # raises what killed the process
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
