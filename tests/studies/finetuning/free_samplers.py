"""Which sampler and schedule draws best in few calls of the model, when nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from mmd_demo.judge import frechet_distance
from mmd_tests.studies.finetuning.digits_nodes import MANY, SCHEDULER, DigitsGraph
from mmd_tests.studies.finetuning.digits_truths import judged, real_digits
from mmd_tests.studies.quality import metrics
from mmd_tests.studies.quality.evaluate import Truth
from mmd_tests.studies.quality.methods import Drawn
from mmd_tests.studies.quality.worlds import Case

CALLS = (2, 3, 4, 5, 8)
SCREENING, TUNING = 7900, (7900, 7901, 7902, 7903)
HELD_OUT = (7100, 7101, 7102)  # the seeds of the trainings
FINALISTS = 12
PROMPTS = ("none", "ten")
PAIR = ("sampler", "scheduler", "steps")
SIMPLE = ("dpmpp_2m", "kl_optimal")  # what users are told to try first
BEST = Path(__file__).with_name("best_free.json")


def best_free(prompts: str, calls: int) -> dict:
    """`sampler`, `scheduler` and `steps` of what is best at so many calls, as inputs of `DigitsGraph.drawn`."""
    return json.loads(BEST.read_text("utf-8"))[prompts][str(calls)]


def all_pairs() -> list[tuple[str, str]]:
    """Every sampler with every schedule. Those that end in _gpu differ only in where noise is made."""
    from comfy.samplers import SAMPLER_NAMES, SCHEDULER_NAMES

    samplers = [name for name in SAMPLER_NAMES if not name.endswith("_gpu")]
    return [(sampler, scheduler) for sampler in samplers for scheduler in SCHEDULER_NAMES]


def steps_within(graph: DigitsGraph, case: Case, sampler: str, scheduler: str) -> dict[int, int]:
    """For each number of calls the most steps that need no more of them; only what can be drawn."""
    needed = {}
    for steps in range(1, max(CALLS) + 1):
        try:
            drawn = graph.drawn(
                case, graph.model, SCREENING, steps, sampler=sampler, scheduler=scheduler,
                batch=1, batches=1,
            )  # fmt: skip
        except Exception as error:  # of any sampler: it is left out, and named
            print(f"{sampler}, {scheduler}, {steps} steps: {error!r}"[:200], flush=True)  # noqa: T201
            continue
        if drawn.calls and torch.isfinite(drawn.samples).all():
            needed[steps] = drawn.calls
    found = {calls: [s for s, used in needed.items() if used <= calls] for calls in CALLS}
    return {calls: max(steps) for calls, steps in found.items() if steps}


def briefly_judged(truth: Truth, drawn: Drawn) -> dict[str, float]:
    """MMD² and FD alone, as `judged` has them."""
    samples = drawn.samples
    distances = metrics.sq_distance_matrix(torch.cat([samples, truth.held_out]))
    kernel = metrics.rbf_matrix(distances, truth.bandwidth)
    return {
        "MMD2": metrics.mmd2_unbiased(kernel, len(samples)),
        "FD": frechet_distance(truth.case.features(samples), truth.features),
    }


def screened(graph: DigitsGraph, prompts: str, steps: dict) -> Iterator[dict]:
    """Everything once, in one batch.

    Arguments:
        steps: `(sampler, scheduler)` to what `steps_within` finds.
    """
    truth, positive = real_digits(SCREENING), conditioning(graph, prompts)
    yield _brief(graph, truth, SCREENING, positive, "euler", SCHEDULER, MANY, 1) | {"calls": MANY}
    for (sampler, scheduler), found in steps.items():
        for calls, count in found.items():
            row = _brief(graph, truth, SCREENING, positive, sampler, scheduler, count, 1)
            yield row | {"calls": calls}


def finals(graph: DigitsGraph, prompts: str, rows: list[dict]) -> Iterator[dict]:
    """The best of what was screened, with all images on all tuning seeds."""
    positive = conditioning(graph, prompts)
    for seed in TUNING:
        truth = real_digits(seed)
        many = _brief(graph, truth, seed, positive, "euler", SCHEDULER, MANY)
        yield many | {"calls": MANY, "seed": seed}
        for row in finalists(rows):
            brief = _brief(graph, truth, seed, positive, *(row[name] for name in PAIR))
            yield brief | {"calls": row["calls"], "seed": seed}


def held_out(graph: DigitsGraph, prompts: str, chosen: dict) -> Iterator[dict]:
    """What was chosen, next to one simple choice and to euler, on the seeds of the trainings.

    Arguments:
        chosen: Calls to `sampler`, `scheduler` and `steps`.
    """
    positive = conditioning(graph, prompts)
    kinds = {"chosen": chosen, "simple": of_all(*SIMPLE), "usual": of_all("euler", SCHEDULER)}
    for seed in HELD_OUT:
        truth = real_digits(seed)
        for kind, settings in kinds.items():
            for calls, each in settings.items():
                drawn = graph.drawn(truth.case, graph.model, seed, positive=positive, **each)
                figures = judged(truth, drawn, prompted=prompts != "none")
                yield {"kind": kind, "seed": seed, "allowed": int(calls), **each, **figures}


def of_all(sampler: str, scheduler: str) -> dict[int, dict]:
    """One sampler with one call a step and one schedule, for each number of calls and for many."""
    return {
        calls: {"sampler": sampler, "scheduler": scheduler, "steps": calls}
        for calls in (*CALLS, MANY)
    }


def conditioning(graph: DigitsGraph, prompts: str):
    """None for no prompt, or ten prompts."""
    return graph.prompts() if prompts == "ten" else None


def _brief(
    graph: DigitsGraph, truth: Truth, seed: int, positive, sampler: str, scheduler: str,
    steps: int, batches: int | None = None,
) -> dict:  # fmt: skip
    size = {} if batches is None else {"batches": batches}
    drawn = graph.drawn(
        truth.case, graph.model, seed, steps, positive, sampler=sampler, scheduler=scheduler, **size
    )
    about = {"sampler": sampler, "scheduler": scheduler, "steps": steps, "used": drawn.calls}
    if not torch.isfinite(drawn.samples).all():
        return {**about, "MMD2": float("inf"), "FD": float("inf")}
    return {**about, **briefly_judged(truth, drawn)}


def distances(rows: list[dict]) -> list[tuple[float, dict]]:
    """For each sampler, schedule and number of calls its distance from the truth, and one of its rows; the nearest first.

    The distance is the mean over seeds of MMD² and FD, each relative to that of 50 steps.
    """
    many = {row.get("seed"): row for row in rows if row["calls"] == MANY}
    found: dict[tuple, list] = {}
    for row in rows:
        if row["calls"] != MANY:
            aim = many[row.get("seed")]
            far = (row["MMD2"] / aim["MMD2"] + row["FD"] / aim["FD"]) / 2
            found.setdefault((row["calls"], *(row[name] for name in PAIR)), []).append((far, row))
    means = [(sum(far for far, _ in own) / len(own), own[0][1]) for own in found.values()]
    return sorted(means, key=lambda each: each[0])


def finalists(rows: list[dict]) -> list[dict]:
    """The nearest of each number of calls."""
    ranked = [row for _, row in distances(rows)]
    return [
        row
        for calls in CALLS
        for row in [each for each in ranked if each["calls"] == calls][:FINALISTS]
    ]


def chosen(rows: list[dict]) -> dict[str, dict]:
    """The nearest of each number of calls: calls to `sampler`, `scheduler` and `steps`."""
    found: dict[str, dict] = {}
    for _, row in distances(rows):
        found.setdefault(str(row["calls"]), {name: row[name] for name in PAIR})
    return {str(calls): found[str(calls)] for calls in CALLS}
