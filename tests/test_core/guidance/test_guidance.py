"""The guidance modes against their formulas, written out once more on whole latents."""

import itertools

import pytest
import torch
from mmd_pack.mmd_core import (
    KERNELS,
    MODES,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    Memory,
    NoiseModel,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.comparison.noise import cfg_pp_carry, euler_carry, euler_cfg_pp_carry
from mmd_tests.support.guidance_runs import (
    EVERYWHERE,
    SIGMAS,
    autograd_mmd2,
    guidance,
    latents,
    make,
)

F64 = torch.float64


def autograd(x, y, kernel, finished=None):
    """∂MMD²/∂x with finished samples counted as drawn together with x."""
    rows = x.detach().clone().requires_grad_()
    together = rows if finished is None else torch.cat([finished, rows])
    equal = torch.ones(len(y), dtype=y.dtype)
    (grad,) = torch.autograd.grad(autograd_mmd2(together, y, kernel, equal), rows)
    return grad


def flow_directly(x0, y, kernel, reach, lacking=0.0, steps=2000):
    """w' = −Ĝ(w) for the time `reach` by Euler's method on latents.

    `lacking` is added to squared distances.
    """
    w, y = x0.flatten(1), y.flatten(1)
    for _ in range(steps):
        velocity = torch.zeros_like(w)
        for others, e, sign in ((w, 2 * lacking, -1), (y, lacking, 1)):
            way = others - w[:, None]
            for h in kernel.bandwidths:
                pull = torch.exp(-(way.square().sum(2) + e) / 2 / h**2) / len(kernel.bandwidths)
                velocity += sign * 2 / len(others) * (pull[:, :, None] * way).sum(1)
        w = w + reach / steps * velocity
    return w.reshape(x0.shape)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("strength, tolerance", [(0.002, 1e-3), (6.0, 5e-3), (40.0, 1e-2)])
def test_flow_is_the_gradient_flow_computed_directly(strength, tolerance, dtype, rng):
    """In few sub-steps what thousands of Euler's method give."""
    y, x0, x = make(rng)
    run = guidance(GuidanceConfig(strength=strength, preserve=0), y.to(dtype), record=True)
    guided = run(x0.to(dtype), x.to(dtype), 2.5).to(F64)
    fraction = 1 - 1.0 / 2.5
    assert run.trace[0].substeps < 2 + 2 * strength * fraction
    lacking = float(run.comparison.posterior.lacking(x - x0, 2.5))
    assert lacking > 0
    expected = flow_directly(x0, y, run.comparison.kernel, strength * fraction, lacking) - x0
    assert ((guided - x0) * fraction - expected).norm() / expected.norm() < tolerance


@pytest.mark.parametrize("kernel", KERNELS)
def test_paper_moves_x_by_the_gradient_at_the_noisy_latent(kernel, rng):
    """Equation 5: after an Euler step, z has moved by exactly −λ ∂MMD²/∂z."""
    y, x0, x = make(rng)
    noise, strength, sigma, sigma_next = NoiseModel(), 50.0, 2.5, 1.0
    run = guidance(
        GuidanceConfig(mode="paper", strength=strength, kernel=KernelConfig(kernel)), y, noise=noise
    )
    moved = (run(x0, x, sigma) - x0) * (1 - sigma_next / sigma) * noise.published_scale(sigma_next)
    expected = -strength * autograd(x * noise.published_scale(sigma), y, run.comparison.kernel)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("kernel", [None, KernelConfig("rbf", "fixed", 20.0, (1.0,))])
@pytest.mark.parametrize("finished", [1, 7])
def test_official_is_the_published_normalised_update(finished, kernel, rng):
    """One image with memory: Δ = α g / (‖g‖ + 1e-5) ‖z‖ where the step arrives, to 1e-5."""
    y, x0, x = make(rng, batch=1)
    memory, alpha, noise = latents(rng, finished, -0.5), 0.05, NoiseModel()
    sigma, sigma_next = 2.5, 1.0
    run = guidance(
        GuidanceConfig(mode="official", strength=alpha, kernel=kernel), y, memory=Memory(memory)
    )
    z = (x0 + (x - x0) * sigma_next / sigma) * noise.published_scale(sigma_next)
    g = autograd(z, y, run.comparison.kernel, memory)
    expected = z - alpha * g / (g.norm() + 1e-5) * z.norm()
    guided = run(x0, x, sigma)
    arrived = (guided + (x - guided) * sigma_next / sigma) * noise.published_scale(sigma_next)
    torch.testing.assert_close(arrived, expected, rtol=1e-5, atol=1e-9)


def test_official_poly3_is_the_published_sum(rng):
    """The authors' sums for the cubic kernel, term by term, with reference weights."""
    y, x, memory = (
        latents(rng, 6).flatten(1),
        latents(rng, 1).flatten(1),
        latents(rng, 3).flatten(1),
    )
    weights = torch.rand(6, generator=rng, dtype=F64)
    weights, d = weights / weights.sum(), x.shape[1]
    samples = torch.cat([memory, x])
    k = len(samples)
    repulsion = 2 / (k * k * d) * sum(3 * (s @ x[0] / d + 1) ** 2 * s for s in samples)
    attraction = (
        1
        / (k * d)
        * sum(w * 3 * (r @ x[0] / d + 1) ** 2 * r for w, r in zip(weights, y, strict=True))
    )
    g = repulsion - 2 * attraction
    noise = NoiseModel(flow_matching=True)  # its noisy latents are the sampler's
    run = Guidance(
        GuidanceConfig(mode="official", strength=0.1),
        Latents(y, weights),
        Schedule((0.9, 0.5, 0.0), EVERYWHERE, noise),
        Memory(memory),
    )
    guided = run(x, x, 0.9)  # a noisy latent that is its own estimate arrives where it is
    moved = (guided - x) * (1 - 0.5 / 0.9)
    torch.testing.assert_close(
        moved[0], -0.1 * g / (g.norm() + 1e-5) * x.norm(), rtol=1e-5, atol=1e-12
    )


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("kernel", ["rbf", "polynomial"])
@pytest.mark.parametrize("finished, alpha", [(1, 0.002), (6, 0.05)])
def test_official_l2norm_is_the_published_sum_of_latents_of_unit_length(
    kernel, finished, alpha, rng
):
    """The authors' sums with their option, term by term, with reference weights: to 1e-13 of a step.

    As in their code, g is the gradient at z/‖z‖, and z itself moves along it.
    """
    y, z, memory = (latents(rng, n, 0.3).flatten(1) for n in (7, 1, finished))
    weights = torch.rand(7, generator=rng, dtype=F64)
    weights, d, k = weights / weights.sum(), z.shape[1], finished + 1
    here, units, samples = unit(z)[0], unit(y), unit(torch.cat([memory, z]))

    def slope(other):
        """∇_1k(here, other)."""
        if kernel == "polynomial":
            return 3 / d * (here @ other / d + 1) ** 2 * other
        return torch.exp(-((here - other) ** 2).sum() / 2 / 0.75**2) * (other - here) / 0.75**2

    g = 2 / k**2 * sum(map(slope, samples))
    g = g - 2 / k * sum(w * slope(r) for w, r in zip(weights, units, strict=True))
    config = GuidanceConfig(
        mode="official_l2norm",
        strength=alpha,
        kernel=None if kernel == "rbf" else KernelConfig(kernel),
    )
    noise = NoiseModel(flow_matching=True)  # its noisy latents are the sampler's
    schedule = Schedule((0.9, 0.5, 0.0), EVERYWHERE, noise)
    run = Guidance(config, Latents(y, weights), schedule, Memory(memory))
    moved = (run(z, z, 0.9) - z)[0] * (1 - 0.5 / 0.9)
    expected = -alpha * g / (g.norm() + 1e-5) * z.norm()
    assert (moved - expected).norm() < 1e-12 * expected.norm()


@pytest.mark.parametrize(
    "kernel", [None, *map(KernelConfig, KERNELS), KernelConfig("rbf", "fixed", 0.2, (1.0, 3.0))]
)
def test_official_l2norm_follows_the_gradient_at_unit_length(kernel, rng):
    """Against autograd, for any kernel; a bandwidth is that of the references at unit length."""
    y, x0, x = make(rng, batch=4)
    memory, alpha, sigma, sigma_next = latents(rng, 3), 0.05, 2.5, 1.0
    config = GuidanceConfig(mode="official_l2norm", strength=alpha, kernel=kernel)
    run, scale = guidance(config, y, memory=Memory(memory)), NoiseModel().published_scale(1.0)
    z = ((x0 + (x - x0) * sigma_next / sigma) * scale).flatten(1)
    if kernel is not None and kernel.radial and kernel.bandwidth == "median":
        apart = torch.cdist(unit(y.flatten(1)), unit(y.flatten(1)))
        middle = apart[apart > 0].median()
        assert run.comparison.kernel.bandwidths[-1] == pytest.approx(
            middle.item() * (1 if kernel.kernel == "energy" else 2), rel=0.05
        )
    g = autograd(unit(z), unit(y.flatten(1)), run.comparison.kernel, unit(memory.flatten(1)))
    lengths = g.norm(dim=1, keepdim=True) + 1e-5
    expected = -alpha * g / lengths * z.norm(dim=1, keepdim=True)
    moved = (run(x0, x, sigma) - x0).flatten(1) * (1 - sigma_next / sigma) * scale
    torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-12)


