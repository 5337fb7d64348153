"""Makes ComfyUI importable for a benchmark."""

import os
import subprocess
import sys

import torch


def start_comfyui() -> None:
    """Makes ComfyUI importable: the one of COMFYUI_PATH, else in a new process with the tests' own."""
    if "COMFYUI_PATH" not in os.environ:
        from mmd_tests.support.engine import get_engine

        engine = get_engine()
        env = {**os.environ, "COMFYUI_PATH": str(engine.path)}
        sys.exit(subprocess.call([engine.python, *sys.argv], env=env))
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()  # before comfy.model_management asks for a GPU
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
