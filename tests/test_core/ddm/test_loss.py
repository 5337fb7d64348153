"""The loss against double loops, its gradient against autograd, and no bias."""

import math

import pytest
import torch
from mmd_pack.mmd_core.ddm import DEFAULT_KERNEL, MMDLoss
from mmd_pack.mmd_core.ddm import loss as module
from mmd_pack.mmd_core.kernels.config import KERNELS, KernelConfig
from mmd_pack.mmd_core.kernels.mmd import mmd2_grad

F64 = torch.float64
DIM = 4
FIXED = (0.7, 1.3, 4.0)  # bandwidths

# k(x, y) of the difference, the product, and a bandwidth
FORMULAS = {
    "rbf": lambda d, p, h: math.e ** (-(d @ d) / (2 * h**2)),
    "imq": lambda d, p, h: 1 / (1 + (d @ d) / h**2).sqrt(),
    "laplacian": lambda d, p, h: math.e ** (-d.norm() / h),
    "energy": lambda d, p, h: -d.norm(),
    "polynomial": lambda d, p, h: (p / DIM + 1) ** 3,
    "linear": lambda d, p, h: p,
}


def config(name, **settings):
    return KernelConfig(
        kernel=name, bandwidth="fixed", bandwidth_value=1.0, multipliers=FIXED, **settings
    )


def k(name, x, y):
    return sum(FORMULAS[name](x - y, x @ y, h) for h in FIXED) / len(FIXED)


def kappa(name, p, r, h):
    if name == "rbf":
        return math.exp(-(p - r).square().sum() / (2 * h**2))
    return max(0.0, (p @ r / (p.norm() * r.norm())).item())