def test_l2norm_is_what_makes_the_published_bandwidth_act(rng):
    """h = 0.75: between whole latents the kernel is exactly 0, and nothing moves."""
    y, x0, x = make(rng, batch=1, dtype=torch.float32)
    kernel = KernelConfig("rbf", "fixed", 0.75, (1.0,))
    moved = {}
    for mode in ("official", "official_l2norm"):
        config = GuidanceConfig(mode=mode, strength=0.05, kernel=kernel)
        run = guidance(config, y, memory=Memory(latents(rng, 3).float()))
        moved[mode] = ((run(x0, x, 2.5) - x0).norm() * (1 - 1 / 2.5)).item()
    assert moved["official"] == 0
    arriving = (x0 + (x - x0) / 2.5).norm().item()
    assert moved["official_l2norm"] == pytest.approx(0.05 * arriving, rel=1e-3)


def test_the_trace_of_official_l2norm_tells_of_the_moved_latents(rng):
    """MMD² after is that of z where it went to, at unit length."""
    y, x0, x = make(rng)
    config = GuidanceConfig(mode="official_l2norm", strength=0.1)
    run, scale = guidance(config, y, record=True), NoiseModel().published_scale(1.0)
    guided = run(x0, x, 2.5)
    row, weights = run.trace[0], torch.full((len(y),), 1 / len(y), dtype=F64)
    kernel, references = run.comparison.kernel, unit(y.flatten(1))
    apart = torch.cdist(references, references)
    fixed = torch.exp(-apart.square() / 2 / 0.75**2).mean() + 1 / len(x0)  # i = i, left out there
    for estimate, told in ((x0, row.mmd2_before), (guided, row.mmd2_after)):
        z = unit(((estimate + (x - estimate) / 2.5) * scale).flatten(1))
        value = autograd_mmd2(z, references, kernel, weights) + fixed
        assert told == pytest.approx(value.item(), rel=1e-8)
    assert row.mmd2_after < row.mmd2_before


