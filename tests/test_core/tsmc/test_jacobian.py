"""J of the denoiser from samples, against the exact Jacobian of Gaussians in all directions."""

import pytest
import torch
from mmd_pack.mmd_core import NoiseModel
from mmd_pack.mmd_core.tsmc import DenoiserJacobian, transitions, white

F64 = torch.float64
CHAINS = {
    "eps": transitions([14.0, 3.0, 1.0, 0.2, 0.0]),
    "flow": transitions([1.0, 0.8, 0.5, 0.1, 0.0], NoiseModel(flow_matching=True)),
    "noise of standard deviation 8": transitions([1.0, 0.8, 0.1, 0.0], NoiseModel(True, scale=8.0)),
}


def exact(covariance, step):
    """∂ E[x0 | x] / ∂x for Gaussian x0 and x = α x0 + σ n."""
    noisy = step.signal**2 * covariance + step.deviation**2 * torch.eye(len(covariance), dtype=F64)
    return step.signal * covariance @ torch.linalg.inv(noisy)


@pytest.mark.parametrize("name", CHAINS)
def test_along_a_principal_direction_it_is_the_jacobian_of_the_samples_covariance(name, rng):
    samples = torch.randn(9, 6, generator=rng, dtype=F64) * torch.tensor([9.0, 3, 1, 1, 0.3, 0.1])
    covariance = torch.cov(samples.T)
    _, vectors = torch.linalg.eigh(covariance)
    jacobian = DenoiserJacobian(samples)
    for step in CHAINS[name]:
        expected = (exact(covariance, step) @ vectors).T
        torch.testing.assert_close(jacobian(vectors.T, step), expected, rtol=1e-9, atol=1e-12)


def test_of_white_samples_it_is_white(rng):
    samples = torch.randn(4000, 5, generator=rng, dtype=F64)
    g = torch.randn(3, 5, generator=rng, dtype=F64)
    for step in CHAINS["eps"]:
        torch.testing.assert_close(
            DenoiserJacobian(samples)(g, step), white(g, step), rtol=0.1, atol=0
        )


def test_it_is_linear_along_a_direction_and_keeps_shape_and_dtype(rng):
    samples = torch.randn(8, 4, 3, 2, generator=rng)
    g, step = torch.randn(5, 4, 3, 2, generator=rng), CHAINS["eps"][1]
    jacobian = DenoiserJacobian(samples.half())
    torch.testing.assert_close(jacobian(3 * g, step), 3 * jacobian(g, step))
    assert jacobian(g, step).shape == g.shape and jacobian(g.half(), step).dtype == torch.float16
    assert jacobian(torch.zeros_like(g), step).abs().max() == 0


def test_one_sample_or_equal_ones_give_no_direction(rng):
    g, step = torch.randn(2, 6, generator=rng), CHAINS["eps"][1]
    for samples in (torch.ones(1, 6), torch.ones(5, 6)):
        assert DenoiserJacobian(samples)(g, step).abs().max() == 0
