"""Contrast of references and base images, against its formula written out on whole latents."""

import pytest
import torch
from mmd_pack.mmd_core import (
    FEATURE_SPACES,
    KERNELS,
    Base,
    GuidanceConfig,
    KernelConfig,
    Memory,
)
from mmd_tests.support.guidance_runs import F64, equal, guidance, latents, make

NOTHING = torch.zeros(1, dtype=F64)


def base_images(rng, count=7, shift=-0.5):
    return Base(latents(rng, count, shift), equal(count))


def witness(w, y, b, h, lacking=NOTHING):
    """Σ k(w, y)/N − Σ k(w, b)/M by plain differences, for rows w (B, D)."""

    def near(z):
        d2 = (w[:, None] - z).square().sum(2) + lacking[:, None]
        return sum(torch.exp(-d2 / 2 / each**2) for each in h) / len(h)

    return near(y).mean(1) - near(b).mean(1)


def contrast_directly(x0, y, b, h, reach, lacking, partners=None, steps=2000):
    """w' = 2 unit ∇f(w) · rest(w) by Euler's method; f_Y and f_B by leaving out one row at a time."""
    w, y, b = (part.flatten(1) for part in (x0, y, b))
    partners = torch.full((len(b),), -1) if partners is None else partners
    of_y, of_b = torch.arange(len(y)), torch.arange(len(b))
    f_y = [witness(y[j : j + 1], y[of_y != j], b[partners != j], h) for j in of_y]
    f_b = [witness(b[j : j + 1], y[of_y != partners[j]], b[of_b != j], h) for j in of_b]
    f_y, f_b = torch.stack(f_y).mean(), torch.stack(f_b).mean()
    assert f_y > f_b
    for _ in range(steps):
        velocity = torch.zeros_like(w)
        for rows, sign in ((y, 1), (b, -1)):
            way = rows - w[:, None]
            for each in h:
                d2 = way.square().sum(2) + lacking[:, None]
                pull = torch.exp(-d2 / 2 / each**2) / len(h)
                velocity += sign * 2 / len(rows) * (pull[:, :, None] * way).sum(1)
        rest = ((f_y - witness(w, y, b, h, lacking)) / (f_y - f_b)).clamp(0, 1)
        w = w + reach / steps * rest[:, None] * velocity
    return w.reshape(x0.shape)


@pytest.mark.parametrize("strength, tolerance", [(0.002, 5e-3), (6.0, 2e-2), (40.0, 3e-2)])
@pytest.mark.parametrize("partners", [None, torch.tensor([4, 0, -1, 5, 0, 2, 1])])
def test_contrast_is_its_flow_computed_directly(partners, strength, tolerance, rng):
    y, x0, x = make(rng)
    base = base_images(rng)._replace(partners=partners)
    run = guidance(GuidanceConfig(strength=strength, preserve=0), y, base=base, record=True)
    guided = run(x0, x, 2.5)
    fraction = 1 - 1.0 / 2.5
    h, lacking = (
        run.comparison.kernel.bandwidths,
        run.comparison.posterior.lacking(x - x0, 2.5, each=True),
    )
    reach = strength * fraction
    expected = contrast_directly(x0, y, base.latents, h, reach, lacking, partners) - x0
    assert ((guided - x0) * fraction - expected).norm() / expected.norm() < tolerance


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("space", [name for name in FEATURE_SPACES if name != "patches"])
def test_images_do_not_act_on_each_other(kernel, space, rng):
    """Each of a batch is drawn as it is alone, also beside finished images."""
    y, x0, x = make(rng)
    config = GuidanceConfig(kernel=KernelConfig(kernel, feature_space=space), preserve=0)
    base, finished = base_images(rng), Memory(latents(rng, 3))
    together = guidance(config, y, base=base, memory=finished)(x0, x, 2.5)
    for i in range(len(x0)):
        alone = guidance(config, y, base=base)(x0[i : i + 1], x[i : i + 1], 2.5)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=1e-6)


