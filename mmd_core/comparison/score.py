"""How well a batch fits the references: MMD², whether chance explains it, and which images stand out.

References:
    Gretton et al., A Kernel Two-Sample Test, JMLR 2012 (unbiased MMD², equation 3; permutation test; witness
    function, section 2.3). https://jmlr.org/papers/v13/gretton12a.html
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import Gram
from ..kernels.mmd import mmd2_from_values, uniform
from .by_features import comparable_rows
from .nearest import relative_distances

__all__ = ["MOST", "Score", "permutation_p_value", "score"]

MOST = 2048  # references that are compared with; of more, so many are drawn
TESTABLE = 4  # samples and references that a test needs at least


@dataclass(frozen=True, eq=False)
class Score:
    """How well B samples fit N references.

    Attributes:
        mmd2: MMD², unbiased if there are two or more of each.
        p_value: How often a random split of all pictures into two such groups has as large an MMD²; NaN where
            fewer than four samples or references can be tested.
        tested: How many references took part in the test.
        compared: How many references took part in MMD² and witness.
        witness: For each sample how much more alike it is to the other samples than to the references, with shape
            `(B,)`: above 0 where there are too many of its kind, below 0 where too few.
        nearest: The reference nearest to each sample, with shape `(B,)`.
        distances: How far it is, by the references' spacing (`nearest.py`), with shape `(B,)`.
    """

    mmd2: float
    p_value: float
    tested: int
    compared: int
    witness: Tensor
    nearest: Tensor
    distances: Tensor


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
        references: With shape `(N, C, *)`.
        weights: Their weights, with shape `(N,)`, sum 1.
        config: The kernel; its prompt kernel is not used.
        permutations: How many random splits the p-value is made of; 0 makes none.
        seed: Of the random splits, and of the choice among very many references.
    """
    random = torch.Generator().manual_seed(seed)
    nearest, distances = relative_distances(x.flatten(1), references.flatten(1))
    positive = (weights > 0).nonzero().flatten()
    if len(positive) > MOST:
        positive = positive[torch.randperm(len(positive), generator=random)[:MOST]].sort().values
    y, q = references[positive].to(x), weights[positive].to(x)
    q = q / q.sum()
    to_rows, compared = comparable_rows(config, y, q)
    rows, others = to_rows(x), to_rows(y)
    centre = q @ others if compared.radial else torch.zeros_like(others[0])
    pooled = torch.cat([rows, others]) - centre
    gram, b = pooled @ pooled.T, len(rows)
    kernel = compared.resolve(gram[b:, b:], rows.shape[1])
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
    """Which references to keep so that those kept stand for all with equal weights.

    Each is kept with a chance in proportion to its weight: what is kept is a sample of the weighted distribution,
    which a permutation test needs.
    """
    chances = (weights / weights.max()).cpu()
    return (torch.rand(len(weights), generator=random) < chances + 1e-6).nonzero().flatten()


def permutation_p_value(
    values: Tensor, first: int, permutations: int, random: torch.Generator
) -> float:
    """The share of random splits whose unbiased MMD² is at least that of the real one, which counts as one of them.

    Arguments:
        values: Kernel values between all rows, with shape `(n, n)`; the `first` ones are one group.
    """
    n = len(values)
    off = values - torch.diag(values.diagonal())
    order = torch.stack([torch.randperm(n, generator=random) for _ in range(permutations)])
    group = torch.zeros(permutations + 1, n, dtype=values.dtype)
    group[0, :first] = 1  # the real one
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
    # Splits that are the real one again must not fall below it by rounding.
    tiny = 1e-6 * values.abs().max()
    return ((found >= found[0] - tiny).sum() / len(found)).item()
