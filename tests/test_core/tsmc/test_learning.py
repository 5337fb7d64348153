"""The iterations: what all paths together say, and how θ follows from it."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from mmd_pack.mmd_core.tsmc import Learning, TSMCConfig, propose
from mmd_pack.mmd_core.tsmc.trust_region import project, tempered
from mmd_tests.studies.steering.methods import importance
from mmd_tests.studies.steering.worlds import F64, linear

CONFIG = TSMCConfig(16, 3, standardize=False, reward_scale=3.0)


def batch(learning, rng, n=16, twist=None):
    """h, H and rewards of paths of a small world, drawn at `theta`."""
    world = linear(2, learning.config.reward_scale)
    blocks = len(learning.theta)
    noise = lambda i: torch.randn(n, 2, generator=rng, dtype=F64)  # noqa: E731
    start = world.start(n, rng)
    paths = propose(
        world.denoise, start, world.steps, noise, twist or world.twist(blocks), learning.theta
    )
    return paths.h, paths.H, world.reward.value(paths.z)


def unsteered(config, size=1):
    """A state whose next batch is drawn from the model itself: θ = 0."""
    start = Learning.start(config, size)
    return dataclasses.replace(start, theta=torch.zeros(size, dtype=F64))


def learned(rng, config=CONFIG, size=2, batches=3, pilot=False):
    learning = (unsteered if pilot else Learning.start)(config, size)
    for k in range(batches):
        drawn = batch(learning, rng)
        first = pilot and k == 0
        learning = Learning.piloted(config, *drawn) if first else learning.learned(*drawn)
    return learning


def test_weights_are_those_of_the_mixture(rng):
    learning = learned(rng)
    n, scale = 48, CONFIG.reward_scale
    expected = []
    for i in range(n):
        density = sum(
            16 / n * math.exp(theta @ learning.h[i] - 0.5 * theta @ learning.H[i] @ theta)
            for theta in learning.proposals
        )
        expected.append(math.exp(scale * learning.rewards[i]) / density)
    expected = torch.tensor(expected, dtype=F64)
    torch.testing.assert_close(learning.log_weights, expected.log())
    torch.testing.assert_close(learning.weights, expected / expected.sum())
    assert learning.log_z == pytest.approx(expected.mean().log().item())
    ess = expected.sum() ** 2 / expected.square().sum()
    assert learning.ess == pytest.approx(ess.item())


def test_paths_of_one_law_are_plain_importance_sampling(rng):
    """A mixture of equal laws is that law."""
    config = TSMCConfig(16, 3, standardize=False, reward_scale=3.0, theta_init=0.0)
    start = Learning.start(config, 1)
    h, H, rewards = batch(start, rng)
    one = start.learned(h, H, rewards)
    again = dataclasses.replace(one, theta=torch.zeros(1, dtype=F64)).learned(h, H, rewards)
    torch.testing.assert_close(one.log_weights, 3.0 * rewards)
    torch.testing.assert_close(again.log_weights, 3.0 * rewards.repeat(2))
    assert again.ess == pytest.approx(2 * one.ess)


def test_theta_is_the_projection_of_the_tempered_paths(rng):
    before = learned(rng)
    drawn = batch(before, rng)
    after = before.learned(*drawn)
    h, H = torch.cat([before.h, drawn[0]]), torch.cat([before.H, drawn[1]])

    def ratio(theta):
        return h @ theta - 0.5 * torch.einsum("p,npq,q->n", theta, H, theta)

    laws = torch.stack([ratio(theta) for theta in (*before.proposals, before.theta)])
    mixture = laws.exp().mean(0).log()
    own = ratio(before.theta)
    tilt = 3.0 * torch.cat([before.rewards, drawn[2]])
    step = tempered(tilt - own, 1.0, own - mixture)
    prior = torch.full((2,), 0.5, dtype=F64)
    torch.testing.assert_close(
        after.theta, project(before.theta, step.weights, h, H, 1.0, prior, 0.5)
    )
    assert after.summaries[-1].tau == pytest.approx(step.tau)
    assert after.summaries[-1].kl == pytest.approx(step.kl)
    assert step.kl <= 1.0 + 1e-9


def test_the_summary_of_a_pass_is_of_its_own_batch(rng):
    before = learned(rng, batches=2)
    h, H, rewards = batch(before, rng)
    told = before.learned(h, H, rewards).summaries[-1]
    theta = before.theta
    own = 3.0 * rewards - h @ theta + 0.5 * torch.einsum("p,npq,q->n", theta, H, theta)
    assert told.log_z == pytest.approx(own.exp().mean().log().item())
    assert told.ess == pytest.approx((own.exp().sum() ** 2 / (2 * own).exp().sum()).item())
    assert told.kl_spent == pytest.approx((0.5 * theta @ H.mean(0) @ theta).item())
    assert told.theta == tuple(theta.tolist())
    assert (told.reward, told.best) == (rewards.mean().item(), rewards.max().item())
    assert (told.count, told.unusable) == (16, 0)


def test_the_kl_spent_is_what_the_paths_show(rng):
    """KL(Q_θ ‖ P) = E_Q[log dQ/dP]."""
    start = Learning.start(dataclasses.replace(CONFIG, theta_init=1.0), 1)
    h, H, rewards = batch(start, rng, 4000)
    told = start.learned(h, H, rewards).summaries[-1].kl_spent
    ratio = h[:, 0] - 0.5 * H[:, 0, 0]
    assert abs(ratio.mean().item() - told) < 4 * ratio.std().item() / math.sqrt(4000)


def test_after_a_pilot_theta_is_where_learning_begins(rng):
    """No update; its rewards set the scale, for good; its paths count."""
    config = dataclasses.replace(CONFIG, standardize=True)
    pilot = learned(rng, config, batches=1, pilot=True)
    assert pilot.proposals[0].tolist() == [0.0, 0.0]
    assert pilot.theta.tolist() == [0.5, 0.5]
    assert pilot.mean == pytest.approx(pilot.rewards.mean().item())
    assert pilot.sd == pytest.approx(pilot.rewards.std(correction=0).item())
    assert pilot.summaries[0].tau is None
    drawn = batch(pilot, rng)
    after = pilot.learned(*drawn)
    assert (after.mean, after.sd) == (pilot.mean, pilot.sd)
    assert after.counts == (16, 16)
    assert not torch.equal(after.theta, pilot.theta)
    standard = (torch.cat([pilot.rewards, drawn[2]]) - pilot.mean) / pilot.sd
    torch.testing.assert_close(after.tilt, 3.0 * standard)


def test_a_pilot_of_absolute_rewards_leaves_them(rng):
    pilot = learned(rng, batches=1, pilot=True)
    assert (pilot.mean, pilot.sd) == (0.0, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_unusable_score_has_no_weight(bad, rng):
    """The rest as if the reward had been very low there, whatever the kind of infinity."""
    start = Learning.start(CONFIG, 1)
    h, H, rewards = batch(start, rng)
    broken, low = rewards.clone(), rewards.clone()
    broken[5], low[5] = bad, -1e4
    found, expected = start.learned(h, H, broken), start.learned(h, H, low)
    assert found.weights[5] == 0
    torch.testing.assert_close(found.weights, expected.weights)
    torch.testing.assert_close(found.theta, expected.theta, rtol=1e-3, atol=1e-3)
    assert found.log_z == pytest.approx(expected.log_z)
    assert found.summaries[-1].unusable == 1
    assert math.isfinite(found.summaries[-1].reward) and math.isfinite(found.summaries[-1].best)
    usable = torch.cat([rewards[:5], rewards[6:]])
    pilot = Learning.piloted(dataclasses.replace(CONFIG, standardize=True), h, H, broken)
    assert pilot.mean == pytest.approx(usable.mean().item())
    # And in a later batch, beside paths of the first.
    assert found.learned(h, H, broken).weights[[5, 21]].tolist() == [0, 0]


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("pilot", [False, True])
def test_no_usable_score_is_an_error(pilot, standardize, rng):
    config = dataclasses.replace(CONFIG, standardize=standardize)
    start = (unsteered if pilot else Learning.start)(config, 1)
    h, H, rewards = batch(start, rng)
    learn = partial(Learning.piloted, config) if pilot else start.learned
    with pytest.raises(ValueError, match="all rewards are NaN or infinite"):
        learn(h, H, torch.full_like(rewards, math.nan))


@pytest.mark.parametrize("pilot", [False, True])
def test_a_path_of_a_broken_model_has_no_weight(pilot, rng):
    """Its sums are NaN, its score may be any number."""
    start = (unsteered if pilot else Learning.start)(CONFIG, 1)
    learn = partial(Learning.piloted, CONFIG) if pilot else start.learned
    h, H, rewards = batch(start, rng)
    broken, scores = h.clone(), rewards.clone()
    broken[5], scores[5] = math.nan, math.nan
    found, expected = learn(broken, H, rewards), learn(h, H, scores)
    assert found.weights[5] == 0
    torch.testing.assert_close(found.weights, expected.weights)
    torch.testing.assert_close(found.theta, expected.theta)
    assert found.summaries[-1].unusable == 1
    after = found.learned(broken, H, rewards)
    assert after.theta.isfinite().all() and math.isfinite(after.log_z)


def test_a_constant_reward_teaches_nothing(rng):
    config = dataclasses.replace(CONFIG, standardize=True)
    h, H, rewards = batch(unsteered(config), rng)
    for value in (0.0, 7.0, 1e6):
        constant = Learning.piloted(config, h, H, torch.full_like(rewards, value))
        assert constant.constant
        assert constant.theta.tolist() == [0.0]
        torch.testing.assert_close(constant.weights, torch.full((16,), 1 / 16, dtype=F64))
        assert constant.log_z == pytest.approx(0, abs=1e-6)
    assert not Learning.piloted(config, h, H, rewards).constant


@pytest.mark.parametrize("pilot", [False, True])
def test_the_proposal_goes_no_farther_than_it_may(pilot, rng):
    config = dataclasses.replace(CONFIG, theta_init=3.0, max_total_kl=0.2)
    after = learned(rng, config, batches=3, pilot=pilot)
    free = learned(
        torch.Generator().manual_seed(0),
        dataclasses.replace(config, max_total_kl=1e9),
        batches=3,
        pilot=pilot,
    )
    assert free.summaries[-1].kl_spent > 2
    assert all(told.kl_spent < 0.3 for told in after.summaries[1:])
    assert after.theta.abs().max() > 0.01


def test_without_a_feature_it_is_importance_sampling():
    world = linear(2, 3.0)
    found = importance(world, 1, 1, 16)
    start = Learning.start(CONFIG, 0)
    rng = torch.Generator().manual_seed(1)
    noise = lambda i: torch.randn(16, 2, generator=rng, dtype=F64)  # noqa: E731
    paths = propose(world.denoise, world.start(16, rng), world.steps, noise)
    after = start.learned(paths.h, paths.H, world.reward.value(paths.z))
    assert after.log_z == pytest.approx(found.log_z[0].item())
    assert after.theta.shape == (0,)


def values_of(learning):
    tensors = (learning.theta, *learning.proposals, learning.h, learning.H, learning.rewards)
    return [tensor.clone() for tensor in tensors], (
        learning.counts,
        learning.mean,
        learning.sd,
        learning.summaries,
    )


def test_what_was_learned_never_changes(rng):
    """Each batch makes a new one, of its own copies; two from one are independent."""
    start = Learning.start(CONFIG, 1)
    drawn = batch(start, rng)
    first = start.learned(*drawn)
    for each in drawn:
        each.zero_()
    assert len(start.h) == 0 and (first.h != 0).any() and (first.rewards != 0).any()
    before = learned(rng)
    tensors, rest = values_of(before)
    drawn = batch(before, rng)
    one, two = before.learned(*drawn), before.learned(*drawn)
    for each in drawn:
        each.zero_()
    again = values_of(before)
    assert all(map(torch.equal, tensors, again[0])) and rest == again[1]
    assert torch.equal(one.theta, two.theta)
    assert torch.equal(one.h, two.h) and one.h.abs().max() > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.mean = 1.0


def test_same_seed_same_result():
    one, two = (learned(torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one.theta, two.theta) and torch.equal(one.log_weights, two.log_weights)


def test_rewards_may_come_in_float32(rng):
    start = Learning.start(CONFIG, 1)
    h, H, rewards = batch(start, rng)
    single = start.learned(h.float(), H.float(), rewards.float())
    assert single.h.dtype == single.rewards.dtype == single.theta.dtype == F64
    torch.testing.assert_close(
        single.theta, start.learned(h, H, rewards).theta, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("size", [1, 3])
def test_scaling_features_down_is_scaling_theta_up(size, rng):
    """h ∝ 1/sd and H ∝ 1/sd²: what a standardised reward needs of the sums of a raw one."""
    config = dataclasses.replace(CONFIG, theta_init=0.0, theta_prior_sd=1e3, max_total_kl=1e9)
    start = Learning.start(config, size)
    h, H, rewards = batch(start, rng)
    one, other = start.learned(h, H, rewards), start.learned(h / 4, H / 16, rewards)
    torch.testing.assert_close(other.theta, 4 * one.theta, rtol=1e-3, atol=1e-3)


def test_the_jump_from_a_pilot_goes_no_farther_than_its_paths_can_tell(rng):
    config = dataclasses.replace(CONFIG, theta_init=0.5, max_total_kl=1e9)
    rewards = torch.randn(16, generator=rng, dtype=F64)
    for information, expected in ((0.4, 0.05), (4000.0, math.log(16))):
        H = torch.full((16, 1, 1), information, dtype=F64)
        theta = Learning.piloted(config, torch.zeros(16, 1, dtype=F64), H, rewards).theta
        assert 0.5 * theta.item() ** 2 * information == pytest.approx(expected)


def test_a_first_batch_apart_has_no_weight_once_there_is_another(rng):
    """As if the others were all there is, but for the scale, which it still sets."""
    config = dataclasses.replace(CONFIG, standardize=True)
    alone = Learning.piloted(config, *batch(unsteered(config, 2), rng), excludes_pilot=True)
    assert torch.isfinite(alone.log_weights).all() and math.isfinite(alone.log_z)
    learning = alone.learned(*batch(alone, rng))
    learning = learning.learned(*batch(learning, rng))
    first = learning.counts[0]
    assert learning.weights[:first].tolist() == [0.0] * first
    others = dataclasses.replace(
        learning, excludes_pilot=False, proposals=learning.proposals[1:], counts=learning.counts[1:],
        h=learning.h[first:], H=learning.H[first:], rewards=learning.rewards[first:],
    )  # fmt: skip
    assert learning.log_z == pytest.approx(others.log_z, abs=1e-12)
    assert learning.ess == pytest.approx(others.ess)
    torch.testing.assert_close(learning.weights[first:], others.weights)
    assert learning.summaries[-1].all_log_z == learning.log_z