def test_images_rest(rng):
    """Twice as long is not twice as far: at the goal nothing moves any more."""
    y, x0, x = make(rng, n=20)
    y = y + 1
    base = base_images(rng, 20)
    moved = []
    for strength in (5.0, 500.0, 1000.0):
        run = guidance(GuidanceConfig(strength=strength, preserve=0), y, base=base)
        moved.append((run(x0, x, 2.5) - x0).flatten(1).norm(dim=1))
    assert (moved[0] < moved[1]).all()
    torch.testing.assert_close(moved[1], moved[2], rtol=0.02, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("known", [False, True])
def test_a_set_like_the_base_images_moves_nothing(known, kernel, rng):
    y, x0, x = make(rng)
    same = Base(y.clone(), equal(len(y)), partners=torch.arange(len(y)) if known else None)
    run = guidance(GuidanceConfig(kernel=KernelConfig(kernel)), y, base=same)
    torch.testing.assert_close(run(x0, x, 2.5), x0, rtol=0, atol=1e-9)


def test_a_slight_style_of_very_different_things_is_followed(rng):
    """References and base images show the same things, far apart; each thing differs by the style.

    Counted as strangers, partners make both look alike, and nothing would move.
    """
    _, x0, x = make(rng)
    things = 2 * latents(rng, 24)
    style = 0.5 * torch.ones_like(things[0])
    moved = {}
    for partners in (None, torch.arange(len(things))):
        base = Base(things, equal(len(things)), partners=partners)
        run = guidance(GuidanceConfig(preserve=0), things + style, base=base)
        moved[partners is None] = ((run(x0, x, 2.5) - x0).flatten(1) @ style.flatten()).mean()
    assert moved[True] == 0
    assert moved[False] > 0


def test_base_images_do_not_count_in_mmd2(rng):
    y, x0, x = make(rng)
    plain = guidance(GuidanceConfig(), y, record=True)
    with_base = guidance(GuidanceConfig(), y, base=base_images(rng), record=True)
    plain.comparison.each = (
        True  # what estimates lack counts in it, and is measured as in a contrast
    )
    for run in (plain, with_base):
        run(x0, x, 2.5)
    assert with_base.trace[0].mmd2_before == pytest.approx(plain.trace[0].mmd2_before, rel=1e-9)
    finished = [run.finished(x0) for run in (plain, with_base)]
    assert finished[0].mmd2 == pytest.approx(finished[1].mmd2, rel=1e-9)
    assert finished[0].nearest == finished[1].nearest


def test_each_prompt_has_a_contrast_of_its_own(rng):
    """Images follow the references and base images of their own caption; other prompts nothing."""
    y, x0, x = make(rng, batch=3, n=8)
    axes = torch.eye(3, dtype=F64)
    captions = axes[[0] * 4 + [1] * 4]
    base = latents(rng, 6, -0.5)
    config = GuidanceConfig(
        kernel=KernelConfig(prompt_kernel="cosine", bandwidth="fixed", bandwidth_value=30.0)
    )
    run = guidance(config, y, captions=captions, base=Base(base, equal(6), axes[[0] * 3 + [1] * 3]))
    guided = run(x0, x, 2.5, axes)
    torch.testing.assert_close(guided[2], x0[2], rtol=0, atol=0)
    blind = GuidanceConfig(kernel=KernelConfig(bandwidth="fixed", bandwidth_value=30.0))
    for i, (given, own) in enumerate(((y[:4], base[:3]), (y[4:], base[3:]))):
        single = guidance(blind, given, base=Base(own, equal(3)))
        # What the estimates lack is a figure of the set and the batch: taken from the same.
        single.comparison.posterior.lacking = run.comparison.posterior.lacking
        torch.testing.assert_close(guided[i], single(x0, x, 2.5)[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("equal_rows", [False, True])
def test_few_and_equal_references_stay_finite(kernel, n, equal_rows, rng):
    y, x0, x = make(rng, n=n)
    y = y[:1].repeat(n, 1, 1, 1) if equal_rows else y
    for count in (1, 2):
        base = Base(latents(rng, 1).repeat(count, 1, 1, 1), equal(count))
        run = guidance(GuidanceConfig(kernel=KernelConfig(kernel)), y, base=base, record=True)
        assert run(x0, x, 2.5).isfinite().all()


@pytest.mark.parametrize(
    "options, captions, words",
    [
        ({"mode": "paper"}, None, "mode paper does not use base images"),
        ({"mode": "official"}, None, "disconnect base"),
        ({"kernel": KernelConfig(feature_space="patches")}, None, "not by patches"),
        ({"kernel": KernelConfig(prompt_kernel="cosine")}, torch.eye(9, dtype=F64), "carry none"),
    ],
)
def test_settings_that_do_not_allow_base_images(options, captions, words, rng):
    y, _, _ = make(rng)
    with pytest.raises(ValueError, match=words):
        guidance(GuidanceConfig(**options), y, base=base_images(rng), captions=captions)
