"""Measures MMD-DDM on a ring of 8 Gaussians, where the truth is known.

    python tests/studies/finetuning/run.py             the tables of RESULTS.md (a quarter of an hour on one core)
    python tests/studies/finetuning/run.py --quick     few seeds and short trainings, printed only
    python tests/studies/finetuning/run.py --bases     trains the networks of ring.safetensors anew (two minutes)

Needs PyTorch and safetensors, no ComfyUI.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch  # noqa: E402
from mmd_tests.studies.finetuning import ring, study, tables  # noqa: E402
from mmd_tests.studies.finetuning.study import Recipe  # noqa: E402
from mmd_tests.studies.tables import told  # noqa: E402

HERE = Path(__file__).resolve().parent

RESULTS = HERE / "RESULTS.md"
NOTES = HERE / "NOTES.md"
OURS = "**LoRA, rbf, 5 steps**"
FULL = Recipe(full=True, options=(tables.FULL,))
MIXED = Recipe(chains=tables.MIXED)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 seeds of 20 updates; writes nothing")  # fmt: skip
    parser.add_argument("--bases", action="store_true", help="train the networks anew, and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.bases:
        ring.train_bases()
        return 0
    seeds = tables.SEEDS
    if options.quick:
        seeds = range(7900, 7902)
        study.AS_SPECIFIED["iterations"] = 20
        tables.SAMPLES = tables.MANY = ring.HELD_OUT
    told(report(seeds), None if options.quick else RESULTS)
    return 0


def report(seeds: range):
    """Line by line."""
    began, few = time.process_time(), seeds[: tables.FEW]
    yield "# MMD-DDM on a ring of Gaussians\n"
    yield f"- PyTorch {torch.__version__}, Python {platform.python_version()}, float32, one thread"
    yield f"- training seeds {seeds[0]} to {seeds[-1]}; ± is the standard deviation over them"
    yield "- command: python tests/studies/finetuning/run.py\n"
    yield NOTES.read_text("utf-8")
    yield "## A base trained briefly\n"
    yield from tables.methods(
        "brief",
        {
            OURS: Recipe(),
            "LoRA, energy, 5 steps": Recipe(kernel="energy"),
            "LoRA, polynomial, 5 steps": Recipe(kernel="polynomial"),
            "full tuning, rbf, 5 steps": FULL,
        },
        seeds,
        tables.SAMPLES,
    )
    yield "\n## A base trained long\n"
    yield from tables.methods("long", {OURS: Recipe(base="long")}, seeds, tables.MANY)
    yield "\n## Other step counts\n"
    yield f"MMD². Mixed: each update trains for 4, 5 or 6 steps ({len(few)} seeds).\n"
    yield from tables.step_counts(
        {
            "base, brief": "brief",
            "LoRA for 5 steps": Recipe(),
            "full tuning for 5 steps": FULL,
            "base, long": "long",
            "LoRA for 5 steps, long base": Recipe(base="long"),
        },
        seeds,
    )
    yield from list(tables.step_counts({"LoRA for 4, 5, 6 steps mixed": MIXED}, few))[1:]
    yield "\n## Few references\n"
    yield f"Of the brief base; 1000: {len(few)} seeds.\n"
    yield from tables.few_shot(seeds, few)
    yield "\n## Other samplers\n"
    yield f"MMD² of the brief base with a LoRA for 5 steps, {len(few)} seeds.\n"
    yield from tables.samplers(few)
    yield "\n## Settings\n"
    yield f"Of the brief base with a LoRA, one setting changed (in brackets what it was), {len(few)} seeds.\n"
    yield from tables.settings(few)
    yield f"\n{(time.process_time() - began) / 60:.0f} minutes of processor time."


if __name__ == "__main__":
    sys.exit(main())