def double_loop(name, x, y, q=None, alike=lambda kind, i, j: 1.0):
    """MMD²_U pair by pair; `alike` is κ of the pairs xx, xy, yy."""
    n, m = len(x), len(y)
    q = torch.full((m,), 1 / m, dtype=F64) if q is None else q / q.sum()
    xx = sum(alike("xx", i, j) * k(name, x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    xy = sum(alike("xy", i, j) * q[j] * k(name, x[i], y[j]) for i in range(n) for j in range(m))
    pairs = [(i, j) for i in range(m) for j in range(m) if i != j]
    yy = sum(alike("yy", i, j) * q[i] * q[j] * k(name, y[i], y[j]) for i, j in pairs)
    return xx / (n * (n - 1)) + yy / sum(q[i] * q[j] for i, j in pairs) - 2 * xy / n


def rows(rng, n, shift=0.0):
    return torch.randn(n, DIM, generator=rng, dtype=F64) + shift


def check(loss, x, value, prompts=None):
    """`value` is a function of x that autograd can differentiate."""
    x = x.clone().requires_grad_()
    expected = value(x)
    (gradient,) = torch.autograd.grad(expected, x)
    found, found_gradient = loss(x.detach(), prompts)
    assert found == pytest.approx(expected.item(), rel=1e-7, abs=1e-9)  # roots of distances
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-7, atol=1e-9)


def test_all_kernels_have_a_formula():
    assert set(FORMULAS) == set(KERNELS)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", FORMULAS)
def test_is_the_double_loop(name, weighted, rng):
    y, q = rows(rng, 6, 0.3), torch.tensor([3, 1, 0.5, 1, 2, 2], dtype=F64) if weighted else None
    loss = MMDLoss(y, config(name), q)
    for n in (5, 2):  # the second time the term between references is cached
        check(loss, rows(rng, n), lambda x: double_loop(name, x, y, q))


@pytest.mark.parametrize("prompts", ["rbf", "cosine"])
@pytest.mark.parametrize("name", ["rbf", "energy", "polynomial"])
def test_with_prompts(name, prompts, rng):
    """The product kernel, with weights."""
    y, q = rows(rng, 5, 0.3), torch.rand(5, generator=rng, dtype=F64)
    p, r = (
        torch.randn(3, 6, generator=rng, dtype=F64)[[*i]]
        for i in ((0, 1, 1, 2), (2, 1, 0, 0, 1))
    )  # fmt: skip
    sides = {"xx": (p, p), "xy": (p, r), "yy": (r, r)}

    def alike(kind, i, j):
        one, other = sides[kind]
        return kappa(prompts, one[i], other[j], 2.5)

    loss = MMDLoss(y, config(name, prompt_kernel=prompts, prompt_bandwidth=2.5), q, r)
    check(loss, rows(rng, 4), lambda x: double_loop(name, x, y, q, alike), p)


def test_prompts_that_are_all_the_same_change_nothing(rng):
    x, y, p = rows(rng, 4), rows(rng, 5), torch.ones(1, 6, dtype=F64)
    with_prompts = MMDLoss(y, DEFAULT_KERNEL, prompts=p.expand(5, 6))(x, p.expand(4, 6))
    without = MMDLoss(y, DEFAULT_KERNEL)(x)
    assert with_prompts[0] == pytest.approx(without[0])
    torch.testing.assert_close(with_prompts[1], without[1])
    ignored = MMDLoss(y, config("rbf"), prompts=torch.randn(5, 6))(x)  # its prompt_kernel is none
    assert ignored[0] == MMDLoss(y, config("rbf"))(x)[0]


def test_prompts_keep_kinds_apart(rng):
    """Samples and references of different prompts have no effect on each other."""
    x, y = rows(rng, 6), rows(rng, 8, 0.5)
    p, r = torch.eye(2, dtype=F64)[[0, 1] * 3], torch.eye(2, dtype=F64)[[0, 1] * 4]
    _, found = MMDLoss(y, config("rbf", prompt_kernel="cosine"), prompts=r)(x, p)
    moved = y.clone()
    moved[1::2] += 1
    _, other = MMDLoss(moved, config("rbf", prompt_kernel="cosine"), prompts=r)(x, p)
    torch.testing.assert_close(found[::2], other[::2])
    assert (found[1::2] - other[1::2]).abs().min() > 1e-5


@pytest.mark.parametrize("with_pairs", [False, True])
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_with_pairs(name, unbiased, with_pairs, rng):
    """The gradient of `mmd2_grad`, biased and unbiased."""
    x, y, q = rows(rng, 4), rows(rng, 5), torch.rand(5, generator=rng, dtype=F64)
    own = torch.rand(4, 4, generator=rng, dtype=F64)
    between = torch.rand(4, 5, generator=rng, dtype=F64)
    own = own + own.T
    pairs = (own, between) if with_pairs else None
    kernel = config(name).resolve(y @ y.T, DIM)
    if not with_pairs:
        own, between = torch.ones_like(own), torch.ones_like(between)
    each = x.clone().requires_grad_()
    shares = between * q / q.sum() / 4
    value = -2 * sum(shares[i, j] * k(name, each[i], y[j]) for i in range(4) for j in range(5))
    for i in range(4):
        for j in range(4):
            if i != j:
                value = value + own[i, j] * k(name, each[i], each[j]) / (4 * (4 - unbiased))
            elif not unbiased and not kernel.radial:  # that of a radial kernel is constant
                value = value + own[i, i] * k(name, each[i], each[i]) / 16
    (expected,) = torch.autograd.grad(value, each)
    found = mmd2_grad(x, y, kernel, q, unbiased, pairs)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "name, prompts", [("rbf", False), ("rbf", True), ("energy", False), ("polynomial", True)]
)
def test_is_without_bias(name, prompts, rng):
    """The mean over 500 draws of one distribution."""
    chosen = KernelConfig(
        name, "fixed", multipliers=(1.3,), prompt_kernel="rbf", prompt_bandwidth=1.0
    )
    kinds = torch.eye(2, dtype=F64)

    def drawn(n, far=0.0):
        kind = torch.randint(2, (n,), generator=rng)
        return rows(rng, n) * (1 + kind[:, None]) + far, kinds[kind] if prompts else None

    same, other = [], []
    for i in range(500):
        y, r = drawn(10)
        loss = MMDLoss(y, chosen, prompts=r)
        same.append(loss(*drawn(6))[0])
        if i % 5 == 0:
            other.append(loss(*drawn(6, 1.5))[0])
    same, other = torch.tensor(same), torch.tensor(other)
    assert abs(same.mean()) < 4 * same.std() / math.sqrt(500)
    assert (same < 0).float().mean() > 0.3
    assert other.mean() > 4 * other.std() / math.sqrt(100)  # and would tell


class Spy:
    """A kernel that counts the pairs it computes."""

    def __init__(self, kernel):
        self.kernel, self.radial, self.asked = kernel, kernel.radial, []

    def values(self, gram):
        self.asked.append(tuple(gram.dot.shape))
        return self.kernel.values(gram)

    def pulls(self, gram, in_units=False):
        return self.kernel.pulls(gram, in_units)


def test_the_references_own_part_is_computed_once(rng):
    loss = MMDLoss(rows(rng, 9), DEFAULT_KERNEL)
    loss.kernel = spy = Spy(loss.kernel)
    for _ in range(3):
        loss(rows(rng, 4))
    assert spy.asked.count((9, 9)) == 1
    assert spy.asked.count((4, 4)) == spy.asked.count((4, 9)) == 3


