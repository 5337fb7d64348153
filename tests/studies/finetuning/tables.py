"""The tables of RESULTS.md, and what they are to show."""

from collections.abc import Iterable, Iterator

from mmd_pack.mmd_core import KernelConfig
from mmd_pack.mmd_core.ddm import MMDLoss
from mmd_tests.studies.finetuning import ring
from mmd_tests.studies.finetuning.ring import Nearness
from mmd_tests.studies.finetuning.study import AS_SPECIFIED, Recipe, train
from mmd_tests.studies.tables import mean, spread, table_head, table_row, verdict
from torch import Generator, Tensor, nn

SEEDS = range(7000, 7005)
FEW = 3  # of them, for tables of settings
SAMPLES = 8000
MANY = 40_000  # where the truth is nearly reached
STEPS = (4, 5, 6, 10, 20, 50)
FULL = ("learning_rate", 1e-3)  # of all weights, found on seed 7900
MIXED = tuple((steps, "euler") for steps in (5, 4, 6))
FALLS, ENDS, RISES = 5.0, 1.5, 0.08  # the specification's bars


def drawn(
    network: nn.Module, steps: int, seed: int, sampler: str = "euler", count: int | None = None
) -> Tensor:
    return ring.samples(network, ring.chain(steps, sampler), count or SAMPLES, seed)


def mmd2s(networks: Iterable[nn.Module], steps: int, seeds: range, sampler: str = "euler"):
    return [
        ring.mmd2(drawn(net, steps, s, sampler)) for net, s in zip(networks, seeds, strict=True)
    ]


# --- acceptance 3 ---------------------------------------------------------------------------------


def nearnesses(
    base: str, recipes: dict[str, Recipe], seeds: range, count: int
) -> dict[str, list[Nearness]]:
    """Of the base at several step counts, of what was trained, and of points of the ring."""
    network = ring.base(base)
    found = {
        f"base, {steps} steps": [
            ring.nearness(drawn(network, steps, s, count=count), s) for s in seeds
        ]
        for steps in (5, 10, 50)
    }
    for name, recipe in recipes.items():
        found[name] = [
            ring.nearness(drawn(train(recipe, s).network, 5, s, count=count), s) for s in seeds
        ]
    found["the ring itself"] = [
        ring.nearness(ring.points(count, Generator().manual_seed(300_000 + s)), s) for s in seeds
    ]
    return found


def methods(base: str, recipes: dict[str, Recipe], seeds: range, count: int) -> Iterator[str]:
    found = nearnesses(base, recipes, seeds, count)
    yield table_head(
        "model",
        "MMD²",
        "MMD², 4000 points",
        "energy",
        "sliced W1",
        "inliers",
        "FD",
        "training, CPU s",
    )
    for name, each in found.items():
        columns = [spread(values, 3 if i in (3, 4) else 5) for i, values in enumerate(zip(*each, strict=True))]  # fmt: skip
        times = "–"
        if name in recipes:
            times = spread((train(recipes[name], s).seconds for s in seeds), 1)
        yield table_row(name, *columns, times)
    yield ""
    yield from bars(found, "**LoRA, rbf, 5 steps**")


def bars(found: dict[str, list[Nearness]], ours: str) -> Iterator[str]:
    """Whether the specification is met, in means over seeds."""

    def average(name: str, what: str) -> float:
        return mean([getattr(each, what) for each in found[name]])

    before, after = average("base, 5 steps", "exact"), average(ours, "exact")
    many = average("base, 50 steps", "exact")
    apart = [a.exact - b.exact for a, b in zip(found[ours], found["base, 50 steps"], strict=True)]
    rise = average(ours, "inliers") - average("base, 5 steps", "inliers")
    yield f"- MMD² at 5 steps falls to a fifth or less: {verdict(before >= FALLS * after)} ({before:.5f} to {after:.5f})"
    yield (
        f"- and ends at {ENDS:g} times that of the base with 50 steps or below: {verdict(after <= ENDS * many)} "
        f"({after:.5f} to {many:.5f}; difference {spread(apart, 5)})"
    )
    yield f"- inliers rise by {RISES:g} or more: {verdict(rise >= RISES)} ({rise:+.3f})"


# --- acceptance 4 ---------------------------------------------------------------------------------


def step_counts(rows: dict[str, Recipe | str], seeds: range) -> Iterator[str]:
    """MMD² at other step counts than those trained for; a row that is a name is a base."""
    yield table_head("model", *(f"{steps} steps" for steps in STEPS), "inliers, 50 steps")
    for name, recipe in rows.items():
        if isinstance(recipe, str):
            networks = [ring.base(recipe)] * len(seeds)
        else:
            networks = [train(recipe, s).network for s in seeds]
        cells = [spread(mmd2s(networks, steps, seeds), 4) for steps in STEPS]
        inside = [ring.inliers(drawn(net, 50, s)) for net, s in zip(networks, seeds, strict=True)]
        yield table_row(name, *cells, spread(inside, 3))


