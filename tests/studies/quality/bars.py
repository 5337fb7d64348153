"""The bars of the project's plan, and whether they are met."""

import math
from typing import NamedTuple

from mmd_tests.studies.quality.report import Rows, mean, number
from mmd_tests.studies.tables import table_head, table_row, unique

PUBLISHED = ("official", "paper")


class Bar(NamedTuple):
    """A figure and the limit that it must keep."""

    where: str
    what: str
    found: float
    limit: float
    most: bool = True  # whether the limit is an upper one

    @property
    def met(self) -> bool:
        return self.found <= self.limit if self.most else self.found >= self.limit


def digits(rows: Rows, where: str) -> list[Bar]:
    own = _of(rows, "references")
    guided, none = _of(rows, "guided"), _of(rows, "none")
    return [
        Bar(where, "TV ≤ references' + .06", guided("TV"), own("TV") + 0.06),
        Bar(where, "FD ≤ 1.15 × references'", guided("FD"), 1.15 * own("FD")),
        Bar(where, "FD at equal n ≤ 1.15 ×", guided("FD equal"), 1.15 * own("FD equal")),
        Bar(where, "MMD² ≤ references' + .0005", guided("MMD2"), own("MMD2") + 0.0005),
        Bar(
            where, "coverage ≥ .95 × references'", guided("coverage"), 0.95 * own("coverage"), False
        ),
        Bar(where, "confidence ≥ unguided", guided("confidence"), none("confidence"), False),
        Bar(where, "rejected ≤ references'", guided("rejected"), own("rejected")),
    ]


def shapes(rows: Rows, where: str) -> list[Bar]:
    own = _of(rows, "references")
    guided, none = _of(rows, "guided"), _of(rows, "none")
    return [
        Bar(where, "hue TV ≤ references' + .08", guided("hue TV"), own("hue TV") + 0.08),
        Bar(where, "kind TV ≤ references' + .08", guided("kind TV"), own("kind TV") + 0.08),
        Bar(where, "FD ≤ 3 × references'", guided("FD"), 3 * own("FD")),
        Bar(where, "FD at equal n ≤ 3 ×", guided("FD equal"), 3 * own("FD equal")),
        Bar(where, "contrast ≥ .9 × references'", guided("contrast"), 0.9, False),
        Bar(where, "contrast ≤ 1.1 × references'", guided("contrast"), 1.1),
        Bar(where, "confidence ≥ unguided", guided("confidence"), none("confidence"), False),
    ]


def latents(rows: Rows, where: str) -> list[Bar]:
    guided = _of(rows, "guided")
    names = [f"var {band}" for band in ("low", "mid", "high")]
    bands, none = [guided(name) for name in names], _of(rows, "none")
    ratios = [guided(name) / none(name) for name in names]  # what guidance does, not the sampler
    return [
        Bar(where, "TV ≤ ideal + .05", guided("TV"), _of(rows, "ideal")("TV") + 0.05),
        Bar(where, "variance of each band ≥ .8", min(bands), 0.8, False),
        Bar(where, "variance of each band ≤ 1.25", max(bands), 1.25),
        Bar(where, "the same by unguided variance ≥ .8", min(ratios), 0.8, False),
        Bar(where, "the same by unguided variance ≤ 1.25", max(ratios), 1.25),
    ]


def prompt_digits(rows: Rows, where: str) -> list[Bar]:
    names = ("three recovered", "eight recovered")
    aware, blind = _of(rows, "guided"), _of(rows, "prompt-blind")
    return [
        *(Bar(where, f"{name} ≥ .75", aware(name), 0.75, False) for name in names),
        Bar(where, "accuracy ≥ .98", aware("accuracy"), 0.98, False),
        Bar(where, "prompt-blind: one recovered ≤ .6", min(map(blind, names)), 0.6),
    ]


def beats_published(rows: Rows, where: str) -> list[Bar]:
    guided, bars = _of(rows, "guided"), []
    fidelity = "confidence" if not math.isnan(guided("confidence")) else "on-manifold"
    aim = "TV" if math.isnan(guided("style gap")) else "style gap"
    for name in PUBLISHED:
        other = _of(rows, name)
        bars += [
            Bar(where, f"{aim} ≤ {name}", guided(aim), other(aim)),
            Bar(where, f"MMD² ≤ {name}", guided("MMD2"), other("MMD2")),
            Bar(where, f"{fidelity} ≥ {name}", guided(fidelity), other(fidelity), False),
        ]
    return bars


