"""How well few references stand for many: python tests/studies/benchmarks/compress.py

Figures are ratios within one run: MMD² between the whole set and a random subset (its expectation) by that
between the set and a chosen subset of the same size. "least" is that of the worst seed. The bound holds for
every subset with any weights: where references are nearly equally far from each other, no choice is much
better than chance. With weights w of K references and q of all N, MMD² = (w − q)ᵀ K̃ (w − q) is at least
λ·(1/K − 1/N), with λ the least eigenvalue of K̃ between weights of equal sum; on average over random subsets
it is as much with the mean eigenvalue.

    --large     compresses 100 000 latents of SD1.5's size, which lie in a file, and tells time and memory
"""

import argparse
import math
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
import torch
from mmd_pack.mmd_core.kernels.config import KernelConfig
from mmd_pack.mmd_core.kernels.kernels import Gram
from mmd_pack.mmd_core.references.compress import compress
from mmd_pack.mmd_core.references.herding import CenteredKernel, herd, optimal_weights
from mmd_tests.studies.quality.mixture import Dct
from mmd_tests.studies.quality.mixture_worlds import latent_mixture

KERNELS = {
    "default: rbf × 0.5, 1, 2": KernelConfig(),
    "rbf × 1": KernelConfig(multipliers=(1.0,)),
    "imq": KernelConfig("imq"),
    "energy": KernelConfig("energy"),
    "laplacian": KernelConfig("laplacian"),
    "polynomial": KernelConfig("polynomial"),
}
SIDE = 64  # of SD1.5's latents at 512 pixels
PIECE = 500  # latents drawn at a time


def shapes(n: int, seed: int) -> torch.Tensor:
    from mmd_demo.drawing import draw_random

    return draw_random(n, torch.Generator().manual_seed(seed))[0]


def digits(n: int, seed: int) -> torch.Tensor:
    """All the 1797 that there are, in random order."""
    from sklearn.datasets import load_digits

    pictures = torch.tensor(load_digits().images).float()
    return pictures[torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))]


def draw_latents(out: torch.Tensor, seed: int, separation: float) -> torch.Tensor:
    """Fills `out` with latents of the quality benchmark's mixture of six modes."""
    mixture, basis = latent_mixture(SIDE, separation), Dct(SIDE)
    rng = torch.Generator().manual_seed(seed)
    for piece in out.split(PIECE):
        piece.copy_(basis.inverse(mixture.sample(mixture.sample_modes(len(piece), rng), rng)))
    return out


def latents(separation: float):
    return lambda n, seed: draw_latents(torch.empty(n, 4, SIDE, SIDE), seed, separation)


WORLDS = {
    "shapes": (shapes, 5000, 128),
    "digits": (digits, 1797, 64),
    "latents, modes hold 50 % of the variance": (latents(0.5), 5000, 128),
    "latents, modes hold 80 %": (latents(0.8), 5000, 128),
}


def kernel_values(gram: torch.Tensor, dim: int, config: KernelConfig) -> torch.Tensor:
    """k between all rows, with shape `(N, N)`."""
    kernel, own = config.resolve(gram, dim), gram.diagonal()
    values = torch.cat(
        [
            kernel.values(Gram(some, sq, own))
            for some, sq in zip(gram.split(PIECE), own.split(PIECE), strict=True)
        ]
    )
    if config.radial:
        values.diagonal().fill_(kernel.values(Gram.within(torch.zeros(1, 1))).item())
    return values


def classical_herding(kernel: CenteredKernel, count: int) -> list[int]:
    """Equal weights, no second thoughts: Chen, Welling and Smola 2010."""
    chosen, sums = [], torch.zeros(len(kernel.mean), dtype=torch.float64)
    for _ in range(count):
        scores = -2 * sums - kernel.diagonal
        scores[chosen] = -math.inf
        chosen.append(int(scores.argmax()))
        sums += kernel.rows(chosen[-1])
    return chosen


