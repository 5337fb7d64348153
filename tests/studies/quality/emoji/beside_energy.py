"""Our guidance beside energy guidance, whose gradient goes through autoencoder and denoiser."""

from mmd_tests.studies.quality.emoji import tuning
from mmd_tests.studies.quality.emoji.methods import METHODS
from mmd_tests.studies.quality.emoji.results import Results, Row
from mmd_tests.studies.quality.report import number
from mmd_tests.studies.tables import mean, table_head, table_row, verdict

CASES = ("b openmoji", "c smileys")
FALL, RISE = 0.46, 0.06
ABOUT = f"""\
All rows of the same seeds. Both kinds of guidance at the strength with the least MMD² where strengths
were tried; ours at its default as well. FD: of all seeds together. In brackets: the change from no guidance. The
bar: MMD² falls by {FALL:.0%} or more while FD rises by {RISE:.0%} or less. MMD², an unbiased estimate, can be below 0: then it
falls by more than 100 %."""


def change(value: float, before: float) -> float:
    """By what share of its absolute value a figure has changed."""
    return (value - before) / abs(before)


def line(results: Results, label: str, rows: list[Row], plain: list[Row]) -> str:
    """The cells of one method beside those without guidance."""
    cells, changes = [], {}
    for name, factor in (("FD", 1), ("MMD2", 1000), ("MMD2 set", 1000)):
        value, before = (
            results.together(some) if name == "FD" else mean([row.figures[name] for row in some])
            for some in (rows, plain)
        )
        if value is None or before is None:
            cells.append("–")
            continue
        text = number(value * factor, -3 if name == "FD" else 1)
        if rows is not plain:
            changes[name] = change(value, before)
            text += f" ({changes[name]:+.0%})"
        cells.append(text)
    cells.append(number(mean([row.figures["time"] for row in rows]), 1))
    known = {"FD", "MMD2"} <= set(changes)
    cells.append(verdict(changes["MMD2"] <= -FALL and changes["FD"] <= RISE) if known else "–")
    return table_row(label, *cells)


def comparison(results: Results) -> str:
    """A table for each case, of methods drawn at all seeds; empty without energy guidance."""
    chosen, parts = tuning.chosen(results.rows), []
    if not {"ours", "energy"} <= set(chosen):
        return ""
    names = dict.fromkeys(("none", chosen["energy"], "keep-30", chosen["ours"]))
    for case in CASES:
        rows = [row for row in results.of(case) if row.seed < tuning.FIRST]
        own = {name: [row for row in rows if row.method == name] for name in names}
        seeds = [row.seed for row in own["none"]]
        own = {name: each for name, each in own.items() if [r.seed for r in each] == seeds}
        if not seeds or chosen["energy"] not in own:
            continue
        heads = ("FD", "MMD² ·10³", "MMD² to set ·10³", "time ×", "the bar")
        lines = [table_head(case, *heads)]
        lines += [
            line(results, METHODS[name].label, each, own["none"]) for name, each in own.items()
        ]
        parts.append("\n".join(lines))
    return "\n\n".join([ABOUT, *parts]) if parts else ""
