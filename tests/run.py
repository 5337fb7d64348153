"""Runs the whole test suite on a real ComfyUI, with all the set-up that takes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from engine import FETCHED, NEWEST, EngineError, get_engine

ROOT = Path(__file__).absolute().parent.parent
NEEDS = ("pytest>=8,<10", "pytest-xdist>=3.5,<4", "hypothesis>=6.100,<7", "scikit-learn>=1.3")
WORKERS = min(4, os.cpu_count() or 1)  # a gigabyte of memory each
ABOUT = f"""\
The ComfyUI is the one that COMFYUI_PATH names, else the one this pack is installed in, else
ComfyUI {NEWEST}, which is fetched once with what it needs into a per-user cache
(or into the folder that MMD_GUIDANCE_CACHE names). Your own ComfyUI is not changed.

All other arguments go to pytest, for example:
  python tests/run.py -k kernel -x
  python tests/run.py -n0 -s tests/test_fuzz.py      (in one process, with what it prints)
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
    parser.add_argument(
        "--comfyui",
        choices=FETCHED,
        metavar="VERSION",
        help=f"fetch this version whatever else is there: {', '.join(FETCHED)}",
    )
    options, arguments = parser.parse_known_args()
    try:
        engine = get_engine(options.comfyui, NEEDS)
    except (EngineError, OSError) as error:  # OSError: a full disk, for example
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped; the next run takes up the set-up again.")
    sys.stderr.write(f"ComfyUI {engine.version} in {engine.path}, Python {engine.python}\n")
    env = {**os.environ, "COMFYUI_PATH": str(engine.path)}
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see server.py
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
    # File by file, so that what a file's tests have in common is made once. A later -n0 of the user wins.
    command = [engine.python, "-m", "pytest", f"-n{WORKERS}", "--dist=loadfile", *arguments]
    tests = subprocess.Popen(command, cwd=ROOT, env=env)
    while True:
        try:
            return tests.wait()
        except KeyboardInterrupt:  # pytest gets it as well and has a summary to print
            continue


if __name__ == "__main__":
    sys.exit(main())
