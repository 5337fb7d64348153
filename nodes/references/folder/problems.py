"""Files that cannot be used: each with the reason, and equal complaints about one file as one."""

from collections.abc import Iterable
from typing import NamedTuple

SHOWN = 3  # names or places in one line


class Problem(NamedTuple):
    """A file that cannot be used.

    Attributes:
        name: The file.
        reason: Why it cannot be used.
        place: The part of it that is meant, as a word and its number or name, such as "line 7".
    """

    name: str
    reason: str
    place: str = ""


Problems = list[Problem]


def some(names: Iterable[str]) -> str:
    """The first few of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def folded(problems: Iterable[Problem]) -> list[tuple[str, str]]:
    """Each file (and the places in it), with the reason. The order is kept."""
    places: dict[tuple[str, str], list[str]] = {}
    for name, reason, place in problems:
        found = places.setdefault((name, reason), [])
        if place and place not in found:
            found.append(place)
    return [(name + _places(found), reason) for (name, reason), found in places.items()]


def _places(places: list[str]) -> str:
    if len(places) < 2:
        return f", {places[0]}" if places else ""
    word = places[0].partition(" ")[0]
    plural = {"line": "lines", "entry": "entries"}[word]
    return f", {plural} {some(place.partition(' ')[2] for place in places)}"
