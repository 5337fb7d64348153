"""What the commands under tests/ share: they ask for a ComfyUI, and go on with its Python; standard library only."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from .engine import FETCHED, NEWEST, Engine, EngineError, get_engine

ABOUT = f"""\
The ComfyUI is the one that COMFYUI_PATH names, else the one this pack is installed in, else
ComfyUI {NEWEST}, which is fetched once with what it needs into a per-user cache
(or into the folder that MMD_GUIDANCE_CACHE names). Your own ComfyUI is not changed.
"""


def add_comfyui(parser: argparse.ArgumentParser) -> None:
    """Adds the option that asks for a version."""
    parser.add_argument(
        "--comfyui",
        choices=FETCHED,
        metavar="VERSION",
        help=f"fetch this version whatever else is there: {', '.join(FETCHED)}",
    )


def engine_or_exit(version: str | None, needs: tuple[str, ...] = ()) -> Engine:
    """The ComfyUI to use, with the packages `needs`; ends the program where none can be had."""
    try:
        engine = get_engine(version, needs)
    except (EngineError, OSError) as error:  # OSError: a full disk, for example
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped; the next run takes up the set-up again.")
    sys.stderr.write(f"ComfyUI {engine.version} in {engine.path}, Python {engine.python}\n")
    return engine


def go_on(engine: Engine, command: Sequence[object], **environment: str) -> int:
    """Run `command` with the Python of `engine`, and return its exit code.

    Interrupted, it is waited for: it is interrupted as well, and has something to put in order.
    """
    env = {"OMP_WAIT_POLICY": "PASSIVE", **environment, **os.environ}  # see server.py
    env["COMFYUI_PATH"] = str(engine.path)
    running = subprocess.Popen([engine.python, *command], env=env)
    while True:
        try:
            return running.wait()
        except KeyboardInterrupt:
            continue