# --- acceptance 5 ---------------------------------------------------------------------------------


def few_shot(seeds: range, few: range) -> Iterator[str]:
    """Few references: from the ring and from themselves, of the last update and of what validation picks."""
    whole = AS_SPECIFIED["iterations"]
    options = (("keep", "best"), ("validate_every", 10))
    yield table_head("references", "kept", "MMD² from them", "MMD²", "inliers", "updates")
    verdicts = []
    for validation in (64, 1000):
        last, best = [], []
        for seed in seeds:
            trained = train(Recipe(references=64, validation=validation, options=options), seed)
            best.append((*nearness_of_both(trained, seed), trained.training.best))
            trained.adapter.put(trained.last)
            last.append((*nearness_of_both(trained, seed), whole))
        if not verdicts:
            yield few_row(64, "last", last)
            above = sum(true > own for own, true, *_ in last)
            verdicts.append(
                f"- held-out MMD² is above that from the 64 references: {verdict(above == len(last))} ({above} of {len(last)} seeds)"
            )
        yield few_row(64, f"best of {validation} held out", best)
        better = sum(b[1] <= a[1] for a, b in zip(last, best, strict=True))
        verdicts.append(
            f"- what {validation} held-out references pick is no worse than the last: {verdict(better == len(last))} "
            f"({better} of {len(last)} seeds)"
        )
    several = [train(Recipe(references=1000), seed) for seed in few]
    found = [(*nearness_of_both(each, s), whole) for each, s in zip(several, few, strict=True)]
    yield few_row(1000, "last", found)
    fresh = [drawn(train(Recipe(), s).network, 5, s) for s in seeds]
    yield table_row("fresh", "last", "–", spread(map(ring.mmd2, fresh), 5), spread(map(ring.inliers, fresh), 3), whole)  # fmt: skip
    yield ""
    yield from verdicts


def few_row(count: int, kept: str, found: list[tuple[float, float, float, int]]) -> str:
    own, true, inside, updates = zip(*found, strict=True)
    return table_row(
        count, kept, spread(own, 5), spread(true, 5), spread(inside, 3), f"{mean(updates):.0f}"
    )


def nearness_of_both(trained, seed: int) -> tuple[float, float, float]:
    """MMD² from the references and from the ring, and inliers."""
    x = drawn(trained.network, 5, seed)
    kernel = KernelConfig(bandwidth="fixed", bandwidth_value=ring.MEDIAN, multipliers=ring.WIDTHS)
    own, _ = MMDLoss(trained.references, kernel)(x[: ring.HELD_OUT])
    return own, ring.mmd2(x), ring.inliers(x)


# --- more -----------------------------------------------------------------------------------------


def samplers(seeds: range) -> Iterator[str]:
    """Trained through one sampler, drawn with another."""
    yield table_head("trained with", *(f"{name}, 5 steps" for name in ring.SAMPLERS))
    untrained = [ring.base("brief")] * len(seeds)
    rows = {"–": untrained}
    for name in ring.SAMPLERS:
        rows[name] = [train(Recipe(chains=((5, name),)), s).network for s in seeds]
    for name, networks in rows.items():
        yield table_row(
            name, *(spread(mmd2s(networks, 5, seeds, other), 5) for other in ring.SAMPLERS)
        )
    yield table_row(
        "–, 50 steps", *(spread(mmd2s(untrained, 50, seeds, s), 5) for s in ring.SAMPLERS)
    )


SETTINGS = {
    "as specified": Recipe(),
    "widths from 1/16 on (1/4)": Recipe(widths=(0.0625, 0.125, *ring.WIDTHS)),
    "drift_penalty 10 (0)": Recipe(options=(("drift_penalty", 10.0),)),
    "grad_last_k 1 (all)": Recipe(options=(("grad_last_k", 1),)),
    "grad_last_k 2 (all)": Recipe(options=(("grad_last_k", 2),)),
    "ema 0 (.95)": Recipe(options=(("ema", 0.0),)),
    "rank 1 (4)": Recipe(options=(("rank", 1),)),
    "rank 16 (4)": Recipe(options=(("rank", 16),)),
}


def settings(seeds: range) -> Iterator[str]:
    """One setting changed."""
    yield table_head("setting", "MMD², 5 steps", "inliers", "MMD², 50 steps", "training, CPU s")
    for name, recipe in SETTINGS.items():
        runs = [train(recipe, s) for s in seeds]
        networks = [run.network for run in runs]
        inside = [ring.inliers(drawn(net, 5, s)) for net, s in zip(networks, seeds, strict=True)]
        yield table_row(
            name, spread(mmd2s(networks, 5, seeds), 5), spread(inside, 3), spread(mmd2s(networks, 50, seeds), 5),
            spread((run.seconds for run in runs), 1),
        )  # fmt: skip
