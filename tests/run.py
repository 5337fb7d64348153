"""Runs the tests on a real ComfyUI, with all the set-up that takes."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parent))
    import support.packages  # noqa: F401

from mmd_tests.support.launcher import ABOUT as ENGINE
from mmd_tests.support.launcher import add_comfyui, engine_or_exit, go_on
from mmd_tests.support.packages import ROOT

NEEDS = ("pytest>=8,<10", "pytest-xdist>=3.5,<4", "hypothesis>=6.100,<7", "scikit-learn>=1.3")
WORKERS = min(4, os.cpu_count() or 1)  # a gigabyte of memory each
ABOUT = f"""\
{ENGINE}
Without --all, full matrices, studies and long fuzzing are left out.

All other arguments go to pytest, for example:
  python tests/run.py --all
  python tests/run.py -k kernel -x
  python tests/run.py -n0 -s tests/fuzz/test_fuzz.py      (in one process, with what it prints)
"""


def main() -> int:
    """Get ComfyUI, run pytest with its Python, and return pytest's exit code."""
    parser = argparse.ArgumentParser(
        usage="python tests/run.py [--comfyui VERSION] [pytest arguments ...]",
        description=__doc__,
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # pytest has --co
    )
    add_comfyui(parser)
    options, arguments = parser.parse_known_args()
    engine = engine_or_exit(options.comfyui, NEEDS)
    threads = str(max(1, (os.cpu_count() or 1) // WORKERS))
    # File by file, so that what a file's tests have in common is made once. A later -n0 of the user wins.
    command = ["-m", "pytest", f"-n{WORKERS}", "--dist=loadfile", *arguments]
    os.chdir(ROOT)
    return go_on(engine, command, OMP_NUM_THREADS=threads)


if __name__ == "__main__":
    sys.exit(main())
