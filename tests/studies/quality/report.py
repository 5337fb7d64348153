"""Rows of figures as Markdown tables: means over seeds ± standard deviations."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from mmd_tests.studies.tables import table_head, table_row, unique

Rows = list[dict]


class Column(NamedTuple):
    """A figure in a table: its heading, and how to write it: decimals, and a factor before."""

    heading: str
    decimals: int = 3
    factor: float = 1.0


COLUMNS = {
    "TV": Column("TV"),
    "hue TV": Column("hue TV"),
    "kind TV": Column("kind TV"),
    "style TV": Column("style TV"),
    "style recovered": Column("style recovered", 2),
    "three recovered": Column("3s recovered", 2),
    "eight recovered": Column("8s recovered", 2),
    "triangle recovered": Column("triangles recovered", 2),
    "disc recovered": Column("discs recovered", 2),
    "accuracy": Column("accuracy"),
    "MMD2": Column("MMD² ·10³", 2, 1000),
    "p": Column("p", 2),
    "rejected": Column("rejected", 2),
    "FD": Column("FD", -3),
    "FD equal": Column("FD, equal n", -3),
    "confidence": Column("confidence"),
    "on-manifold": Column("on-manifold"),
    "coverage": Column("coverage"),
    "density": Column("density", 2),
    "vendi": Column("Vendi", 2),
    "var": Column("var", 2),
    "var low": Column("var low", 2),
    "var mid": Column("var mid", 2),
    "var high": Column("var high", 2),
    "contrast": Column("contrast", 2),
    "outline": Column("outline", 2),
    "in the corner": Column("in the corner", 2),
    "layout spread": Column("layout spread", 2),
    "nearest": Column("nearest", -3),
    "nearest by fresh": Column("by fresh", 2),
    "seconds": Column("s", 1),
    "calls": Column("calls", 0),
}
LEGEND = """\
TV: total variation between shares of modes and the truth, 0 right, 1 disjoint. MMD²: unbiased, against held-out target
samples, three Gaussian kernels about their median distance. p, rejected: permutation test of equally many held-out
samples at 5 %. FD: Fréchet distance, which grows as samples get fewer; equal n: of equally many samples for all
methods of a target. coverage, density: Naeem et al. 2020, k = 5, at equal numbers (coverage .97 at
best). Vendi: effective number of different samples, by that of held-out ones. var: variance inside modes by the true
one, in three frequency bands. nearest: distance to the nearest reference (of references: to the nearest other one); by
fresh: the same by that of held-out samples, far below 1 means copies. calls: model calls for each image."""


def number(value: float, decimals: int) -> str:
    """A number with so many decimals; a negative count means significant digits."""
    if not math.isfinite(value):
        return "–"
    if decimals >= 0:
        return f"{value:.{decimals}f}"
    return f"{value:.{-decimals}g}" if abs(value) < 1000 else f"{value:.0f}"


def cell(values: Iterable[float], column: Column) -> str:
    """Mean ± standard deviation."""
    scaled = np.array([v * column.factor for v in values if math.isfinite(v)])
    if not len(scaled):
        return "–"
    mean = number(scaled.mean(), column.decimals)
    if len(scaled) == 1 or column.decimals == 0:
        return mean
    spread = scaled.std(ddof=1)
    return f"{mean} ± {number(spread, column.decimals if column.decimals > 0 else -2)}"


def values(rows: Rows, figure: str, **wanted) -> list[float]:
    """One figure of all rows that have it and the wanted entries."""
    return [
        row["figures"][figure]
        for row in rows
        if figure in row.get("figures", {}) and all(row[k] == v for k, v in wanted.items())
    ]


def mean(rows: Rows, figure: str, **wanted) -> float:
    """The mean of one figure; NaN where there is none."""
    found = [v for v in values(rows, figure, **wanted) if math.isfinite(v)]
    return float(np.mean(found)) if found else math.nan


def table(rows: Rows, label: Callable[[dict], str], figures=COLUMNS, first: str = "") -> str:
    """One line for each label, one column for each figure that some row has."""
    labels = unique(map(label, rows))
    names = [name for name in figures if values(rows, name)]
    lines = [table_head(first, *(COLUMNS[name].heading for name in names))]
    for text in labels:
        own = [each for each in rows if label(each) == text]
        lines.append(table_row(text, *(cell(values(own, name), COLUMNS[name]) for name in names)))
    return "\n".join(lines)


def settings_text(settings: dict) -> str:
    """Settings in a few words."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.items()
    )


def method_label(row: dict) -> str:
    """The method; tuned settings are the same for all seeds of a target."""
    settings = settings_text(row["settings"])
    return f"{row['method']} ({settings})" if settings else row["method"]


def progress_text(row: dict) -> str:
    """One row in one line."""
    about = f"{row['world']} {row['target']} · {method_label(row)} · seed {row['seed']}"
    if "error" in row:
        return f"{about}: {row['error'].strip().splitlines()[-1]}"
    shown = ("TV", "MMD2", "FD", "confidence", "on-manifold")
    figures = row["figures"]
    found = [
        f"{COLUMNS[name].heading} {cell([figures[name]], COLUMNS[name])}"
        for name in shown
        if name in figures
    ]
    return f"{about}: {', '.join(found)} ({row['took']:.1f} s)"


def order_of(rows: Rows, methods: Iterable[str]) -> Rows:
    """Rows sorted as methods are listed, then by seed."""
    place = {name: i for i, name in enumerate(methods)}
    return sorted(rows, key=lambda row: (place.get(row["method"], 99), row["seed"]))


def main_tables(rows: Rows, methods: Iterable[str]) -> str:
    """A table for each target of each world."""
    parts = []
    for world in unique(row["world"] for row in rows):
        parts.append(f"## {world}")
        own = [row for row in rows if row["world"] == world]
        for target in unique(row["target"] for row in own):
            some = order_of([row for row in own if row["target"] == target], methods)
            parts += [f"### {world}: {target}", table(some, method_label, first="method")]
    return "\n\n".join(parts)
