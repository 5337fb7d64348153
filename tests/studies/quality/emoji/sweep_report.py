"""The rows of the sweeps as Markdown tables and as one picture."""

from pathlib import Path

from mmd_tests.demo.emoji.files import write_at_once
from mmd_tests.studies.quality.emoji.methods import NODE_STRENGTH
from mmd_tests.studies.quality.emoji.report import table
from mmd_tests.studies.quality.emoji.results import Results
from mmd_tests.studies.quality.emoji.sweep_plot import plot
from mmd_tests.studies.quality.emoji.sweeps import STYLE, SWEEPS, row_name
from mmd_tests.studies.tables import facts

JSON = "emoji_sweeps.json"
PICTURE = "emoji_sweeps.png"
ABOUT = f"""\
The case "a {STYLE}" of [EMOJI.md](EMOJI.md), which explains the figures: varied prompts, a set of 64 varied pictures
that the model has not seen, 16 images, cfg 4. In each table one setting changes, in two modes: keep_prompt at strength
{NODE_STRENGTH:g}, with which a new node begins, and flow at strength 100. Means over seeds ± standard deviations. The picture shows
the means; the nearest picture of the set is compared as in the column "by fresh".

![The sweeps]({PICTURE})"""


def markdown(results: Results) -> str:
    """Everything."""
    parts = ["# Settings of guidance in the emoji world", facts(results.about), ABOUT]
    for name in results.cases(SWEEPS):
        rows, sweep = results.of(name), SWEEPS[name]
        labels = {text: text for text in (row_name(*each[:2]) for each in sweep.settings)}
        seeds = ", ".join(map(str, sorted({row.seed for row in rows})))
        about = f"{sweep.about} Seeds {seeds}."
        parts += [f"## {name}", about, table(results, rows, labels)]
    return "\n\n".join(parts) + "\n"


def write(results: Results, folder: Path) -> Path:
    """Write the JSON file, the picture and `EMOJI_SWEEPS.md`; the path of the latter."""
    path = folder / "EMOJI_SWEEPS.md"
    write_at_once(path, lambda part: part.write_text(markdown(results), "utf-8"))
    write_at_once(folder / PICTURE, lambda part: plot(results).save(part, optimize=True))
    results.save(folder / JSON)
    return path
