"""Measures guidance in the emoji world; needs torch and Pillow, but no ComfyUI.

    python tests/studies/quality/emoji/run.py [--quick] [--targets "fluent,smileys"] [--seeds 3]

What is drawn is kept in the cache folder: a run that is stopped goes on where it was, and one that
is started again only draws what has changed. All cases but --quick need `emoji.npz` there, which
`python tests/demo/emoji/data.py` makes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[3]))
    import support.packages  # noqa: F401

import torch
from mmd_demo.emoji.precision import FAST
from mmd_tests.demo.emoji.background import step_back
from mmd_tests.studies.quality.emoji.cases import CASES
from mmd_tests.studies.quality.emoji.methods import METHODS, SWEEP
from mmd_tests.studies.quality.emoji.options import make_parser
from mmd_tests.studies.quality.emoji.quick import METHODS as QUICK_METHODS
from mmd_tests.studies.quality.emoji.quick import STEPS, quick_names, quick_trial
from mmd_tests.studies.quality.emoji.report import Results, write
from mmd_tests.studies.quality.emoji.sheet import draw_sheet
from mmd_tests.studies.quality.emoji.tasks import Row, Setup, make_easel, measured, run_all
from mmd_tests.studies.quality.emoji.world import file_digest, load_world
from mmd_tests.studies.quality.options import names


def chosen(texts: tuple[str, ...], known: list[str], what: str) -> list[str]:
    """All that have one of the texts in their name; all where there are no texts."""
    for text in texts:
        if not any(text in name for name in known):
            sys.exit(f"There is no {what} {text!r}: choose among {', '.join(known)}.")
    return [name for name in known if not texts or any(text in name for text in texts)]


def named(names: tuple[str, ...], known: list[str], what: str) -> list[str]:
    """The names, in the order of those that are known."""
    for name in names:
        if name not in known:
            sys.exit(f"There is no {what} {name!r}: choose among {', '.join(known)}.")
    return [name for name in known if name in names]


def setup_of(options: argparse.Namespace) -> Setup:
    """Where everything is."""
    steps = STEPS if options.quick else options.steps
    return Setup(options.cache, options.denoiser, options.judge, steps, options.family)


def draw_sheets(options: argparse.Namespace, rows: list[Row]) -> None:
    """A sheet for each case, at its first seed, with all its methods."""
    for case in dict.fromkeys(row.case for row in rows):
        own = [row for row in rows if row.case == case]
        methods = [name for name in (*METHODS, *SWEEP) if name in {row.method for row in own}]
        path = options.out / f"emoji_{case.replace(' ', '_')}.png"
        labels = draw_sheet(setup_of(options), case, options.first_seed, methods, path)
        sys.stderr.write(f"{path}: {', '.join(labels)}\n")


def quick(setup: Setup) -> list[Row]:
    """The rows of the quick look."""
    trial = quick_trial()
    world = load_world(setup.denoiser, setup.judge, quick_names(trial))
    return list(measured(make_easel(world, trial, setup), QUICK_METHODS))


def full(options: argparse.Namespace) -> Iterator[list[Row]]:
    """The rows of all chosen cases, methods and seeds, as they come."""
    cases = chosen(names(options.targets), list(CASES), "case")
    wanted = options.methods or (*METHODS, *(SWEEP if options.sweep else ()))
    methods = named(wanted, [*METHODS, *SWEEP], "method")
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    start, count = time.monotonic(), len(cases) * len(seeds)
    found = run_all(setup_of(options), cases, seeds, methods, options.jobs)
    for number, rows in enumerate(found, 1):
        minutes = (time.monotonic() - start) / 60
        done = f"[{number}/{count}] {minutes:.1f} minutes"
        sys.stderr.write(f"{done}: {rows[0].case}, seed {rows[0].seed}\n")
        yield rows


def main() -> None:
    """Draw, measure, print and write."""
    options = make_parser().parse_args()
    step_back()
    torch.set_num_threads(1)
    setup = setup_of(options)
    results = Results(
        {
            "denoiser": f"{setup.denoiser.name} {file_digest(setup.denoiser)[:12]}",
            "judge": f"{setup.judge.name} {file_digest(setup.judge)[:12]}",
            "sampling": f"{setup.family}, Euler, {setup.steps} steps, {FAST}",
        },
        [],
    )
    for rows in [quick(setup)] if options.quick else full(options):
        results.rows.extend(rows)
        path = write(results, options.out)
    sys.stdout.write(path.read_text("utf-8"))
    sys.stderr.write(f"Written to {path}\n")
    if options.sheets and not options.quick:
        draw_sheets(options, results.rows)


if __name__ == "__main__":
    main()
