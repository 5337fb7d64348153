"""The quality benchmark's own figures, against brute force, closed forms and other libraries."""

import json
import math

import numpy as np
import pytest
import torch
from mmd_demo.judge import frechet_distance
from mmd_tests.studies.quality import metrics
from mmd_tests.studies.quality.bars import Bar, bars_of, bars_table, study_bars
from mmd_tests.studies.quality.methods import closest_batch
from mmd_tests.studies.quality.mixture import Dct, Mixture, exact_counts
from mmd_tests.studies.quality.mixture_worlds import (
    energy_range,
    latent_mixture,
    plane_target,
    spectrum,
)
from mmd_tests.studies.quality.report import COLUMNS, cell, table
from mmd_tests.studies.quality.universal import mmd2_loss
from mmd_tests.studies.quality.worlds import generator


def clouds(n=30, m=40, dim=5, shift=0.0, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=rng), torch.randn(m, dim, generator=rng) + shift


# --- kernel ---------------------------------------------------------------------------------------


def test_mmd2_is_that_of_the_pack_and_of_the_sum():
    from mmd_pack.mmd_core import mmd2
    from mmd_pack.mmd_core.kernels.kernels import RadialKernel

    x, y = (c.double() for c in clouds(shift=0.5))
    d2 = metrics.sq_distance_matrix(torch.cat([x, y]))
    kernel = metrics.rbf_matrix(d2, 2.0)
    found = metrics.mmd2_unbiased(kernel, len(x))
    assert found == pytest.approx(
        mmd2(x, y, RadialKernel("rbf", (1.0, 2.0, 4.0)), unbiased=True).item(), rel=1e-9
    )

    def k(a, b):
        return np.mean([math.exp(-((a - b) ** 2).sum().item() / (2 * h * h)) for h in (1, 2, 4)])

    pairs = [
        np.mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])
        for s in (x, y)
    ]
    across = np.mean([k(a, b) for a in x for b in y])
    assert found == pytest.approx(sum(pairs) - 2 * across, rel=1e-9)


def test_median_distance():
    x, _ = clouds()
    found = metrics.median_distance(metrics.sq_distance_matrix(x))
    assert found == pytest.approx(torch.pdist(x).median().item(), rel=1e-5)
    features = metrics.median_feature_distance(x.numpy())
    assert features == pytest.approx(np.median(torch.pdist(x).numpy()), rel=1e-5)


def test_permutation_test_counts_as_a_loop_would():
    x, y = clouds(12, 9, shift=0.4)
    kernel = metrics.rbf_matrix(metrics.sq_distance_matrix(torch.cat([x, y])), 2.0)
    p = metrics.permutation_p_value(kernel, 12, torch.Generator().manual_seed(3), 200)
    orders = torch.rand(200, 21, generator=torch.Generator().manual_seed(3)).argsort(1)

    def biased(first):
        rest = [i for i in range(21) if i not in first]
        a, b, c = (kernel[r][:, s].mean() for r, s in ((first, first), (rest, rest), (first, rest)))
        return (a + b - 2 * c).item()

    observed = biased(list(range(12)))
    beaten = sum(
        biased([i for i in range(21) if order[i] < 12]) >= observed - 1e-9 for order in orders
    )
    assert p == pytest.approx((1 + beaten) / 201)


def test_permutation_test_holds_its_level_and_has_power():
    rejected = {}
    for shift in (0.0, 1.5):
        found = []
        for seed in range(100):
            x, y = clouds(15, 15, 2, shift, seed)
            kernel = metrics.rbf_matrix(metrics.sq_distance_matrix(torch.cat([x, y])), 1.5)
            found.append(metrics.permutation_p_value(kernel, 15, generator(seed), 100) <= 0.05)
        rejected[shift] = np.mean(found)
    assert rejected[0.0] <= 0.12 and rejected[1.5] >= 0.9


def test_universal_guidance_descends_the_biased_mmd2():
    from mmd_pack.mmd_core import mmd2
    from mmd_pack.mmd_core.kernels.kernels import RadialKernel

    x, y = (c.double() for c in clouds(shift=0.5))
    kernel = RadialKernel("rbf", (1.0, 2.0, 4.0))
    losses = [mmd2_loss(a, y, 2.0).item() for a in (x, x + 1)]
    exact = [mmd2(a, y, kernel).item() for a in (x, x + 1)]
    assert losses[1] - losses[0] == pytest.approx(exact[1] - exact[0], rel=1e-9)
    ones = torch.ones(len(x), len(x)), torch.ones(len(x), len(y))
    assert mmd2_loss(x, y, 2.0, ones).item() == pytest.approx(losses[0])


