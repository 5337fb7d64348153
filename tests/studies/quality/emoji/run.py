"""Measures guidance in the emoji world; needs torch and Pillow, but no ComfyUI.

    python tests/studies/quality/emoji/run.py [--quick] [--targets "fluent,smileys"] [--seeds 3]
    python tests/studies/quality/emoji/run.py --sweep all --seeds 3

What is drawn is kept in the cache folder: a run that is stopped goes on where it was, and one that
is started again only draws what has changed. Rows of earlier runs with the same weights stay in the
results, so that a long run can be made in parts. (Only the FD of all seeds together needs a method's
seeds in one run: run them once more, nothing is drawn again.) All but --quick needs `emoji.npz` in
the cache folder, which `python tests/demo/emoji/data.py` makes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[3]))
    import support.packages  # noqa: F401

import torch
from mmd_demo.emoji import VAE_WEIGHTS
from mmd_demo.emoji.precision import FAST
from mmd_tests.demo.emoji.background import step_back
from mmd_tests.studies.quality.emoji import report, sweep_report, tuning
from mmd_tests.studies.quality.emoji.cases import CASES
from mmd_tests.studies.quality.emoji.methods import METHODS, SPACES, TUNED
from mmd_tests.studies.quality.emoji.options import make_parser
from mmd_tests.studies.quality.emoji.quick import METHODS as QUICK_METHODS
from mmd_tests.studies.quality.emoji.quick import STEPS, quick_names, quick_trial
from mmd_tests.studies.quality.emoji.results import Results, Row
from mmd_tests.studies.quality.emoji.sheet import draw_sheet
from mmd_tests.studies.quality.emoji.sweeps import SWEEPS, run_sweep
from mmd_tests.studies.quality.emoji.tasks import Setup, make_easel, measured, run_all, run_trial
from mmd_tests.studies.quality.emoji.world import file_digest, load_world
from mmd_tests.studies.quality.options import names

FIXED = [
    name for name in METHODS if not any(name in family for family in (SPACES, *TUNED.values()))
]
"""The methods that have no strength to choose."""


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


def about(setup: Setup) -> dict[str, str]:
    """The weights and the sampling, of which all rows of a file must be."""
    weights = {"denoiser": setup.denoiser, "autoencoder": VAE_WEIGHTS, "judge": setup.judge}
    found = {name: f"{path.name} {file_digest(path)[:12]}" for name, path in weights.items()}
    return found | {"sampling": f"{setup.family}, Euler, {setup.steps} steps, {FAST}"}


def seeds_of(options: argparse.Namespace) -> list[int]:
    """The seeds of the tables."""
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    if not seeds or seeds[0] < 0 or seeds[-1] >= tuning.FIRST:
        sys.exit(f"Seeds from {tuning.FIRST} on are for choosing strengths: choose lower ones.")
    return seeds


def draw_sheets(options: argparse.Namespace, rows: list[Row], hidden: set[str]) -> None:
    """A sheet for each case, at its first seed, with all its methods that the tables show."""
    for case in dict.fromkeys(row.case for row in rows if row.seed < tuning.FIRST):
        own = {row.method for row in rows if row.case == case} - hidden
        methods = [name for name in METHODS if name in own]
        path = options.out / f"emoji_{case.replace(' ', '_')}.png"
        labels = draw_sheet(setup_of(options), case, options.first_seed, methods, path)
        sys.stderr.write(f"{path}: {', '.join(labels)}\n")


def quick(setup: Setup) -> list[Row]:
    """The rows of the quick look."""
    trial = quick_trial()
    world = load_world(setup.denoiser, setup.judge, quick_names(trial))
    return list(measured(make_easel(world, trial, setup), QUICK_METHODS))


def timed(function: Callable[..., list[Row]], tasks: list[tuple], jobs: int) -> Iterator[list[Row]]:
    """The rows of all tasks, as they come, with a line about each."""
    start = time.monotonic()
    for number, rows in enumerate(run_all(function, tasks, jobs), 1):
        minutes = (time.monotonic() - start) / 60
        done = f"[{number}/{len(tasks)}] {minutes:.1f} minutes"
        sys.stderr.write(f"{done}: {rows[0].case}, seed {rows[0].seed}\n")
        yield rows


def full(options: argparse.Namespace, results: Results) -> Iterator[list[Row]]:
    """The rows of all chosen cases, methods and seeds: first those by which strengths are chosen."""
    cases, seeds = chosen(names(options.targets), list(CASES), "case"), seeds_of(options)
    known = [*FIXED, *TUNED, *(name for name in METHODS if name not in FIXED)]
    methods = named(options.methods or (*FIXED, *TUNED), known, "method")
    families = [name for name in methods if name in TUNED]
    setup = setup_of(options)
    if families:
        trying = tuple(name for family in ("ours", *families) for name in tuning.FAMILIES[family])
        tasks = [(setup, case, seed, ("none", *trying)) for case, seed in tuning.TRIALS]
        yield from timed(run_trial, tasks, options.jobs)
    choice = tuning.chosen(results.rows)  # which have got those rows by now
    wanted = {choice.get(name, name) for name in methods}
    methods = tuple(name for name in METHODS if name in wanted)
    tasks = [(setup, case, seed, methods) for seed in seeds for case in cases]
    yield from timed(run_trial, tasks, options.jobs)


def sweeps(options: argparse.Namespace) -> Iterator[list[Row]]:
    """The rows of all chosen sweeps and seeds."""
    every = tuple(SWEEPS) if "all" in options.sweep else options.sweep
    wanted, setup = named(every, list(SWEEPS), "sweep"), setup_of(options)
    tasks = [(setup, name, seed) for seed in seeds_of(options) for name in wanted]
    return timed(run_sweep, tasks, options.jobs)


def main() -> None:
    """Draw, measure, print and write."""
    options = make_parser().parse_args()
    step_back()
    torch.set_num_threads(1)
    setup = setup_of(options)
    writer = sweep_report if options.sweep else report
    results = Results.read(options.out / writer.JSON, about(setup))
    if options.sweep:
        found = sweeps(options)
    else:
        found = iter([quick(setup)]) if options.quick else full(options, results)
    for rows in found:
        results.add(rows)
        path = writer.write(results, options.out)
    sys.stdout.write(path.read_text("utf-8"))
    sys.stderr.write(f"Written to {path}\n")
    if options.sheets and not options.quick and not options.sweep:
        draw_sheets(options, results.rows, tuning.hidden(results.rows))


if __name__ == "__main__":
    main()
