"""Kernel herding: a small weighted subset whose mean embedding is closest to the full set's.

With the mean embedding μ(x) = Σ q_j k(x, y_j) of all n rows, the centered kernel is

    k̃(x, z) = k(x, z) − μ(x) − μ(z) + ‖μ‖²

and weights w with sum 1 on a subset give MMD²(full set, subset) = Σ w_s w_t k̃(s, t). The optimal
weights of a subset S give MMD² = 1 / (1ᵀ inv(K̃_S) 1).

Herding adds one row after the other, each time the row that lowers this value most. Then it tries
to exchange each chosen row for a better one, in several rounds.

References:
    Chen, Welling, Smola, Super-Samples from Kernel Herding, UAI 2010.
    https://arxiv.org/abs/1203.3472
    Huszár, Duvenaud, Optimally-Weighted Herding is Bayesian Quadrature, UAI 2012.
    https://arxiv.org/abs/1204.1664
    Dwivedi, Mackey, Kernel Thinning, COLT 2021 (the exchanges of KT-SWAP).
    https://arxiv.org/abs/2105.05842
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["CenteredKernel", "herd", "optimal_weights"]

# Added to the diagonal of K̃, relative to its mean. It keeps the inverse accurate and favors
# positive weights, and matters only once MMD² is below a thousandth of a random subset's.
RIDGE = 1e-3
ROUNDS = 4  # of exchanges
MIN_GAIN = 0.01  # the exchanges end after a round that lowers MMD² by a smaller fraction
MAX_STEPS = 2000  # of the search for the optimal weights
GAP = 0.01  # the search ends when MMD² is provably at most this fraction above its minimum


class CenteredKernel:
    """The centered kernel k̃ of n rows.

    Arguments:
        values: Kernel values, with shape `(n, n)`.
        q: Weights of the rows, with shape `(n,)`, float64, sum 1.
    """

    def __init__(self, values: Tensor, q: Tensor) -> None:
        self.values = values
        self.mean = torch.cat([some.double() @ q for some in values.split(256)])
        self.norm = q @ self.mean
        self.diagonal = values.diagonal().double() - 2 * self.mean + self.norm
        # The second term exceeds the float32 errors of `values`, for rows that hardly differ.
        self.ridge = RIDGE * float(q @ self.diagonal) + 1e-6 * abs(float(self.norm)) + 1e-30

    def rows(self, i: int | list[int]) -> Tensor:
        """Row or rows `i` of k̃, with shape `(n,)` or `(k, n)`, float64."""
        return self.values[i].double() - self.mean[i, None] - self.mean + self.norm


def herd(
    kernel: CenteredKernel,
    count: int,
    rounds: int = ROUNDS,
    progress: Callable[[float], None] = lambda share: None,
) -> list[int]:
    """The indices of `count` rows that give a small MMD² with their optimal weights.

    Arguments:
        kernel: The centered kernel of all rows.
        count: How many rows to choose.
        rounds: The maximum number of rounds of exchanges.
        progress: Is called with the fraction of the work that is done, in [0, 1].
    """
    subset = _Subset(kernel, count)
    for i in range(count):
        subset.grow(i)
        progress((i + 1) / count / (1 + rounds))
    subset.complete()
    for turn in range(1, rounds + 1):
        before = subset.solve()
        for i in range(count):
            subset.exchange(i)
            progress((turn + (i + 1) / count) / (1 + rounds))
        if subset.inverse.sum() < before * (1 + MIN_GAIN):
            break
    return subset.chosen


class _Subset:
    """The current subset S, and how much each other row would lower MMD².

    With a = k̃(S, x), adding row x raises 1ᵀinv(K̃_S)1 = 1 / MMD² by
    (1 − 1ᵀinv(K̃_S)a)² / (k̃(x, x) − aᵀinv(K̃_S)a). In terms of Gaussian processes, 1ᵀinv(K̃_S)a is the
    prediction at x of a function that is 1 on S, and aᵀinv(K̃_S)a is the explained variance.

    Attributes:
        chosen: The indices of S.
        predicted, explained: 1ᵀinv(K̃_S)a and aᵀinv(K̃_S)a for each row, with shape `(n,)`.
        rows: With shape `(count, n)`: inv(L) k̃(S, ·) with LLᵀ = K̃_S while S grows,
            k̃(S, ·) afterwards.
        inverse: inv(K̃_S), once S is complete.
    """

    def __init__(self, kernel: CenteredKernel, count: int) -> None:
        n = len(kernel.mean)
        self.kernel, self.diagonal = kernel, kernel.diagonal + kernel.ridge
        self.chosen: list[int] = []
        self.taken = torch.zeros(n, dtype=torch.bool)
        self.predicted, self.explained = torch.zeros(2, n, dtype=torch.float64)
        self.rows = torch.empty(count, n, dtype=torch.float64)

    def gains(self, predicted: Tensor, explained: Tensor) -> Tensor:
        """How much each row would raise 1 / MMD², with shape `(n,)`; -1 for the rows in S."""
        left = (self.diagonal - explained).clamp_min(self.kernel.ridge)
        return ((1 - predicted).square() / left).masked_fill_(self.taken, -1)

    def grow(self, i: int) -> None:
        """Chooses the i-th row, with one step of a Cholesky decomposition."""
        j = int(self.gains(self.predicted, self.explained).argmax())
        row = self.kernel.rows(j)
        row[j] += self.kernel.ridge
        root = max(self.diagonal[j] - self.explained[j], self.kernel.ridge) ** 0.5
        row = self.rows[i] = (row - self.rows[:i, j] @ self.rows[:i]) / root
        self.predicted += (1 - self.predicted[j]) / root * row
        self.explained += row.square()
        self.chosen.append(j)
        self.taken[j] = True

    def complete(self) -> None:
        """Ends the growth: replaces the Cholesky rows by the rows of the kernel."""
        for i in range(0, len(self.chosen), 64):
            self.rows[i : i + 64] = self.kernel.rows(self.chosen[i : i + 64])

    def solve(self) -> float:
        """Recomputes what `exchange` only updates, to remove rounding errors; returns 1 / MMD²."""
        ridge = torch.diag(self.diagonal.new_full((len(self.chosen),), self.kernel.ridge))
        self.inverse = torch.linalg.inv(self.rows[:, self.chosen] + ridge)
        solved = self.inverse @ self.rows
        self.predicted = solved.sum(0)
        self.explained = solved.mul_(self.rows).sum(0)
        return float(self.inverse.sum())

    def exchange(self, i: int) -> None:
        """Replaces the i-th chosen row by the best other row, if that lowers MMD²."""
        # Remove the i-th row.
        pivot, along = self.inverse[i, i], self.inverse[i] @ self.rows
        predicted = self.predicted - self.inverse[i].sum() / pivot * along
        explained = self.explained - along.square() / pivot
        old = self.chosen[i]
        self.taken[old] = False
        gains = self.gains(predicted, explained)
        j = int(gains.argmax())
        if gains[j] <= gains[old] * (1 + 1e-6):
            self.taken[old] = True
            return
        rest = self.inverse - torch.outer(self.inverse[:, i], self.inverse[i]) / pivot
        rest[i], rest[:, i] = 0, 0
        # Add row j.
        self.chosen[i], self.rows[i] = j, self.kernel.rows(j)
        self.taken[j] = True
        a = self.rows[:, j].clone()
        a[i] = 0
        change = -(rest @ a)
        change[i] = 1
        pivot = (self.diagonal[j] + a @ change).clamp_min(self.kernel.ridge)
        along = change @ self.rows
        self.predicted = predicted + change.sum() / pivot * along
        self.explained = explained + along.square() / pivot
        self.inverse = rest + torch.outer(change, change) / pivot


def optimal_weights(gram: Tensor) -> Tensor:
    """The weights w ≥ 0 with sum 1 that minimize wᵀ gram w, with shape `(K,)`.

    Accelerated projected gradient descent, restarted when it overshoots, until the Frank-Wolfe gap
    is small.

    Sources: Beck and Teboulle 2009, https://doi.org/10.1137/080716542; O'Donoghue and Candès 2015,
    https://arxiv.org/abs/1204.3982; Jaggi 2013, https://proceedings.mlr.press/v28/jaggi13.html.

    Arguments:
        gram: k̃ of a subset, with shape `(K, K)`.
    """
    equal = gram.new_full((len(gram),), 1 / len(gram))
    steepness = min(gram.abs().sum(1).max(), gram.norm()).clamp_min(1e-30)
    w = ahead = equal
    t = 1.0
    for step in range(MAX_STEPS):
        previous, w = w, _onto_simplex(ahead - gram @ ahead / steepness)
        overshot = (ahead - w) @ (w - previous) > 0
        t, before = (1.0, 1.0) if overshot else ((1 + math.sqrt(1 + 4 * t * t)) / 2, t)
        ahead = w + (before - 1) / t * (w - previous)
        if step % 16 == 0:
            slope = gram @ w
            if 2 * (w @ slope - slope.min()) <= GAP * (w @ slope):
                break
    return min(w, equal, key=lambda v: float(v @ gram @ v))


def _onto_simplex(v: Tensor) -> Tensor:
    """The nearest weights w ≥ 0 with sum 1.

    Source: Duchi et al. 2008, https://doi.org/10.1145/1390156.1390191.
    """
    falling = v.sort(descending=True).values
    excess = (falling.cumsum(0) - 1) / torch.arange(1, len(v) + 1).to(v)
    return (v - excess[(falling > excess).sum() - 1]).clamp_min(0)
