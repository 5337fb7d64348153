"""On a device that is not there, everything beside guidance finds what it finds on the CPU."""

import pytest
import torch
from mmd_pack.mmd_core import (
    FEATURE_SPACES,
    KernelConfig,
    Latents,
    compress,
    mmd2,
    mmd2_grad,
    score,
)
from mmd_pack.mmd_core.comparison.by_features import comparable_rows
from mmd_pack.mmd_core.ddm.loss import MMDLoss
from mmd_pack.mmd_core.guidance.kept import alike
from mmd_pack.mmd_core.kernels.kernels import RadialKernel
from mmd_pack.mmd_core.tsmc.jacobian import DenoiserJacobian
from mmd_pack.mmd_core.tsmc.surrogate import fitted
from mmd_pack.mmd_core.tsmc.transition import Transition
from mmd_pack.mmd_core.tsmc.witness import Witness
from mmd_tests.support.pretended_device import PretendedDevice, on_device, on_host
from mmd_tests.support.without_kernel import without_kernel
from torch import Tensor

SHAPE = (4, 6, 6)


def drawn(n: int, seed: int) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def scored(place, space):
    config = KernelConfig(feature_space=space, pool=2)
    weights = torch.full((9,), 1 / 9)
    found = score(place(drawn(5, 1)), place(drawn(9, 2)), place(weights), config, permutations=20)
    return torch.tensor([found.mmd2, found.p_value]), found.witness, found.nearest


def compressed(place, space):
    config = KernelConfig(feature_space=space, prompt_kernel="rbf", pool=2)
    latents, captions = drawn(40, 1), drawn(40, 2).flatten(1)[:, :5]
    rows, compared = comparable_rows(config, place(latents), place(torch.full((40,), 1 / 40)))
    device = rows(place(latents[:1])).device
    found = compress(
        latents, torch.ones(40), 6, compared, features=rows, prompts=captions, device=device
    )
    return found.weights, torch.tensor([found.mmd2])


def loss(place, space):
    config = KernelConfig(prompt_kernel="rbf")
    rows, prompts = drawn(12, 1).flatten(1), drawn(12, 2).flatten(1)[:, :5]
    found = MMDLoss(place(rows), config, place(torch.arange(12.0)), place(prompts))
    value, gradient = found(place(rows[:5] + 1), place(prompts[:5]))
    return torch.tensor([value]), gradient


def steered(place, space):
    x, scores = place(drawn(8, 1)), torch.arange(8.0)
    scores[2] = torch.nan
    surrogate = fitted(x, scores)
    config = KernelConfig(feature_space=space, pool=2)
    y = place(drawn(9, 2))
    witness = Witness(config, y, place(torch.full((9,), 1 / 9)), x)
    gradient = witness.gradient(x)
    along = DenoiserJacobian(x)(gradient, Transition(2.0, 1.0, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5, 2.0))
    both = surrogate.value(x), surrogate.gradient(x), witness.value(x), witness.of_base()
    return *both, gradient, along


def measured(place, space):
    x, y, kernel = place(drawn(5, 1)), place(drawn(9, 2)), RadialKernel(bandwidths=(8.0, 16.0))
    near = alike(x, Latents(drawn(9, 2), place(torch.full((9,), 1 / 9))))
    return mmd2(x, y, kernel), mmd2_grad(x, y, kernel, unbiased=True), near


@pytest.mark.parametrize(
    "find, space",
    [(loss, "latent"), (measured, "latent")]
    + [(each, space) for each in (scored, compressed) for space in FEATURE_SPACES]
    + [(steered, space) for space in FEATURE_SPACES if space != "patches"],
)
def test_the_same_on_both(find, space):
    with torch.inference_mode():
        expected = find(lambda tensor: tensor, space)
        with PretendedDevice(forbidden={torch.float64}, missing=without_kernel("MPS")):
            found = on_host(find(on_device, space))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
