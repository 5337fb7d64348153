"""Patches: tilings, the patch kernel's gradient against autograd, and style without layout."""

import itertools
import math

import pytest
import torch
from mmd_pack.mmd_core import (
    Execution,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    Memory,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.comparison.by_patches import PatchComparison
from mmd_pack.mmd_core.comparison.coupling import Coupling
from mmd_pack.mmd_core.comparison.landmarks import LANDMARKS
from mmd_pack.mmd_core.comparison.patch_embedding import PatchEmbedding
from mmd_pack.mmd_core.comparison.patches import patch_rows
from mmd_pack.mmd_core.comparison.tilings import Cover, tile, tiling
from mmd_pack.mmd_core.kernels.config import KERNELS
from mmd_pack.mmd_core.kernels.kernels import Gram
from mmd_tests.support.guidance_runs import equal

F64 = torch.float64
SHAPES = [((2, 7, 8), (3, 3)), ((3, 9), (2,)), ((2, 1, 6, 5), (1, 2, 2)), ((4, 5, 5), (5, 5))]


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=F64)


def offsets_of(shape, size):
    lengths = zip(shape[1:], size, strict=True)
    return list(itertools.product(*(range(min(p, n - p + 1)) for n, p in lengths)))


@pytest.mark.parametrize("shape, size", SHAPES)
def test_tiles_are_the_patches_they_say_and_cover_the_image(shape, size, rng):
    x, windows = randn(rng, 2, *shape), []
    for offset in offsets_of(shape, size):
        places, regular = tiling(shape[1:], size, offset)
        windows += list(map(tuple, places[regular].tolist()))
        tiles = tile(x, places)
        starts = []
        for o, n, p in zip(offset, shape[1:], size, strict=True):
            inner = list(range(o, n - p + 1, p))
            starts.append([0] * (o > 0) + inner + [n - p] * (inner[-1] < n - p))
        for t, place in enumerate(itertools.product(*starts)):
            window = (slice(a, a + p) for a, p in zip(place, size, strict=True))
            patch = x[(slice(None), slice(None), *window)]
            torch.testing.assert_close(tiles[:, t], patch.flatten(1))
        assert tiles.shape[1] == math.prod(map(len, starts))
        assert places.unique().tolist() == list(range(math.prod(shape[1:])))
    every = math.prod(n - p + 1 for n, p in zip(shape[1:], size, strict=True))
    assert len(windows) == len(set(windows)) == every  # each patch of the image once


@pytest.mark.parametrize("shape, size", SHAPES)
def test_patches_are_laid_by_the_transpose_of_what_cuts_them(shape, size, rng):
    """Of one tiling, and of all together; the mean of an image's own patches is the image."""
    x = randn(rng, 2, *shape)
    parts = [Cover.of(*tiling(shape[1:], size, o), shape[1:]) for o in offsets_of(shape, size)]
    for cover in (*parts, Cover.together(parts)):
        tiles = cover.cut(x)
        g = randn(rng, *tiles.shape)
        laid = cover.laid(g, x.shape)
        assert laid.shape == x.shape
        assert (laid * x).sum().item() == pytest.approx((g * tiles).sum().item())
        torch.testing.assert_close(cover.spread(tiles, x.shape), x)


def test_chosen_patches_are_patches_of_their_owners_by_weight(rng):
    x = torch.arange(3, dtype=F64)[:, None, None, None] * 1000 + torch.arange(48).view(1, 2, 4, 6)
    weights = torch.tensor([0.0, 0.25, 0.75], dtype=F64)
    images = Latents(x, weights)
    rows, owners = patch_rows(images, (2, 3), 2000)
    assert torch.equal(rows, patch_rows(images, (2, 3), 2000)[0])
    assert not torch.equal(rows, patch_rows(images, (2, 3), 2000, seed=1)[0])
    shares = torch.bincount(owners, minlength=3) / 2000
    torch.testing.assert_close(shares.double(), weights, atol=0.03, rtol=0)
    first = (rows[:, 0] - owners * 1000).long()
    y, x0 = first // 6, first % 6
    assert y.unique().tolist() == [0, 1, 2] and x0.unique().tolist() == [0, 1, 2, 3]
    whole = x[owners, 0]
    for row, image, a, b in zip(rows[:20], whole, y, x0, strict=False):
        assert torch.equal(row[:6], image[a : a + 2, b : b + 3].flatten())


