"""The Gram-space engine against the same mathematics on whole latents."""

import pytest
import scipy.fft
import torch
from mmd_pack.mmd_core.config import KERNELS, KernelConfig
from mmd_pack.mmd_core.coupling import Coupling
from mmd_pack.mmd_core.gram_space import GramSpace
from mmd_pack.mmd_core.mmd import mmd2, mmd2_grad
from mmd_pack.mmd_core.spectrum import Spectrum

F64 = torch.float64
SHAPE = (4, 12, 10)


def latents(rng, n, shift=0.0, shape=SHAPE):
    """Smooth latents: low frequencies dominate, as in pictures."""
    noise = torch.randn(n, *shape, generator=rng, dtype=F64)
    if len(shape) >= 3:
        noise = noise + noise.mean((-2, -1), keepdim=True) * 8
    return noise + shift


def matched_directly(y, weights, level, to_match=None):
    """References shrunk towards their mean by √W, one coefficient after the other."""
    spectrum = Spectrum(y.shape[1:], y.device, y.dtype)
    mean = (weights[:, None, None, None] * y).sum(0)
    coefficients = torch.from_numpy(scipy.fft.dctn((y - mean).numpy(), axes=(-2, -1), norm="ortho"))
    power = (weights[:, None, None, None] * coefficients.square()).sum(0).flatten()
    root = torch.empty_like(power)
    for band in range(spectrum.bands):
        inside = spectrum.band == band
        if inside.any():
            v = power[inside].mean()
            root[inside] = (v / (v + level**2)).sqrt()
    rows = y if to_match is None else to_match
    moved = (
        scipy.fft.dctn((rows - mean).numpy(), axes=(-2, -1), norm="ortho")
        * root.reshape(y.shape[1:]).numpy()
    )
    return mean + torch.from_numpy(scipy.fft.idctn(moved, axes=(-2, -1), norm="ortho"))


def test_spectrum_is_the_orthonormal_dct(rng):
    x = latents(rng, 3)
    spectrum = Spectrum(SHAPE, x.device, x.dtype)
    expected = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(spectrum.forward(x), expected.flatten(1))
    torch.testing.assert_close(spectrum.inverse(spectrum.forward(x)), x)


def test_bands_go_from_the_mean_to_the_finest_detail():
    band = Spectrum((2, 16, 16), "cpu", F64).band.reshape(2, 16, 16)
    assert (band == 0).sum() == 2 and band[0, 0, 0] == 0
    assert (band[0, 0].diff() >= 0).all() and (band[0].T[0].diff() >= 0).all()
    assert torch.equal(band[0], band[1])


@pytest.mark.parametrize("shape", [(6,), (5, 6), (4, 6, 5), (4, 1, 6, 5)])
def test_projection_and_displacement_for_any_rank(shape, rng):
    y, x = latents(rng, 5, shape=shape), latents(rng, 3, 0.3, shape)
    weights = torch.full((5,), 0.2, dtype=F64)
    for matched in (False, True):
        projection = GramSpace(y, weights, matched=matched).project(x, level=0.7)
        to_w, to_z = torch.randn(3, 3, generator=rng, dtype=F64), torch.zeros(3, 5, dtype=F64)
        moved = projection.start().moved(to_w, to_z).displacement()
        centred = (x - y.mean(0)).flatten(1)
        torch.testing.assert_close(moved.flatten(1), to_w @ centred)


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_gradient_and_mmd2_equal_the_direct_ones(name, matched, rng):
    """Also after moving, when samples are combinations, and with unequal weights."""
    y, x = latents(rng, 6), latents(rng, 4, 0.3)
    q = torch.rand(6, generator=rng, dtype=F64)
    q = q / q.sum()
    radial = name not in ("polynomial", "linear")
    space = GramSpace(y, q, centred=radial, matched=matched and radial)
    kernel = KernelConfig(kernel=name).resolve(space.gram.sum(0), x[0].numel())
    level = 0.8
    target = matched_directly(y, q, level) if matched and radial else y
    coupling = Coupling(torch.full((4,), 0.25, dtype=F64), -q)
    w = space.project(x, level).start()
    for _ in range(3):
        moved = x + w.displacement()
        assert coupling.mmd2(kernel, w) == pytest.approx(
            mmd2(moved, target, kernel, q).item(), abs=1e-7
        )
        to_w, to_z = coupling.gradient(kernel, *w.grams(), in_units=False)
        grad = w.moved(to_w, to_z).displacement() - w.displacement()
        torch.testing.assert_close(
            grad / 4, mmd2_grad(moved, target, kernel, q), rtol=1e-6, atol=1e-10
        )
        w = w.moved(-0.3 * to_w, -0.3 * to_z)


@pytest.mark.parametrize("matched", [False, True])
def test_memory_rows_are_rows_like_any_other(matched, rng):
    """A space with a memory holds the inner products of references and memory together."""
    y, memory, x = latents(rng, 6), latents(rng, 3, 1.0), latents(rng, 2)
    q = torch.full((6,), 1 / 6, dtype=F64)
    projection = GramSpace(y, q, matched=matched).with_memory(memory).project(x, level=0.8)
    rows = torch.cat([y, memory])
    if matched:
        rows = matched_directly(y, q, 0.8, to_match=rows)
    rows, x = (rows - y.mean(0)).flatten(1), (x - y.mean(0)).flatten(1)
    torch.testing.assert_close(projection.zz, rows @ rows.T)
    torch.testing.assert_close(projection.xz, x @ rows.T)
    torch.testing.assert_close(projection.xx, x @ x.T)


def test_matching_vanishes_without_noise_and_leaves_the_mean_with_infinite_noise(rng):
    y = latents(rng, 6)
    space = GramSpace(y, torch.full((6,), 1 / 6, dtype=F64), matched=True)
    plain = (y - y.mean(0)).flatten(1)
    torch.testing.assert_close(space.project(y, 0.0).zz, plain @ plain.T)
    assert space.project(y, float("inf")).zz.abs().max() == 0


def test_a_single_reference_has_no_spread_to_match(rng):
    y = latents(rng, 1)
    projection = GramSpace(y, torch.ones(1, dtype=F64), matched=True).project(latents(rng, 2), 1.0)
    assert torch.isfinite(projection.xz).all() and torch.isfinite(projection.zz).all()
