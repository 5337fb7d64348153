"""The published recipe as the study writes it: its kicks against autograd, and what it guides and remembers."""

import pytest
import torch
from mmd_tests.studies.quality.published import WAYS, Chain, drawn, kicks, model, unit

ALPHA = 0.05


@pytest.mark.parametrize("kernel", ["polynomial", "unit rbf"])
def test_kicks_are_normalised_gradients_of_mmd2(kernel, rng):
    """Of the last of each queue's samples; with l2norm_img at unit length."""
    memory, z, y = (torch.randn(*n, 12, generator=rng).double() for n in ((2, 3), (2,), (2, 5)))
    found = kicks(kernel, ALPHA, z, memory, y)
    for own, old, others, kick in zip(z, memory, y, found, strict=True):
        rows = torch.cat([old, own[None]])
        if kernel == "unit rbf":
            rows, others = unit(rows), unit(others)
        last = rows[-1].clone().requires_grad_()
        rows = torch.cat([rows[:-1], last[None]])

        def k(a, b):
            if kernel == "polynomial":
                return (a @ b.T / 12 + 1) ** 3
            return torch.exp(-torch.cdist(a, b).square() / 2 / 0.75**2)

        i, j = torch.triu_indices(4, 4, 0 if kernel == "polynomial" else 1)
        pairs = torch.where(i == j, 1, 2) * k(rows, rows)[i, j]
        (g,) = torch.autograd.grad(pairs.sum() / 16 - 2 * k(rows, others).mean(), last)
        expected = ALPHA * g / (g.norm() + 1e-5) * own.norm()
        torch.testing.assert_close(kick, expected, rtol=1e-6, atol=1e-9)


def test_the_first_image_is_free_and_the_memory_lacks_the_last_kick(rng):
    given = torch.randn(9, 64, generator=rng)
    chains = [Chain(way, 2, given) for way in WAYS]
    free, *guided = drawn(model(), chains, images=3, steps=8)
    for chain, images in zip(chains[1:], guided, strict=True):
        assert torch.equal(images[:, 0], free[:, 0]) and not torch.equal(images, free)
        apart = (chain.memory - images).norm(dim=2) / chain.memory.norm(dim=2)
        assert not apart[:, 0].any()
        assert apart[:, 1:].flatten().tolist() == pytest.approx([chain.way.alpha] * 4, rel=0.02)