def ratios(kernel: CenteredKernel, count: int) -> dict[str, float]:
    """How many times less MMD² than of a random subset each part of the method leaves."""
    n = len(kernel.mean)
    random = kernel.diagonal.mean() / count * (n - count) / (n - 1)
    equal = torch.full((count,), 1 / count, dtype=torch.float64)

    def ratio(chosen, weighted=True):
        gram = kernel.rows(chosen)[:, chosen]
        w = optimal_weights(gram) if weighted else equal
        return float(random / (w @ gram @ w))

    classical = classical_herding(kernel, count)
    return {
        "herding": ratio(classical, weighted=False),
        "its best weights": ratio(classical),
        "chosen for these": ratio(herd(kernel, count, 0)),
        "exchanged": ratio(herd(kernel, count)),
    }


def bound(kernel: CenteredKernel) -> float:
    """The mean eigenvalue of K̃ by the least, without the one of equal weights, which is 0."""
    n = len(kernel.mean)
    matrix = kernel.rows(list(range(n))).float()
    eigenvalues = torch.linalg.eigvalsh(matrix).sort().values
    return float(matrix.diagonal().sum() / (n - 1) / eigenvalues[1])


def compare(seeds: int) -> None:
    out = sys.stdout
    for world, (draw, n, count) in WORLDS.items():
        found: dict[str, list[dict]] = {name: [] for name in KERNELS}
        for seed in range(seeds):
            set_ = draw(n, seed)
            rows = set_.flatten(1)
            rows = rows - rows.mean(0)
            gram = rows @ rows.T
            del rows
            for name, config in KERNELS.items():
                q = torch.full((n,), 1 / n, dtype=torch.float64)
                kernel = CenteredKernel(kernel_values(gram, set_[0].numel(), config), q)
                found[name].append(ratios(kernel, count))
                if config == KernelConfig():
                    done = compress(set_, torch.ones(n), count, config)
                    found[name][-1]["compress()"] = done.mmd2_random / done.mmd2
                    if seed == 0:
                        limit = bound(kernel)
        columns = list(found[next(iter(KERNELS))][0])
        out.write(f"\n{world}: {count} of {n}. Bound with the default kernel: {limit:.2f}\n\n")
        out.write(f"| kernel | {' | '.join(columns)} | least |\n|{'---|' * (len(columns) + 2)}\n")
        for name, runs in found.items():
            cells = [
                f"{sum(run[c] for run in runs) / seeds:.2f}" if c in runs[0] else ""
                for c in columns
            ]
            least = min(run.get("compress()", run["exchanged"]) for run in runs)
            out.write(f"| {name} | {' | '.join(cells)} | {least:.2f} |\n")
        out.flush()


def large(options) -> None:
    """Draws the latents in another process, so that only compressing them counts."""
    shape, of_its_own = (options.large, 4, SIDE, SIDE), [0]
    status = Path("/proc/self/status")  # Linux

    def watch(share: float) -> None:
        if status.exists():
            found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
            of_its_own.append(1024 * int(found[1]) if found else 0)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "latents.bin"
        command = [sys.executable, __file__, "--large", str(options.large), "--draw-to", str(path)]
        subprocess.run(command, check=True)
        mapped = torch.from_file(str(path), shared=False, size=math.prod(shape)).view(shape)
        weights, memory = torch.ones(len(mapped)), int(options.memory * 2**30)
        started = time.perf_counter()
        done = compress(
            mapped, weights, options.count, KernelConfig(), memory=memory, progress=watch
        )
        minutes = (time.perf_counter() - started) / 60
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(
        f"{len(done.indices)} of {options.large} latents of SD1.5's size, memory {options.memory} GB: "
        f"{minutes:.1f} minutes.\nPeak RSS {peak / 1e9:.2f} GB, pages of the file "
        f"({4 * math.prod(shape) / 1e9:.2f} GB) included; {max(of_its_own) / 1e9:.2f} GB without.\nMMD² "
        f"{done.mmd2:.3e}, of a random subset {done.mmd2_random:.3e}, ratio "
        f"{done.mmd2_random / done.mmd2:.2f}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--large", type=int, nargs="?", const=100_000, metavar="N")
    parser.add_argument("--count", type=int, default=512, help="references to keep of --large")
    parser.add_argument("--memory", type=float, default=2.0, help="GB of working memory of --large")
    parser.add_argument("--draw-to", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw_to:
        shape = (options.large, 4, SIDE, SIDE)
        file = torch.from_file(options.draw_to, shared=True, size=math.prod(shape))
        draw_latents(file.view(shape), 0, 0.5)
    elif options.large:
        large(options)
    else:
        compare(options.seeds)


if __name__ == "__main__":
    main()
