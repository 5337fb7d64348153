"""ComfyUI inside a benchmark process: on the CPU, without progress bars, one thread."""

import os
import sys
from pathlib import Path

from mmd_tests.support.packages import ROOT


def start(threads: int = 1) -> str:
    """Make the ComfyUI that COMFYUI_PATH names importable, once; its version."""
    import torch

    torch.set_num_threads(threads)
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        sys.exit("COMFYUI_PATH is not set: use `python tests/studies/quality/run.py`.")
    if path not in sys.path:
        sys.path.insert(0, path)
    # Our `nodes/` must never shadow ComfyUI's `nodes.py`.
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    from comfy.cli_args import args

    args.cpu = True  # before comfy.model_management asks for a GPU
    import comfy.utils

    import nodes

    assert hasattr(nodes, "common_ksampler")
    comfy.utils.set_progress_bar_enabled(False)
    import comfyui_version

    return comfyui_version.__version__
