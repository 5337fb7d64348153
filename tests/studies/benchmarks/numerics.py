"""How exact guidance is in float32, and with TF32: python tests/studies/benchmarks/numerics.py

The displacement of one guidance call in float32, relative to that of the same formulas in float64 on the same numbers:
over the dimension D, an offset that all latents share (in standard deviations of a latent's entry), kernels, and ways to
keep the references.

After the stroke is the difference that TF32 makes, which rounds the factors of each matrix product to 10 bits behind
the point. On a GPU there is to be none, since guidance turns it off (`mmd_core/precision.py`); on a CPU it is done here
all the same, and shows why.
"""

import argparse
import math
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
import torch
from mmd_pack.mmd_core import (
    KERNELS,
    Execution,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    Schedule,
    Window,
)
from torch.utils._python_dispatch import TorchDispatchMode

DIMS = (64, 1024, 16_384, 65_536, 262_144, 1_048_576)
OFFSETS = (0.0, 1.0, 10.0, 1000.0)
WAYS = ("held", "streamed", "fp16")
SIGMAS = [14.0, 6.0, 2.5, 1.0, 0.4, 0.0]
SIGMA = 2.5
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "mv", "dot", "addmv"}


class Tf32(TorchDispatchMode):
    """Matrix products of factors that are rounded as TF32 rounds them."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        if name in PRODUCTS:
            added = name.startswith(("addm", "badd"))  # the first argument is no factor
            args = *args[:added], *(map(rounded, args[added:]))
        return operation(*args, **(kwargs or {}))


def rounded(x):
    """float32 to the nearest number with 10 bits behind the point."""
    if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def data(dim: int, offset: float, batch: int, n: int):
    """References, x̂0 and x as float32, with spread 1 about a mean that differs between references and batch."""
    rng = torch.Generator().manual_seed(dim)
    shape = (4, dim // 4) if dim < 1024 else (4, dim // 128, 32)
    y = torch.randn(n, *shape, generator=rng)
    x0 = 0.7 * torch.randn(batch, *shape, generator=rng) + 0.2
    x = x0 + SIGMA * torch.randn(x0.shape, generator=rng)
    return y + offset, x0 + offset, x + offset


def displacement(kernel, way, y, x0, x, dtype=torch.float32, device="cpu", strength=20.0):
    """What guidance adds to x̂0, before that is rounded to the size of x̂0."""
    n, numbers = len(y), y[0].numel()
    size = torch.finfo(dtype).bits // 8
    budget = {"held": math.inf, "fp16": size * n * n + 2 * n * numbers, "streamed": size * n * n}
    weights = torch.full((n,), 1 / n, dtype=dtype, device=device)
    config = GuidanceConfig(strength, kernel=KernelConfig(kernel), preserve=0)
    run = Guidance(
        config,
        Latents(y.to(dtype), weights),
        Schedule(SIGMAS, Window(1e9, 0.0)),
        execution=Execution(budget=budget[way]),
    )
    x0, x = (t.to(device, dtype) for t in (x0, x))
    coupling = run.couplings.of(len(x0), None)
    step = run._step(SIGMA)
    start = run.comparison.start(x0, (x - x0) if dtype == x.dtype else None, SIGMA)
    end, _ = start.flowed(coupling, strength * step.rate)
    return end.displacement().double().cpu()


def relative(found, exact) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def errors(kernel, way, dim, offset, batch=8, n=40, strength=20.0, device="cpu"):
    """Of float32 against float64, and the difference that TF32 makes."""
    y, x0, x = data(dim, offset, batch, n)
    exact = displacement(kernel, "held", y, x0, x, torch.float64, strength=strength)
    plain = displacement(kernel, way, y, x0, x, device=device, strength=strength)
    if device == "cpu":
        with Tf32():
            coarse = displacement(kernel, way, y, x0, x, strength=strength)
    else:
        torch.backends.cuda.matmul.allow_tf32 = True
        coarse = displacement(kernel, way, y, x0, x, device=device, strength=strength)
        torch.backends.cuda.matmul.allow_tf32 = False
    return relative(plain, exact), relative(coarse, plain)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--references", type=int, default=40)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = sys.stdout
    out.write(f"torch {torch.__version__} on {device}, B = {options.batch}, ")
    out.write(f"N = {options.references}; float32 against float64 | TF32 against float32\n\n")
    offsets = " | ".join(f"offset {offset:g}" for offset in OFFSETS)
    out.write(f"| kernel | references | D | {offsets} |\n|---|---|---|{'---|' * len(OFFSETS)}\n")
    for kernel in KERNELS:
        for way in WAYS:
            for dim in options.dims:
                if way != "held" and dim not in (options.dims[0], options.dims[-1]):
                    continue
                cells = []
                for offset in OFFSETS:
                    found = errors(
                        kernel, way, dim, offset, options.batch, options.references, device=device
                    )
                    cells.append(" / ".join(f"{error:.1e}" for error in found))
                out.write(f"| {kernel} | {way} | {dim} | {' | '.join(cells)} |\n")
                out.flush()


if __name__ == "__main__":
    main()
