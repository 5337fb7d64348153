"""The integrator of the gradient flow: its matrix function, its sub-steps, and where it leads."""

import pytest
import torch
from mmd_pack.mmd_core import KERNELS, GuidanceConfig, KernelConfig
from mmd_pack.mmd_core.comparison.flow import (
    FIRST,
    GROWTH,
    LONGEST,
    SINGULAR,
    phi,
    substeps,
)
from mmd_tests.studies.quality.mixture import Dct, Mixture
from mmd_tests.studies.quality.mixture_worlds import spectrum
from mmd_tests.support.guidance_runs import guidance

F64 = torch.float64
FINE, COARSE = 0.02, 0.5
SMOOTH = [name for name in KERNELS if name not in ("laplacian", "energy")]


# ---- φ


def exact_phi(x):
    """φ(X) is a block of an exponential: exp [[X, 1], [0, 0]] = [[eˣ, φ(X)], [0, 1]]."""
    n = len(x)
    block = torch.zeros(2 * n, 2 * n, dtype=F64)
    block[:n, :n], block[:n, n:] = x, torch.eye(n, dtype=F64)
    return torch.linalg.matrix_exp(block)[:n, n:]


def matrix(kind, norm, rng, n=6):
    m = torch.randn(n, n, generator=rng, dtype=F64)
    if kind == "attracted":  # symmetric, all eigenvalues negative
        m = -m @ m.T
    elif kind == "symmetric":
        m = m + m.T
    elif (
        kind == "velocity"
    ):  # what a kernel gives: rows repel each other and are drawn to references
        m = m.abs()
        m = -(m - torch.diag(m.diagonal())) / n - torch.diag(1 - m.mean(1) / 2)
    return m * (norm / torch.linalg.matrix_norm(m, 2))


@pytest.mark.sampled
@pytest.mark.parametrize("kind", ["any", "symmetric", "attracted", "velocity"])
@pytest.mark.parametrize("norm", [0.0, 1e-6, 0.1, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("h", [1e-6, 0.05, 0.4, 1.0, 2.0, 10.0])
def test_phi_is_that_of_the_matrix_exponential(kind, norm, h, rng):
    """To the accuracy that a sub-step is worth, for norms of h·X from 0 to 40."""
    x = matrix(kind, norm, rng)
    exact, one = exact_phi(h * x), torch.eye(len(x), dtype=F64)
    found = phi(x, h, one)
    assert ((found - exact).norm() / exact.norm()).item() < 2e-4
    single = phi(x.float(), h, one.float()).double()
    assert ((single - exact).norm() / exact.norm()).item() < 3e-4


def test_phi_of_nothing_is_one():
    one = torch.eye(3)
    assert torch.equal(phi(torch.zeros(3, 3), 2.0, one), one)


# ---- sub-steps


@pytest.mark.parametrize("singular", [False, True])
@pytest.mark.parametrize("reach", [1e-6, 0.1, 0.4, 0.41, 1.0, 2.0, 5.0, 17.3, 50.0])
def test_substeps_sum_to_the_reach_and_stay_within_bounds(reach, singular):
    lengths = substeps(reach, singular)
    assert sum(lengths) == pytest.approx(reach, rel=1e-12) and min(lengths) > 0
    assert lengths == sorted(lengths) and lengths[0] <= FIRST * (1 + 1e-9)
    assert lengths[-1] <= (SINGULAR if singular else LONGEST) * (1 + 1e-9)
    for before, after in zip(lengths, lengths[1:], strict=False):
        assert after / before <= GROWTH * (1 + 1e-9)
    # No more than the longest ones and the growth to them need.
    assert len(lengths) <= reach / (SINGULAR if singular else LONGEST) + 4
    assert len(lengths) > 1 or not singular or reach <= FIRST / 2


# ---- where they lead


def euler(w, velocity, reach, step):
    n = max(1, round(reach / step))
    for _ in range(n):
        w = w.moved(velocity(w) * (reach / n))
    return w


def errors(y, x0, x, sigma, kernel, reach):
    """How far this pack's sub-steps and Euler's of 0.5 end from the flow, by the length of the way."""
    run = guidance(GuidanceConfig(kernel=KernelConfig(kernel)), y)
    coupling, kernel = run.couplings.of(len(x0), None), run.comparison.kernel
    start = run.comparison.start(x0, x - x0, sigma)

    def velocity(w):
        return coupling.velocity(kernel, w.gram)

    coarse, fine, finer = (
        euler(start.w, velocity, reach, step).displacement() for step in (COARSE, FINE, FINE / 2)
    )
    exact = 2 * finer - fine  # but for errors of second order in a fiftieth
    ours = start.flowed(coupling, reach)[0].displacement().flatten(1)
    return tuple(((found - exact).norm() / exact.norm()).item() for found in (ours, coarse))


def random_world(seed, dim=24, batch=6, n=20, sigma=1.0):
    rng = torch.Generator().manual_seed(seed)
    y = torch.randn(n, dim, generator=rng, dtype=F64)
    x0 = 0.6 * torch.randn(batch, dim, generator=rng, dtype=F64) + 0.3 * seed
    return y, x0, x0 + sigma * torch.randn(batch, dim, generator=rng, dtype=F64), sigma


def latent_world(sigma, side=16, batch=8, n=40):
    """A mixture with the spectrum of latents, and its exact denoiser."""
    rng, v = torch.Generator().manual_seed(0), spectrum(side)
    means = torch.randn(4, *v.shape, generator=rng) * v.sqrt() * 0.3
    mixture, basis = Mixture(torch.full((4,), 0.25), means, v), Dct(side)
    y, x = (basis.inverse(mixture.sample(mixture.sample_modes(k, rng), rng)) for k in (n, batch))
    x = x + sigma * torch.randn(x.shape, generator=rng)
    x0 = basis.inverse(mixture.denoise(basis(x), torch.full((batch,), sigma)))
    return y.to(F64), x0.to(F64), x.to(F64), sigma


WORLDS = {
    "random": lambda: random_world(0),
    "random, off": lambda: random_world(1),
    "random, far off": lambda: random_world(4),
    "random, little noise": lambda: random_world(0, sigma=0.05),
    "latents, noise 6": lambda: latent_world(6.0),
    "latents, noise 1": lambda: latent_world(1.0),
    "latents, noise 0.1": lambda: latent_world(0.1),
}


@pytest.mark.sampled
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("reach", [0.4, 2.0, 6.0, 18.0, 50.0])
@pytest.mark.parametrize("kernel", KERNELS)
def test_few_substeps_are_about_as_exact_as_many_of_eulers_method(kernel, reach, world):
    ours, coarse = errors(*WORLDS[world](), kernel, reach)
    if kernel in SMOOTH:
        assert ours < coarse + 0.01 and (ours < 0.03 or reach < 2)
    else:  # in shorter sub-steps; longer ones would diverge
        assert ours < coarse + 0.08
