"""Draws and measures: one row of figures for each case, seed and method."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch
from mmd_tests.studies.quality.emoji import figures, store
from mmd_tests.studies.quality.emoji.cases import CASES, Atlas
from mmd_tests.studies.quality.emoji.methods import METHODS, SWEEP, Easel
from mmd_tests.studies.quality.emoji.trial import Trial
from mmd_tests.studies.quality.emoji.world import World, load_world
from torch import Tensor

REAL = {
    "real": "real pictures",
    "decoded": "real pictures, encoded and decoded",
    "copies": "pictures of the set instead",
}
"""Rows of what is not drawn."""


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


@dataclass(frozen=True)
class Row:
    """The figures of one method in one case at one seed.

    features, real: The judge's features of the images and of the real pictures, (B, F), (M, F).
    """

    case: str
    seed: int
    method: str
    figures: dict[str, float]
    features: Tensor
    real: Tensor


@cache
def opened(setup: Setup) -> tuple[Atlas, World]:
    """The pictures and the networks, read once in a process."""
    atlas = Atlas(setup.cache)
    return atlas, load_world(setup.denoiser, setup.judge, atlas.names)


def make_easel(world: World, trial: Trial, setup: Setup) -> Easel:
    """What draws the images of a trial."""
    given = world.encode(trial.given.pixels)
    return Easel(world, trial, given, setup.images, setup.steps, setup.family)


def measured(easel: Easel, methods: list[str]) -> Iterator[Row]:
    """The rows of one trial: real pictures first, then all methods that fit the case."""
    world, trial, folder = easel.world, easel.trial, easel.folder
    yardstick = figures.Yardstick(world, trial, easel.given)
    real = dict(zip(REAL, (yardstick.held_out, yardstick.decoded, yardstick.copies), strict=True))
    key = (world.drawing, world.judging, world.names, store.code_digest(*figures.SOURCES))
    key += (trial.prompts, trial.styles, trial.cfg, trial.given.digest, trial.held_out.digest)
    for name in (*REAL, *methods):
        if name in real:
            features, found = store.stored(folder / "figures", (*key, name), real[name])
        else:
            method = {**METHODS, **SWEEP}[name]
            if not method.fits(trial):
                continue
            latents = method.draw(easel)
            images = store.tensor_digest(latents)
            features, found = store.stored(
                folder / "figures",
                (*key, images),
                lambda latents=latents: yardstick.drawn(latents),
            )
        yield Row(trial.case, trial.seed, name, found, features, yardstick.features)


def run_trial(setup: Setup, case: str, seed: int, methods: list[str]) -> list[Row]:
    """All rows of one case at one seed."""
    torch.set_num_threads(1)
    atlas, world = opened(setup)
    easel = make_easel(world, CASES[case].make(atlas, seed), setup)
    return list(measured(easel, methods))


def run_all(
    setup: Setup, cases: list[str], seeds: list[int], methods: list[str], jobs: int
) -> Iterator[list[Row]]:
    """The rows of each case and seed, as they come; all cases of one seed before the next."""
    tasks = [(case, seed) for seed in seeds for case in cases]
    if jobs == 1:
        for case, seed in tasks:
            yield run_trial(setup, case, seed, methods)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        left = [pool.submit(run_trial, setup, case, seed, methods) for case, seed in tasks]
        try:
            for future in as_completed(left):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
