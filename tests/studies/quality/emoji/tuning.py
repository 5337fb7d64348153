"""Which strength of other guidance the tables show, chosen at seeds that no table shows."""

from collections.abc import Iterable

from mmd_tests.studies.quality.emoji.methods import METHODS, OURS, TUNED
from mmd_tests.studies.quality.emoji.results import Row

FAMILIES = {"ours": tuple(OURS), **{name: tuple(methods) for name, methods in TUNED.items()}}
"""What is chosen among."""

FIRST = 1000
"""Seeds from here on are for choosing."""

TRIALS = (("a fluent", FIRST), ("c smileys", FIRST))
"""The cases and seeds at which all strengths are tried."""

RULE = "MMD2"
"""The figure whose mean over the trials is lowest for the strength that is chosen."""


def scores(rows: Iterable[Row]) -> dict[str, float]:
    """The mean of the figure over the trials, of all methods that were drawn at all of them."""
    found: dict[str, dict[tuple[str, int], float]] = {}
    for row in rows:
        if (row.case, row.seed) in TRIALS and row.method in METHODS:
            found.setdefault(row.method, {})[row.case, row.seed] = row.figures[RULE]
    return {
        method: sum(values.values()) / len(TRIALS)
        for method, values in found.items()
        if len(values) == len(TRIALS)
    }


def chosen(rows: Iterable[Row]) -> dict[str, str]:
    """The method of each family, where all strengths of the family were tried."""
    score = scores(rows)
    return {
        family: min(names, key=score.__getitem__)
        for family, names in FAMILIES.items()
        if set(names) <= set(score)
    }


def hidden(rows: Iterable[Row]) -> set[str]:
    """The methods that no table shows, because another strength was chosen."""
    choice = chosen(rows)
    return {name for family in TUNED for name in TUNED[family] if choice.get(family, name) != name}
