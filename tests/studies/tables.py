"""Tables in Markdown and means over seeds with their spread, as the reports of the studies show them."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path


def table_row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table_head(*cells: object) -> str:
    return table_row(*cells) + "\n" + "|---" * len(cells) + "|"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation; 0 of a single value."""
    middle = mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / max(len(values) - 1, 1))


def spread(values: Iterable[float], digits: int) -> str:
    """The mean and the standard deviation."""
    values = list(values)
    return f"{mean(values):.{digits}f} ± {deviation(values):.{digits}f}"


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def chosen(rows: Iterable[dict], **wanted: object) -> list[dict]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def unique(items: Iterable) -> list:
    """Items without repetition, in order."""
    return list(dict.fromkeys(items))


def facts(about: dict) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in about.items())


def told(lines: Iterable[str], file: Path | None) -> None:
    """Prints a report line by line as it comes, and writes it to `file` in the end."""
    lines_so_far = []
    for line in lines:
        print(line, flush=True)  # noqa: T201
        lines_so_far.append(line)
    if file:
        file.write_text("\n".join(lines_so_far) + "\n", "utf-8")
