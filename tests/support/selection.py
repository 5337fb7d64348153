"""Which tests run by default, and which only with `--all`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import pytest

MARKERS = (
    "long: takes long for what it shows; runs with --all",
    "sampled: of all combinations of its parameters, enough run by default that each value of each"
    " parameter is tried; all of them with --all",
)


def left_out(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The tests that do not run by default; the same ones each time."""
    rest, matrices = [], defaultdict(list)
    for item in items:
        if item.get_closest_marker("long"):
            rest.append(item)
        elif item.get_closest_marker("sampled"):
            matrices[item.nodeid.partition("[")[0]].append(item)
    for cases in matrices.values():
        kept = covering([values_of(case) for case in cases])
        rest += [case for number, case in enumerate(cases) if number not in kept]
    return rest


def values_of(case: pytest.Item) -> dict[str, int]:
    """The parameters of a case, each with the identity of its value.

    All cases of a matrix share the values that `parametrize` was given.
    """
    return {name: id(value) for name, value in case.callspec.params.items()}


def covering(cases: list[dict[str, int]]) -> set[int]:
    """Numbers of some cases among which each value of each parameter occurs.

    Arguments:
        cases: For each case the parameters, each with a number that stands for its value.
    """
    kept: set[int] = set()
    missing = {pair for case in cases for pair in case.items()}
    while missing:
        # The first of those with most values that are still missing.
        best = max(range(len(cases)), key=lambda number: len(missing & cases[number].items()))
        kept.add(best)
        missing -= cases[best].items()
    return kept
