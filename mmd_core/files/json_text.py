"""JSON of strangers: its size is checked before it is parsed.

Parsed values can take twenty times the memory of their text, and a number of a million digits takes
minutes.
"""

import json
import re
from typing import Any

__all__ = ["outline", "parsed"]

DIGITS = 20  # of a number: all numbers that are used have fewer


def outline(text: str, strings: int) -> str:
    """The text without spaces, digits and its first `strings` strings.

    If there are more strings, quotes remain.
    """
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    return re.sub(r"[0-9\s]+", "", "".join(unescaped.split('"', 2 * strings)[::2]))


def parsed(text: str, values: int) -> Any:
    """The value of a JSON text with at most `values` strings, numbers and brackets of each kind.

    Raises:
        ValueError: It is no JSON, it has more values, an object has a key twice, a number is not
            whole, or a text has half a character.
    """
    found = outline(text, values)
    if '"' in found or len(found) > 4 * values:
        raise ValueError("it has too many entries")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_refused,
            parse_constant=_refused,
        )
    except RecursionError:
        raise ValueError("it is too deep") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has a name twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError("it has a number that is too large")
    return int(digits)


def _refused(text: str) -> None:
    raise ValueError("it has a number that is not whole")
