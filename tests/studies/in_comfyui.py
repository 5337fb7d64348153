"""Starts a study with the Python of a real ComfyUI, with all the set-up that takes; standard library only."""

import argparse
import sys
from pathlib import Path

from mmd_tests.support.launcher import add_comfyui, engine_or_exit, go_on

LEARN = "scikit-learn>=1.3"


def run_in_comfyui(
    script: Path,
    options: argparse.ArgumentParser,
    needs: tuple[str, ...] = (LEARN,),
    **environment: str,
) -> int:
    """Gets ComfyUI, runs `script` with its Python and the arguments of this process, and returns its exit code.

    Arguments:
        options: The parser of the script's own options.
        needs: Packages besides those of ComfyUI.
    """
    parser = argparse.ArgumentParser(description=options.description, parents=[options])
    add_comfyui(parser)
    arguments = sys.argv[1:]
    version = parser.parse_args(arguments).comfyui
    if version:
        i = next(i for i, a in enumerate(arguments) if a.startswith("--comfyui"))
        del arguments[i : i + (1 if "=" in arguments[i] else 2)]
    return go_on(engine_or_exit(version, needs), [script, *arguments], **environment)
