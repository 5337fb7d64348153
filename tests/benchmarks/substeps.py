"""What sub-steps cost in Gram space and computed directly: python tests/benchmarks/substeps.py

Every figure is a ratio to one Gram-space sub-step of the same size, measured in the same run, the
variants taking turns; the minimum over rounds, so that other load on the machine counts little.
"""

import argparse
import sys
import time
import types
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
pack = types.ModuleType("mmd_pack")  # the pack without its __init__.py, which needs ComfyUI
pack.__path__ = [str(ROOT)]
sys.modules["mmd_pack"] = pack

from mmd_pack.mmd_core import KernelConfig, mmd2_grad  # noqa: E402
from mmd_pack.mmd_core.coupling import Coupling  # noqa: E402
from mmd_pack.mmd_core.gram_space import GramSpace  # noqa: E402
from mmd_pack.mmd_core.kernels import RadialKernel  # noqa: E402

RATE = 0.5


def gram_flow(space, kernel, coupling, x, substeps):
    w = space.project(x).start()
    for _ in range(substeps):
        to_w, to_z = coupling.gradient(kernel, *w.grams())
        w = w.moved(-RATE * to_w, -RATE * to_z)
    return x + w.displacement()


def direct_flow(y, kernel, x, substeps):
    for _ in range(substeps):
        velocity = torch.zeros_like(x)
        for h in kernel.bandwidths:
            velocity += h**2 * len(x) * mmd2_grad(x, y, RadialKernel(kernel.name, (h,)))
        x = x - RATE * velocity / len(kernel.bandwidths)
    return x


def best_times(variants: dict, rounds: int) -> dict:
    """The fastest of `rounds` runs of each variant, taken in turns."""
    times = dict.fromkeys(variants, float("inf"))
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def measure(batch: int, n: int, dim: int, rounds: int) -> tuple[dict, float]:
    """Times of the variants in seconds, and the relative error of 20 float32 sub-steps."""
    generator = torch.Generator().manual_seed(0)
    y, x = (torch.randn(k, dim, generator=generator) for k in (n, batch))
    space = GramSpace(y, torch.full((n,), 1 / n))
    kernel = KernelConfig().resolve(space.gram, dim)
    coupling = Coupling(torch.full((batch,), 1 / batch), torch.full((n,), -1 / n))
    variants = {"two bare GEMMs": lambda: (x @ space.rows.T) @ space.rows}
    for k in (1, 10, 20):
        variants[f"Gram space, {k}"] = lambda k=k: gram_flow(space, kernel, coupling, x, k)
    for k in (1, 20):
        variants[f"direct, {k}"] = lambda k=k: direct_flow(y, kernel, x, k)
    exact = direct_flow(y.double(), kernel, x.double(), 20) - x
    error = (gram_flow(space, kernel, coupling, x, 20) - x - exact).norm() / exact.norm()
    return best_times(variants, rounds), error.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--references", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    out = sys.stdout
    out.write(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ")
    out.write(f"B = {options.batch}, N = {options.references}, three rbf bandwidths\n\n")
    for dim in (16_384, 65_536):
        times, error = measure(options.batch, options.references, dim, options.rounds)
        one = times["Gram space, 1"]
        out.write(f"| D = {dim}, sub-steps | ms | × one in Gram space |\n|---|---|---|\n")
        for name, seconds in times.items():
            out.write(f"| {name} | {seconds * 1e3:.1f} | {seconds / one:.2f} |\n")
        out.write(f"\nRelative error of 20 sub-steps in float32: {error:.1e}\n\n")


if __name__ == "__main__":
    main()
