"""What sub-steps cost, and how exact they are: python tests/studies/benchmarks/substeps.py

Cost: one and more sub-steps in Gram space, and of Euler's method computed directly on latents. Every figure is a
ratio to two bare GEMMs of the same size, measured in the same run, the variants taking turns; the minimum over
rounds, so that other load on the machine counts little.

Exactness: how far from the flow itself (Euler's method in steps of 0.005, in float64) a batch ends that the pack's
integrator moves for a time λ · rate, and one that Euler's method moves in steps of 0.5, both relative to the
way. Latents are those of cost.py, at a high, a middle and a low noise level of the window.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
import torch
from mmd_pack.mmd_core import KernelConfig, Latents, mmd2_grad
from mmd_pack.mmd_core.comparison.coupling import Coupling
from mmd_pack.mmd_core.comparison.flow import flowed, substeps
from mmd_pack.mmd_core.comparison.gram_space import GramSpace
from mmd_pack.mmd_core.comparison.rows import Rows
from mmd_pack.mmd_core.kernels.kernels import RadialKernel
from mmd_tests.studies.benchmarks.latent_world import LatentWorld
from mmd_tests.studies.benchmarks.timing import best_times

SIDES = (64, 128)  # of SD1.5's and SDXL's latents
COARSE, FINE = 0.5, 0.005
REACHES = (0.4, 2.0, 5.0, 15.0, 40.0)
SIGMAS = (12.0, 4.8, 1.0)


class Flow:
    """References y, a kernel, and samples x that follow the gradient."""

    def __init__(self, y, x, config: KernelConfig):
        n, batch = len(y), len(x)
        self.x, self.y = x.flatten(1), y.flatten(1)
        self.space = GramSpace(Rows(Latents(y, y.new_full((n,), 1 / n)), config.radial))
        self.kernel = config.resolve(self.space.gram, self.x.shape[1])
        self.coupling = Coupling(x.new_full((batch,), 1 / batch), y.new_full((n,), -1 / n))

    def velocity(self, w):
        return self.coupling.velocity(self.kernel, w.gram)

    def start(self):
        return self.space.project(self.x).start()

    def ours(self, lengths: list[float]):
        """Where the pack's sub-steps lead, as a displacement."""
        return flowed(self.start(), self.velocity, lengths).displacement()

    def euler(self, reach: float, step: float):
        """The same by Euler's method in Gram space."""
        w, n = self.start(), max(1, round(reach / step))
        for _ in range(n):
            w = w.moved(self.velocity(w) * (reach / n))
        return w.displacement()

    def direct(self, n: int, step: float = COARSE):
        """The same on latents, with a radial kernel."""
        x, y, h = self.x, self.y, self.kernel.bandwidths
        for _ in range(n):
            kernels = [RadialKernel(self.kernel.name, (one,)) for one in h]
            grads = [k.bandwidths[0] ** 2 * mmd2_grad(x, y, k) for k in kernels]
            x = x - step * len(x) / len(h) * sum(grads)
        return x - self.x


def off(found, exact) -> float:
    """The distance by the length of the way."""
    return ((found - exact).norm() / exact.norm()).item()


def cost(out, options) -> None:
    for side in SIDES:
        world = LatentWorld((4, side, side), "cpu")
        y, (x, _) = world.references(options.references), world.call(options.batch, SIGMAS[1])
        flow = Flow(y, x, KernelConfig())
        variants = {"two bare GEMMs": lambda flow=flow: (flow.x @ flow.y.T) @ flow.y}
        for n in (1, 5, 12, 20):
            variants[f"Gram space, {n}"] = lambda n=n, flow=flow: flow.ours([COARSE] * n)
        for n in (1, 20):
            variants[f"direct, {n}"] = lambda n=n, flow=flow: flow.direct(n)
        error = off(flow.euler(10, COARSE), Flow(y.double(), x.double(), KernelConfig()).direct(20))
        times = best_times(variants, options.rounds)
        out.write(f"| D = {world.dim}, sub-steps | ms | × two bare GEMMs |\n|---|---|---|\n")
        for name, seconds in times.items():
            ratio = seconds / times["two bare GEMMs"]
            out.write(f"| {name} | {seconds * 1e3:.1f} | {ratio:.2f} |\n")
        out.write(
            f"\n20 Euler steps in Gram space in float32 are {error:.1e} off those on latents "
        )
        out.write("in float64.\n\n")


def exactness(out, options) -> None:
    world = LatentWorld((4, 32, 32), "cpu")
    y = world.references(options.references).double()
    columns = [f"σ = {sigma:g}: {name}" for sigma in SIGMAS for name in ("this pack", "Euler")]
    out.write(f"| λ · rate | sub-steps | of Euler | {' | '.join(columns)} |\n")
    out.write("|" + "---|" * (3 + len(columns)) + "\n")
    flows = [
        Flow(y, world.call(options.batch, sigma)[0].double(), KernelConfig()) for sigma in SIGMAS
    ]
    for reach in REACHES[: options.reaches]:
        lengths, cells = substeps(reach), []
        for flow in flows:
            exact = flow.euler(reach, FINE)
            cells += [off(flow.ours(lengths), exact), off(flow.euler(reach, COARSE), exact)]
        cells = " | ".join(f"{cell:.2%}" for cell in cells)
        out.write(f"| {reach:g} | {len(lengths)} | {round(reach / COARSE) or 1} | {cells} |\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--references", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--reaches", type=int, default=len(REACHES), help="how many of them")
    options = parser.parse_args()
    out = sys.stdout
    out.write(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ")
    out.write(f"B = {options.batch}, N = {options.references}, three rbf bandwidths\n\n")
    cost(out, options)
    exactness(out, options)


if __name__ == "__main__":
    main()
