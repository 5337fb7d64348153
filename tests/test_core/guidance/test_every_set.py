"""Whatever the references, no setting makes NaN: few of them, equal ones, tiny, huge, constant ones."""

import itertools
import math

import pytest
import torch
from mmd_pack.mmd_core import (
    FEATURE_SPACES,
    KERNELS,
    Execution,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.guidance.by_prompt import ByPrompt
from mmd_tests.support.tiny_models import random

SHAPE, SIGMAS = (3, 4, 4), (14.0, 2.5, 0.4, 0.0)
TWO, FIVE = random(2, *SHAPE), random(5, *SHAPE, seed=1)
ONE = TWO[:1]
SETS = {
    "one": ONE,
    "two equal": ONE.expand(2, *SHAPE),
    "two": TWO,
    "three, two equal": torch.cat([TWO, ONE]),
    "five": FIVE,
    "five equal": ONE.expand(5, *SHAPE),
    "four of five equal": torch.cat([ONE.expand(4, *SHAPE), TWO[1:]]),
    "nearly equal": ONE + 1e-5 * FIVE,
    "tiny": 1e-3 * FIVE,
    "huge": 1e3 * FIVE,
    "one, huge": 1e3 * ONE,
    "nearly equal, huge": 1e3 * ONE + FIVE,
    "zero": 0 * FIVE,
    "constant": torch.full((3, *SHAPE), 3.0),
}
BATCHES = 1, 2, 7, 9, 16
PUBLISHED = ("official", "official_l2norm")
STRENGTHS = {"flow": 100.0, "keep_prompt": 30.0, "paper": 100.0, **dict.fromkeys(PUBLISHED, 0.1)}
WEAK = 0.1  # of that strength for patches, which move in many short sub-steps
SETTINGS = [
    *(("flow", space) for space in FEATURE_SPACES),
    *(("keep_prompt", space) for space in ("latent", "palette")),
    ("paper", "latent"),
    *((mode, "latent") for mode in PUBLISHED),
]


def drawn(config: GuidanceConfig, references: torch.Tensor, batch: int) -> Guidance:
    """A run of a model that knows N(0, 1), by Euler's method; fails at the first NaN."""
    latents = Latents(references, torch.full((len(references),), 1 / len(references)))
    schedule = Schedule(SIGMAS, Window(math.inf, 0.0))
    run = Guidance(config.for_batch(batch), latents, schedule, execution=Execution(record=True))
    x = SIGMAS[0] * random(batch, *SHAPE, seed=2)
    moved = random(batch, *SHAPE, seed=3)  # by the prompt
    for sigma, after in itertools.pairwise(SIGMAS):
        x0 = run(x / (1 + sigma**2), x, sigma, by_prompt=ByPrompt(moved.clone()))
        assert x0.isfinite().all(), f"batch {batch}, sigma {sigma:g}"
        x = x0 + (x - x0) * after / sigma
    end = run.finished(x)
    assert math.isfinite(end.mmd2)
    for row in end.rows:
        assert all(map(math.isfinite, row[:8])), f"batch {batch}: {row}"
    return run


@pytest.mark.sampled
@pytest.mark.parametrize("references", SETS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mode, space", SETTINGS)
def test_no_set_makes_nan(mode, space, kernel, references):
    """4200 combinations with the sizes of batches."""
    kernel = KernelConfig(kernel, feature_space=space)
    strength = STRENGTHS[mode] * (WEAK if space == "patches" else 1)
    config = GuidanceConfig(strength, mode=mode, kernel=kernel, end_percent=1.0)
    for batch in BATCHES:
        drawn(config, SETS[references], batch)


@pytest.mark.parametrize("space", ["latent", "low_pass", "channel_stats"])
@pytest.mark.parametrize("references", ["one", "two", "five", "constant"])
def test_samples_do_not_overshoot_where_pulls_grow_with_them(references, space):
    kernel = KernelConfig("polynomial", feature_space=space, pool=2)
    run = drawn(GuidanceConfig(100.0, kernel=kernel, end_percent=1.0), SETS[references], 16)
    acted = [row for row in run.trace if row.substeps]
    assert acted and all(row.mmd2_after < row.mmd2_before for row in acted)