def mean_kernel(kernel, a, b):
    return kernel.values(Gram.of(a, b)).mean()


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_of_the_patch_kernel_against_autograd(kernel, rng):
    """All patches are few enough to be landmarks, so MMD² is exact; laid back, the gradient is that of images."""
    y, x = randn(rng, 5, 2, 6, 7), (0.5 * randn(rng, 3, 2, 6, 7)).requires_grad_()
    singular = kernel in (
        "laplacian",
        "energy",
    )  # where two patches are equal, as some of tilings are
    config = KernelConfig(kernel, feature_space="patches", patch_size=1 if singular else 2)
    comparison = PatchComparison(config, Latents(y, equal(5)))
    start = comparison.start(x.detach(), None, 1.0)
    assert start.cover.tilings == (1 if singular else 4)  # every tiling
    rows = start.cover.cut(x) - comparison.centre
    # What stands for the batch is each of its patches once.
    regular = start.cover.regular.repeat(3)
    w, z = rows.flatten(0, 1)[regular], comparison.rows
    k = comparison.kernel
    distinct = ~torch.eye(len(w), dtype=torch.bool)
    within = Gram.of(w, w)
    if singular:  # autograd of √0 is NaN: a patch and itself are constant
        dot = within.dot - torch.diag(torch.ones(len(w), dtype=F64) * 100)
        within = Gram(dot, within.sq_x, within.sq_z)
    own = (k.values(within) * distinct).sum() / len(w) ** 2
    if not config.radial:
        own = k.values(within).mean()
    mmd2 = own - 2 * mean_kernel(k, w, z) + mean_kernel(k, z, z)
    (expected,) = torch.autograd.grad(mmd2, x)

    coupling = Coupling(equal(3), -equal(5))
    gradient = start._gradient(coupling)(start.rows.detach()).flatten(0, 1)
    per_patch = pulled(k, w.detach(), z, in_units=True)
    torch.testing.assert_close(gradient[regular], per_patch, rtol=1e-8, atol=1e-9)

    # The same pulls without units, laid back into images, are the gradient of the images.
    raw = torch.zeros_like(rows).detach().flatten(0, 1)
    raw[regular] = pulled(k, w.detach(), z, in_units=False) / len(w)
    laid = start.cover.laid(raw.view_as(rows), x.shape)
    torch.testing.assert_close(laid, expected, rtol=1e-8, atol=1e-10)


def pulled(kernel, w, z, in_units):
    """2 Σ (pulls of w − pulls of z), one patch at a time."""
    rows = []
    for i in range(len(w)):
        total = torch.zeros_like(w[0])
        for others, sign in ((w, 1), (z, -1)):
            pulls = kernel.pulls(Gram.of(w[i : i + 1], others), in_units)[0]
            if kernel.radial and sign > 0:
                pulls = pulls * (torch.arange(len(w)) != i)
            towards = others - w[i] if kernel.radial else others
            total += 2 * sign * (pulls[:, None] * towards).sum(0) / len(others)
        rows.append(total)
    return torch.stack(rows)


def run_of(y, **options):
    config = GuidanceConfig(
        kernel=KernelConfig(feature_space="patches", **options.pop("kernel", {})),
        **{"preserve": 0.0, **options.pop("config", {})},
    )
    return Guidance(
        config,
        Latents(y, equal(len(y))),
        Schedule((5.0, 1.0, 0.0), Window(1e9, 0)),
        execution=Execution(record=True),
        **options,
    )


