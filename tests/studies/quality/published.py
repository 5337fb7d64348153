"""The published code's full recipe on digits, once: one image at a time, 1000 steps of DDPM, a memory of finished ones.

    python tests/studies/quality/published.py

Needs PyTorch, NumPy and scikit-learn, no ComfyUI. It is written anew from the formulas; next to it are our modes, which
act on the denoised estimate, in the same chain with the same noise.

One step of DDPM from noise σ to σ' is x' = x̂0 + (x − x̂0) (σ'/σ)² + noise: of a change of x̂0 it carries 1 − (σ'/σ)² into x',
nearly twice as much as Euler's 1 − σ'/σ, for which our modes reckon. So they need half of the published α.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch  # noqa: E402
from mmd_demo.catalog import WORLDS, load_network  # noqa: E402
from mmd_demo.edm import denoise, karras_sigmas  # noqa: E402
from mmd_pack.mmd_core import (  # noqa: E402
    Guidance,
    GuidanceConfig,
    Latents,
    Memory,
    NoiseModel,
    Schedule,
    Window,
)
from mmd_tests.studies.quality.evaluate import evaluate, truth_of  # noqa: E402
from mmd_tests.studies.quality.methods import Drawn  # noqa: E402
from mmd_tests.studies.quality.worlds import generator  # noqa: E402
from mmd_tests.studies.tables import table_head, table_row, told  # noqa: E402
from torch import Tensor  # noqa: E402

WORLD, TARGET = "digits", "3/8/1"
SPREAD = WORLDS[WORLD].sigma_data  # that the model assumes for latents
BETAS = 0.0015, 0.0195  # first and last of the published LDMs, linear in their roots
FORGETS = 100  # images at which all but the last are forgotten
H = 0.75  # the bandwidth of their rbf
EVERYWHERE = Window(math.inf, 0.0)
FIGURES = {"TV": 2, "MMD2": 4, "FD equal": 1, "confidence": 3, "vendi": 2, "nearest by fresh": 2}


def ddpm_levels(steps: int) -> list[float]:
    """σ of every step, from noise to picture, then 0; of 1000 steps or evenly spaced ones of them."""
    first, last = (beta**0.5 for beta in BETAS)
    betas = torch.linspace(first, last, 1000, dtype=torch.float64).square()
    left = (1 - betas).cumprod(0)
    levels = SPREAD * ((1 - left) / left).sqrt()
    return [*levels[:: 1000 // steps].flip(0).tolist(), 0.0]


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def slopes(kernel: str, z: Tensor, others: Tensor) -> Tensor:
    """The mean of ∇_1k(z, o) over others o, with shape `(K, D)`, of z `(K, D)` and others `(K, m, D)`."""
    if kernel == "polynomial":
        dim = z.shape[1]
        pulls = 3 / dim * (torch.einsum("kd,kmd->km", z, others) / dim + 1) ** 2
        return torch.einsum("km,kmd->kd", pulls, others) / others.shape[1]
    ways = unit(others) - unit(z)[:, None]
    pulls = torch.exp(-ways.square().sum(2) / (2 * H**2)) / H**2
    return torch.einsum("km,kmd->kd", pulls, ways) / others.shape[1]


def kicks(kernel: str, alpha: float, z: Tensor, memory: Tensor, references: Tensor) -> Tensor:
    """α · g / (‖g‖ + 1e-5) · ‖z‖ of each chain, which is one sample z with its own memory."""
    together = torch.cat([memory, z[:, None]], 1)
    m = together.shape[1]
    g = 2 / m * (slopes(kernel, z, together) - slopes(kernel, z, references))
    return alpha * g / (g.norm(dim=1, keepdim=True) + 1e-5) * z.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Way:
    """A way to draw.

    Attributes:
        kernel: Of the published code: `polynomial`, or `unit rbf`, which is their rbf with l2norm_img.
        mode: Ours that stands for it.
    """

    name: str
    alpha: float = 0.0
    kernel: str = "polynomial"
    mode: str = ""


WAYS = (
    Way("no guidance"),
    Way("published recipe, polynomial, α .002", 0.002, "polynomial", "official"),
    Way("published code, rbf with l2norm_img, α .002", 0.002, "unit rbf", "official_l2norm"),
)


def model() -> Callable[[Tensor, float], Tensor]:
    """The denoiser of pictures as rows `(B, D)`, without a prompt."""
    network, kind = load_network(WORLDS[WORLD]), WORLDS[WORLD]
    shape = (kind.channels, kind.side, kind.side)
    words = torch.zeros(1, len(kind.words))

    def estimate(x: Tensor, sigma: float) -> Tensor:
        n = len(x)
        levels = torch.full((n,), sigma)
        whole = denoise(network, x.view(n, *shape), levels, words.expand(n, -1), SPREAD)
        return whole.flatten(1)

    return estimate


class Chain:
    """One way for several queues of images at once; a queue draws one image after the other.

    Arguments:
        references: Rows `(N, D)`.
        ours: Whether our mode acts, at half of α, in place of the published code.
    """

    def __init__(self, way: Way, queues: int, references: Tensor, ours: bool = False):
        self.way, self.references, self.ours = way, references, ours
        self.memory = torch.empty(queues, 0, references.shape[1])
        self.runs: list[Guidance] = []

    def begin(self, levels: Sequence[float]) -> None:
        """Before each image."""
        if self.memory.shape[1] == FORGETS:
            self.memory = self.memory[:, -1:]
        if self.ours:
            equal = torch.full((len(self.references),), 1 / len(self.references))
            schedule = Schedule(tuple(levels), EVERYWHERE, NoiseModel(sigma_data=SPREAD))
            config = GuidanceConfig(self.way.alpha / 2, 0.0, 1.0, self.way.mode)
            self.runs = [
                Guidance(
                    config,
                    Latents(self.references, equal),
                    schedule,
                    Memory(own) if len(own) else None,
                )
                for own in self.memory
            ]

    def guided(self, x0: Tensor, x: Tensor, sigma: float) -> Tensor:
        """Our modes: at the estimate."""
        rows = zip(self.runs, x0, x, strict=True) if self.runs else ()
        return torch.cat([run(a[None], b[None], sigma) for run, a, b in rows]) if self.runs else x0

    def kicked(self, x: Tensor, scale: float) -> Tensor:
        """The published code: after the step."""
        if self.ours or not self.way.alpha or not self.memory.shape[1]:
            return x
        given = self.references.expand(len(x), -1, -1)
        return x - kicks(self.way.kernel, self.way.alpha, x * scale, self.memory, given) / scale


@torch.inference_mode()
def drawn(estimate, chains: Sequence[Chain], images: int, steps: int) -> list[Tensor]:
    """Of each chain the images, as rows `(queues, images, D)`. All have the same noise, by queue."""
    levels, finished = ddpm_levels(steps), []
    scales = [SPREAD / math.hypot(SPREAD, sigma) for sigma in levels]  # from x to an LDM's latent
    sizes, dim = [len(chain.memory) for chain in chains], chains[0].references.shape[1]
    for image in range(images):
        noise = generator("published", image)

        def fresh(noise=noise) -> Tensor:
            rows = torch.randn(max(sizes), dim, generator=noise)
            return torch.cat([rows[:size] for size in sizes])

        x = fresh() * math.hypot(SPREAD, levels[0])
        for chain in chains:
            chain.begin(levels)
        for (sigma, after), scale in zip(pairwise(levels), scales[1:], strict=True):
            pairs = zip(chains, estimate(x, sigma).split(sizes), x.split(sizes), strict=True)
            x0 = torch.cat([chain.guided(a, b, sigma) for chain, a, b in pairs])
            ratio = (after / sigma) ** 2
            x = torch.lerp(x0, x, ratio)
            if after:
                x += after * math.sqrt(1 - ratio) * fresh()
            before = x.split(sizes)
            rows = [chain.kicked(own, scale) for chain, own in zip(chains, before, strict=True)]
            x = torch.cat(rows)
        for chain, own in zip(chains, before, strict=True):  # remembered: before the last kick
            chain.memory = torch.cat([chain.memory, own[:, None]], 1)
        finished.append(x.split(sizes))
    return [torch.stack(each, 1) for each in zip(*finished, strict=True)]


@torch.inference_mode()
def by_default(estimate, references: Tensor, images: int, steps: int = 40) -> Tensor:
    """One batch as a new node draws it without a prompt: euler_ancestral with karras."""
    kind = WORLDS[WORLD]
    levels = karras_sigmas(steps, kind.sigma_min, kind.sigma_max).tolist()
    equal, noise = torch.full((len(references),), 1 / len(references)), generator("default")
    config = GuidanceConfig(30.0)
    share = 1 - config.end_percent  # as ComfyUI counts percents of the noise of such a model
    end = kind.sigma_min * (kind.sigma_max / kind.sigma_min) ** share
    schedule = Schedule(tuple(levels), Window(math.inf, end), NoiseModel(sigma_data=SPREAD))
    run = Guidance(config, Latents(references, equal), schedule)
    x = levels[0] * torch.randn(images, references.shape[1], generator=noise)
    for sigma, after in pairwise(levels):
        x0, ratio = run(estimate(x, sigma), x, sigma), (after / sigma) ** 2
        new = torch.randn(x.shape, generator=noise)
        x = torch.lerp(x0, x, ratio) + after * math.sqrt(1 - ratio) * new
    return x


def report(queues: int, images: int, steps: int) -> Iterator[str]:
    began, estimate, truth = time.process_time(), model(), truth_of(WORLD, TARGET, 0)
    given, shape, count = truth.given.latents.flatten(1), truth.case.shape, queues * images
    chains = [Chain(way, queues, given) for way in WAYS]
    chains += [Chain(way, 1, given, ours=True) for way in WAYS if way.mode]
    *rows, _, _ = every = drawn(estimate, chains, images, steps)
    found = {way.name: x.flatten(0, 1) for way, x in zip(WAYS, rows, strict=True)}
    found["our default, one batch, 40 steps"] = by_default(estimate, given, count)
    yield f"{count} images in {queues} queues, {steps} steps, {len(given)} references.\n"
    yield table_head("", *FIGURES)
    found["real digits of the target"] = truth.case.fresh(count, 0)
    for name, x in found.items():
        judged = evaluate(truth, Drawn(truth.case.samples(x.view(-1, *shape))))
        yield table_row(name, *(f"{judged[figure]:.{d}f}" for figure, d in FIGURES.items()))
    yield ""
    for chain, theirs, own in zip(chains[3:], rows[1:], every[3:], strict=True):
        apart = (own[0] - theirs[0]).norm() / (theirs[0] - rows[0][0]).norm()
        yield (
            f"{chain.way.mode} at half of α, with the noise of the first queue: as far from the published code's images "
            f"as {apart:.2f} of what that changes."
        )
    yield f"{time.process_time() - began:.0f} seconds of one core."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--queues", type=int, default=8, help="each with a memory of its own")
    add("--images", type=int, default=6, help="of each queue, one after the other")
    add("--steps", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    told(report(options.queues, options.images, options.steps), None)


if __name__ == "__main__":
    main()
