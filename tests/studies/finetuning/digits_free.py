"""The first rows of each study: the best that the model alone can do with as many calls, with any sampler and schedule."""

from collections.abc import Iterator, Sequence

from mmd_tests.studies.finetuning.digits_nodes import STEPS, DigitsGraph
from mmd_tests.studies.finetuning.digits_report import FREE
from mmd_tests.studies.finetuning.digits_truths import judged
from mmd_tests.studies.finetuning.free_samplers import CALLS, SIMPLE, best_free, conditioning
from mmd_tests.studies.quality.evaluate import Truth


def free_rows(
    graph: DigitsGraph, seed: int, truths: dict[str, Truth], prompts: str = "none", calls: int = STEPS,
) -> Iterator[dict]:  # fmt: skip
    """With as many calls as the LoRA makes.

    Arguments:
        truths: By the names that `against` has in rows.
        prompts: As `best_free` has them.
    """
    yield from _drawn(graph, graph.model, seed, truths, prompts, best_free(prompts, calls))


def free_at_other_steps(
    graph: DigitsGraph, seed: int, truth: Truth, numbers: Sequence[int]
) -> Iterator[dict]:
    """With other numbers of calls, where they were studied."""
    for calls in CALLS:
        if calls in numbers:
            found = best_free("none", calls)
            yield from _drawn(graph, graph.model, seed, {"other steps": truth}, "none", found)


def free_at_other_cfg(
    graph: DigitsGraph, seed: int, truth: Truth, cfgs: Sequence[float]
) -> Iterator[dict]:
    """What is best at cfg 1, at other cfg."""
    for cfg in cfgs:
        found = {**best_free("ten", STEPS), "cfg": cfg}
        yield from _drawn(graph, graph.model, seed, {"other cfg": truth}, "ten", found)


def free_and_guided(graph: DigitsGraph, seed: int, truth: Truth) -> Iterator[dict]:
    """The best, and the simple choice, with guidance towards a set that the model alone knows nothing of."""
    guided = graph.guided(graph.model, truth.given)
    simple = {"sampler": SIMPLE[0], "scheduler": SIMPLE[1], "steps": STEPS}
    for found in (best_free("none", STEPS), simple):
        name = f"guidance, 100 real, {found['sampler']}, {found['scheduler']}"
        for row in _drawn(graph, guided, seed, {"real": truth}, "none", found):
            yield {**row, "model": name}


def _drawn(
    graph: DigitsGraph, model, seed: int, truths: dict[str, Truth], prompts: str, settings: dict
) -> Iterator[dict]:
    case = next(iter(truths.values())).case
    drawn = graph.drawn(case, model, seed, positive=conditioning(graph, prompts), **settings)
    about = {"model": f"{FREE}: {settings['sampler']}, {settings['scheduler']}"}
    about |= {"steps": settings["steps"], "cfg": settings.get("cfg", 1.0)}
    for against, truth in truths.items():
        figures = judged(truth, drawn, prompted=prompts != "none")
        yield {**about, "against": against, **figures}