@pytest.mark.parametrize("memory", [False, True])
def test_prompts_weigh_patches_as_they_weigh_images(memory, rng):
    """Against the sum over all pairs of patches, each with the weight of its pair of images."""
    y, x0, finished = randn(rng, 4, 2, 5, 5), randn(rng, 3, 2, 5, 5), randn(rng, 2, 2, 5, 5)
    config = KernelConfig(feature_space="patches", patch_size=2)
    comparison = PatchComparison(config, Latents(y, equal(4)), finished if memory else None)
    m = 2 if memory else 0
    s = torch.cat([-equal(4), torch.full((m,), 0.25, dtype=F64)])
    p = torch.full((3,), (1 - 0.25 * m) / 3, dtype=F64)
    ww, wz, zz = (
        torch.rand(*size, generator=rng, dtype=F64) for size in ((3, 3), (3, 4 + m), (4 + m,) * 2)
    )
    coupling = Coupling(p, s, ww, wz, zz)
    start = comparison.start(x0, None, 5.0)
    rows, z, k = start.rows.flatten(0, 1), comparison.rows, comparison.kernel
    image = torch.arange(3).repeat_interleave(start.rows.shape[1])
    each = torch.cat(
        [
            torch.full((LANDMARKS,), -1 / LANDMARKS),
            torch.full((LANDMARKS * (m > 0),), 0.25 * m / LANDMARKS),
        ]
    )
    regular = start.cover.regular.repeat(3)
    own = regular * p.sum() / regular.sum()  # each patch once
    expected = torch.zeros_like(rows)
    for i in range(0, len(rows), 7):
        to_z = (z - rows[i]).square().sum(1)
        to_w = (rows - rows[i]).square().sum(1)
        for h in k.bandwidths:
            pull = (-to_z / 2 / h**2).exp() * each * wz[image[i], comparison.owners]
            push = (-to_w / 2 / h**2).exp() * own * ww[image[i], image]
            total = (pull[:, None] * (z - rows[i])).sum(0) + (push[:, None] * (rows - rows[i])).sum(
                0
            )
            expected[i] += 2 * total / len(k.bandwidths)
    found = start._gradient(coupling)(start.rows.detach()).flatten(0, 1)
    torch.testing.assert_close(found[::7], expected[::7], rtol=1e-8, atol=1e-9)

    def kernel_of(a, b):
        d2 = (a[:, None] - b).square().sum(2)
        return sum((-d2 / 2 / h**2).exp() for h in k.bandwidths) / 3

    owners, each = comparison.owners, each.double()
    value = own @ (kernel_of(rows, rows) * ww[image][:, image]) @ own
    value += 2 * own @ (kernel_of(rows, z) * wz[image][:, owners]) @ each
    value += each @ (kernel_of(z, z) * zz[owners][:, owners]) @ each
    assert start.mmd2(coupling).item() == pytest.approx(float(value), rel=1e-6)


def test_what_was_drawn_already_is_not_asked_for_again(rng):
    """Half of the references are bright, and so is all that is finished: the batch turns dark."""
    y, x0 = 0.3 * randn(rng, 4, 2, 6, 6), randn(rng, 2, 2, 6, 6)
    y[:2] += 2
    y[2:] -= 2
    finished = Memory(2 + 0.3 * randn(rng, 3, 2, 6, 6))
    moved = [run_of(y, memory=m)(x0, x0, 5.0) - x0 for m in (finished, None)]
    assert moved[0].mean() < moved[1].mean() - 0.5


def test_style_moves_and_layout_does_not(rng):
    """References with one bright corner: the batch becomes as bright on average, but nowhere in particular."""
    y = 0.3 * randn(rng, 24, 1, 12, 12).float()
    y[:, :, :6, :6] += 3
    x0 = 0.3 * randn(rng, 12, 1, 12, 12).float()
    corner = torch.zeros(12, 12, dtype=torch.bool)
    corner[:6, :6] = True
    moved = {}
    for space in ("latent", "patches"):
        run = run_of(y) if space == "patches" else latent_run(y)
        moved[space] = run(x0, x0, 5.0) - x0
    where = {s: m.mean((0, 1)) for s, m in moved.items()}
    assert where["latent"][corner].mean() > 2 and where["latent"][~corner].mean().abs() < 0.2
    inside, outside = where["patches"][corner].mean(), where["patches"][~corner].mean()
    assert moved["patches"].mean() > 0.3  # brighter
    assert (inside - outside).abs() < 0.15 * (where["latent"][corner].mean())


