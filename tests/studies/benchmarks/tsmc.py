"""What TRI-TSMC adds to a step of the sampler: python tests/studies/benchmarks/tsmc.py

One step of B particles turned by the witness of N references and n samples of the model: the gradient at x̂0, the
drift, the particles' own noise, and the sums h and H that weigh the paths. As ratios to two bare matrix products of
the same size, and next to the same gradient by autograd, the variants taking turns; the minimum over rounds. The model
itself is not called: TRI-TSMC calls it as often as the sampler does.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
import torch
from mmd_pack.mmd_core import KernelConfig
from mmd_pack.mmd_core.tsmc import (
    GradientTwist,
    Witness,
    propose,
    transitions,
)
from mmd_tests.studies.benchmarks.latent_world import LatentWorld
from mmd_tests.studies.benchmarks.timing import best_times

SIDES = (64, 128)  # of SD1.5's and SDXL's latents
SIGMAS = (4.8, 3.0, 0.0)  # one step that draws


class Step:
    """One step of a chain, steered or not."""

    def __init__(self, side: int, batch: int, references: int, base: int):
        world = LatentWorld((4, side, side), "cpu")
        y, (self.x, _) = world.references(references), world.call(batch, SIGMAS[0])
        drawn = world.references(references + base)[references:]
        weights = y.new_full((references,), 1 / references)
        self.witness = Witness(KernelConfig(), y, weights, drawn)
        self.steps = transitions(SIGMAS)
        twist = GradientTwist(self.rowwise, self.steps)
        self.twist, self.theta = twist, torch.full((1,), 0.5, dtype=torch.float64)
        self.generators = [torch.Generator().manual_seed(i) for i in range(batch)]
        self.rows = self.witness.expansion.rows

    def rowwise(self, x0):
        return torch.cat([self.witness.gradient(one) for one in x0.split(1)])

    def noise(self, step):
        return torch.stack(
            [torch.randn(self.x.shape[1:], generator=one) for one in self.generators]
        )

    def unsteered(self):
        return propose(lambda x, i: x, self.x, self.steps, self.noise)

    def steered(self):
        return propose(lambda x, i: x, self.x, self.steps, self.noise, self.twist, self.theta)

    def gemms(self):
        return (self.x.flatten(1) @ self.rows.T) @ self.rows

    def by_autograd(self):
        x = (self.x.flatten(1) - self.witness.expansion.origin).requires_grad_()
        squares = torch.cdist(x, self.rows).square()
        bandwidths = self.witness.expansion.kernel.bandwidths
        values = sum((squares / (-2 * h**2)).exp() for h in bandwidths) / len(bandwidths)
        (gradient,) = torch.autograd.grad((values @ self.witness.expansion.coefficients).sum(), x)
        return gradient


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--references", type=int, default=100)
    parser.add_argument("--base", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    out = sys.stdout
    out.write(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ")
    out.write(f"B = {options.batch}, N = {options.references}, n = {options.base}\n\n")
    for side in SIDES:
        step = Step(side, options.batch, options.references, options.base)
        exact, found = step.by_autograd(), step.rowwise(step.x).flatten(1)
        error = ((found - exact).norm() / exact.norm()).item()
        variants = {
            "two bare GEMMs": step.gemms,
            "gradient, one particle at a time": lambda step=step: step.rowwise(step.x),
            "gradient, all at once": lambda step=step: step.witness.gradient(step.x),
            "gradient by cdist and autograd": step.by_autograd,
            "an unsteered step": step.unsteered,
            "a steered step": step.steered,
        }
        times = best_times(variants, options.rounds)
        out.write(f"| D = {step.rows.shape[1]} | ms | × two bare GEMMs |\n|---|---|---|\n")
        for name, seconds in times.items():
            ratio = seconds / times["two bare GEMMs"]
            out.write(f"| {name} | {seconds * 1e3:.1f} | {ratio:.2f} |\n")
        out.write(f"\nThe gradient is {error:.1e} off that of autograd.\n\n")


if __name__ == "__main__":
    main()
