"""A worker of `tests/test_core/comparison/test_workers.py`: it draws every case, and writes down what came of it.

The first worker also draws every case alone, the whole batch by itself.
"""

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_pack.mmd_core import (
    Execution,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    Memory,
    NoiseModel,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.comparison import by_features as comparison
from mmd_pack.mmd_core.comparison.workers import ALONE, Workers
from mmd_tests.studies.benchmarks.latent_world import LatentWorld
from mmd_tests.studies.benchmarks.our_call import STRENGTHS
from mmd_tests.studies.distributed.drawing import WINDOW, draw, noise_of
from mmd_tests.studies.distributed.join import CountedWorkers, joined
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WORLD = LatentWorld((4, 8, 8), "cpu")
SIGMAS = [14.0, 9.0, 6.0, 4.0, 2.5, 1.5, 1.0, 0.6, 0.3, 0.0]
FLOW_MATCHING = [0.98, 0.93, 0.86, 0.78, 0.68, 0.56, 0.42, 0.25, 0.0]
FEW = 4


def prompts(n: int, seed: int) -> Tensor:
    """Features of prompts, many of which have nothing in common, with shape `(n, 6)`."""
    return WORLD.prompts(n, seed)[:, :6]


@dataclass(frozen=True)
class Case:
    """One run.

    Arguments:
        kernel, mode, preserve, strength: Of the configuration; None takes the strength that is usual.
        batch: Samples of all workers.
        references: How many.
        finished: Samples of a memory.
        prompts: Whether each sample has one of its own.
        flow_matching: The model's noise.
        compact: Whether references are streamed, and their inner products not kept.
        alike: Whether all workers have as little room.
        record: Whether a trace is kept.
    """

    kernel: KernelConfig | None = None
    mode: str = "flow"
    preserve: float = 0.5
    strength: float | None = None
    batch: int = 8
    references: int = 24
    finished: int = 0
    prompts: bool = False
    flow_matching: bool = False
    compact: bool = False
    alike: bool = True
    record: bool = True

    def guidance(self, workers: Workers) -> Guidance:
        """Its guidance, for one of the workers."""
        strength = STRENGTHS[self.mode] if self.strength is None else self.strength
        config = GuidanceConfig(
            strength, mode=self.mode, kernel=self.kernel, preserve=self.preserve
        ).for_batch(self.batch)
        references = WORLD.references(self.references)
        weights = torch.arange(1.0, 1 + len(references))
        features = prompts(self.finished, 2) if self.prompts else None
        memory = Memory(WORLD.finished(self.finished), features) if self.finished else None
        small = self.compact and (self.alike or workers.rank > 0)
        return Guidance(
            config,
            Latents(references, weights / weights.sum()),
            Schedule(
                self.sigmas,
                Window(1.0, 0.4) if self.flow_matching else WINDOW,
                NoiseModel(self.flow_matching),
            ),
            memory,
            prompts(len(references), 1) if self.prompts else None,
            Execution(self.record, 0.0 if small else math.inf, workers),
        )

    @property
    def sigmas(self) -> list[float]:
        """The schedule."""
        return FLOW_MATCHING if self.flow_matching else SIGMAS

    def draw(self, workers: Workers, whose: Workers) -> dict[str, Tensor]:
        """The samples of one of the workers `whose`, and the trace; drawn by `workers`."""
        always = 0 if self.compact else comparison.ALWAYS
        with patch.object(comparison, "ALWAYS", always), torch.inference_mode():
            run = self.guidance(workers)
            noise = whose.share(noise_of(WORLD, self.batch, 7))
            asked = whose.share(prompts(self.batch, 3)) if self.prompts else None
            samples = draw(WORLD, run, noise, self.sigmas, run.noise, asked)
            told = run.finished(samples)
        # None: there is no prompt to compare guidance with.
        figures = [[figure for figure in row if figure is not None] for row in told.rows]
        return {
            "samples": samples,
            "trace": torch.tensor(figures, dtype=torch.float64),
            "numbers": torch.tensor([told.batch, told.mmd2], dtype=torch.float64),
            "nearest": torch.tensor(told.nearest),
            "distances": torch.tensor(told.distances),
            "held": torch.tensor(run.config.patches or run.comparison.space.gram is not None),
        }


CASES = {
    "rbf": Case(),
    "polynomial": Case(KernelConfig("polynomial")),
    "no trace": Case(record=False),
    "no limit": Case(preserve=0.0),
    "low limit": Case(preserve=0.9),
    "companions": Case(batch=FEW, references=FEW),
    "companions with prompts": Case(
        KernelConfig(prompt_kernel="cosine"), batch=FEW, references=FEW, prompts=True
    ),
    "prompts": Case(KernelConfig(prompt_kernel="cosine"), prompts=True),
    "prompts and memory": Case(KernelConfig(prompt_kernel="rbf"), prompts=True, finished=6),
    "memory": Case(finished=6),
    "paper": Case(mode="paper"),
    "official": Case(mode="official"),
    "official with memory": Case(mode="official", finished=3),
    "low_pass": Case(KernelConfig(feature_space="low_pass", pool=2)),
    "channel_stats": Case(KernelConfig(feature_space="channel_stats")),
    "palette": Case(KernelConfig(feature_space="palette")),
    "patches": Case(KernelConfig(feature_space="patches"), strength=4.0),  # of many sub-steps
    "flow matching": Case(flow_matching=True),
    "compact": Case(compact=True, preserve=0.9),
    "compact, with memory": Case(compact=True, finished=6, preserve=0.0, strength=10.0),
    "room for some": Case(compact=True, alike=False, strength=10.0),
}


class MultiplyAdds(TorchDispatchMode):
    """Counts the multiply-adds of the products of matrices within it; in place, too."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.count += len(a) * b.numel()
        return operation(*args, **(kwargs or {}))


def faults(workers: CountedWorkers) -> dict[str, str]:
    """What is said where workers do not make the same calls."""

    def of_call(change=lambda x0, x, sigma, prompts: (x0, x, sigma, prompts), **options) -> str:
        try:
            run = replace(CASES["prompts"], **options).guidance(workers)
            x0, x = WORLD.call(2, SIGMAS[2])
            run(*change(x0, x, SIGMAS[2], prompts(2, 3)))
        except ValueError as error:
            return str(error)
        return ""

    last = workers.rank == workers.size - 1
    other = {
        "samples": lambda x0, x, *rest: (x0[:1], x[:1], *rest),
        "sizes": lambda x0, x, *rest: (x0[..., 1:], x[..., 1:], *rest),
        "sigmas": lambda x0, x, sigma, prompts: (x0, x, SIGMAS[3], prompts),
        "prompts": lambda x0, x, sigma, prompts: (x0, x, sigma, None),
    }
    said = {name: of_call(*[change] * last) for name, change in other.items()}
    said["references"] = of_call(references=24 - last)
    said["record"] = of_call(record=last)
    said["remembered"] = of_call(finished=3 * last)
    said["none"] = of_call()
    run = Case().guidance(workers)
    x0, x = WORLD.call(2, SIGMAS[2])
    try:
        run.finished(x0) if last else run(x0, x, SIGMAS[2])
        said["end"] = ""
    except ValueError as error:
        said["end"] = str(error)
    return said


def cost(workers: CountedWorkers) -> dict[str, Tensor]:
    """What a call costs this worker: `(b, D, M, sub-steps, bytes received, multiply-adds)`."""
    case = replace(CASES["memory"], batch=4 * workers.size)
    x0, x = (workers.share(part) for part in WORLD.call(case.batch, SIGMAS[2]))
    with torch.no_grad():  # in inference mode not every product comes as `mm`
        run = case.guidance(workers)
        run(x0, x, SIGMAS[2])
        substeps, run.record = run.trace[0].substeps, False
        before = workers.received
        with MultiplyAdds() as made:
            run(x0, x, SIGMAS[2])
    rows = case.references + case.finished
    numbers = len(x0), x0[0].numel(), rows, substeps, workers.received - before, made.count
    return {"cost": torch.tensor(numbers)}


def main(folder: Path) -> None:
    """Do it all, with the workers that come."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with joined() as (workers, _):
        found = {}
        for name, case in CASES.items():
            ways = {"coupled": case.draw(workers, workers)}
            ways["apart"] = replace(case, alike=True).draw(ALONE, workers)
            if workers.rank == 0:
                ways["one"] = replace(case, alike=True).draw(ALONE, ALONE)
            for way, result in ways.items():
                found |= {f"{name}/{way}/{part}": value for part, value in result.items()}
        found |= cost(workers)
        said = {"said": json.dumps(faults(workers))}
        found = {name: value.contiguous().clone() for name, value in found.items()}
        save_file(found, folder / f"{workers.rank}.safetensors", said)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
