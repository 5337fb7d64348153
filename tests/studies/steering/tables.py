"""The tables of RESULTS.md: of methods, of the trust region, of η, and of what the effective number foretells."""

import math
from collections.abc import Callable, Iterator

import torch
from mmd_pack.mmd_core.tsmc import TSMCConfig
from mmd_tests.studies.steering import closed_form, free_drift, quadrature
from mmd_tests.studies.steering.methods import Found, importance, resampled, tri_tsmc, twisted
from mmd_tests.studies.steering.quadrature import Truth
from mmd_tests.studies.steering.worlds import World, gaussian, line
from mmd_tests.studies.tables import table_head, table_row
from torch import Tensor

SEED = 6000
METHODS: dict[str, Callable[[World, int, int], Found]] = {
    "best-of-64, IS": importance,
    "SMC, V = κλr(x̂0)": resampled,
    "FK steering, V = λr(x̂0)": lambda *a: resampled(*a, potential="raw"),
    "gradient θ = 1, IS": lambda *a: importance(*a, theta=1.0),
    "gradient θ = 1, SMC": lambda *a: resampled(*a, theta=1.0),
    "TDS, gradient through the model": twisted,
    "**TRI-TSMC**": tri_tsmc,
    "**TRI-TSMC**, pilot": lambda *a: tri_tsmc(*a, pilot=True),
    "**TRI-TSMC**, black box": lambda *a: tri_tsmc(*a, black_box=True),
}
BUDGETS = (0.3, 0.7, 1.5, math.inf)
ETAS = (1.0, 0.75, 0.5, 0.25)


def number(x: float, digits: int = 3) -> str:
    """So many digits that count, and no exponents."""
    if not math.isfinite(x) or x == 0:
        return str(x)
    return f"{x:.{max(0, digits - 1 - math.floor(math.log10(abs(x))))}f}"


def root(errors: Tensor) -> str:
    """The root mean square with its standard error, by replicates."""
    squares = errors.square()
    value = squares.mean().sqrt().item()
    error = squares.std().item() / math.sqrt(len(squares)) / (2 * value)
    return f"{number(value)} ± {number(error, 1)}"


def average(values: Tensor) -> str:
    error = values.std().item() / math.sqrt(len(values))
    digits = max(1, math.floor(math.log10(abs(values.mean().item()) / error)) + 2) if error else 3
    return f"{number(values.mean().item(), digits)} ± {number(error, 1)}"


def methods(world: World, truth: Truth, found: dict[str, Found]) -> Iterator[str]:
    """One world."""
    error = f" ± {truth.error:.3f}" if truth.error else ""
    yield f"### {world.name}\n"
    yield (
        f"λ = {world.scale:g}, KL(π ‖ P) = {truth.kl:.2f} nats, log Z = {truth.log_z:.3f}{error}, "
        f"E_π[r] = {number(truth.mean, 4)}\n"
    )
    yield table_head("method", "RMSE log Ẑ", "bias", "RMSE E_π[r]", "best r", "ESS", "reward calls")
    for name, each in found.items():
        errors = each.log_z - truth.log_z
        yield table_row(
            name, root(errors), average(errors), root(each.mean - truth.mean), average(each.best),
            f"{each.ess.mean().item():.2f}", each.scores,
        )  # fmt: skip
    yield ""


def foretold(worlds: list[tuple[World, Truth]], every: list[dict[str, Found]]) -> Iterator[str]:
    """Whether the effective number tells how wrong log Ẑ is."""
    names = ["best-of-64, IS", "gradient θ = 1, IS", "**TRI-TSMC**", "**TRI-TSMC**, black box"]
    yield table_head("world", *names)
    for (world, truth), found in zip(worlds, every, strict=True):
        cells = []
        for name in names:
            each = found[name]
            n = each.scores
            told = ((1 / each.ess - 1) / n).clamp_min(0).mean().sqrt().item()
            true = (each.log_z - truth.log_z).square().mean().sqrt().item()
            cells.append(f"{told:.2f} / {true:.2f}")
        yield table_row(world.name, *cells)


