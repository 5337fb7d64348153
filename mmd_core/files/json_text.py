"""JSON of strangers: its size is checked before it is parsed.

Parsed values can take twenty times the memory of their text, and a number of a million digits takes
minutes.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["check", "outline", "parsed"]

DIGITS = 40  # of a number: all numbers that are used have fewer
PIECE = 2**20  # characters that are looked at while other threads wait


def outline(text: str, strings: int, marks: int) -> str:
    """The text without spaces, digits and strings.

    It is longer than `marks` if the text has more than so many other characters, or more than
    `strings` strings.
    """
    unescaped = "".join(_unescaped(text))
    if unescaped.count('"') > 2 * strings:
        return '"' * (marks + 1)
    found, bare = "", "".join(unescaped.split('"')[::2])
    for start in range(0, len(bare), PIECE):
        found += re.sub(r"[0-9\s]+", "", bare[start : start + PIECE])
        if len(found) > marks:
            break
    return found


def _unescaped(text: str) -> Iterator[str]:
    """The text without escaped backslashes and quotes, in pieces."""
    start = 0
    while start < len(text):
        piece = text[start : start + PIECE]
        if (len(piece) - len(piece.rstrip("\\"))) % 2:  # an escape is cut
            piece = text[start : start + PIECE + 1]
        start += len(piece)
        yield piece.replace("\\\\", "").replace('\\"', "")


def check(text: str, values: int) -> None:
    """Whether a JSON text has at most `values` strings and a quarter as many lists and objects.

    Raises:
        ValueError: It has more.
    """
    found = outline(text, values, 4 * values)
    if len(found) > 4 * values or found.count("[") + found.count("{") > values / 4:
        raise ValueError("it has too many entries")


def parsed(text: str, values: int) -> Any:
    """The value of a JSON text that passes `check`.

    NaN, infinite and too large numbers become None.

    Raises:
        ValueError: It is no JSON, it has more values, an object has a key twice, or a number has
            too many digits.
    """
    check(text, values)
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=lambda digits: int(_short(digits)),
            parse_float=_finite,
            parse_constant=lambda name: None,
        )
    except RecursionError:
        raise ValueError("it is too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a name twice")
    return found


def _short(digits: str) -> str:
    if len(digits) > DIGITS:
        raise ValueError("it has a number with too many digits")
    return digits


def _finite(digits: str) -> float | None:
    number = float(_short(digits))
    return number if math.isfinite(number) else None
