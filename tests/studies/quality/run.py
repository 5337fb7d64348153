"""Measures the quality of guidance on a real ComfyUI, with all the set-up that takes.

The world emoji (`--worlds emoji`) has cases, methods and figures of its own: `emoji/run.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
from mmd_tests.studies.in_comfyui import LEARN, run_in_comfyui
from mmd_tests.studies.quality.emoji import options as emoji
from mmd_tests.studies.quality.options import make_parser

if __name__ == "__main__":
    folder = Path(__file__).absolute().parent
    in_emoji = emoji.make_parser(add_help=False)
    if in_emoji.parse_known_args()[0].worlds == ("emoji",):
        sys.exit(run_in_comfyui(folder / "emoji" / "run.py", in_emoji, ()))
    sys.exit(run_in_comfyui(folder / "bench.py", make_parser(), (LEARN, "matplotlib>=3.7")))
