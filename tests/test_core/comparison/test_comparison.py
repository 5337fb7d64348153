"""Rows that stand for images in any feature space: their MMD² is that of the features."""

import pytest
import torch
from mmd_pack.mmd_core import KernelConfig
from mmd_pack.mmd_core.comparison.by_features import comparable_rows
from mmd_pack.mmd_core.comparison.feature_maps import make_features
from mmd_pack.mmd_core.comparison.tilings import tile, tiling
from mmd_pack.mmd_core.kernels.config import FEATURE_SPACES
from mmd_pack.mmd_core.kernels.kernels import Gram
from mmd_pack.mmd_core.references.compress import compress


def clusters(rng, n=60):
    """Latents of three palettes."""
    palettes = 2 * torch.randn(3, 2, 1, 1, generator=rng)
    return palettes[torch.arange(n) % 3] + 0.5 * torch.randn(n, 2, 4, 4, generator=rng)


def kernel_between(y, config):
    """k between all images as the feature space means it, with shape `(N, N)`, written out."""
    if config.feature_space != "patches":
        rows = make_features(config.feature_space, y.shape[1:], config.pool)(y).flatten(1)
        rows = rows - rows.mean(0)
        return config.resolve(rows @ rows.T, rows.shape[1]).values(Gram.of(rows, rows))
    kernel = comparable_rows(config, y, torch.ones(len(y)))[0].kernel
    patches = tile(y, tiling((4, 4), (2, 2), (0, 0))[0])
    return torch.stack(
        [torch.stack([kernel.values(Gram.of(a, b)).mean() for b in patches]) for a in patches]
    )


@pytest.mark.parametrize("space", FEATURE_SPACES)
def test_compressed_sets_are_close_by_what_is_compared(space, rng):
    y = clusters(rng)
    config = KernelConfig(feature_space=space, pool=2, patch_size=2)
    rows, compared = comparable_rows(config, y, torch.ones(60))
    done = compress(y, torch.ones(60), 6, compared, features=rows)
    values, w = kernel_between(y, config).double(), torch.zeros(60, dtype=torch.float64)
    w[done.indices] = done.weights.double()
    difference = w - 1 / 60
    assert done.mmd2 == pytest.approx(float(difference @ values @ difference), rel=0.05, abs=1e-5)
    assert done.mmd2 < 0.5 * done.mmd2_random
    assert len({int(j) % 3 for j in done.indices}) == 3  # every palette
