"""How close samples are to a distribution of which we have other samples: pure functions."""

import math

import numpy as np
import torch
from torch import Tensor

# --- proportions ----------------------------------------------------------------------------------


def shares(labels, k: int) -> np.ndarray:
    """The share of each of k modes `(k,)` among labels `(n,)`."""
    return np.bincount(np.asarray(labels), minlength=k) / len(labels)


def total_variation(p, q) -> float:
    """Half of the absolute difference between two lists of shares: 0 same, 1 disjoint."""
    return float(np.abs(np.asarray(p) - np.asarray(q)).sum() / 2)


# --- kernel two-sample test -----------------------------------------------------------------------


def sq_distance_matrix(z: Tensor) -> Tensor:
    """Squared distances, with shape `(n, n)`, between rows `(n, *)`; about their mean, in products."""
    z = z.flatten(1)
    z = z - z.mean(0)
    z = z.double() if z.shape[1] < 4096 else z  # long rows: single precision is exact enough
    dot = (z @ z.T).double()
    norms = dot.diagonal()
    return (norms[:, None] + norms - 2 * dot).clamp_min(0)


def median_distance(d2: Tensor) -> float:
    """The median distance between two different rows, of squared distances `(n, n)`."""
    i, j = torch.triu_indices(*d2.shape, offset=1)
    return d2[i, j].sqrt().median().item()


def rbf_matrix(d2: Tensor, bandwidth: float) -> Tensor:
    """The mean of Gaussian kernels of ½, 1 and 2 bandwidths, of squared distances `(n, n)`."""
    u = d2 / (2 * bandwidth**2)
    return ((-4 * u).exp() + (-u).exp() + (-u / 4).exp()) / 3


