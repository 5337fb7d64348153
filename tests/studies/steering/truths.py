"""What is true of each world of the table: exactly where that is possible, else by a long run whose numbers are kept.

`python tests/studies/steering/run.py --truths` draws these anew.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from mmd_pack.mmd_core.tsmc import TSMCConfig
from mmd_tests.studies.steering import closed_form, quadrature
from mmd_tests.studies.steering.methods import importance, resampled, tri_tsmc
from mmd_tests.studies.steering.quadrature import Truth
from mmd_tests.studies.steering.worlds import MIXTURES, World, gaussian, line

KEPT = Path(__file__).with_name("truth.json")
SEED = 6950
RUNS, PARTICLES, PLAIN = 16, 20_000, 50_000


def worlds() -> list[tuple[World, Truth]]:
    """Those of the table, with what is true there."""
    lines = [line(flow) for flow in (False, True)]
    normal = [gaussian(kind) for kind in ("linear", "quadratic")]
    return [
        *((world, quadrature.truth(world)) for world in lines),
        *((world, closed_form.truth(world)) for world in normal),
        *((make(), kept(name)) for name, make in MIXTURES.items()),
    ]


def kept(name: str) -> Truth:
    """Of a mixture, by a long run with a learned twist."""
    return Truth(**_kept(name)["truth"])


def plain_kept(name: str) -> Truth:
    """The same by many paths of the model itself."""
    return Truth(**_kept(name)["plain"])


def scale_kept(name: str) -> float:
    """λ of the world whose truth is kept."""
    return _kept(name)["scale"]


def _kept(name: str) -> dict:
    return json.loads(KEPT.read_text("utf-8"))[name]


def long_run(world: World, runs: int = RUNS, particles: int = PARTICLES, seed: int = SEED) -> Truth:
    """SMC passes of many particles with a twist that was learned before."""
    config = TSMCConfig(256, 4, reward_scale=world.scale, standardize=False)
    theta = tri_tsmc(world, seed, 1, config=config).learnings[0].theta.item()
    found = resampled(world, seed + 1, runs, particles, theta)
    return _combined(world, found.log_z, found.mean)


def plain_run(world: World, runs: int = RUNS, n: int = PLAIN, seed: int = SEED) -> Truth:
    """Paths of the model itself, weighted: needs nothing that is tested here, and many paths."""
    parts = [importance(world, seed + 2 + i, 1, n) for i in range(runs)]
    log_z, mean = (torch.cat([getattr(part, name) for part in parts]) for name in ("log_z", "mean"))
    return _combined(world, log_z, mean)


def _combined(world: World, log_z: torch.Tensor, mean: torch.Tensor) -> Truth:
    """Of independent runs: the mean of Ẑ, and of E_π[r] weighted by it."""
    relative = (log_z - log_z.max()).exp()
    z = relative.mean()
    whole = (log_z.max() + z.log()).item()
    error = (relative.std() / z).item() / math.sqrt(len(log_z))
    of_reward = ((relative * mean).sum() / relative.sum()).item()
    mean_error = mean.std().item() / math.sqrt(len(mean))
    return Truth(whole, of_reward, world.scale * of_reward - whole, error, mean_error)


def draw() -> None:
    """Writes `truth.json`."""
    found = {}
    for name, make in MIXTURES.items():
        world = make()
        found[name] = {
            "truth": asdict(long_run(world)),
            "plain": asdict(plain_run(world)),
            "scale": world.scale,
        }
    found["seed"] = SEED
    KEPT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
