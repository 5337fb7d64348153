"""The studies: for one seed of training, everything that is drawn and how it is judged."""

from collections.abc import Iterator

from mmd_tests.studies.finetuning.digits_free import (
    free_and_guided,
    free_at_other_cfg,
    free_at_other_steps,
    free_rows,
)
from mmd_tests.studies.finetuning.digits_nodes import MANY, PROPORTIONS, STEPS, DigitsGraph, shown
from mmd_tests.studies.finetuning.digits_truths import (
    few_classes,
    ideal,
    judged,
    own_digits,
    real_digits,
    real_of,
)
from mmd_tests.studies.finetuning.free_samplers import SIMPLE, best_free

TUNING_SEED = 7900
UPDATES, ADAPTING = 100, 240  # a subset is further away than 50 steps
OTHER_STEPS = (4, 6, 8)
FEWEST = (2, 3, 4)
CFGS = (2.0, 4.0)


def euler(graph: DigitsGraph, seed: int) -> Iterator[dict]:
    """Faster, no prompt: three kinds of features, and other numbers of steps."""
    yield from _faster(graph, seed, "euler", ("latent", "pyramid", "unet"), OTHER_STEPS)


def dpmpp_2m(graph: DigitsGraph, seed: int) -> Iterator[dict]:
    """Faster, another sampler."""
    yield from _faster(graph, seed, "dpmpp_2m", ("latent", "unet"), ())


def _faster(graph: DigitsGraph, seed: int, sampler: str, features, other_steps) -> Iterator[dict]:
    references = graph.references(seed, sampler=sampler)
    real, own = real_digits(seed), own_digits(graph, seed, references, sampler=sampler)
    yield from free_rows(graph, seed, {"real": real, "50 steps": own})
    if other_steps:
        yield from free_at_other_steps(graph, seed, real, OTHER_STEPS)
    yield {"model": "real digits", "steps": 0, "against": "real", **judged(real, ideal(real))}
    models = {"model alone": (graph.model, 0.0)}
    for name in features:
        models[f"LoRA, {name}"] = graph.trained(
            f"{sampler}_{name}_{seed}", references, seed, UPDATES, sampler=sampler, features=name
        )
    for name, (model, training) in models.items():
        main = name in ("model alone", "LoRA, latent")
        for steps in (STEPS, 10, MANY) if main else (STEPS,):
            drawn = graph.drawn(real.case, model, seed, steps, sampler=sampler)
            about = {"model": name, "steps": steps, "training": training}
            yield {**about, "against": "real", "given": shown(drawn), **judged(real, drawn)}
            yield {**about, "against": "50 steps", **judged(own, drawn)}
        for steps in other_steps if main else ():
            drawn = graph.drawn(real.case, model, seed, steps, sampler=sampler)
            yield {"model": name, "steps": steps, "against": "other steps", **judged(real, drawn)}


def on_simple(graph: DigitsGraph, seed: int) -> Iterator[dict]:
    """Faster, trained for the sampler and schedule that users are told to try first."""
    references = graph.references(seed)
    real, own = real_digits(seed), own_digits(graph, seed, references)
    truths = {"real": real, "50 steps": own}
    yield from free_rows(graph, seed, truths)
    found = {"sampler": SIMPLE[0], "scheduler": SIMPLE[1], "steps": STEPS}
    models = {"model alone": (graph.model, 0.0)}
    for features in ("latent", "unet"):
        models[f"LoRA, {features}"] = graph.trained(
            f"on_simple_{features}_{seed}", references, seed, UPDATES, features=features, **found
        )
    for name, (model, training) in models.items():
        drawn = graph.drawn(real.case, model, seed, **found)
        about = {"model": name, "steps": STEPS, "training": training}
        for against, truth in truths.items():
            yield {**about, "against": against, **judged(truth, drawn)}


