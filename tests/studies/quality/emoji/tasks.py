"""Draws and measures: one row of figures for each case, seed and method."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
from mmd_tests.studies.quality.emoji import figures, store
from mmd_tests.studies.quality.emoji.cases import CASES, Atlas
from mmd_tests.studies.quality.emoji.easel import Drawn, Easel
from mmd_tests.studies.quality.emoji.figures import REAL
from mmd_tests.studies.quality.emoji.methods import METHODS
from mmd_tests.studies.quality.emoji.results import Row
from mmd_tests.studies.quality.emoji.trial import Trial
from mmd_tests.studies.quality.emoji.world import World, load_world
from torch import Tensor


@dataclass(frozen=True)
class Setup:
    """Where everything is."""

    cache: Path
    denoiser: Path
    judge: Path
    steps: int
    family: str

    @property
    def images(self) -> Path:
        """The folder of what was drawn."""
        return self.cache / "benchmark"


@cache
def opened(setup: Setup) -> tuple[Atlas, World]:
    """The pictures and the networks, read once in a process."""
    atlas = Atlas(setup.cache)
    return atlas, load_world(setup.denoiser, setup.judge, atlas.names)


def make_easel(world: World, trial: Trial, setup: Setup) -> Easel:
    """What draws the images of a trial."""
    given = world.encode(trial.given.pixels)
    return Easel(world, trial, given, setup.images, setup.steps, setup.family)


class Gauge:
    """Measures what belongs to one trial; figures are kept in files."""

    def __init__(self, easel: Easel) -> None:
        world, trial = easel.world, easel.trial
        yardstick = figures.Yardstick(world, trial, easel.given)
        self.trial, self.yardstick, self.folder = trial, yardstick, easel.folder / "figures"
        self.key = (world.drawing, world.judging, world.names, store.code_digest(*figures.SOURCES))
        self.key += (trial.prompts, trial.styles, trial.cfg)
        self.key += (trial.given.digest, trial.held_out.digest)

    def of_real(self) -> Iterator[Row]:
        """Rows of what is not drawn."""
        sources = (self.yardstick.held_out, self.yardstick.decoded, self.yardstick.copies)
        for name, compute in zip(REAL, sources, strict=True):
            yield self._row(name, *store.stored(self.folder, (*self.key, name), compute))

    def of_drawn(self, name: str, drawn: Drawn) -> Row:
        """The row of images."""
        latents = drawn.latents
        key = (*self.key, store.tensor_digest(latents))
        features, found = store.stored(self.folder, key, lambda: self.yardstick.drawn(latents))
        return self._row(name, features, found | {"time": drawn.time})

    def _row(self, name: str, features: Tensor, found: dict[str, float]) -> Row:
        trial, real = self.trial, self.yardstick.features
        return Row(trial.case, trial.seed, name, found, features, real)


def measured(easel: Easel, methods: Iterable[str]) -> Iterator[Row]:
    """The rows of one trial: real pictures first, then all methods that fit the case."""
    gauge = Gauge(easel)
    yield from gauge.of_real()
    for name in methods:
        if METHODS[name].fits(easel.trial):
            yield gauge.of_drawn(name, METHODS[name].draw(easel))


def run_trial(setup: Setup, case: str, seed: int, methods: tuple[str, ...]) -> list[Row]:
    """All rows of one case at one seed."""
    atlas, world = opened(setup)
    return list(measured(make_easel(world, CASES[case].make(atlas, seed), setup), methods))


def run_all(function: Callable[..., list[Row]], tasks: list[tuple], jobs: int) -> Iterator:
    """What a function returns for each task's arguments, as it comes, in so many processes."""
    torch.set_num_threads(1)
    if jobs == 1:
        for task in tasks:
            yield function(*task)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        left = [pool.submit(function, *task) for task in tasks]
        try:
            for future in as_completed(left):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
