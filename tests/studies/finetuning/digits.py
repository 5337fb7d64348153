"""Studies MMD-DDM on digits in a real ComfyUI, with all the set-up that takes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
from mmd_tests.studies.finetuning.digits_options import ABOUT, make_parser
from mmd_tests.support.launcher import add_comfyui, engine_or_exit, go_on

FINETUNING = Path(__file__).absolute().parent

NEEDS = ("scikit-learn>=1.3",)


def main() -> int:
    """Get ComfyUI, run digits_bench.py with its Python, and return its exit code."""
    parser = argparse.ArgumentParser(description=ABOUT, parents=[make_parser()])
    add_comfyui(parser)
    arguments = sys.argv[1:]
    options = parser.parse_args(arguments)
    if options.comfyui:
        i = next(i for i, a in enumerate(arguments) if a.startswith("--comfyui"))
        del arguments[i : i + (1 if "=" in arguments[i] else 2)]
    engine = engine_or_exit(options.comfyui, NEEDS)
    return go_on(engine, [FINETUNING / "digits_bench.py", *arguments], OMP_NUM_THREADS="1")


if __name__ == "__main__":
    sys.exit(main())
