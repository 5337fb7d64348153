"""Universal and energy guidance of the benchmark, next to finite differences of formulas written out."""

import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_demo.emoji.vae import EmojiVAE
from mmd_tests.studies.quality.emoji.gradient import LOSSES, GradientConfig, by_gradient, decoded
from mmd_tests.studies.quality.emoji.sampling import Estimates, Run, estimate, sample
from mmd_tests.studies.quality.universal import moved

IMAGES, GIVEN, SIDE = 3, 4, 4
COORDINATES = list(range(0, 4 * SIDE**2, 7))  # of the first image; all would take seconds
RUN = Run(steps=4, cfg=2.0, fast=False)


def random_weights(network, rng):
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3 / math.sqrt(max(1, weight[0].numel())), generator=rng)
    return network.double().eval().requires_grad_(False)


@pytest.fixture
def tiny(rng):
    """Small networks with random weights, a batch with words, and a set, in double precision."""
    sizes = {"channels": 8, "convolutions": 1, "width": 64, "depth": 1}
    return SimpleNamespace(
        model=random_weights(EmojiModel(5, **sizes), rng),
        vae=random_weights(EmojiVAE(), rng),
        words=torch.tensor([[1, 2], [3, 0], [4, 5]]),
        x=torch.randn(IMAGES, 4, SIDE, SIDE, generator=rng, dtype=torch.double),
        pictures=torch.rand(GIVEN, 3, 4 * SIDE, 4 * SIDE, generator=rng).double() * 2 - 1,
        weights=tuple(torch.rand(IMAGES, n, generator=rng).double() for n in (IMAGES, GIVEN)),
    )


def rows_of(name, tiny, latents):
    """What a loss compares, as NumPy rows of the batch and of the set."""
    pictures = decoded(tiny.vae, latents)
    pair = pictures, tiny.pictures
    if name == "energy":
        pair = map(tiny.vae.encode, pair)
    return tuple(each.flatten(1).numpy() for each in pair)


def written_out(name, batch, given, within, across):
    """The loss as a sum over pairs."""
    distances = [np.linalg.norm(a - b) for i, a in enumerate(given) for b in given[:i]]
    h = sorted(distances)[(len(distances) - 1) // 2]  # the lower median, as torch has it

    def value(a, b):
        distance = np.linalg.norm(a - b)
        if name == "energy":
            return -distance
        return np.mean([math.exp(-(distance**2) / (2 * (m * h) ** 2)) for m in (0.5, 1, 2)])

    own = [within[i, j] * value(a, b) for (i, a), (j, b) in product(enumerate(batch), repeat=2)]
    cross = [
        across[i, j] * value(a, b) for (i, a), (j, b) in product(enumerate(batch), enumerate(given))
    ]
    return np.mean(own) - 2 * np.mean(cross)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_images_move_against_the_gradient_of_the_loss(tiny, name, weighted):
    ones = torch.ones(IMAGES, IMAGES), torch.ones(IMAGES, GIVEN)
    matrices = [each.numpy() for each in (tiny.weights if weighted else ones)]
    sigma, rho, deviation = 0.6, 0.2, 1.3

    def loss(x):
        clean = estimate(RUN, tiny.model, tiny.words, sigma, x).clean
        return written_out(name, *rows_of(name, tiny, clean), *matrices)

    def clean_of(x):
        return estimate(RUN, tiny.model, tiny.words, sigma, x)

    weights = tiny.weights if weighted else (None, None)
    config = GradientConfig(name, rho)
    rule = by_gradient(RUN, config, tiny.vae, tiny.pictures, deviation, weights)
    with torch.no_grad():
        move = (rule(clean_of, tiny.x, sigma) - clean_of(tiny.x).clean)[0].flatten()
        slopes, step = [], 1e-5
        for i in COORDINATES:
            change = torch.zeros_like(tiny.x).view(-1)
            change[i] = step
            change = change.view_as(tiny.x)
            slopes.append((loss(tiny.x + change) - loss(tiny.x - change)) / (2 * step))
    slopes = torch.tensor(slopes, dtype=torch.double)
    assert slopes.norm() > 1e-6
    along = move[COORDINATES]
    assert torch.allclose(along / along.norm(), -slopes / slopes.norm(), atol=1e-4)
    level = sigma / (1 - sigma)
    expected = rho * math.sqrt(move.numel()) * deviation * level / math.hypot(level, deviation)
    assert move.norm().item() == pytest.approx(expected)


@pytest.mark.parametrize("name", LOSSES)
def test_a_small_step_lowers_the_loss(tiny, name):
    rule = by_gradient(RUN, GradientConfig(name, 0.01), tiny.vae, tiny.pictures, 1.0)
    with torch.no_grad():
        loss = LOSSES[name](tiny.vae, tiny.pictures, (None, None), False)
        after = rule(lambda x: Estimates(x, None), tiny.x, 0.5)
        assert loss(after) < loss(tiny.x)


def test_no_strength_draws_without_guidance(tiny):
    rule = by_gradient(RUN, GradientConfig("energy", 0.0), tiny.vae, tiny.pictures, 1.0)
    drawn = [sample(RUN, tiny.model, tiny.words, tiny.x, each) for each in (None, rule)]
    assert torch.equal(*drawn)
    assert drawn[0].isfinite().all()


def test_a_step_is_a_share_of_what_noise_hides():
    clean, gradient = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    for level, hidden in ((math.inf, 2.0), (1e6, 2.0), (2.0, math.sqrt(2)), (1e-3, 1e-3)):
        found = moved(clean, gradient, 0.5, level, 2.0)
        assert found.flatten(1).norm(dim=1).tolist() == pytest.approx(
            [0.5 * hidden * math.sqrt(12)] * 2, rel=1e-5
        )
