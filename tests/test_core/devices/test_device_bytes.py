"""How much memory of the device guidance takes at most, with room for references and without."""

import math
from dataclasses import replace

import pytest
import torch
from mmd_tests.support.device_runs import Run
from mmd_tests.support.pretended_device import PretendedDevice, on_device

COPIES = (
    6  # of the batch: what a call needs beside references, as nodes/host/device_memory.py counts
)


def peaks(run: Run) -> tuple[int, int, torch.dtype | None]:
    """The most bytes beside samples, when guidance is made and later; the dtype of held references."""
    with torch.inference_mode(), PretendedDevice() as device:
        x0, noise, prompts = run.samples(on_device)
        x = x0 + 3 * noise
        del noise
        before = device.bytes
        device.forget()
        guidance = run.make(on_device)
        at_first = device.peak - before
        device.forget()
        guidance(x0, x, 3.0, prompts)
        if run.record:
            guidance.finished(x0)
        held = guidance.comparison.space.rows.held
        return at_first, device.peak - before, None if held is None else held.dtype


@pytest.mark.parametrize(
    "references, batch, shape, finished",
    [
        (64, 4, (4, 64, 64), 0),
        (300, 8, (4, 32, 32), 4),
        pytest.param(500, 16, (4, 64, 64), 0, marks=pytest.mark.long),
        pytest.param(500, 16, (4, 128, 128), 8, marks=pytest.mark.long),
    ],
)
def test_streamed_takes_less_than_held_and_held_no_more_than_its_budget(
    references, batch, shape, finished
):
    run = Run(references=references, batch=batch, shape=shape, finished=finished, calls=1)
    numbers = math.prod(shape)
    every = references + finished
    others = 4 * (finished * numbers + every**2)
    beside = 4 * (
        COPIES * batch * numbers + 8 * every * min(every, 512)
    )  # the latter for the trace
    found = {}
    for dtype in (torch.float32, torch.float16, None):
        size = 0 if dtype is None else dtype.itemsize * references * numbers
        budget = others + size if dtype is not None else 0
        at_first, later, how = peaks(replace(run, budget=budget))
        found[dtype] = max(at_first, later)
        assert how == dtype
        if dtype is not None:
            assert later < budget + beside
    assert found[None] < 0.7 * found[torch.float32]
    assert found[None] < found[torch.float16] < found[torch.float32]
