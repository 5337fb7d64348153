"""How well a batch fits the references: MMD², a permutation test, and the witness of each image.

References:
    Gretton et al., A Kernel Two-Sample Test, JMLR 2012 (unbiased MMD², equation 3; permutation
    test; witness function, section 2.3). https://jmlr.org/papers/v13/gretton12a.html
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import Gram
from ..kernels.mmd import mmd2_from_values, uniform
from ..kernels.precision import full_precision
from .by_features import comparable_rows
from .nearest import relative_distances

__all__ = ["MAX_SCORED_REFERENCES", "Score", "permutation_p_value", "score"]

MAX_SCORED_REFERENCES = 2048  # if there are more, a random subset of this size is compared
TESTABLE = 4  # fewest samples, and fewest references, for a permutation test


@dataclass(frozen=True, eq=False)
class Score:
    """How well B samples fit N references.

    Attributes:
        mmd2: MMD², unbiased if there are two or more of each.
        p_value: The share of random splits of all images, into groups of the same sizes, whose MMD²
            is at least as large. NaN if there are fewer than four samples or references to test, or
            no splits.
        tested: The number of references in the permutation test.
        compared: The number of references in MMD² and witness.
        witness: The mean similarity of each sample to the other samples minus that to the
            references, with shape `(B,)`. Above 0 there are too many samples of this kind, below 0
            too few.
        nearest: The index of the reference nearest to each sample, with shape `(B,)`.
        distances: The distance to that reference divided by the spacing of the references
            (`nearest.py`), with shape `(B,)`.
    """

    mmd2: float
    p_value: float
    tested: int
    compared: int
    witness: Tensor
    nearest: Tensor
    distances: Tensor


@full_precision()
def score(
    x: Tensor,
    references: Tensor,
    weights: Tensor,
    config: KernelConfig,
    permutations: int = 1000,
    seed: int = 0,
) -> Score:
    """How well samples fit references.

    Arguments:
        x: Samples, with shape `(B, C, *)`.
        references: References, with shape `(N, C, *)`.
        weights: Weights of the references, with shape `(N,)`, sum 1.
        config: The kernel and the feature space; the prompt kernel is not used.
        permutations: The number of random splits for the p-value; 0 leaves the test out.
        seed: The seed of the random splits, and of the random subset of references.
    """
    random = torch.Generator().manual_seed(seed)
    nearest, distances = relative_distances(x.flatten(1), references.flatten(1))
    positive = (weights > 0).nonzero().flatten()
    if len(positive) > MAX_SCORED_REFERENCES:
        positive = (
            positive[torch.randperm(len(positive), generator=random)[:MAX_SCORED_REFERENCES]]
            .sort()
            .values
        )
    y, q = references[positive].to(x), weights[positive].to(x)
    q = q / q.sum()
    to_rows, compared = comparable_rows(config, y, q)
    rows, others = to_rows(x), to_rows(y)
    centre = q @ others if compared.radial else torch.zeros_like(others[0])
    pooled = torch.cat([rows, others]) - centre
    gram, b = pooled @ pooled.T, len(rows)
    kernel = compared.resolve(gram[b:, b:], rows.shape[1], centre)
    values = kernel.values(Gram.within(gram))
    kxx, kxy, kyy = values[:b, :b], values[:b, b:], values[b:, b:]
    unbiased = min(b, len(y)) > 1
    witness = (kxx.sum(1) - kxx.diagonal()) / max(b - 1, 1) - kxy @ q
    kept = thinned(q, random)
    some = torch.cat([torch.arange(b), b + kept.cpu()]).to(values.device)
    p_value = math.nan
    if min(b, len(kept)) >= TESTABLE and permutations > 0:
        p_value = permutation_p_value(values[some][:, some], b, permutations, random)
    return Score(
        mmd2_from_values(kxx, kxy, kyy, uniform(b, kxx), q, unbiased).item(),
        p_value,
        len(kept),
        len(y),
        witness,
        nearest,
        distances,
    )


def thinned(weights: Tensor, random: torch.Generator) -> Tensor:
    """The indices of a random subset of references that represents all of them with equal weights.

    The chance of a reference is proportional to its weight. The subset is therefore a sample of the
    weighted distribution, which a permutation test needs.
    """
    chances = (weights / weights.max()).cpu()
    return (torch.rand(len(weights), generator=random) < chances + 1e-6).nonzero().flatten()


def permutation_p_value(
    values: Tensor, first: int, permutations: int, random: torch.Generator
) -> float:
    """The share of splits whose unbiased MMD² is at least that of the real split.

    The real split counts as one of the splits.

    Arguments:
        values: Kernel values between all rows, with shape `(n, n)`.
        first: The size of the first group, which has the first rows; the others are the second.
        permutations: The number of random splits.
        random: The generator of the random splits.
    """
    n = len(values)
    off = values - torch.diag(values.diagonal())
    order = torch.stack([torch.randperm(n, generator=random) for _ in range(permutations)])
    group = torch.zeros(permutations + 1, n, dtype=values.dtype)
    group[0, :first] = 1  # the real split
    group[1:].scatter_(1, order[:, :first], 1)
    group = group.to(values.device)
    total = off.sum()
    within = torch.cat([((part @ off) * part).sum(1) for part in group.split(256)])
    of_first = group @ off.sum(1)
    across = of_first - within
    rest, second = total - 2 * of_first + within, n - first
    found = (
        within / (first * (first - 1))
        + rest / (second * (second - 1))
        - 2 * across / (first * second)
    )
    # A random split may equal the real split. Rounding must not place it below.
    tiny = 1e-6 * values.abs().max()
    return ((found >= found[0] - tiny).sum() / len(found)).item()