def test_best_of_n_is_greedy():
    pool, references = clouds(14, 10, 3, 0.7)
    both = metrics.sq_distance_matrix(torch.cat([pool, references]))
    h = metrics.median_distance(metrics.sq_distance_matrix(references))
    kernel, chosen = metrics.rbf_matrix(both, h), []
    for _ in range(5):

        def score(i):
            rows = [*chosen, i]
            return kernel[rows][:, rows].mean() - 2 * kernel[rows][:, 14:].mean()

        chosen.append(min((i for i in range(14) if i not in chosen), key=score))
    assert closest_batch(pool, references, 5) == chosen


# --- features -------------------------------------------------------------------------------------


def test_coverage_and_density_by_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    real, fake = (c.numpy() for c in clouds(60, 50, 4, 0.8))
    radii = neighbors.NearestNeighbors(n_neighbors=6).fit(real).kneighbors(real)[0][:, 5]
    inside = np.linalg.norm(real[:, None] - fake[None], axis=2) <= radii[:, None]
    coverage, density = metrics.coverage_and_density(real, fake)
    assert coverage == pytest.approx(inside.any(1).mean())
    assert density == pytest.approx(inside.sum() / (5 * 50))


def test_coverage_of_the_same_distribution_is_as_expected():
    found = [
        metrics.coverage_and_density(*(c.numpy() for c in clouds(40, 30, 6, seed=seed)))
        for seed in range(60)
    ]
    coverage, density = np.mean(found, axis=0)
    assert coverage == pytest.approx(metrics.expected_coverage(40, 30), abs=0.02)
    assert density == pytest.approx(1.0, abs=0.1)
    assert metrics.expected_coverage(1000, 1000) == pytest.approx(1 - 2**-5, abs=0.005)


def test_vendi_score_counts_different_samples():
    same, far = np.zeros((7, 3)), np.eye(7) * 100
    assert metrics.vendi_score(same, 1.0) == pytest.approx(1, abs=1e-6)
    assert metrics.vendi_score(far, 1.0) == pytest.approx(7, abs=1e-6)
    two = np.repeat(np.array([[0.0], [100.0]]), [3, 3], axis=0)
    assert metrics.vendi_score(two, 1.0) == pytest.approx(2, abs=1e-6)
    uneven = np.repeat(np.array([[0.0], [100.0]]), [6, 2], axis=0)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert metrics.vendi_score(uneven, 1.0) == pytest.approx(math.exp(entropy), abs=1e-6)


def test_frechet_distance_of_gaussians():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = (c.numpy().astype(np.float64) for c in clouds(300, 200, 4, 0.5))
    b = b @ np.diag([1.0, 2.0, 0.5, 1.5])
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(ca @ cb).real
    gap = a.mean(0) - b.mean(0)
    assert frechet_distance(a, b) == pytest.approx(gap @ gap + np.trace(ca + cb - 2 * root))


# --- latents --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [7, 5000])
def test_nearest_distances(dim):
    x, y = clouds(8, 9, dim, 0.3)
    wanted = torch.stack([(y - a).norm(dim=1).min() for a in x])
    assert torch.allclose(metrics.nearest_distances(x, y), wanted, rtol=1e-4)
    others = torch.stack([min((x[j] - x[i]).norm() for j in range(8) if j != i) for i in range(8)])
    assert torch.allclose(metrics.nearest_distances(x, x, itself=True), others, rtol=1e-4)


def test_dct_is_scipys_and_turns_back():
    fft = pytest.importorskip("scipy.fft")
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    dct = Dct(16)
    wanted = fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")
    assert np.allclose(dct(x).numpy(), wanted, atol=1e-5)
    assert torch.allclose(dct.inverse(dct(x)), x, atol=1e-5)
    assert torch.allclose(dct(x).square().sum(), x.square().sum(), rtol=1e-5)


def test_bands_are_rings_and_their_means_plain_means():
    bands = metrics.radial_bands(8, (2.0, 4.0))
    assert bands[0, 0] == bands[1, 1] == 0 and bands[2, 0] == bands[2, 3] == 1
    assert bands[4, 0] == bands[3, 3] == 2
    values = torch.rand(5, 2, 8, 8)
    found = metrics.band_means(values, bands)
    for band in range(3):
        wanted = [
            values[i, :, u, v].numpy()
            for i in range(5)
            for u in range(8)
            for v in range(8)
            if bands[u, v] == band
        ]
        assert found[:, band].mean() == pytest.approx(np.mean(wanted), rel=1e-4)


