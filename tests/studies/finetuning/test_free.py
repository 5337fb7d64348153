"""The study of samplers that need no training: how it counts calls, ranks and reports, and that its choice holds."""

import pytest
import torch
from mmd_tests.studies.finetuning.digits_nodes import DigitsGraph
from mmd_tests.studies.finetuning.digits_report import against_free
from mmd_tests.studies.finetuning.digits_truths import EVEN, judged, real_digits
from mmd_tests.studies.finetuning.free_samplers import (
    CALLS,
    FINALISTS,
    MANY,
    all_pairs,
    best_free,
    chosen,
    conditioning,
    finalists,
    steps_within,
)
from mmd_tests.studies.quality.digits_worlds import DigitsCase

pytestmark = pytest.mark.comfy

SEED = 7990


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    with torch.inference_mode():
        yield DigitsGraph(tmp_path_factory.mktemp("output"))


@pytest.mark.parametrize(
    "sampler, steps",
    [
        ("euler", {2: 2, 3: 3, 4: 4, 5: 5, 8: 8}),
        ("heun", {2: 1, 3: 2, 4: 2, 5: 3, 8: 4}),  # two calls a step, the last one
        ("euler_cfg_pp", {2: 1, 3: 1, 4: 2, 5: 2, 8: 4}),  # also without a prompt
        ("dpm_adaptive", {}),  # chooses its own steps
    ],
)
def test_the_most_steps_within_so_many_calls(graph, sampler, steps):
    assert steps_within(graph, DigitsCase("all", EVEN), sampler, "karras") == steps


def test_every_sampler_and_schedule_is_tried():
    from comfy.samplers import KSampler

    pairs = all_pairs()
    assert len(set(pairs)) == len(pairs)
    assert {scheduler for _, scheduler in pairs} == set(KSampler.SCHEDULERS)
    left_out = set(KSampler.SAMPLERS) - {sampler for sampler, _ in pairs}
    assert left_out and all(name.removesuffix("_gpu") in KSampler.SAMPLERS for name in left_out)


@pytest.mark.parametrize("prompts", ["none", "ten"])
@pytest.mark.parametrize("calls", [3, 5])
def test_what_was_chosen_beats_euler_at_no_more_calls(graph, prompts, calls):
    """On a seed that chose nothing."""
    truth, positive = real_digits(SEED), conditioning(graph, prompts)
    both = []
    for settings in (best_free(prompts, calls), {"steps": calls}):
        drawn = graph.drawn(truth.case, graph.model, SEED, positive=positive, batches=2, **settings)
        both.append(judged(truth, drawn))
    free, euler = both
    assert free["calls"] <= calls == euler["calls"]
    assert free["MMD2"] < euler["MMD2"] and free["FD"] < euler["FD"]


def row(calls: int, name: str, mmd2: float, fd: float, seed: int = 1) -> dict:
    about = {"calls": calls, "sampler": name, "scheduler": "karras", "steps": calls}
    return {**about, "MMD2": mmd2, "FD": fd, "seed": seed}


def test_the_nearest_is_chosen_by_the_mean_over_seeds():
    many = [row(MANY, "euler", 1.0, 10.0), row(MANY, "euler", 2.0, 20.0, 2)]
    rows = many + [
        each
        for calls in CALLS
        for each in (
            row(calls, "steady", 1.5, 15.0), row(calls, "steady", 3.0, 30.0, 2),
            row(calls, "lucky once", 0.5, 5.0), row(calls, "lucky once", 8.0, 80.0, 2),
            row(calls, "broken", float("inf"), float("inf")),
        )
    ]  # fmt: skip
    expected = {"sampler": "steady", "scheduler": "karras", "steps": 5}
    assert chosen(rows)["5"] == expected and set(chosen(rows)) == set(map(str, CALLS))
    crowd = many[:1] + [row(5, f"s{i}", 1.0 + i, 10.0) for i in reversed(range(FINALISTS + 3))]
    assert [each["sampler"] for each in finalists(crowd)] == [f"s{i}" for i in range(FINALISTS)]


def test_report_says_in_what_a_lora_beats_what_is_free():
    figures = {"nothing trained: a, b": (0.004, 9.0, 0.96), "LoRA, unet": (0.003, 12.0, 0.97)}
    figures["LoRA, latent"] = (0.005, 13.0, 0.95)
    rows = [
        {"study": "euler", "against": "real", "seed": 1, "model": model, "steps": 5,
         "MMD2": mmd2, "FD": fd, "confidence": sure}
        for model, (mmd2, fd, sure) in figures.items()
    ]  # fmt: skip
    unet, latent = against_free(rows).splitlines()[2:]
    assert unet == "| euler, unet | real | 4.0, 3.0 | 9.0, 12.0 | 0.960, 0.970 | MMD², confidence |"
    assert latent.endswith("| **in nothing** |")