BARS = {"digits": digits, "shapes": shapes, "latents": latents, "prompt-digits": prompt_digits}


def study_bars(parts: dict[str, Rows]) -> list[Bar]:
    """The bars that studies decide.

    Arguments:
        parts: The rows of each study.
    """
    found = []
    for (case, sampler), rows in _split(
        parts.get("steps", []), lambda row: row["settings"].get("sampler_name")
    ):
        tv = {row["settings"]["steps"]: 0.0 for row in rows if row["method"] == "guided"}
        for steps in tv:
            own = [row for row in rows if row["settings"]["steps"] == steps]
            tv[steps] = mean(own, "TV", method="guided")
        for many, few in ((50, 25), (25, 12), (8, 4)):
            if many in tv and few in tv:
                change, what = (
                    abs(tv[few] - tv[many]),
                    f"{sampler}, {many} to {few} steps: TV changes",
                )
                found.append(Bar(case, f"{what} ≤ .05", change, 0.05))
    for (case, _), rows in _split(parts.get("strength", []), lambda row: None):
        by = {row["settings"].get("strength"): [] for row in rows}
        for row in rows:
            by[row["settings"].get("strength")].append(row)
        if {1.0, 10.0} <= set(by):
            usual, strong = _of(by[1.0], "guided"), _of(by[10.0], "guided")
            fidelity = "confidence" if not math.isnan(usual("confidence")) else "on-manifold"
            found.append(
                Bar(
                    case,
                    "strength × 10: TV ≤ the default's + .05",
                    strong("TV"),
                    usual("TV") + 0.05,
                )
            )
            limit = usual(fidelity) - 0.05
            found.append(
                Bar(
                    case,
                    f"strength × 10: {fidelity} ≥ the default's − .05",
                    strong(fidelity),
                    limit,
                    False,
                )
            )
    found += _group_bars(parts.get("groups", []))
    return [bar for bar in found if math.isfinite(bar.found) and math.isfinite(bar.limit)]


def _group_bars(rows: Rows) -> list[Bar]:
    rows = [row for row in rows if row["world"] == "latents"]
    ideal = [row for row in rows if row["settings"] == {"pool": 64}]
    fours = [row for row in rows if row["settings"] == {"batch": 64, "group_size": 4}]
    ones = [row for row in rows if row["settings"] == {"batch": 16, "group_size": 1}]
    groups, found = "latents, 16 groups of 4", []
    found.append(Bar(groups, "TV ≤ ideal + .05", mean(fours, "TV"), mean(ideal, "TV") + 0.05))
    for where, own in ((groups, fours), ("latents, 16 one at a time", ones)):
        bands = [mean(own, f"var {band}") for band in ("low", "mid", "high")]
        found.append(Bar(where, "variance of each band ≥ .8", min(bands), 0.8, False))
        found.append(Bar(where, "variance of each band ≤ 1.25", max(bands), 1.25))
    return found


def _split(rows: Rows, key) -> list[tuple[tuple, Rows]]:
    """Rows by case and a key of their own, without those whose key is missing."""
    keys = unique((f"{row['world']} {row['target']}", key(row)) for row in rows)
    return [
        (k, [row for row in rows if (f"{row['world']} {row['target']}", key(row)) == k])
        for k in keys
    ]


def _of(rows: Rows, method: str):
    return lambda figure: mean(rows, figure, method=method)


def bars_of(rows: Rows) -> list[Bar]:
    """All bars that the main rows have figures for."""
    found = []
    for world, target in unique((row["world"], row["target"]) for row in rows):
        own = [row for row in rows if (row["world"], row["target"]) == (world, target)]
        where = f"{world}: {target}"
        found += BARS[world](own, where) if world in BARS else []
        found += beats_published(own, where)
    return [bar for bar in found if math.isfinite(bar.found) and math.isfinite(bar.limit)]


def bars_table(bars: list[Bar]) -> str:
    lines = [table_head("where", "bar", "found", "limit", "")]
    for bar in bars:
        numbers = (number(v, 4 if "MMD²" in bar.what else 3) for v in (bar.found, bar.limit))
        lines.append(table_row(bar.where, bar.what, *numbers, "met" if bar.met else "**missed**"))
    met = sum(bar.met for bar in bars)
    return "\n".join([f"{met} of {len(bars)} met.", "", *lines])