def iterations(worlds: list[tuple[World, Truth]], every: list[dict[str, Found]]) -> Iterator[str]:
    """What each batch of TRI-TSMC did."""
    yield table_head(
        "world", "θ", "ESS of the batch, of 16", "τ", "KL(Q ‖ P) of the last", "RMSE of its log Ẑ"
    )
    for (world, truth), found in zip(worlds, every, strict=True):
        learned = found["**TRI-TSMC**"]
        batches = list(zip(*(each.summaries for each in learned.learnings), strict=True))

        def over(what: Callable, batches=batches) -> str:
            means = [sum(map(what, batch)) / len(batch) for batch in batches]
            return " → ".join(f"{mean:.2f}" for mean in means)

        spent = sum(told.kl_spent for told in batches[-1]) / len(batches[-1])
        yield table_row(
            world.name, over(lambda told: told.theta[0]), over(lambda told: told.ess),
            over(lambda told: told.tau), f"{spent:.2f}", root(learned.last_log_z - truth.log_z),
        )  # fmt: skip


def trust_region(sizes: tuple[int, ...], replicates: int) -> Iterator[str]:
    """A free drift, with and without a trust region."""
    world = free_drift.world()
    truth = closed_form.truth(world)
    labels = [f"ε = {e:g}" if math.isfinite(e) else "no trust region" for e in BUDGETS]
    yield table_head("N", *labels, "ESS/N, ε = .3", "ESS/N, none", "std(log R), ε = .3", "√(p/N)")
    for n in sizes:
        runs = {
            e: [free_drift.learned(world, n, e, SEED + i) for i in range(replicates)]
            for e in BUDGETS
        }
        errors = [
            root(torch.tensor([run.log_z - truth.log_z for run in each])) for each in runs.values()
        ]
        ess = [f"{sum(run.ess for run in runs[e]) / replicates:.2f}" for e in (0.3, math.inf)]
        spread = sum(run.spread for run in runs[0.3]) / replicates
        yield table_row(n, *errors, *ess, f"{spread:.2f}", f"{math.sqrt(80 / n):.2f}")


def small_family(worlds: list[tuple[World, Truth]], replicates: int) -> Iterator[str]:
    """The trust region where p = 1."""
    budgets = (0.3, 1.0, math.log(16) - 1e-9)
    starts = (0.5, 0.0)
    yield table_head("world", *(f"θ_0 = {s:g}, ε = {e:.2g}" for s in starts for e in budgets))
    for world, truth in worlds:
        cells = []
        for start in starts:
            for budget in budgets:
                config = TSMCConfig(16, 3, budget, world.scale, standardize=False, theta_init=start)
                found = tri_tsmc(world, SEED, replicates, config=config)
                cells.append(root(found.log_z - truth.log_z))
        yield table_row(world.name, *cells)


def etas(replicates: int) -> Iterator[str]:
    """Each η has a truth of its own: the chain is another one."""
    yield table_head(
        "world",
        "η",
        "log Z",
        "RMSE: best-of-64",
        "gradient θ = 1, IS",
        "TRI-TSMC",
        "ESS",
        "bias of Ẑ/Z, last batch",
    )
    for make, truth_of in (
        (line, quadrature.truth),
        (lambda **o: line(True, **o), quadrature.truth),
        (gaussian, closed_form.truth),
        (lambda **o: gaussian(flow=True, **o), closed_form.truth),
    ):
        for eta in ETAS:
            world = make(eta=eta)
            truth = truth_of(world)
            ours = tri_tsmc(world, SEED, replicates)
            ratios = (ours.last_log_z - truth.log_z).exp() - 1
            yield table_row(
                world.name, eta, f"{truth.log_z:.3f}",
                root(importance(world, SEED, replicates).log_z - truth.log_z),
                root(importance(world, SEED, replicates, theta=1.0).log_z - truth.log_z),
                root(ours.log_z - truth.log_z), f"{ours.ess.mean().item():.2f}", average(ratios),
            )  # fmt: skip