def test_variance_inside_classes_is_1_for_true_samples_and_not_for_others():
    bands, means = metrics.radial_bands(8, (2.0, 4.0)), torch.randn(2, 1, 8, 8) * 5
    scale = torch.where(bands == 1, 2.0, 1.0)  # doubled in the middle band
    found = []
    for seed in range(40):
        rng = torch.Generator().manual_seed(seed)
        labels, true_labels = torch.arange(8) % 2, torch.arange(12) % 2
        x = means[labels] + torch.randn(8, 1, 8, 8, generator=rng) * scale
        y = means[true_labels] + torch.randn(12, 1, 8, 8, generator=rng)
        found.append(metrics.class_band_variance(x, labels, y, true_labels, bands))
    assert np.mean(found, axis=0) == pytest.approx([1, 4, 1], rel=0.08)


def test_variance_without_any_true_class_is_unknown():
    bands, x = metrics.radial_bands(4, (1.0, 2.0)), torch.zeros(3, 1, 4, 4)
    found = metrics.class_band_variance(x, [0, 0, 0], x, [1, 1, 1], bands)
    assert all(map(math.isnan, found))


# --- mixtures -------------------------------------------------------------------------------------


def small_mixture():
    rng = torch.Generator().manual_seed(5)
    means = torch.randn(3, 2, 1, 1, generator=rng).double() * 2
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    return Mixture(weights, means, torch.tensor([0.3, 0.8]).double().view(2, 1, 1))


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_denoiser_obeys_tweedie(sigma):
    """E[x0 | x] = x + σ² ∇ ln p(x), with the density summed directly and autograd, in float64."""
    mixture = small_mixture()
    x = torch.randn(20, 2, 1, 1, dtype=torch.float64, generator=generator("tweedie")) * 3
    x.requires_grad_()
    (score,) = torch.autograd.grad(mixture.log_density(x, sigma).sum(), x)
    found = mixture.denoise(x.detach(), torch.full((20,), sigma, dtype=torch.float64))
    assert torch.allclose(found, (x + sigma**2 * score).detach(), atol=1e-9)


def test_denoiser_is_the_mean_of_what_can_have_been():
    """Clean samples weighted by how likely the noise between them and x is."""
    mixture, rng = small_mixture(), generator("monte carlo")
    modes = mixture.sample_modes(400_000, rng)
    noise = torch.randn(len(modes), 2, generator=rng).double()
    clean = mixture.means[modes] + noise * mixture.variances.sqrt()
    x, sigma = torch.tensor([[1.0, -0.5], [0.0, 2.0]]).double(), 1.0
    for row in x:
        weights = torch.softmax(-(clean - row).square().sum(1) / (2 * sigma**2), 0)
        found = mixture.denoise(row.view(1, 2, 1, 1), torch.tensor([sigma]).double())
        assert torch.allclose(found.flatten(), weights @ clean, atol=0.02)


def test_single_precision_denoises_long_latents_well():
    mixture, rng = latent_mixture(64, 0.05), generator("long")
    clean = mixture.sample(torch.tensor([0, 3]), rng)
    for sigma in (0.05, 1.0, 14.0):
        noisy = clean + sigma * torch.randn(clean.shape, generator=rng)
        level = torch.full((2,), sigma)
        found = mixture.denoise(noisy, level)
        exact = mixture.double().denoise(noisy.double(), level.double())
        mixture.float()
        assert (found - exact).norm() < 1e-4 * exact.norm()


def test_samples_are_where_the_mixture_is():
    mixture = small_mixture()
    modes = torch.arange(3).repeat(2000)
    x = mixture.sample(modes, generator("sample")).double()
    assert mixture.deviations(x, modes).square().mean().item() == pytest.approx(1, abs=0.05)
    precision = 1 / mixture.variances
    d2 = ((x.flatten(1)[:, None] - mixture.means).square() * precision).sum(2)
    assert torch.equal(mixture.nearest_mode(x), d2.argmin(1))
    counts = torch.bincount(mixture.sample_modes(20_000, generator("modes"))) / 20_000
    assert torch.allclose(counts, torch.tensor([0.5, 0.3, 0.2]), atol=0.02)