def test_official_does_not_guide_the_first_image(rng):
    y, x0, x = make(rng, batch=1)
    assert torch.equal(guidance(GuidanceConfig(mode="official"), y)(x0, x, 2.5), x0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(6,), (4, 6, 5), (4, 1, 6, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_any_rank_and_dtype_comes_back_and_nothing_is_written(shape, dtype, mode, rng):
    y, x0 = latents(rng, 5, shape=shape).float(), latents(rng, 3, shape=shape).to(dtype)
    x = x0.clone() + 1
    copies = y.clone(), x0.clone(), x.clone()
    guided = guidance(GuidanceConfig(mode=mode, strength=0.1), y)(x0, x, 2.5)
    assert (guided.shape, guided.dtype) == (x0.shape, dtype) and torch.isfinite(guided).all()
    assert not torch.equal(guided, x0)
    for tensor, copy in zip((y, x0, x), copies, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("mode", MODES)
def test_two_runs_are_identical(mode, rng):
    y, x0, x = make(rng, dtype=torch.float32)
    config = GuidanceConfig(mode=mode, strength=0.5)
    assert torch.equal(guidance(config, y)(x0, x, 2.5), guidance(config, y)(x0, x, 2.5))


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_the_batch_does_not_matter(mode, rng):
    y, x0, x = make(rng)
    run, order = guidance(GuidanceConfig(mode=mode, strength=0.5), y), [3, 0, 4, 1, 2]
    torch.testing.assert_close(run(x0[order], x[order], 2.5), run(x0, x, 2.5)[order])


def test_flow_lowers_mmd2_and_records_it(rng):
    y, x0, x = make(rng)
    run = guidance(GuidanceConfig(strength=10.0), y, record=True)
    for sigma in SIGMAS[:-2]:
        run(x0, x, sigma)
    assert [row.sigma for row in run.trace] == SIGMAS[:-2]
    assert all(row.mmd2_after < row.mmd2_before for row in run.trace)
    assert [row.progress for row in run.trace] == pytest.approx([0, 0.2, 0.4, 0.6])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("strength", [3.0, 40.0, 400.0])
def test_flow_is_stable_at_any_strength(kernel, strength, rng):
    """Never farther away than where it started or the references are."""
    y, x0, x = make(rng)
    config = GuidanceConfig(strength=strength, kernel=KernelConfig(kernel))
    guided = guidance(config, y)(x0, x, 2.5)
    assert guided.norm() < 10 * max(x0.norm(), y.norm())


def test_without_strength_or_outside_the_window_nothing_changes(rng):
    y, x0, x = make(rng)
    for run in (
        guidance(GuidanceConfig(strength=0.0), y),
        guidance(GuidanceConfig(), y, window=Window(0.9, 0.1)),
        guidance(GuidanceConfig(), y, window=Window(1e9, 2.6)),
    ):
        assert run(x0, x, 2.5) is x0
    assert guidance(GuidanceConfig(), y)(x0, x, 0.4) is x0, "the last step goes to sigma 0"


def test_memory_balances_the_next_group(rng):
    """Finished samples at one half of the references push the next ones to the other half."""
    left, right = latents(rng, 4, -3.0), latents(rng, 4, 3.0)
    y, x0 = torch.cat([left, right]), latents(rng, 4)
    x = x0 + 2.5 * torch.randn(x0.shape, generator=rng, dtype=F64)
    config = GuidanceConfig(strength=3.0)
    alone = guidance(config, y)(x0, x, 2.5).mean()
    after_left = guidance(config, y, memory=Memory(left))(x0, x, 2.5).mean()
    after_right = guidance(config, y, memory=Memory(right))(x0, x, 2.5).mean()
    assert after_right < alone < after_left


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch, finished", [(1, 0), (1, 9), (4, 0), (4, 2), (4, 40)])
def test_weights_of_samples_and_memory_sum_to_one(batch, finished, mode):
    p, s = MODES[mode].memory_weights(batch, finished)
    assert batch * p + finished * s == pytest.approx(1) and p > 0 and s >= 0


def test_official_forgets_as_its_authors_code_does():
    """Before an image is drawn, a memory of 100 keeps the last only; other modes remember all."""
    remembered = []  # what the authors' loop remembers
    for finished in range(1, 320):
        remembered.append(float(finished))
        if len(remembered) == 100:
            remembered = remembered[-1:]
        memory = Memory(torch.arange(1.0, finished + 1)[:, None])
        assert MODES["official"].recalled(memory).latents.flatten().tolist() == remembered
        assert len(MODES["flow"].recalled(memory).latents) == finished


def test_flow_matching_models_move_by_the_same_displacement(rng):
    """x = (1 − s)·x0 + s·n is a rescaled noise model: after a step, x0 has moved alike in both."""
    y, x0, x = make(rng)
    levels = [3.0, 1.5, 0.5, 0.0]
    flow_sigmas = [v / (1 + v) for v in levels]
    config = GuidanceConfig(strength=4.0)
    plain = guidance(config, y, sigmas=levels)
    flow = guidance(config, y, sigmas=flow_sigmas, noise=NoiseModel(flow_matching=True))
    for i in (0, 1):
        moved = (plain(x0, x, levels[i]) - x0) * (1 - levels[i + 1] / levels[i])
        s, s_next = flow_sigmas[i : i + 2]
        moved_flow = (flow(x0, (1 - s) * x, s) - x0) * (1 - s_next / s) / (1 - s_next)
        torch.testing.assert_close(moved_flow, moved)


@pytest.mark.parametrize(
    "options", [{"mode": m, "strength": 0.05} for m in MODES] + [{"companions": True}], ids=str
)
def test_the_scale_of_the_noise_is_only_another_unit_of_sigma(options, rng):
    """As in HiDream-O1, x = (1 − σ)·x0 + 8σ·n: at equal noise per signal, x0 moves alike."""
    y, x0, x = make(rng)  # x per unit of signal
    levels, config = [3.0, 1.5, 0.5, 0.0], GuidanceConfig(**options)

    def moved(scale, i):
        sigmas = [v / (scale + v) for v in levels]
        run = guidance(config, y, sigmas=sigmas, noise=NoiseModel(True, scale=scale))
        s, after = sigmas[i : i + 2]
        change = (run(x0, (1 - s) * x, s) - x0) * (1 - after / s) / (1 - after)
        return change, run.chosen

    for i in (0, 1):
        change, chosen = moved(8.0, i)
        expected, companions = moved(1.0, i)
        torch.testing.assert_close(change, expected)
        assert change.any() and torch.equal(chosen, companions)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"mode": "kick"}, "kick"),
        ({"strength": -1.0}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"start_percent": 0.8, "end_percent": 0.2}, "start_percent"),
        ({"start_percent": 0.5, "end_percent": 0.5}, "end_percent"),
    ],
)
def test_bad_settings_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        GuidanceConfig(**options)


