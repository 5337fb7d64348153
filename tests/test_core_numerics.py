"""How exact guidance is in float32, in half precision and with TF32: some cells of benchmarks/numerics.py."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from numerics import Tf32, errors, rounded  # noqa: E402

RADIAL = ["rbf", "imq", "laplacian", "energy"]
DIMS = [64, 16_384, 262_144]


def test_tf32_keeps_ten_bits_of_factors_and_nothing_of_sums():
    assert rounded(torch.tensor([1 + 2**-10, 1 + 2**-12, -3.0])).tolist() == [1 + 2**-10, 1, -3]
    a, b = torch.full((1, 4), 1 + 2.0**-12), torch.full((4, 1), 4096.0)
    with Tf32():
        assert (a @ b).item() == 4 * 4096
        assert (a * 4096).sum().item() == 4 * 4097
        assert torch.addmm(torch.tensor([[2.0**-12]]), a, b * 0).item() == 2.0**-12
    assert (a @ b).item() == 4 * 4097


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kernel", RADIAL)
def test_kernels_of_distances_do_not_mind_where_latents_are(kernel, dim, offset):
    """Measured: up to 2e-6 in float32, wherever they are, and up to 1.1e-3 between TF32 and it."""
    plain, tf32 = errors(kernel, "held", dim, offset)
    assert plain < 5e-6
    assert tf32 < (1e-3 if kernel != "energy" else 1.3e-3)


@pytest.mark.parametrize("kernel", [*RADIAL, "polynomial", "linear"])
@pytest.mark.parametrize("dim", DIMS[:2])
def test_streamed_as_held_and_half_precision_to_three_digits(dim, kernel):
    """Measured: the same as if held; up to 2e-4 in half precision."""
    assert errors(kernel, "streamed", dim, 0.0)[0] < 5e-6
    assert errors(kernel, "fp16", dim, 0.0)[0] < 4e-4


@pytest.mark.parametrize("kernel", ["polynomial", "linear"])
@pytest.mark.parametrize("offset, most", [(0.0, 2e-6), (1.0, 2e-5), (10.0, 2e-4)])
def test_kernels_of_products_lose_digits_with_the_origin(offset, most, kernel):
    """They see the origin: at 10 deviations from it, which no latents are, measured 6e-5."""
    for dim in DIMS[:2]:
        plain, tf32 = errors(kernel, "held", dim, offset)
        assert plain < most
        if offset == 0:
            assert tf32 < 1e-3