def test_exact_counts_are_exact_and_sum_up():
    assert exact_counts([0.5, 0.3, 0.2], 100) == [50, 30, 20]
    assert exact_counts([0.5, 0.3, 0.2, 0.0], 64) == [32, 19, 13, 0]
    for n in range(1, 30):
        counts = exact_counts([1 / 3, 1 / 3, 1 / 3], n)
        assert sum(counts) == n and max(counts) - min(counts) <= 1


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("separation", [0.05, 0.3])
def test_latents_have_variance_1_and_modes_their_share_of_it(side, separation):
    mixture = latent_mixture(side, separation)
    between = (mixture.means - mixture.means.mean(0)).square().mean().item()
    assert between == pytest.approx(separation, rel=1e-3)
    assert between + mixture.variances.mean().item() == pytest.approx(1, rel=1e-3)
    v = spectrum(side)[0]
    assert v[0, 0] > 20 * v[side // 4, 0] > 20 * 4 * v[-1, -1]  # low bands are strong


def test_energy_ranges_hold_true_samples_and_more():
    low, high = energy_range(50)
    found = torch.randn(20_000, 50, generator=generator("energy")).square().mean(1)
    assert ((low <= found) & (found <= high)).float().mean() > 0.999
    narrow = (low * 1.5, high / 1.5)
    share = ((narrow[0] <= found) & (found <= narrow[1])).float().mean().item()
    assert share == pytest.approx(0.999, abs=0.001)


def test_plane_targets_are_what_they_say():
    from mmd_tests.studies.quality.mixture_worlds import grid_means, ring_means

    for layout, means in (("ring", ring_means()), ("grid", grid_means())):
        assert means.flatten(1).var(0, correction=0).tolist() == pytest.approx([1, 1], rel=1e-5)
        k = len(means)
        model = Mixture(torch.full((k,), 1 / k), means, torch.full((2, 1, 1), 0.01))
        skewed, some, shifted = (
            plane_target(layout, name, model) for name in ("skewed", "some modes", "shifted")
        )
        assert skewed.weights.max() > 5 * skewed.weights.min() > 0
        assert (some.weights > 0).sum() < k / 2
        moved = (shifted.means - model.means).norm(dim=1)
        assert torch.allclose(moved, torch.full((k,), 0.05), rtol=1e-3)
        for target in (skewed, some, shifted):
            assert target.weights.sum().item() == pytest.approx(1, rel=1e-5)


# --- report ---------------------------------------------------------------------------------------


def row(method, seed=0, world="digits", target="3/8/1", settings=None, part="main", **figures):
    return {
        "part": part,
        "world": world,
        "target": target,
        "method": method,
        "seed": seed,
        "settings": settings or {},
        "references": None,
        "figures": figures,
        "took": 1.0,
    }


def test_cells_and_tables():
    assert cell([0.1, 0.2], COLUMNS["TV"]) == "0.150 ± 0.071"
    assert cell([0.0012], COLUMNS["MMD2"]) == "1.20"
    assert cell([math.nan], COLUMNS["TV"]) == "–"
    assert cell([1234.6, 1234.6], COLUMNS["FD"]) == "1235 ± 0"
    rows = [row("none", TV=0.6), row("none", 1, TV=0.8), row("guided", FD=3.0)]
    text = table(rows, lambda r: r["method"], first="method")
    assert text.splitlines()[0] == "| method | TV | FD |"
    assert "| none | 0.700 ± 0.141 | – |" in text


def test_bars_compare_with_the_references():
    figures = {"FD": 10.0, "MMD2": 0.001, "coverage": 0.97, "rejected": 0.0}
    rows = [
        row("references", TV=0.01, confidence=0.99, **figures),
        row("none", TV=0.7, confidence=0.98),
        row("guided", TV=0.08, confidence=0.97, **figures),
    ]
    found = {bar.what: bar.met for bar in bars_of(rows)}
    assert not found["TV ≤ references' + .06"] and not found["confidence ≥ unguided"]
    assert found["FD ≤ 1.15 × references'"] and found["coverage ≥ .95 × references'"]
    assert "2 of" not in bars_table([Bar("w", "x", 1.0, 2.0)])


def test_halving_the_steps_is_a_bar():
    rows = [
        row("guided", part="steps", settings={"sampler_name": "euler", "steps": n}, TV=tv)
        for n, tv in ((50, 0.10), (25, 0.12), (12, 0.30))
    ]
    found = {bar.what: bar.met for bar in study_bars({"steps": rows}) if "euler" in bar.what}
    assert found == {
        "euler, 50 to 25 steps: TV changes ≤ .05": True,
        "euler, 25 to 12 steps: TV changes ≤ .05": False,
    }


def test_best_settings_rank_both_figures():
    from mmd_tests.studies.quality.bench import best_settings

    rows = [
        row("paper", settings={"rate": rate}, TV=tv, MMD2=m)
        for rate, tv, m in ((0.1, 0.3, 0.001), (0.3, 0.2, 0.0), (1.0, 0.1, 0.01))
    ]
    assert best_settings(rows, ("TV", "MMD2")) == {"rate": 0.3}
    assert json.dumps(best_settings(rows[:1], ("TV", "MMD2"))) == '{"rate": 0.1}'
