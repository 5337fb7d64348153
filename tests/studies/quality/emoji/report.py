"""The rows as one JSON file and as one Markdown table for each case."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from mmd_tests.demo.emoji import measures
from mmd_tests.demo.emoji.files import write_at_once
from mmd_tests.studies.quality.emoji.cases import CASES
from mmd_tests.studies.quality.emoji.methods import METHODS, SWEEP
from mmd_tests.studies.quality.emoji.tasks import REAL, Row
from mmd_tests.studies.quality.report import Column, cell
from mmd_tests.studies.tables import facts, table_head, table_row, unique

COLUMNS = {
    "style": Column("target style", 2),
    "palette": Column("palette", 2),
    "cats": Column("cats", 2),
    "dogs": Column("dogs", 2),
    "TV": Column("TV", 2),
    "own name first": Column("own name first", 2),
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
}
LEGEND = """\
Means over seeds ± standard deviations; each seed has prompts, noise and a set of its own, 16 images
each. target style: the share of images that the judge takes for the style of the set. own name
first, mean rank: the place of an image's own prompt among 100 names, by the judge. prompt gain: by
how much the words lower the model's own denoising error on the finished image (x 100). FD, MMD²,
coverage: in the judge's features, against real pictures of the target style for the same prompts
(where a case has none, it says so). FD grows as pictures get fewer: compare it within its column
only. coverage: the share of real pictures with an image among their 2 nearest, .75 for as many of the
same distribution. MMD² to set: in latents, against the set, the distance that guidance lowers. by fresh: distance
to the nearest picture of the set, by that of the real pictures; far below 1 means copies. var,
sharpness: variance across images in three bands of frequency, and differences of neighbouring
pixels, by those of the real pictures.

Pictures of the set instead: what it would be to hand out the set itself, whatever the prompt."""


@dataclass(frozen=True)
class Results:
    """All rows, and what is to be said of the run."""

    about: dict[str, str]
    rows: list[Row]

    def of(self, case: str) -> list[Row]:
        """The rows of a case by seed, methods in the order of the tables."""
        order = [*REAL, *METHODS, *SWEEP]
        rows = [row for row in self.rows if row.case == case]
        return sorted(rows, key=lambda row: (order.index(row.method), row.seed))

    @property
    def cases(self) -> list[str]:
        """The cases that there are rows of, in the order of the list."""
        return [case for case in unique([*CASES, *(r.case for r in self.rows)]) if self.of(case)]


def together(rows: list[Row]) -> float:
    """The Fréchet distance of the images of all seeds to all their real pictures."""
    features, real = (
        torch.cat([getattr(row, side) for row in rows]) for side in ("features", "real")
    )
    return measures.frechet_distance(features, real)


def label(method: str) -> str:
    """The first cell of a row."""
    return REAL[method] if method in REAL else {**METHODS, **SWEEP}[method].label


def table(rows: list[Row]) -> str:
    """One line for each method."""
    names = [name for name in COLUMNS if any(name in row.figures for row in rows)]
    names.insert(1 + names.index("FD"), "FD together")
    lines = [table_head("", *(COLUMNS[name].heading for name in names))]
    for method in unique(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        values = {name: [r.figures[name] for r in own if name in r.figures] for name in names}
        values["FD together"] = [together(own)] if values["FD"] else []
        lines.append(table_row(label(method), *(cell(values[n], COLUMNS[n]) for n in names)))
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """Everything."""
    seeds = ", ".join(map(str, sorted({row.seed for row in results.rows})))
    about = facts({**results.about, "seeds": seeds})
    parts = ["# Guidance in the emoji world", about, LEGEND]
    for case in results.cases:
        about = (
            CASES[case].about if case in CASES else "A quick look at pictures of the repository."
        )
        parts += [f"## {case}", about, table(results.of(case))]
    return "\n\n".join(parts) + "\n"


def write(results: Results, folder: Path) -> Path:
    """Write `emoji.json` and `EMOJI.md`; the path of the latter."""
    rows = [
        {"case": row.case, "seed": row.seed, "method": row.method, "figures": row.figures}
        for case in results.cases
        for row in results.of(case)
    ]
    text = json.dumps({"about": results.about, "rows": rows}, indent=1) + "\n"
    write_at_once(folder / "emoji.json", lambda part: part.write_text(text, "utf-8"))
    path = folder / "EMOJI.md"
    write_at_once(path, lambda part: part.write_text(markdown(results), "utf-8"))
    return path
