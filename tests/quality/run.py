"""Measures the quality of guidance on a real ComfyUI, with all the set-up that takes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

QUALITY = Path(__file__).absolute().parent
if __package__:
    from ..engine import FETCHED, EngineError, get_engine
    from .options import ABOUT, make_parser
else:  # a script
    sys.path[:0] = [str(QUALITY.parent), str(QUALITY)]
    from engine import FETCHED, EngineError, get_engine
    from options import ABOUT, make_parser

NEEDS = ("scikit-learn>=1.3", "matplotlib>=3.7")


def main() -> int:
    """Get ComfyUI, run bench.py with its Python, and return its exit code."""
    parser = argparse.ArgumentParser(
        usage="python tests/quality/run.py [options]", description=ABOUT, parents=[make_parser()]
    )
    parser.add_argument(
        "--comfyui",
        choices=FETCHED,
        metavar="VERSION",
        help=f"fetch this version whatever else is there: {', '.join(FETCHED)}",
    )
    arguments = sys.argv[1:]
    options = parser.parse_args(arguments)
    if options.comfyui:
        i = next(i for i, a in enumerate(arguments) if a.startswith("--comfyui"))
        del arguments[i : i + (1 if "=" in arguments[i] else 2)]
    try:
        engine = get_engine(options.comfyui, NEEDS)
    except (EngineError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped; the next run takes up the set-up again.")
    sys.stderr.write(f"ComfyUI {engine.version} in {engine.path}, Python {engine.python}\n")
    env = {**os.environ, "COMFYUI_PATH": str(engine.path)}
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    bench = subprocess.Popen([engine.python, str(QUALITY / "bench.py"), *arguments], env=env)
    while True:
        try:
            return bench.wait()
        except KeyboardInterrupt:  # bench.py gets it as well and has a report to write
            continue


if __name__ == "__main__":
    sys.exit(main())
