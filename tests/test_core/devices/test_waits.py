"""How rarely the host waits for the device, and how many operators it queues there."""

import contextlib
from dataclasses import replace
from unittest.mock import patch

import pytest
from mmd_pack.mmd_core import KERNELS, Guidance
from mmd_tests.support.broken import broken
from mmd_tests.support.device_runs import Run
from mmd_tests.support.pretended_device import PretendedDevice

SMALL = Run(batch=8, shape=(4, 6, 6), calls=3)
RUNS = [replace(SMALL, kernel=kernel) for kernel in KERNELS] + [
    replace(SMALL, mode="paper"),
    replace(SMALL, mode="official"),
    replace(SMALL, mode="official", batch=1),
    replace(SMALL, mode="keep_prompt", flow_matching=True),
    replace(SMALL, space="low_pass", finished=3),
    replace(SMALL, space="patches", prompts="rbf"),
    replace(SMALL, prompts="cosine", finished=5),
    replace(SMALL, batch=3),
    replace(SMALL, batch=3, finished=3, prompts="rbf"),
    replace(SMALL, base=5, prompts="rbf", strength=3.0),
    replace(SMALL, budget=0),
]


def parts(run: Run) -> list[tuple[list, list]]:
    """What set-up, each call and the end of a run wait for, and their operators."""
    found = []

    def counted(own):
        def part(self, *args, **options):
            device.forget()
            result = own(self, *args, **options)
            found.append((list(device.waits), list(device.operators)))
            return result

        return part

    with contextlib.ExitStack() as entered:
        for name in ("__init__", "__call__", "finished"):
            of_part = patch.object(Guidance, name, counted(getattr(Guidance, name)))
            entered.enter_context(of_part)
        device = entered.enter_context(PretendedDevice())
        run.draw_on_device()
    return found


def calls(run: Run) -> list[tuple[list, list]]:
    """The same for each call."""
    return parts(run)[1 : 1 + run.calls]


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("run", RUNS, ids=repr)
def test_a_run_waits_once_at_its_start_and_end_and_in_each_call_for_its_trace(run, record):
    """Patches also read the weights by which they are drawn, and are judged by other ones."""
    found = [waits for waits, _ in parts(replace(run, record=record))]
    begun, *called, ended = found if record else [*found, []]
    assert [len(waits) for waits in called] == [int(record)] * run.calls, called
    patches = run.space == "patches"
    assert len(begun) == 1 + patches and len(ended) <= 1 + 2 * patches, (begun, ended)


@pytest.mark.parametrize("space", ["palette", "channel_stats"])
@pytest.mark.parametrize("record", [False, True])
def test_statistics_of_channels_are_decomposed_on_the_host_once(space, record):
    begun, *called = parts(replace(SMALL, space=space, record=record))[: 1 + SMALL.calls]
    for waits, _ in (begun, *called):
        assert len(waits) == 1 + (record or waits is begun[0]), waits


STRONG = replace(SMALL, strength=86.0)
BUDGETS = {  # operators of a call
    # with a new node's settings: five sub-steps, nine of singular kernels
    replace(SMALL, mode="keep_prompt", record=False): 200,
    replace(SMALL, mode="keep_prompt"): 245,
    replace(SMALL, kernel="laplacian", record=False): 450,
    replace(SMALL, kernel="energy", record=False): 410,
    # ten sub-steps, 22 of singular kernels, 29 of patches
    STRONG: 415,
    replace(STRONG, record=False): 370,
    replace(STRONG, kernel="imq"): 430,
    replace(STRONG, kernel="polynomial"): 510,
    replace(STRONG, kernel="laplacian"): 1140,
    replace(STRONG, kernel="energy"): 1040,
    replace(STRONG, space="palette"): 450,
    replace(STRONG, space="patches"): 600,
    replace(STRONG, prompts="rbf"): 550,
}


@pytest.mark.parametrize("run", BUDGETS, ids=repr)
def test_operators_that_a_call_queues(run):
    """A GPU takes some microseconds for each, whatever its size."""
    *_, (_, operators) = calls(run)
    assert 0.9 * BUDGETS[run] < len(operators) <= BUDGETS[run]


def test_a_number_that_is_read_is_noticed():
    right = "displacement = end.displacement()"
    from mmd_pack.mmd_core.guidance.modes import Flow

    with broken(Flow, "move", right, f"{right}; displacement.max().item()"):
        assert [len(waits) for waits, _ in calls(replace(SMALL, record=False))] == [1, 1, 1]
