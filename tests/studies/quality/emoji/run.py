"""Measures guidance in the emoji world; needs torch and Pillow, but no ComfyUI.

    python tests/studies/quality/emoji/run.py [--quick] [--targets "a fluent,c smileys"] [--seeds 3]

What is drawn is kept in the cache folder: a run that is stopped goes on where it was, and one that
is started again only draws what has changed. All cases but --quick need `emoji.npz` there, which
`python tests/demo/emoji/data.py` makes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[3]))
    import support.packages  # noqa: F401

import torch
from mmd_tests.studies.quality.emoji.cases import CASES
from mmd_tests.studies.quality.emoji.methods import METHODS, SWEEP
from mmd_tests.studies.quality.emoji.options import make_parser
from mmd_tests.studies.quality.emoji.quick import METHODS as QUICK_METHODS
from mmd_tests.studies.quality.emoji.quick import STEPS, quick_names, quick_trial
from mmd_tests.studies.quality.emoji.report import Results, markdown, write
from mmd_tests.studies.quality.emoji.tasks import Row, Setup, measured, run_all
from mmd_tests.studies.quality.emoji.world import file_digest, load_world
from mmd_tests.studies.quality.options import names

# After the packages are named: modules of the folder that learned the world.
from background import step_back  # isort: skip
from precision import FAST  # isort: skip


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


def quick(options: argparse.Namespace, folder: Path) -> list[Row]:
    """The rows of the quick look, drawn anew in `folder`."""
    trial = quick_trial()
    world = load_world(options.denoiser, options.judge, quick_names(trial))
    return list(measured(world, trial, QUICK_METHODS, folder, STEPS))


def full(options: argparse.Namespace) -> list[Row]:
    """The rows of all chosen cases, methods and seeds."""
    cases = chosen(names(options.targets), list(CASES), "case")
    rows_of = options.methods or (*METHODS, *(SWEEP if options.sweep else ()))
    methods = named(rows_of, [*METHODS, *SWEEP], "method")
    setup = Setup(options.cache, options.denoiser, options.judge, options.steps)
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    rows: list[Row] = []
    start = time.monotonic()
    for number, found in enumerate(run_all(setup, cases, seeds, methods, options.jobs), 1):
        rows += found
        minutes = (time.monotonic() - start) / 60
        done = f"[{number}/{len(cases) * len(seeds)}] {minutes:.1f} minutes"
        sys.stderr.write(f"{done}: {found[0].case}, seed {found[0].seed}\n")
    return rows


def main() -> None:
    """Draw, measure, print and write."""
    options = make_parser().parse_args()
    step_back()
    torch.set_num_threads(1)
    rows = quick(options, options.cache / "benchmark") if options.quick else full(options)
    about = {
        "denoiser": f"{options.denoiser.name} {file_digest(options.denoiser)[:12]}",
        "judge": f"{options.judge.name} {file_digest(options.judge)[:12]}",
        "steps": str(STEPS if options.quick else options.steps),
        "precision": str(FAST),
        "seeds": ", ".join(map(str, sorted({row.seed for row in rows}))),
    }
    results = Results(about, rows)
    sys.stdout.write(markdown(results))
    sys.stderr.write(f"Written to {write(results, options.out)}\n")


if __name__ == "__main__":
    main()
