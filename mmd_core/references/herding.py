"""The few of many that stand for all, under their best weights.

With the kernel centred about the mean embedding μ(x) = Σ q_j k(x, y_j) of all n rows,

    k̃(x, z) = k(x, z) − μ(x) − μ(z) + ‖μ‖²        MMD²(all, subset) = Σ w_s w_t k̃(s, t)

and the best weights of a subset S, with sum 1, leave MMD² = 1 / (1ᵀ K̃_S⁻¹ 1). Herding chooses one row after
the other by what it does to that; then each is exchanged for a better one, as long as it helps.

References:
    Chen, Welling, Smola, Super-Samples from Kernel Herding, UAI 2010. https://arxiv.org/abs/1203.3472
    Huszár, Duvenaud, Optimally-Weighted Herding is Bayesian Quadrature, UAI 2012.
    https://arxiv.org/abs/1204.1664
    Dwivedi, Mackey, Kernel Thinning, COLT 2021; their KT-SWAP exchanges. https://arxiv.org/abs/2105.05842
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Centred", "best_weights", "herd"]

# Added to the diagonal of K̃, in units of its mean: keeps inverses exact and weights positive, and
# plays no part before MMD² is a thousandth of a random subset's.
RIDGE = 1e-3
ROUNDS = 4  # of exchanges
ENOUGH = 0.01  # a round that lowers MMD² by less is the last one
STEPS = 2000  # towards the best weights
GAP = 0.01  # of MMD²: how far from its least value weights may leave it


class Centred:
    """k̃ of n rows.

    Arguments:
        values: Kernel values, with shape `(n, n)`.
        q: Weights of the rows, with shape `(n,)`, float64, sum 1.
    """

    def __init__(self, values: Tensor, q: Tensor):
        self.values = values
        self.mean = torch.cat([some.double() @ q for some in values.split(256)])
        self.norm = q @ self.mean
        self.diagonal = values.diagonal().double() - 2 * self.mean + self.norm
        # Errors of float32 would otherwise count where rows hardly differ.
        self.ridge = RIDGE * float(q @ self.diagonal) + 1e-6 * abs(float(self.norm)) + 1e-30

    def rows(self, i: int | list[int]) -> Tensor:
        """Row or rows `i`, with shape `(n,)` or `(k, n)`, float64."""
        return self.values[i].double() - self.mean[i, None] - self.mean + self.norm


def herd(
    kernel: Centred, count: int, rounds: int = ROUNDS, progress: Callable = lambda share: None
) -> list[int]:
    """The `count` rows whose best weights leave little MMD².

    Arguments:
        rounds: How often to go through what was chosen, for exchanges.
        progress: Called with the share of the work that is done, in [0, 1].
    """
    herd = _Herd(kernel, count)
    for i in range(count):
        herd.grow(i)
        progress((i + 1) / count / (1 + rounds))
    herd.complete()
    for turn in range(1, rounds + 1):
        before = herd.solve()
        for i in range(count):
            herd.exchange(i)
            progress((turn + (i + 1) / count) / (1 + rounds))
        if herd.inverse.sum() < before * (1 + ENOUGH):
            break
    return herd.chosen


class _Herd:
    """The subset S so far, and what any other row x would do to it.

    With a = k̃(S, x), the row x adds (1 − 1ᵀK̃_S⁻¹a)² / (k̃(x, x) − aᵀK̃_S⁻¹a) to 1ᵀK̃_S⁻¹1 = 1 / MMD².

    Attributes:
        chosen: S.
        reached, explained: 1ᵀK̃_S⁻¹a and aᵀK̃_S⁻¹a, with shape `(n,)`.
        rows: L⁻¹K̃ with LLᵀ = K̃_S while S grows, then k̃(S, ·), with shape `(count, n)`.
        inverse: K̃_S⁻¹, once S is complete.
    """

    def __init__(self, kernel: Centred, count: int):
        n = len(kernel.mean)
        self.kernel, self.diagonal = kernel, kernel.diagonal + kernel.ridge
        self.chosen: list[int] = []
        self.taken = torch.zeros(n, dtype=torch.bool)
        self.reached, self.explained = torch.zeros(2, n, dtype=torch.float64)
        self.rows = torch.empty(count, n, dtype=torch.float64)

    def gains(self, reached: Tensor, explained: Tensor) -> Tensor:
        left = (self.diagonal - explained).clamp_min(self.kernel.ridge)
        return ((1 - reached).square() / left).masked_fill_(self.taken, -1)

    def grow(self, i: int) -> None:
        """Chooses the i-th row, by one more step of a Cholesky decomposition."""
        j = int(self.gains(self.reached, self.explained).argmax())
        row = self.kernel.rows(j)
        row[j] += self.kernel.ridge
        root = max(self.diagonal[j] - self.explained[j], self.kernel.ridge) ** 0.5
        row = self.rows[i] = (row - self.rows[:i, j] @ self.rows[:i]) / root
        self.reached += (1 - self.reached[j]) / root * row
        self.explained += row.square()
        self.chosen.append(j)
        self.taken[j] = True

    def complete(self) -> None:
        for i in range(0, len(self.chosen), 64):
            self.rows[i : i + 64] = self.kernel.rows(self.chosen[i : i + 64])

    def solve(self) -> float:
        """Computes afresh what exchanges only update; returns 1 / MMD²."""
        own = torch.diag(self.diagonal.new_full((len(self.chosen),), self.kernel.ridge))
        self.inverse = torch.linalg.inv(self.rows[:, self.chosen] + own)
        solved = self.inverse @ self.rows
        self.reached = solved.sum(0)
        self.explained = solved.mul_(self.rows).sum(0)
        return float(self.inverse.sum())

    def exchange(self, i: int) -> None:
        """Puts the best row in the place of the i-th, if there is a better one."""
        # Without the i-th
        pivot, along = self.inverse[i, i], self.inverse[i] @ self.rows
        reached = self.reached - self.inverse[i].sum() / pivot * along
        explained = self.explained - along.square() / pivot
        old = self.chosen[i]
        self.taken[old] = False
        gains = self.gains(reached, explained)
        j = int(gains.argmax())
        if gains[j] <= gains[old] * (1 + 1e-6):
            self.taken[old] = True
            return
        rest = self.inverse - torch.outer(self.inverse[:, i], self.inverse[i]) / pivot
        rest[i], rest[:, i] = 0, 0
        # With row j
        self.chosen[i], self.rows[i] = j, self.kernel.rows(j)
        self.taken[j] = True
        a = self.rows[:, j].clone()
        a[i] = 0
        change = -(rest @ a)
        change[i] = 1
        pivot = (self.diagonal[j] + a @ change).clamp_min(self.kernel.ridge)
        along = change @ self.rows
        self.reached = reached + change.sum() / pivot * along
        self.explained = explained + along.square() / pivot
        self.inverse = rest + torch.outer(change, change) / pivot


def best_weights(gram: Tensor) -> Tensor:
    """The weights w ≥ 0 with sum 1 that minimise wᵀ gram w, with shape `(K,)`.

    Accelerated projected gradients that start anew when they overshoot, until the Frank-Wolfe gap tells
    that little is missing: Beck and Teboulle 2009, https://doi.org/10.1137/080716542; O'Donoghue and
    Candès 2015, https://arxiv.org/abs/1204.3982; Jaggi 2013, https://proceedings.mlr.press/v28/jaggi13.html.

    Arguments:
        gram: k̃ of a subset, with shape `(K, K)`.
    """
    equal = gram.new_full((len(gram),), 1 / len(gram))
    steepness = min(gram.abs().sum(1).max(), gram.norm()).clamp_min(1e-30)
    w = ahead = equal
    t = 1.0
    for step in range(STEPS):
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
    """The nearest weights w ≥ 0 with sum 1: Duchi et al. 2008, https://doi.org/10.1145/1390156.1390191."""
    falling = v.sort(descending=True).values
    excess = (falling.cumsum(0) - 1) / torch.arange(1, len(v) + 1).to(v)
    return (v - excess[(falling > excess).sum() - 1]).clamp_min(0)
