"""What one of the workers of `run.py` does; the first one tells what came of it."""

import sys
from argparse import Namespace

import torch
from mmd_pack.mmd_core import (
    Execution,
    Guidance,
    GuidanceConfig,
    Latents,
    Schedule,
)
from mmd_pack.mmd_core.comparison.workers import ALONE, Workers
from mmd_tests.studies.benchmarks.latent_world import LatentWorld
from mmd_tests.studies.distributed.cost import table
from mmd_tests.studies.distributed.drawing import SIGMAS, WINDOW, draw, modes, noise_of
from mmd_tests.studies.distributed.join import CountedWorkers, joined
from mmd_tests.studies.quality.metrics import shares, total_variation
from torch import Tensor

ONE, COUPLED, FREE = "one worker", "coupled", "no guidance"
APART, BATCHES = "each for itself", "each for itself, no companions"


def compare(options: Namespace) -> None:
    """Draws all batches in all ways."""
    torch.manual_seed(0)
    with joined() as (workers, device):
        drawing = Drawing(options, workers, device)
        drawn = [drawing.batch(seed) for seed in range(options.seeds)]
        if workers.rank == 0:
            sys.stdout.write("\n".join(drawing.told(drawn)) + "\n\n" + table() + "\n")


class Drawing:
    """A world, and ways to draw in it.

    Arguments:
        options: See `run.py`.
        workers: Who draws.
        device: Of this worker.
    """

    def __init__(self, options: Namespace, workers: CountedWorkers, device: torch.device):
        self.options, self.workers, self.device = options, workers, device
        self.total = options.batch * workers.size
        self.world = LatentWorld((4, options.side, options.side), "cpu")
        references = self.world.references(options.references).to(device)
        weights = references.new_full((len(references),), 1 / len(references))
        self.references = Latents(references, weights)
        self.calls = 0

    def guidance(self, config: GuidanceConfig, workers: Workers) -> Guidance:
        """Guidance of a batch of all `workers`."""
        schedule, execution = Schedule(SIGMAS, WINDOW), Execution(workers=workers)
        return Guidance(config, self.references, schedule, execution=execution)

    def batch(self, seed: int) -> dict[str, Tensor]:
        """One batch drawn in each way, of which only the first worker draws `ONE`."""
        noise = noise_of(self.world, self.total, seed).to(self.device)
        own = self.workers.share(noise)
        plain = GuidanceConfig()
        whole, part = plain.for_batch(len(noise)), plain.for_batch(len(own))
        coupled, before = self.guidance(whole, self.workers), self.workers.received
        found = {COUPLED: draw(self.world, coupled, own, SIGMAS)}
        self.received = self.workers.received - before
        found[APART] = draw(self.world, self.guidance(part, ALONE), own, SIGMAS)
        found[BATCHES] = draw(self.world, self.guidance(plain, ALONE), own, SIGMAS)
        found[FREE] = draw(self.world, None, own, SIGMAS)
        found = {name: self.workers.gather(samples) for name, samples in found.items()}
        if self.workers.rank == 0:
            found[ONE] = draw(self.world, self.guidance(whole, ALONE), noise, SIGMAS)
        return found

    def spread(self, samples: Tensor) -> float:
        """The variance of samples about their modes, by that of the target."""
        coefficients = self.world.basis(samples.cpu())
        mine = self.world.model.nearest_mode(coefficients)
        return self.world.model.deviations(coefficients, mine).square().mean().item()

    def told(self, drawn: list[dict[str, Tensor]]) -> list[str]:
        """The figures, in Markdown."""
        o, w = self.options, self.workers
        target = self.world.target.weights
        heads = [f"mode {k + 1}" for k in range(len(target))]
        on = "gloo, CPU" if self.device.type == "cpu" else "NCCL, GPU"
        lines = [
            f"torch {torch.__version__}, {on}: {w.size} workers with {o.batch} images each, D = {self.world.dim}, "
            f"{o.references} references, {len(SIGMAS) - 1} steps, {o.seeds} seeds",
            "",
            f"| | {' | '.join(heads)} | wrong proportions | spread | difference to one worker |",
            "|---" * (len(heads) + 4) + "|",
            _row("target", target, "", "1.00", ""),
        ]
        for name in (ONE, COUPLED, APART, BATCHES, FREE):
            each = [shares(modes(self.world, found[name]), len(target)) for found in drawn]
            spread = sum(self.spread(found[name]) for found in drawn) / len(drawn)
            wrong = sum(total_variation(found, target) for found in each) / len(each)
            off = max(
                ((found[name] - found[ONE]).norm() / found[ONE].norm()).item() for found in drawn
            )
            lines.append(
                _row(name, sum(each) / len(each), f"{wrong:.3f}", f"{spread:.2f}", f"{off:.1e}")
            )
        calls = len(SIGMAS) - 1
        return [
            *lines,
            "",
            "Wrong proportions: total variation of a batch, the mean over seeds (0 right, 1 disjoint).",
            "Spread: the variance within modes, by that of the target.",
            f"Each worker received {self.received / calls / 1e3:.1f} kB per call.",
        ]


def _row(name: str, found, *others: str) -> str:
    """One row, with the share of each mode."""
    return f"| {name} | {' | '.join([*(f'{share:.2f}' for share in found), *others])} |"
