"""The rows as Markdown: a table for each case, the strengths that were tried, and a comparison."""

from pathlib import Path

from mmd_tests.demo.emoji.files import write_at_once
from mmd_tests.studies.quality.emoji import tuning
from mmd_tests.studies.quality.emoji.beside_energy import comparison
from mmd_tests.studies.quality.emoji.cases import CASES
from mmd_tests.studies.quality.emoji.figures import REAL
from mmd_tests.studies.quality.emoji.methods import METHODS
from mmd_tests.studies.quality.emoji.results import Results, Row
from mmd_tests.studies.quality.report import Column, cell
from mmd_tests.studies.tables import facts, table_head, table_row, unique

COLUMNS = {
    "style": Column("target style", 2),
    "palette": Column("palette", 2),
    "cats": Column("cats", 2),
    "dogs": Column("dogs", 2),
    "TV": Column("TV", 2),
    "own name first": Column("own name first", 2),
    "own name in 5": Column("in 5", 2),
    "mean rank": Column("mean rank", 1),
    "prompt gain": Column("prompt gain", 1),
    "FD": Column("FD", -3),
    "FD together": Column("FD, seeds together", -3),
    "MMD2": Column("MMD² ·10³", 1, 1000),
    "MMD2 set": Column("MMD² to set ·10³", 1, 1000),
    "coverage": Column("coverage", 2),
    "nearest by fresh": Column("by fresh", 2),
    "var low": Column("var low", 2),
    "var middle": Column("var middle", 2),
    "var high": Column("var high", 2),
    "sharpness": Column("sharpness", 2),
    "time": Column("time ×", 1),
}
JSON = "emoji.json"
LEGEND = """\
Means over seeds ± standard deviations; each seed has prompts, noise and a set of its own, 16 images
each. target style: the share of images that the judge takes for the style of the set. own name
first, in 5, mean rank: the place of an image's own prompt among 100 names, by the judge. prompt gain: by
how much the words lower the model's own denoising error on the finished image (x 100). FD, MMD²,
coverage: in the judge's features, against real pictures of the target style for the same prompts
(where a case has none, it says so). FD grows as pictures get fewer: compare it within its column
only. coverage: the share of real pictures with an image among their 2 nearest, .75 for as many of the
same distribution. MMD² to set: in latents, against the set, the distance that guidance lowers. by fresh: distance
to the nearest picture of the set, by that of the real pictures; far below 1 means copies. var,
sharpness: variance across images in three bands of frequency, and differences of neighbouring
pixels, by those of the real pictures. time: the processor's time by that of the same images without
guidance, which the same process drew.

Pictures of the set instead: what it would be to hand out the set itself, whatever the prompt.
universal, energy: guidance by the gradient of a loss on decoded estimates, taken through decoder and
denoiser (`emoji/gradient.py`); universal lowers MMD² of pictures, energy the energy distance of their latents."""


LABELS = REAL | {name: method.label for name, method in METHODS.items()}
"""The first cell of each row, in the order of the tables."""


def table(results: Results, rows: list[Row], labels: dict[str, str]) -> str:
    """One line for each method of a case.

    Arguments:
        labels: The first cell of each method's line, in the order of the lines.
    """
    names = [name for name in COLUMNS if any(name in row.figures for row in rows)]
    if "FD" in names:
        names.insert(1 + names.index("FD"), "FD together")
    methods = [name for name in labels if any(row.method == name for row in rows)]
    seeds = {method: [row.seed for row in rows if row.method == method] for method in methods}
    uneven = len({tuple(each) for each in seeds.values()}) > 1
    lines = [table_head("", *(["seeds"] * uneven), *(COLUMNS[name].heading for name in names))]
    for method in methods:
        own = [row for row in rows if row.method == method]
        values = {name: [r.figures[name] for r in own if name in r.figures] for name in names}
        if values.get("FD") and (distance := results.together(own)) is not None:
            values["FD together"] = [distance]
        which = [", ".join(map(str, seeds[method]))] * uneven
        cells = (cell(values[name], COLUMNS[name]) for name in names)
        lines.append(table_row(labels[method], *which, *cells))
    return "\n".join(lines)


def tried(results: Results) -> str:
    """The strengths that were tried, those that were chosen in bold."""
    scores, chosen = tuning.scores(results.rows), tuning.chosen(results.rows)
    where = " and ".join(f"{case} (seed {seed})" for case, seed in tuning.TRIALS)
    lines = [table_head("guidance", f"mean {COLUMNS[tuning.RULE].heading} of each strength")]
    for family, choice in chosen.items():
        cells = []
        for name in tuning.FAMILIES[family]:
            text = f"{LABELS[name]}: {cell([scores[name]], COLUMNS[tuning.RULE])}"
            cells.append(f"**{text}**" if name == choice else text)
        lines.append(table_row(family, "; ".join(cells)))
    return (
        f"Of other guidance the tables show the strength with the least MMD² in the mean of {where}, "
        "which are in no table. The same is said of ours, of which the tables show all.\n\n"
    ) + "\n".join(lines)


def markdown(results: Results) -> str:
    """Everything."""
    parts = ["# Guidance in the emoji world", facts(results.about), LEGEND]
    hidden = tuning.hidden(results.rows)
    for case in results.cases(CASES):
        rows = [row for row in results.of(case) if row.method not in hidden]
        rows = [row for row in rows if row.seed < tuning.FIRST]
        if not rows:
            continue
        about = (
            CASES[case].about if case in CASES else "A quick look at pictures of the repository."
        )
        seeds = ", ".join(map(str, unique(row.seed for row in rows)))
        parts += [f"## {case}", f"{about} Seeds {seeds}.", table(results, rows, LABELS)]
    if tuning.chosen(results.rows):
        parts += ["## Strengths", tried(results)]
    if compared := comparison(results):
        parts += ["## Beside energy guidance", compared]
    return "\n\n".join(parts) + "\n"


def write(results: Results, folder: Path) -> Path:
    """Write `emoji.json` and `EMOJI.md`; the path of the latter."""
    path = folder / "EMOJI.md"
    write_at_once(path, lambda part: part.write_text(markdown(results), "utf-8"))
    results.save(folder / JSON)
    return path
