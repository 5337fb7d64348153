"""How good pictures are by the judge, by their pixels and by the model itself: pure functions."""

import torch
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_demo.judge import frechet_distance
from mmd_tests.demo.emoji.flow import flow_loss
from mmd_tests.studies.quality import metrics

__all__ = [
    "adherence",
    "band_variances",
    "draw_rivals",
    "main_frechet_distance",
    "mmd2",
    "name_ranks",
    "nearest_by_fresh",
    "prompt_gain",
    "sharpness",
    "shares",
]


def shares(scores: torch.Tensor) -> list[float]:
    """Share of the pictures for which each class has the highest score, of scores (B, K)."""
    return metrics.shares(scores.argmax(1), scores.shape[1]).tolist()


def draw_rivals(
    own: torch.Tensor, names: int, count: int, generator: torch.Generator
) -> torch.Tensor:
    """For each picture `count` different names (B, count) of 0 to `names` - 1, without its own."""
    order = torch.rand(len(own), names - 1, generator=generator).argsort(1)[:, :count]
    return order + (order >= own[:, None])


def name_ranks(scores: torch.Tensor, own: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
    """The place (B,), from 1 on, of each picture's own name among its rivals; equals come before.

    Arguments:
        scores: How well each name fits each picture, with shape (B, N).
        own: Number of each picture's own name, with shape (B,).
        rivals: Numbers of the names it is compared with, with shape (B, M).
    """
    return 1 + (scores.gather(1, rivals) >= scores.gather(1, own[:, None])).sum(1)


def adherence(ranks: torch.Tensor) -> dict[str, float]:
    """Shares of pictures whose own name fits best or among the best 5, and its mean place."""
    return {
        "own name first": (ranks == 1).double().mean().item(),
        "own name in 5": (ranks <= 5).double().mean().item(),
        "mean rank": ranks.double().mean().item(),
    }


def main_frechet_distance(samples: torch.Tensor, real: torch.Tensor, axes: int = 8) -> float:
    """Fréchet distance of features (n, F), (m, F) along the main `axes` of the real ones.

    In all of some 100 dimensions, the error of a covariance from as few pictures covers everything.
    """
    samples, real = samples.double(), real.double()
    main = torch.linalg.eigh(torch.cov(real.T))[1][:, -axes:]
    return frechet_distance(samples @ main, real @ main)


def mmd2(samples: torch.Tensor, real: torch.Tensor) -> float:
    """Unbiased MMD² of features (n, F), (m, F); Gaussian kernels about the real ones' median."""
    bandwidth = metrics.median_distance(metrics.sq_distance_matrix(real))
    distances = metrics.sq_distance_matrix(torch.cat([samples, real]))
    return metrics.mmd2_unbiased(metrics.rbf_matrix(distances, bandwidth), len(samples))


def nearest_by_fresh(samples: torch.Tensor, references: torch.Tensor, fresh: torch.Tensor) -> float:
    """Mean distance to the nearest reference, by that of fresh real ones: near 0 for copies."""
    return (
        metrics.nearest_distances(samples, references).mean()
        / metrics.nearest_distances(fresh, references).mean()
    ).item()


def band_variances(
    pictures: torch.Tensor, edges: tuple[float, float] = (1 / 16, 1 / 4)
) -> list[float]:
    """Variance across pictures (B, C, H, W) in low, middle and high frequencies.

    The edges are cycles per pixel. Together it is the mean variance of a pixel (divisor B).
    """
    waves = torch.fft.fft2(pictures.double() - pictures.double().mean(0), norm="forward")
    power = waves.abs().square().mean((0, 1))
    height, width = (torch.fft.fftfreq(size, dtype=torch.float64) for size in power.shape)
    frequency = torch.hypot(height[:, None], width)
    bands = (frequency >= edges[0]).long() + (frequency >= edges[1]).long()
    return [power[bands == band].sum().item() for band in range(3)]


def sharpness(pictures: torch.Tensor) -> float:
    """Root mean square of the differences of neighbouring pixels, mean of pictures (B, C, H, W)."""
    down, right = (pictures.double().diff(dim=dim).square().mean((1, 2, 3)) for dim in (2, 3))
    return ((down + right) / 2).sqrt().mean().item()


@torch.no_grad()
def prompt_gain(
    model: EmojiModel,
    latents: torch.Tensor,
    words: torch.Tensor,
    generator: torch.Generator,
    times: tuple[float, ...] = (0.5, 0.7),
) -> torch.Tensor:
    """By how much its words (B, L) lower the model's error on each finished picture (B,), x 100.

    The error is that of the velocity, the mean over the times and one noise for each.
    """
    gains = []
    for time in times:
        noise = torch.randn(latents.shape, generator=generator)
        at = torch.full((len(latents),), time)
        free = flow_loss(model, latents, torch.zeros_like(words), at, noise)
        gains.append(free - flow_loss(model, latents, words, at, noise))
    return 100 * torch.stack(gains).mean(0)
