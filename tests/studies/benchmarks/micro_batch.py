"""What micro_batch costs and saves: python tests/studies/benchmarks/micro_batch.py

A batch is drawn with guidance and CFG by a small U-Net, whole and in parts. Every figure is also given
as a ratio to the whole batch in the same run. Time: the variants take turns, and the fastest round
counts; how a GPU fares at small parts only a GPU tells. Memory: the most bytes of tensors alive at
once, weights aside, as PyTorch's allocator counts them on a GPU and as counted here on a CPU.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_tests.studies.benchmarks.comfyui import start_comfyui
from mmd_tests.studies.benchmarks.peak_memory import peak_bytes
from mmd_tests.studies.benchmarks.timing import best_times


def variants(batch: int, side: int) -> dict:
    """A function that draws, by the number of images that the network gets at a time."""
    from mmd_pack.mmd_core import GuidanceConfig, References
    from mmd_pack.nodes.guidance.run.hook import apply_guidance
    from mmd_pack.nodes.guidance.run.request import Request
    from mmd_pack.nodes.host.micro_batch import micro_batched
    from mmd_tests.support.tiny_models import empty_latent, prompt, tiny_model

    import nodes

    references = References(torch.randn(8, 4, side, side) * 5)
    model, config = tiny_model(), GuidanceConfig(strength=20.0)

    def draw(size):
        guided = apply_guidance(
            micro_batched(model, size), Request("benchmark", references, config)
        )
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