def fewest(graph: DigitsGraph, seed: int) -> Iterator[dict]:
    """Two to four calls: trained for what is best at these with nothing trained."""
    references = graph.references(seed)
    real, own = real_digits(seed), own_digits(graph, seed, references)
    truths = {"real": real, "50 steps": own}
    for calls in FEWEST:
        yield from free_rows(graph, seed, truths, calls=calls)
        found = best_free("none", calls)
        model, training = graph.trained(
            f"fewest_{calls}_{seed}", references, seed, UPDATES, features="unet", **found
        )
        drawn = graph.drawn(real.case, model, seed, **found)
        about = {"model": f"LoRA, unet: {found['sampler']}, {found['scheduler']}"}
        about |= {"steps": found["steps"], "training": training}
        for against, truth in truths.items():
            yield {**about, "against": against, **judged(truth, drawn)}


def prompts(graph: DigitsGraph, seed: int) -> Iterator[dict]:
    """Faster, ten prompts in one batch, compared prompt by prompt; then other steps and other cfg."""
    ten = graph.prompts()
    references = graph.references(seed, ten)
    real, own = real_digits(seed), own_digits(graph, seed, references, ten)
    yield from free_rows(graph, seed, {"real": real, "50 steps": own}, "ten")
    yield from free_at_other_cfg(graph, seed, real, CFGS)
    lora, training = graph.trained(f"prompts_{seed}", references, seed, UPDATES, positive=ten)
    for name, model in (("model alone", graph.model), ("LoRA, latent", lora)):
        for steps in (STEPS, 10, MANY):
            drawn = graph.drawn(real.case, model, seed, steps, ten)
            about = {"model": name, "steps": steps, "training": training}
            yield {
                **about, "against": "real", "given": shown(drawn), **judged(real, drawn, prompted=True),
            }  # fmt: skip
            yield {**about, "against": "50 steps", **judged(own, drawn, prompted=True)}
        for cfg in CFGS:
            for steps in (STEPS, MANY) if model is graph.model else (STEPS,):
                drawn = graph.drawn(real.case, model, seed, steps, ten, cfg)
                about = {"model": name, "steps": steps, "cfg": cfg, "against": "other cfg"}
                yield {**about, **judged(real, drawn, prompted=True)}


def subset(graph: DigitsGraph, seed: int) -> Iterator[dict]:
    """Faster and different: 3s, 8s and 1s, next to guidance at inference."""
    truth = few_classes(seed)
    real, many = truth.given, graph.references(seed, graph.prompts(PROPORTIONS))
    by_real, first = graph.trained(f"subset_{seed}", real, seed, ADAPTING)
    by_many, second = graph.trained(f"subset_drawn_{seed}", many, seed, ADAPTING)
    numbers = (STEPS, 10, MANY)
    methods = (
        ("model alone", graph.model, numbers, 0.0),
        ("guidance, 100 real", graph.guided(graph.model, real), numbers, 0.0),
        ("guidance, 1200 drawn", graph.guided(graph.model, many), (STEPS,), 0.0),
        ("LoRA, 100 real", by_real, numbers, first),
        ("LoRA, 1200 drawn", by_many, numbers, second),
        ("LoRA and guidance, 100 real", graph.guided(by_real, real), (STEPS,), first),
    )
    yield from free_and_guided(graph, seed, truth)
    yield {
        "model": "real digits", "steps": 0, "against": "real", "given": real_of(truth), **judged(truth, ideal(truth)),
    }  # fmt: skip
    for name, model, each, training in methods:
        for steps in each:
            drawn = graph.drawn(truth.case, model, seed, steps)
            about = {"model": name, "steps": steps, "training": training, "against": "real"}
            yield {**about, "given": shown(drawn), **judged(truth, drawn)}


STUDIES = {
    "euler": euler,
    "subset": subset,
    "prompts": prompts,
    "dpmpp_2m": dpmpp_2m,
    "kl_optimal": on_simple,
    "2 to 4 calls": fewest,
}  # the longest first
