"""Which strength of each family the tables show, chosen at seeds that no table shows."""

from collections.abc import Mapping

from mmd_tests.studies.quality.emoji.diversity.ways import FAMILIES, Way

KEPT = 0.9
"""So much of the prompt accuracy without guidance must be left."""


def best(figures: Mapping[Way, Mapping[str, float]]) -> dict[str, Way]:
    """For each family the most varied way that keeps the prompt; if none does, the most accurate.

    Arguments:
        figures: Those of all ways that were tried, and of no guidance.
    """
    least = KEPT * figures[Way("none")]["own name first"]
    found = {}
    for family, about in FAMILIES.items():
        ways = [Way(family, strength) for strength in about.tried]
        ways = [way for way in ways if way in figures]
        kept = [way for way in ways if figures[way]["own name first"] >= least]
        if kept:
            found[family] = max(kept, key=lambda way: figures[way]["Vendi"])
        elif ways:
            found[family] = max(ways, key=lambda way: figures[way]["own name first"])
    return found