def test_of_very_many_references_some_are_drawn_each_time(monkeypatch, rng):
    x, y = rows(rng, 6), rows(rng, 40, 0.3)
    p, r = torch.rand(6, 2, generator=rng, dtype=F64), torch.rand(40, 2, generator=rng, dtype=F64)
    chosen = config("rbf", prompt_kernel="rbf")
    exact, gradient = MMDLoss(y, chosen, prompts=r)(x, p)
    bandwidth = MMDLoss(y, chosen, prompts=r).config.prompt_bandwidth
    monkeypatch.setattr(module, "MAX_REFERENCES", 12)
    some = MMDLoss(y, chosen, prompts=r)
    assert some.config.prompt_bandwidth == bandwidth
    draws = [some(x, p, torch.Generator().manual_seed(seed)) for seed in range(225)]
    again = some(x, p, torch.Generator().manual_seed(7))
    assert again[0] == draws[7][0] and torch.equal(again[1], draws[7][1])
    values = torch.tensor([value for value, _ in draws])
    assert values.unique().numel() > 220
    assert abs(values.mean() - exact) < 4 * values.std() / 15
    gradients = torch.stack([gradient for _, gradient in draws])
    assert ((gradients.mean(0) - gradient).abs() < 5 * gradients.std(0) / 15).all()


def test_bandwidths_are_multiples_of_the_median_distance(rng):
    y = rows(rng, 8, 3.0)
    distances = torch.stack([(y[i] - y[j]).norm() for i in range(8) for j in range(i)])
    wanted = [distances.median().item() * m for m in (0.25, 0.5, 1.0, 2.0)]
    assert MMDLoss(y, DEFAULT_KERNEL).kernel.bandwidths == pytest.approx(wanted)


def test_held_out_references_are_measured_with_the_same_bandwidths(rng):
    y, r = rows(rng, 8), torch.rand(8, 2, generator=rng, dtype=F64)
    first = MMDLoss(y, DEFAULT_KERNEL, prompts=r)
    second = MMDLoss(5 * y[:4], DEFAULT_KERNEL, prompts=3 * r[:4], like=first)
    own = MMDLoss(5 * y[:4], DEFAULT_KERNEL, prompts=3 * r[:4])
    assert second.kernel == first.kernel != own.kernel
    assert second.config.prompt_bandwidth == first.config.prompt_bandwidth
    assert second.config.prompt_bandwidth != own.config.prompt_bandwidth
    x, p = rows(rng, 3), r[:3]
    assert second(x, p)[0] != pytest.approx(own(x, p)[0])


def test_references_without_weight_do_not_count(rng):
    x, y, r = rows(rng, 4), rows(rng, 5), torch.rand(5, 2, generator=rng, dtype=F64)
    weights = torch.tensor([1.0, 0, 2, 0, 1])
    kept = weights > 0
    found = MMDLoss(y, DEFAULT_KERNEL, weights, r)(x, r[:4])
    wanted = MMDLoss(y[kept], DEFAULT_KERNEL, weights[kept], r[kept])(x, r[:4])
    assert found[0] == wanted[0] and torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("weights", [[1.0], [0.0, 2.0, 0.0], [0.0, 0.0]])
def test_needs_two_references(weights, rng):
    with pytest.raises(ValueError, match="at least 2"):
        MMDLoss(rows(rng, len(weights)), DEFAULT_KERNEL, torch.tensor(weights))
    with pytest.raises(ValueError, match="at least 2"):
        MMDLoss(rows(rng, 1), DEFAULT_KERNEL)


@pytest.mark.parametrize("name", ["rbf", "polynomial"])
def test_samples_in_half_precision(name, rng):
    """Compared in the precision of the references."""
    y, x = rows(rng, 8).float(), rows(rng, 4).half()
    value, gradient = MMDLoss(y, config(name))(x)
    expected = MMDLoss(y, config(name))(x.float())
    assert value == expected[0] and torch.equal(gradient, expected[1])


def test_float32_far_from_the_origin(rng):
    y, x = rows(rng, 8, 1000.0).float(), rows(rng, 4, 1000.0).float()
    value, gradient = MMDLoss(y, config("rbf"))(x)
    exact, expected = MMDLoss(y.double(), config("rbf"))(x.double())
    assert value == pytest.approx(exact, abs=1e-5)
    assert (gradient - expected).norm() < 1e-4 * expected.norm()
