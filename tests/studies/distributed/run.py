"""Draws one batch with several processes, and compares it with what one process draws.

    python tests/studies/distributed/run.py --workers 4
    torchrun --nproc-per-node 4 tests/studies/distributed/run.py

Latents are those of a mixture of six modes in equal shares; the references have .5, .3 and .2 of three. Drawn are: the
whole batch by one process; the same by all, coupled; the same by all, each for itself as separate servers would; and
the same without guidance. GPUs talk through NCCL if there is one for each worker, else CPUs through gloo.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
from mmd_tests.studies.distributed.launch import launch


def main() -> None:
    """Start the workers and show what the first one tells; or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workers", type=int, default=4, help="processes (torchrun has its own say)")
    add("--batch", type=int, default=4, help="images of each")
    add("--references", type=int, default=64)
    add("--side", type=int, default=16, help="of the latents, which have 4 channels")
    add("--seeds", type=int, default=5, help="batches; figures are means")
    options = parser.parse_args()
    if "RANK" in os.environ:
        from mmd_tests.studies.distributed.compare import compare

        compare(options)
    else:
        sys.stdout.write(launch([Path(__file__).resolve(), *sys.argv[1:]], options.workers)[0])


if __name__ == "__main__":
    main()
