"""The study on digits in words and tables; pure functions."""

import math
from collections.abc import Sequence

from mmd_tests.studies.tables import (
    chosen,
    deviation,
    facts,
    mean,
    spread,
    table_head,
    table_row,
    unique,
    verdict,
)

TITLES = {"class": "Reward: log-probability of 5", "witness": "Reward: MMD witness of 3/8/1"}
BASELINE, METHOD = "best of 64: best", "TRI-TSMC: best"
LEGEND = """Each method spends 64 paths and hands out 16 images. reward: the mean of these; largest: of all that was drawn; both in
standard deviations of unsteered images, about their mean. wanted: the share of the class; TV: total variation between
the shares of classes and 3/8/1. confidence: the mean probability of the likeliest class. All three by a second judge
that no method has seen. Vendi: the effective number of different images. distinct: how many differ at all. log Z and
E[r]: root of the mean square error of these estimates, from all paths. ± is the standard deviation over seeds."""


def rms(values: Sequence[float]) -> float:
    return math.sqrt(mean([v * v for v in values]))


def figures(rows: list[dict], world: str, method: str, figure: str) -> list[float]:
    """Of all seeds, in their order."""
    own = chosen(rows, world=world, method=method)
    return [each[figure] for each in own if figure in each]


def paired(
    rows: list[dict], world: str, first: str, second: str, figure: str
) -> tuple[float, float]:
    """The mean difference of a figure on the same seeds, and its standard error."""
    pairs = zip(
        figures(rows, world, first, figure), figures(rows, world, second, figure), strict=True
    )
    each = [a - b for a, b in pairs]
    return mean(each), deviation(each) / math.sqrt(len(each))


def table(rows: list[dict], world: str) -> str:
    target = "wanted" if world == "class" else "TV"
    names = ("reward", "largest", target, "confidence", "Vendi", "distinct", "log Z", "E[r]", "ESS")
    lines = [table_head("method: handed out", *names, "reward calls")]
    for method in unique(each["method"] for each in chosen(rows, world=world)):

        def cell(figure: str, digits: int = 2, method: str = method) -> str:
            found = figures(rows, world, method, figure)
            return spread(found, digits) if found else ""

        cells = [cell("reward"), cell("best"), cell("wanted"), cell("confidence", 3)]
        cells += [cell("vendi", 1), cell("distinct", 1)]
        for figure in ("log Z", "mean"):
            found = figures(rows, world, method, figure)
            cells.append(f"{rms(found):.2f}" if found else "")
        calls = figures(rows, world, method, "reward calls")
        cells += [cell("ess", 1), f"{mean(calls):.0f}" if calls else ""]
        lines.append(table_row(method, *cells))
    return "\n".join(lines)


def bars(rows: list[dict], world: str) -> str:
    """Whether the bar of the study is met, part by part."""
    reward, reward_error = paired(rows, world, METHOD, BASELINE, "reward")
    sure, sure_error = paired(rows, world, METHOD, BASELINE, "confidence")
    ours, theirs = (rms(figures(rows, world, m, "log Z")) for m in (METHOD, BASELINE))
    confident = verdict(sure >= 0)
    if -2 * sure_error < sure < 0:
        confident = "lower, but by less than chance explains"
    return "\n".join(
        [
            f"- mean reward above best of 64: {verdict(reward > 0)} ({reward:+.3f} ± {reward_error:.3f}, paired, standard error)",
            f"- no lower confidence: {confident} ({sure:+.4f} ± {sure_error:.4f})",
            f"- error of log Z at most half: {verdict(ours <= theirs / 2)} ({ours:.3f} against {theirs:.3f}, ratio {ours / theirs:.2f})",
        ]
    )


def report(about: dict, rows: list[dict]) -> str:
    """Everything as Markdown."""
    parts = [facts(about), LEGEND]
    for world in unique(each["world"] for each in rows):
        first = chosen(rows, world=world, method=METHOD)
        kl, spent = (mean([each[name] for each in first]) for name in ("KL", "spent"))
        error = max(each["its error"] for each in first)
        parts += [
            f"## {TITLES[world]}",
            f"KL(π ‖ P) {kl:.2f} nats, of which TRI-TSMC spends {spent:.2f}; standard error of the true log Z at most "
            f"{error:.3f}.",
            table(rows, world),
            bars(rows, world),
        ]
    return "\n\n".join(parts) + "\n"
