"""On a device that is not there, guidance draws what the CPU draws, and mixes no devices."""

import contextlib
import itertools
import math
from dataclasses import asdict, replace
from unittest.mock import patch

import pytest
import torch
from mmd_pack.mmd_core import FEATURE_SPACES, KERNELS, MODES
from mmd_pack.mmd_core.comparison import by_features, latents, posterior, rows
from mmd_pack.mmd_core.comparison.gram_space import Projection
from mmd_tests.support.broken import broken
from mmd_tests.support.device_runs import Run
from mmd_tests.support.pretended_device import (
    Inexact,
    Missing,
    MixedDevices,
    NotReproducible,
    OnDevice,
    PretendedDevice,
    on_host,
)
from mmd_tests.support.pretended_streams import Race
from mmd_tests.support.without_kernel import without_kernel

HALF = 12 * 256 * 2 + 4 * 144  # bytes: room for 12 references as fp16
APPLE = {"forbidden": {torch.float64}, "missing": without_kernel("MPS")}
SMALL = Run(batch=8, shape=(4, 6, 6))


def differing(run: Run) -> str:
    """What a case has that a plain run has not."""
    usual = asdict(Run())
    return " ".join(f"{k}={v}" for k, v in asdict(run).items() if v != usual[k])


def check(run: Run, **device) -> None:
    """The run draws and tells the same on both, and guidance moves something."""
    expected, told = run.draw()
    x0 = run.samples(lambda tensor: tensor)[0]
    with PretendedDevice(**device):
        found, also_told = run.draw_on_device()
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, OnDevice) and one.dtype == x0.dtype
        moved = (other - x0).float().norm().item()
        assert (on_host(one) - other).float().norm().item() < 1e-4 * moved
    if told is not None:
        assert also_told.nearest == told.nearest
        assert also_told.mmd2 == pytest.approx(told.mmd2, rel=1e-3, abs=1e-5)
        for row, same in zip(also_told.rows, told.rows, strict=True):
            figures = [[number for number in each if number is not None] for each in (row, same)]
            assert figures[0] == pytest.approx(figures[1], rel=1e-3, abs=1e-5, nan_ok=True)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "mode, space, kernel",
    [
        (mode, space, kernel)
        for mode, space, kernel in itertools.product(MODES, FEATURE_SPACES, KERNELS)
        if MODES[mode].features or space == "latent"
    ],
)
def test_modes_spaces_and_kernels(mode, space, kernel):
    check(replace(SMALL, mode=mode, space=space, kernel=kernel))


@pytest.mark.sampled
@pytest.mark.parametrize("budget", [math.inf, HALF, 0])
@pytest.mark.parametrize("prompts", ["none", "rbf", "cosine"])
@pytest.mark.parametrize("batch, finished", [(16, 0), (16, 5), (3, 0), (3, 5), (1, 0)])
@pytest.mark.parametrize("record", [True, False])
def test_memory_of_samples_and_of_the_device(budget, prompts, batch, finished, record):
    check(Run(budget=budget, prompts=prompts, batch=batch, finished=finished, record=record))


@pytest.mark.parametrize(
    "run",
    [
        replace(SMALL, flow_matching=True),
        replace(SMALL, flow_matching=True, space="palette", shape=(16, 2, 6, 6)),
        replace(SMALL, dtype=torch.float16, stored=torch.bfloat16),
        replace(SMALL, dtype=torch.bfloat16, mode="official", record=False),
        replace(SMALL, references=1),
        replace(SMALL, base=5, strength=3.0),
        replace(SMALL, base=5, prompts="rbf", space="low_pass", strength=3.0),
    ],
    ids=differing,
)
def test_noise_dtypes_and_base_images(run):
    check(run)


@contextlib.contextmanager
def small_pieces(compact: bool = False):
    """References are streamed 3 at a time; compact: not even their inner products are kept."""
    with contextlib.ExitStack() as more:
        for name, value in {
            "STREAMED": 3 * 256,
            "HIGH": 7 * 256,
            "PART": 1,
            "HIGH_PART": 1,
        }.items():
            more.enter_context(patch.object(rows, name, value))
        more.enter_context(patch.object(latents.Latents.pieces, "__defaults__", (2 * 256, 0, None)))
        if compact:
            more.enter_context(patch.object(by_features, "ALWAYS", 0))
        yield


STREAMED = Run(references=25, budget=0, strength=10.0)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    "run",
    [
        STREAMED,
        replace(STREAMED, finished=4, prompts="rbf"),
        replace(STREAMED, space="low_pass", stored=torch.float16),
        replace(STREAMED, batch=3, finished=3),
        pytest.param(replace(STREAMED, space="patches"), marks=pytest.mark.long),
        pytest.param(replace(STREAMED, space="channel_stats"), marks=pytest.mark.long),
    ],
    ids=differing,
)
def test_streamed_pieces(run, compact):
    with small_pieces(compact):
        check(run)


BROKEN = {
    "a matrix on the CPU": (
        MixedDevices, "start", Projection, "torch.zeros_like(self.dots)", "torch.zeros(self.dots.shape)",
    ),
    "sums by index on the device": (
        NotReproducible, "band_variances", posterior, "asked.later(power.sum(0))", "lambda: power.sum(0)",
    ),
    "a decomposition on the device": (
        Missing, "mix", rows.Rows, "total = None", "torch.linalg.eigh(c @ c.T); total = None",
    ),
    "TF32": (
        Inexact, "product", rows.Rows, "self.check()\n    step",
        "torch.backends.cuda.matmul.allow_tf32 = True\n    step",
    ),
    "float64 on the device": (
        Missing, "dots", rows.Rows, "self.product(rows, x.T).T", "(rows.double() @ x.T.double()).T.float()",
    ),
    "another sum than on the CPU": (
        AssertionError, "product", rows.Rows, "return a @ b", "return a @ b if a.device.type == 'cpu' else 1.01 * a @ b",
    ),
    "no wait for the copy": (Race, "_arrived", latents, "stream.wait_event(event)", "pass"),
    "memory reused while it is read": (Race, "_arrived", latents, "piece.record_stream(stream)", "pass"),
    "a buffer filled too early": (Race, "_arriving", latents.Latents, "left[i % 2].synchronize()", "pass"),
    "one buffer for two pieces": (Race, "_arriving", latents.Latents, "pinned[i % 2]", "pinned[0]"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_code_is_caught(name):
    error, function, owner, right, wrong = BROKEN[name]
    run = replace(STREAMED, calls=1)
    with small_pieces(), broken(owner, function, right, wrong), pytest.raises(error):
        check(run, **APPLE)


def test_code_that_is_not_broken_passes_there():
    with small_pieces():
        check(replace(STREAMED, calls=1), **APPLE)


@pytest.mark.sampled
@pytest.mark.parametrize("space", FEATURE_SPACES)
@pytest.mark.parametrize(
    "batch, finished, prompts", [(8, 0, "none"), (8, 3, "rbf"), (3, 3, "none")]
)
def test_no_double_precision_and_no_operator_that_apple_lacks(space, batch, finished, prompts):
    run = replace(SMALL, space=space, batch=batch, finished=finished, prompts=prompts)
    check(run, **APPLE)
