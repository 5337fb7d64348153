"""Measures the core of TRI-TSMC in worlds whose truth is known, next to other ways to steer, at equal model calls.

    python tests/studies/steering/run.py              the tables of RESULTS.md (half an hour on one core)
    python tests/studies/steering/run.py --quick      a tenth of it, printed only
    python tests/studies/steering/run.py --truths     draws the long runs of truth.json anew (10 minutes)

Needs PyTorch and NumPy, no ComfyUI.
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
from mmd_tests.studies.steering import tables, truths  # noqa: E402
from mmd_tests.studies.tables import told  # noqa: E402

HERE = Path(__file__).resolve().parent

RESULTS = HERE / "RESULTS.md"
NOTES = HERE / "NOTES.md"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicates", type=int, default=200, help="of each method")
    parser.add_argument("--quick", action="store_true", help="20 replicates; writes nothing")
    parser.add_argument("--truths", action="store_true", help="draw truth.json anew, and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.truths:
        truths.draw()
        return 0
    replicates = min(options.replicates, 20) if options.quick else options.replicates
    told(report(replicates, options.quick), None if options.quick else RESULTS)
    return 0


def report(replicates: int, quick: bool):
    """Line by line."""
    began = time.monotonic()
    yield "# TRI-TSMC in worlds whose truth is known\n"
    yield f"- PyTorch {torch.__version__}, Python {platform.python_version()}, float64, one thread"
    yield f"- 64 paths of {len(truths.worlds()[0][0].steps)} steps for each method, {replicates} replicates"
    yield f"- seeds: {tables.SEED} on; truths by long runs: {truths.SEED} on; ± is one standard error"
    yield f"- command: python tests/studies/steering/run.py --replicates {replicates}\n"
    yield NOTES.read_text("utf-8")
    worlds, every = truths.worlds(), []
    yield "## Methods\n"
    for world, truth in worlds:
        found = {
            name: method(world, tables.SEED, replicates) for name, method in tables.METHODS.items()
        }
        yield from tables.methods(world, truth, found)
        every.append(found)
    yield "## What the iterations of TRI-TSMC did\n"
    yield "Means over replicates, batch by batch; the first is drawn at θ_0 = ½.\n"
    yield from tables.iterations(worlds, every)
    yield "\n## What the effective number foretells\n"
    yield "The error of log Ẑ by the effective number, √((n/ESS − 1)/n), and the true one.\n"
    yield from tables.foretold(worlds, every)
    few = max(3, replicates * 3 // 20)
    yield "\n## What the trust region is for\n"
    yield (
        "One Gaussian in 5 dimensions, λ = 4, a drift that is free at every one of 16 steps (p = 80), 8 iterations "
        f"from θ = 0, each of its own paths only, no prior: RMSE of log Ẑ of the last batch, {few} replicates.\n"
    )
    yield from tables.trust_region((64, 256) if quick else (64, 256, 1024), few)
    yield "\nAnd where p = 1 (TRI-TSMC as above, ε of 2.8 is none at all):\n"
    yield from tables.small_family(worlds, max(replicates // 2, 4))
    yield "\n## The noise of the sampler, η\n"
    yield from tables.etas(replicates)
    yield f"\n{(time.monotonic() - began) / 60:.0f} minutes."


if __name__ == "__main__":
    sys.exit(main())