@pytest.mark.parametrize("kernel", ["rbf", "energy", "linear"])
def test_preserve_bounds_how_far_guidance_moves_a_sample(kernel, rng):
    """By (1 − p)/p of the model's own step, each sample by itself and in its direction."""
    y, x0, x = make(rng)
    free, half, most = (
        guidance(
            GuidanceConfig(strength=1e4, preserve=p, kernel=KernelConfig(kernel)), y, record=True
        )
        for p in (0.0, 0.5, 0.9)
    )
    own = (x - x0).flatten(1).norm(dim=1)
    moved = (free(x0, x, 2.5) - x0).flatten(1)
    for run, share in ((half, 1.0), (most, 1 / 9)):
        limited = (run(x0, x, 2.5) - x0).flatten(1)
        length = torch.minimum(moved.norm(dim=1), share * own)
        torch.testing.assert_close(limited.norm(dim=1), length)
        torch.testing.assert_close(limited, moved / moved.norm(dim=1)[:, None] * length[:, None])
    assert (moved.norm(dim=1) > own / 9).all(), "nothing to limit"
    assert most.trace[0].change < free.trace[0].change
    assert torch.equal(guidance(GuidanceConfig(preserve=1.0), y)(x0, x, 2.5), x0)


def test_beyond_rest_more_strength_changes_nothing(rng):
    """A plateau: strength 1000 and 100 000 are the same, and finite."""
    y, x0, x = make(rng)
    first, second = (guidance(GuidanceConfig(strength=s), y)(x0, x, 2.5) for s in (1e3, 1e5))
    assert torch.equal(first, second) and torch.isfinite(first).all()