def mmd2_unbiased(kernel_matrix: Tensor, n: int) -> float:
    """The unbiased MMD² between the first n and the other rows of a kernel matrix `(n + m, n + m)`.

    References:
        Gretton et al., A Kernel Two-Sample Test, JMLR 2012, equation 3.
        https://jmlr.org/papers/v13/gretton12a.html
    """
    xx, yy, xy = kernel_matrix[:n, :n], kernel_matrix[n:, n:], kernel_matrix[:n, n:]

    def off_diagonal_mean(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    return (off_diagonal_mean(xx) + off_diagonal_mean(yy) - 2 * xy.mean()).item()


def permutation_p_value(
    kernel_matrix: Tensor, n: int, generator: torch.Generator, permutations: int = 400
) -> float:
    """The p value of the hypothesis that the first n of n + m rows come from where the others do.

    The statistic is the biased MMD², sᵀ K s with weights s = 1/n of the first and −1/m of the
    others; permutations that exceed it are counted together with the samples as they are.

    Arguments:
        kernel_matrix: Kernel values between all rows, with shape `(n + m, n + m)`.

    References:
        Gretton et al., A Kernel Two-Sample Test, JMLR 2012, section 8.
    """
    size = len(kernel_matrix)
    order = torch.rand(permutations, size, generator=generator).argsort(1)
    order = torch.cat([torch.arange(size)[None], order])
    signs = torch.where(order < n, 1 / n, -1 / (size - n)).to(kernel_matrix)
    statistics = ((signs @ kernel_matrix) * signs).sum(1)
    # Equal splits must count as equal: leave room for rounding.
    as_extreme = statistics[1:] >= statistics[0] - 1e-6 * statistics[0].abs()
    return (1 + as_extreme.sum().item()) / (1 + permutations)


# --- features -------------------------------------------------------------------------------------


def sq_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, with shape `(n, m)`, of features `(n, F)` and `(m, F)`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    d2 = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    return d2.clip(0)


def coverage_and_density(real: np.ndarray, fake: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Coverage: the share of real samples with a fake one among their k nearest; 1 − 2⁻ᵏ or so at best
    for equal numbers. Density: how many real neighbourhoods a fake sample lies in, by k; 1 is right.

    References:
        Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020.
        https://arxiv.org/abs/2002.09797
    """
    k = min(k, len(real) - 1)
    # The diagonal makes a sample its own 0th neighbour.
    within = np.sort(sq_distances(real, real) * (1 - np.eye(len(real))), axis=1)[:, k]
    inside = sq_distances(real, fake) <= within[:, None]  # (real, fake)
    return float(inside.any(1).mean()), float(inside.sum() / (k * len(fake)))


def expected_coverage(n: int, m: int, k: int = 5) -> float:
    """The coverage of n real samples by m fake ones of the same distribution (lemma 2 of the paper)."""
    chance = 1.0
    for i in range(1, k + 1):
        chance *= (n - i) / (n + m - i)
    return 1 - chance


def vendi_score(features: np.ndarray, bandwidth: float) -> float:
    """The effective number of different samples: exp of the entropy of the eigenvalues of K/n, here
    with the Gaussian kernel.

    References:
        Friedman, Dieng, The Vendi Score, TMLR 2023. https://arxiv.org/abs/2210.02410
    """
    kernel = np.exp(-sq_distances(features, features) / (2 * bandwidth**2))
    np.fill_diagonal(kernel, 1.0)
    values = np.linalg.eigvalsh(kernel / len(kernel)).clip(0)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def median_feature_distance(features: np.ndarray) -> float:
    """The median distance between two different samples; 1 where all are the same."""
    upper = np.triu_indices(len(features), 1)
    return float(np.sqrt(np.median(sq_distances(features, features)[upper]))) or 1.0


# --- latents --------------------------------------------------------------------------------------


def nearest_distances(x: Tensor, y: Tensor, itself: bool = False) -> Tensor:
    """The distance `(n,)` of each x `(n, *)` to the nearest y `(m, *)`, or to the nearest other one."""
    x, y = x.flatten(1), y.flatten(1)
    if x.shape[1] < 4096:
        exact = "donot_use_mm_for_euclid_dist"
        d = torch.cdist(x, y, compute_mode=exact)
    else:  # long rows: products about the mean lose no more than rounding of the largest distance
        centre = y.mean(0)
        x, y = x - centre, y - centre
        d2 = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
        d = d2.clamp_min(0).sqrt()
    if itself:
        d = d.masked_fill(torch.eye(len(x), dtype=torch.bool), math.inf)
    return d.min(1)[0]


def radial_bands(side: int, edges: tuple[float, float]) -> Tensor:
    """The band 0, 1 or 2 of each DCT coefficient `(side, side)`: r < edges[0], < edges[1], the rest."""
    i = torch.arange(side, dtype=torch.float32)
    r = torch.hypot(i[:, None], i)
    return (r >= edges[0]).long() + (r >= edges[1]).long()


def band_means(values: Tensor, bands: Tensor) -> Tensor:
    """The mean over each band of values `(n, C, side, side)`, with shape `(n, 3)`."""
    flat = values.flatten(2)
    return torch.stack([flat[:, :, bands.flatten() == b].mean((1, 2)) for b in range(3)], 1)


def class_band_variance(x: Tensor, labels, y: Tensor, y_labels, bands: Tensor) -> list[float]:
    """Variance inside classes by that of true samples, in three bands; 1 is right.

    Deviations are taken from the class means of the true samples; what their own error adds to a
    square (1/m of the true variance for m samples) is taken off. Classes with fewer than 5 true
    samples are left out.

    Arguments:
        x, y: DCT coefficients of samples and true samples, with shapes `(n, C, side, side)`, `(m, …)`.
    """
    found, expected = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    labels, y_labels = torch.as_tensor(labels), torch.as_tensor(y_labels)
    for c in y_labels.unique():
        own, true = x[labels == c].double(), y[y_labels == c].double()
        if len(true) < 5 or not len(own):
            continue
        mean = true.mean(0)
        spread = band_means((true - mean).square(), bands).sum(0) / (len(true) - 1)
        found += band_means((own - mean).square(), bands).sum(0) - len(own) / len(true) * spread
        expected += len(own) * spread
    ratio = found / expected.clamp_min(1e-12)
    return ratio.tolist() if expected.sum() > 0 else [math.nan] * 3
