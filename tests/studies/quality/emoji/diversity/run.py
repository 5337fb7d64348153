"""Measures what "06 More diverse batch" gives beside free methods; needs torch, but no ComfyUI.

    python tests/studies/quality/emoji/diversity/run.py [--seeds 3] [--steps 8] [--sheet FILE]

The strength of each method is the one with the most varied images, of those that leave nine tenths
of the prompt accuracy without guidance, at a seed that no table shows and with one prompt for all
images. The same strengths draw the batches whose images have prompts of their own. What is drawn
is kept in the folder `diversity` of the cache: a run that is stopped goes on where it was. It needs
`emoji.npz` in the cache folder, which `python tests/demo/emoji/data.py` makes. About 12 minutes of
one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[4]))
    import support.packages  # noqa: F401

import torch
from mmd_demo.emoji import DENOISER_WEIGHTS
from mmd_tests.demo.emoji import JUDGE_WEIGHTS
from mmd_tests.demo.emoji.background import step_back
from mmd_tests.demo.emoji.cache import default_cache
from mmd_tests.demo.emoji.files import save_pictures
from mmd_tests.demo.emoji.pictures import to_float
from mmd_tests.studies.quality.emoji.cases import Atlas
from mmd_tests.studies.quality.emoji.diversity import tuning
from mmd_tests.studies.quality.emoji.diversity.figures import Gauge
from mmd_tests.studies.quality.emoji.diversity.scenes import FIRST_TUNING, SITUATIONS, Scene
from mmd_tests.studies.quality.emoji.diversity.ways import AS_SET, FAMILIES, Studio, Way
from mmd_tests.studies.quality.emoji.world import load_world
from mmd_tests.studies.tables import deviation, mean, table_head, table_row

FIGURES = {
    "Vendi": 1,
    "distance": 2,
    "own name first": 2,
    "own name in 5": 2,
    "MMD2": 3,
    "FD": 1,
    "sharpness": 2,
}
"""What is shown, and with how many decimals."""

TUNED = "one prompt"
"""The situation at which strengths are chosen."""

Figures = dict[str, float]


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("--seeds", type=int, default=3, metavar="N", help="how many seeds (default: 3)")
    add("--first-seed", type=int, default=0, metavar="N", help="the first of them (default: 0)")
    add("--steps", type=int, default=8, metavar="N", help="sampling steps (default: 8)")
    add("--cache", type=Path, default=default_cache(), help="folder for all data")
    add("--denoiser", type=Path, default=DENOISER_WEIGHTS, help="weights that draw")
    add("--judge", type=Path, default=JUDGE_WEIGHTS, help="weights that judge")
    add("--sheet", type=Path, metavar="FILE", help="a picture of the first seed, one prompt")
    return parser


def measured(studio: Studio, gauge: Gauge, scene: Scene, way: Way) -> Figures:
    """The figures of one batch."""
    start = time.process_time()
    found = gauge.figures(studio.draw(way, scene), studio.folder / "figures")
    seconds = time.process_time() - start
    label = f"{scene.situation}, seed {scene.seed}, {way.family} {way.strength:g}"
    values = ", ".join(f"{name} {found[name]:.3f}" for name in FIGURES)
    sys.stderr.write(f"{label}: {values} ({seconds:.0f} s)\n")
    return found


def tuned(studio: Studio, atlas: Atlas) -> dict[str, Way]:
    """The strength of each family."""
    scene = SITUATIONS[TUNED](atlas, FIRST_TUNING)
    gauge, ways = Gauge(studio.world, scene), [Way("none")]
    for family, about in FAMILIES.items():
        ways += [Way(family, s) for s in about.tried if about.fits(scene)]
    return tuning.best({way: measured(studio, gauge, scene, way) for way in ways})


def shown(chosen: dict[str, Way], scene: Scene) -> Iterator[Way]:
    """The ways that a table shows: those with the chosen strength, and ours as the template has it."""
    for family, about in FAMILIES.items():
        if about.fits(scene):
            ways = [Way(family, AS_SET[family])] if family in AS_SET else []
            ways += [chosen[family]] if family in chosen else []
            yield from dict.fromkeys(ways or [Way(family)])


def table(rows: dict[str, list[Figures]], situation: str) -> str:
    """A table in Markdown: means over seeds, with standard deviations."""
    lines = [table_head(situation, *FIGURES)]
    for label, several in rows.items():
        cells = []
        for name, digits in FIGURES.items():
            values = [each[name] for each in several if name in each]
            spread = f"{mean(values):.{digits}f} ± {deviation(values):.{digits}f}" if values else ""
            cells.append(spread or "–")
        lines.append(table_row(label, *cells))
    return "\n".join(lines)


def compared(studio: Studio, atlas: Atlas, chosen: dict[str, Way], seeds: range) -> Iterator[str]:
    """One table for each situation."""
    for situation, make in SITUATIONS.items():
        rows: dict[str, list[Figures]] = {}
        for seed in seeds:
            scene = make(atlas, seed)
            gauge = Gauge(studio.world, scene)
            rows.setdefault("(as many real pictures)", []).append(gauge.of_real())
            for way in shown(chosen, scene):
                rows.setdefault(way.label, []).append(measured(studio, gauge, scene, way))
        yield table(rows, situation)


def draw_sheet(studio: Studio, scene: Scene, chosen: dict[str, Way], path: Path) -> list[str]:
    """Writes a row of pictures for each way; returns what the rows are."""
    count, labels, rows = len(scene.prompts), [], []
    some = torch.linspace(0, len(scene.real) - 1, count).round().long()
    rows.append(to_float(scene.real.pixels[some]))
    labels.append("real pictures")
    for way in shown(chosen, scene):
        rows.append(studio.world.decode(studio.draw(way, scene)))
        labels.append(way.label)
    save_pictures(rows, path)
    return labels


def main() -> None:
    """Draw, measure and print."""
    options = make_parser().parse_args()
    last = options.first_seed + options.seeds
    if options.seeds < 1 or options.first_seed < 0 or last > FIRST_TUNING:
        sys.exit(f"Seeds from {FIRST_TUNING} on are for choosing strengths: choose lower ones.")
    step_back()
    torch.set_num_threads(1)
    atlas = Atlas(options.cache)
    world = load_world(options.denoiser, options.judge, atlas.names)
    studio = Studio(world, options.cache / "diversity", options.steps)
    chosen = tuned(studio, atlas)
    for text in compared(studio, atlas, chosen, range(options.first_seed, last)):
        sys.stdout.write(text + "\n\n")
        sys.stdout.flush()
    if options.sheet:
        scene = SITUATIONS[TUNED](atlas, options.first_seed)
        labels = draw_sheet(studio, scene, chosen, options.sheet)
        sys.stderr.write(f"{options.sheet}: {', '.join(labels)}\n")


if __name__ == "__main__":
    main()