def test_trace_shows_what_was_left_of_the_step(rng):
    """MMD² after is that of the limited samples."""
    y, x0, x = make(rng)
    run = guidance(GuidanceConfig(strength=100.0, preserve=0.95), y, record=True)
    guided = run(x0, x, 2.5)
    row = run.trace[0]
    comparison = run.comparison
    lacking = comparison.posterior.lacking(x - x0, 2.5)
    w = comparison.space.project(x0 + (guided - x0) * 0.6, lacking).start()
    coupling = run.couplings.of(len(x0), None)
    values = comparison.kernel.values(w.gram)
    expected = coupling.mmd2(values, comparison.mmd2_of_rows(coupling)).item()
    assert row.mmd2_after == pytest.approx(expected, rel=1e-6)
    assert row.mmd2_after < row.mmd2_before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flow_matching", [False, True])
def test_cfg_pp_samplers_move_as_far_as_others(flow_matching, mode, rng):
    """Their direction comes from the unconditional estimate u: x' moves as in an Euler step."""
    y, x0, x = make(rng)
    u = x0 + 0.1 * torch.randn(x0.shape, generator=rng, dtype=F64)
    sigma, after = 0.9, 0.6
    signal = 1 - after if flow_matching else 1.0

    def moved(carry, step):
        options = {"sigmas": [1.0, sigma, after, 0.3, 0.0], "noise": NoiseModel(flow_matching)}
        guided = guidance(GuidanceConfig(mode=mode, strength=0.5), y, carry=carry, **options)
        return step(guided(x0, x, sigma)) - step(x0)

    euler = moved(euler_carry, lambda d: d + (x - d) * after / sigma)
    torch.testing.assert_close(moved(cfg_pp_carry, lambda d: d + (x - u) * after / sigma), euler)
    torch.testing.assert_close(
        moved(euler_cfg_pp_carry, lambda d: signal * d + (x - u) * after / sigma), euler
    )


@pytest.mark.parametrize("space", ["latent", "low_pass", "channel_stats"])
@pytest.mark.parametrize("kernel", ["energy", "laplacian"])
def test_a_singular_kernel_makes_no_nan_of_equal_references(kernel, space, rng):
    """All samples then come to lie upon them, where its pull has no bound."""
    y = torch.randn(1, 4, 6, 6, generator=rng).expand(2, 4, 6, 6).contiguous()
    for n in (1, 2):
        config = GuidanceConfig(kernel=KernelConfig(kernel, feature_space=space), end_percent=1.0)
        run, x = guidance(config, y[:n]), SIGMAS[0] * torch.randn(9, 4, 6, 6, generator=rng)
        for sigma, after in itertools.pairwise(SIGMAS):
            x0 = run(x / (1 + sigma**2), x, sigma)
            assert x0.isfinite().all() and x0.abs().max() < 100
            x = x0 + (x - x0) * after / sigma
