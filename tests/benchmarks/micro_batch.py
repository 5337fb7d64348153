"""What micro_batch costs and saves: python tests/benchmarks/micro_batch.py

A batch is drawn with guidance and CFG by a small U-Net, whole and in parts. Every figure is also given
as a ratio to the whole batch in the same run. Time: the variants take turns, and the fastest round
counts; how a GPU fares at small parts only a GPU tells. Memory: the most bytes of tensors alive at
once, weights aside, as PyTorch's allocator counts them on a GPU and as counted here on a CPU.
"""

import argparse
import os
import subprocess
import sys
import weakref
from pathlib import Path

import torch
from substeps import best_times  # beside this script; makes the pack importable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TESTS = Path(__file__).resolve().parents[1]


class TensorBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that come to life within it, and their peak."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage):
        place, size = storage.data_ptr(), storage.nbytes()
        if size and place not in self.alive:
            self.alive.add(place)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place, size):
        self.alive.discard(place)
        self.now -= size


def peak_bytes(run) -> int:
    """The most bytes that tensors made by `run` take at once."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with TensorBytes() as count:
        run()
    return count.peak


def start_comfyui():
    """Makes ComfyUI importable: the one of COMFYUI_PATH, else in a new process with the tests' own."""
    sys.path.append(str(TESTS))
    if "COMFYUI_PATH" not in os.environ:
        from engine import get_engine

        engine = get_engine()
        env = {**os.environ, "COMFYUI_PATH": str(engine.path)}
        sys.exit(subprocess.call([engine.python, *sys.argv], env=env))
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()  # before comfy.model_management asks for a GPU
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)


def variants(batch: int, side: int) -> dict:
    """A function that draws, by the number of images that the network gets at a time."""
    from mmd_pack.mmd_core import GuidanceConfig, References
    from mmd_pack.nodes.micro_batch import micro_batched
    from mmd_pack.nodes.sampling import apply_guidance
    from tiny_models import empty_latent, prompt, tiny_model

    import nodes

    references = References(torch.randn(8, 4, side, side) * 5)
    model, config = tiny_model(), GuidanceConfig(strength=20.0)

    def draw(size):
        guided = apply_guidance(micro_batched(model, size), references, config, "benchmark")
        nodes.common_ksampler(
            guided,
            1,
            2,
            5.0,
            "euler",
            "normal",
            prompt(1),
            prompt(2),
            empty_latent(batch, side=side),
        )

    sizes = [2**i for i in range(batch.bit_length()) if 2**i < batch]
    return {0: lambda: draw(0)} | {size: lambda size=size: draw(size) for size in sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=16, help="of the latents")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    start_comfyui()
    draws = variants(options.batch, options.side)
    peaks = {size: peak_bytes(draw) for size, draw in draws.items()}  # warms up, too
    times = best_times(draws, options.rounds)
    out = sys.stdout
    out.write(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ")
    out.write(f"B = {options.batch}, latents {options.side}×{options.side}, with CFG\n\n")
    out.write("| micro_batch | time | × whole | tensors, MB | × whole |\n|---|---|---|---|---|\n")
    for size in sorted(draws):
        out.write(
            f"| {size} | {times[size]:.2f} s | {times[size] / times[0]:.2f} "
            f"| {peaks[size] / 1e6:.1f} | {peaks[size] / peaks[0]:.3f} |\n"
        )


if __name__ == "__main__":
    main()
