"""Measures the quality of guidance on a real ComfyUI, with all the set-up that takes."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
from mmd_tests.studies.in_comfyui import LEARN, run_in_comfyui
from mmd_tests.studies.quality.options import make_parser

if __name__ == "__main__":
    script = Path(__file__).absolute().with_name("bench.py")
    sys.exit(run_in_comfyui(script, make_parser(), (LEARN, "matplotlib>=3.7")))