def latent_run(y):
    return Guidance(
        GuidanceConfig(preserve=0.0),
        Latents(y, equal(len(y))),
        Schedule((5.0, 1.0, 0.0), Window(1e9, 0)),
    )


def test_the_distribution_of_patches_comes_closer(rng):
    y = torch.where(torch.rand(16, 1, 12, 12, generator=rng, dtype=F64) < 0.5, 2.0, -1.0).double()
    x0 = randn(rng, 8, 1, 12, 12)
    run = run_of(y, kernel={"patch_size": 1})
    before = run.comparison.mmd2(x0, unbiased=False)
    guided = run(x0, x0, 1.0)  # the last step leaves things alone
    assert torch.equal(guided, x0)
    moved = run.comparison.start(x0, None, 5.0).flowed(Coupling(equal(8), -equal(16)), 20.0)[0]
    after = run.comparison.mmd2(x0 + moved.displacement(), unbiased=False)
    assert after < 0.3 * before


def test_trace_and_preserve_are_as_for_whole_latents(rng):
    y, x0 = randn(rng, 6, 2, 9, 9) + 1, randn(rng, 3, 2, 9, 9)
    x = x0 + 5 * randn(rng, *x0.shape)
    free, bound = run_of(y), run_of(y, config={"preserve": 0.9})
    changes = [run(x0, x, 5.0) - x0 for run in (free, bound)]
    assert free.trace[0].mmd2_after < free.trace[0].mmd2_before
    assert not free.config.companions and not free.config.for_batch(1).companions
    limit = (0.1 / 0.9) * 0.8 * (x - x0).flatten(1).norm(dim=1)
    moved = changes[1].flatten(1).norm(dim=1) * 0.8
    assert (moved <= limit * (1 + 1e-6)).all()


@pytest.mark.parametrize("shape", [(3, 9), (2, 1, 6, 5), (4, 2, 2)])
def test_every_rank_and_images_smaller_than_a_patch(shape, rng):
    y, x0 = randn(rng, 5, *shape), randn(rng, 2, *shape)
    guided = run_of(y)(x0, x0 + 1, 5.0)
    assert guided.shape == x0.shape and torch.isfinite(guided).all()


def test_large_images_take_turns_with_their_tilings(rng):
    """One tiling at a call, another at the next, until all have had their turn."""
    y = randn(rng, 4, 4, 64, 64).float()
    comparison = PatchComparison(
        KernelConfig(feature_space="patches"), Latents(y, equal(4).float())
    )
    x0 = y.repeat(4, 1, 1, 1)
    seen = [comparison.start(x0, None, 5.0).cover.places for _ in range(9)]
    assert len({tuple(places.flatten().tolist()) for places in seen}) == 9


@pytest.mark.parametrize("kernel", KERNELS)
def test_embedded_images_have_the_mmd2_of_their_patches(kernel, rng):
    """All patches of the references are landmarks many times over, so nothing is lost."""
    y = randn(rng, 6, 1, 4, 4)
    config = KernelConfig(kernel, feature_space="patches", patch_size=2)
    embedding = PatchEmbedding(config, y, equal(6))
    rows = embedding(y)
    patches = tile(y, tiling((4, 4), (2, 2), (0, 0))[0]) - embedding.centre
    q = torch.tensor([0.5, 0.5, 0, 0, 0, 0], dtype=F64) - equal(6)
    k = embedding.kernel
    values = torch.stack([torch.stack([mean_kernel(k, a, b) for b in patches]) for a in patches])
    assert (q @ rows).square().sum().item() == pytest.approx((q @ values @ q).item(), rel=1e-3)
