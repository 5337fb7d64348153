"""Paths: their density ratio against Gaussian log densities, their recording, the base chain."""

import math

import pytest
import torch
from mmd_pack.mmd_core.tsmc import (
    GradientTwist,
    Recording,
    propose,
    replayed,
)
from mmd_pack.mmd_core.tsmc.twist import MAX_SHIFT
from mmd_tests.studies.steering.worlds import F64, linear, normals, witness

BLOCKS = 3
THETA = torch.tensor([0.7, -0.4, 1.2], dtype=F64)


def world_of(flow):
    return linear(16, 4.0, flow)


class Drawn:
    """Paths with all their x, and the noise that they were drawn with."""

    def __init__(self, world, n=5, twist=None, theta=None, record=False, seed=3):
        self.world, self.x = world, []
        self.noise = normals(seed, len(world.steps), n, world.dim)
        start = world.start(n, torch.Generator().manual_seed(seed))
        noise = lambda i: self.noise[i]  # noqa: E731
        self.paths = propose(self._denoise, start, world.steps, noise, twist, theta, record)
        self.x.append(self.paths.z)

    def _denoise(self, x, i):
        self.x.append(x)
        return self.world.denoise(x, i)


def normal_log_density(x, mean, sd):
    return (-0.5 * ((x - mean) / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi))).sum(1)


def left_half(d):
    return (torch.arange(d) < d // 2).to(F64)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("flow", [False, True])
def test_the_ratio_is_the_sum_of_log_density_differences(flow, masked):
    """Acceptance 3: to 1e-9."""
    world = world_of(flow)
    mask = left_half(world.dim) if masked else None
    twist = GradientTwist(
        lambda x: world.scale * x.cos() * world.reward.a, world.steps, BLOCKS, mask
    )
    drawn = Drawn(world, twist=twist, theta=THETA)
    levels = [math.log(step.sigma) for step in world.steps if step.noise > 0]
    expected = torch.zeros(5, dtype=F64)
    for i, step in enumerate(world.steps[:-1]):
        x, after, x0 = drawn.x[i], drawn.x[i + 1], world.denoise(drawn.x[i], i)
        share = (levels[0] - levels[i]) / (levels[0] - levels[-1])
        phi = step.slope * world.scale * x0.cos() * world.reward.a
        if masked:
            phi = phi * mask
        assert (phi.norm(dim=1) * step.noise < MAX_SHIFT).all()
        moved = step.mean(x, x0) + step.noise**2 * THETA[min(int(share * 3), 2)] * phi
        expected += normal_log_density(after, moved, step.noise)
        expected -= normal_log_density(after, step.mean(x, x0), step.noise)
    paths = drawn.paths
    ratio = paths.h @ THETA - 0.5 * torch.einsum("p,npq,q->n", THETA, paths.H, THETA)
    assert expected.abs().max() > 0.1
    assert (ratio - expected).abs().max() < 1e-9


@pytest.mark.parametrize("flow", [False, True])
def test_theta_0_is_the_plain_chain(flow):
    """Acceptance 9: with the same noise, to the last bit."""
    world = world_of(flow)
    plain = Drawn(world)
    turned = Drawn(world, twist=world.twist(BLOCKS), theta=torch.zeros(BLOCKS, dtype=F64))
    x = plain.x[0]
    for i, step in enumerate(world.steps):
        x = step.mean(x, world.denoise(x, i)) + step.noise * plain.noise[i]
    assert torch.equal(plain.paths.z, x)
    assert torch.equal(turned.paths.z, x)
    assert plain.paths.h.shape == (5, 0) and plain.paths.H.shape == (5, 0, 0)


def test_masked_samples_move_only_where_they_may():
    world = world_of(False)
    mask = left_half(world.dim)
    twist = GradientTwist(lambda x: torch.ones_like(x), world.steps, 1, mask)
    which, features = twist(normals(0, 3, world.dim), 4)
    assert which == slice(0, 1)
    assert (features[:, 0, : world.dim // 2] != 0).all()
    assert (features[:, 0, world.dim // 2 :] == 0).all()


def test_a_feature_moves_a_sample_by_at_most_so_many_standard_deviations():
    world = world_of(False)
    twist = GradientTwist(lambda x: 1e6 * x, world.steps)
    x0 = normals(0, 3, world.dim)
    for i, step in enumerate(world.steps[:-1]):
        features = twist(x0, i)[1][:, 0]
        assert torch.allclose(
            features.norm(dim=1) * step.noise, torch.full((3,), MAX_SHIFT, dtype=F64)
        )
        assert torch.allclose(
            features / features.norm(dim=1, keepdim=True), x0 / x0.norm(dim=1, keepdim=True)
        )


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_blocks_are_equal_parts_in_log_sigma(blocks):
    world = world_of(False)
    twist = world.twist(blocks)
    found = [twist.block(i) for i in range(len(world.steps) - 1)]
    assert found == sorted(found)
    assert set(found) == set(range(blocks))
    top, low = (math.log(world.steps[i].sigma) for i in (0, -2))
    for i, block in enumerate(found):
        share = (top - math.log(world.steps[i].sigma)) / (top - low) * blocks
        assert block <= share + 1e-9 and (share <= block + 1 + 1e-9)


@pytest.mark.parametrize(
    "dim, make", [(16, lambda: world_of(False)), (16, lambda: witness(16, 20.0))]
)
def test_a_recording_replays_the_sums(dim, make):
    """To the rounding of fp16."""
    world = make()
    twist, theta = world.twist(BLOCKS), THETA.abs()
    paths = Drawn(world, twist=twist, theta=theta, record=True).paths
    again = replayed(paths.recording, world.steps, twist)
    for found, exact in zip(again, (paths.h, paths.H), strict=True):
        assert exact.abs().max() > 0
        assert (found - exact).abs().max() < 4e-3 * exact.abs().max()
    assert all(x.dtype == torch.float16 for x in (*paths.recording.x0, *paths.recording.noise))


def test_recordings_of_parts_join():
    world = world_of(False)
    parts = [Drawn(world, n, record=True, seed=n).paths.recording for n in (2, 3)]
    whole = Recording.joined(parts)
    twist = world.twist()
    for found, a, b in zip(
        replayed(whole, world.steps, twist),
        *(replayed(part, world.steps, twist) for part in parts),
        strict=True,
    ):
        torch.testing.assert_close(found, torch.cat([a, b]))
