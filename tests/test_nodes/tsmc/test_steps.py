"""TSMCInit, TSMCPropose, TSMCUpdate, TSMCSelect: a run step by step, with any scores."""

from dataclasses import fields

import pytest
import torch
from mmd_pack.mmd_core import References
from mmd_pack.mmd_core.tsmc import DenoiserJacobian, GradientTwist, fitted, replayed, white
from mmd_pack.nodes.tsmc.reward_reference import TSMCRewardReference
from mmd_pack.nodes.tsmc.tsmc_init import TSMCInit
from mmd_pack.nodes.tsmc.tsmc_propose import TSMCPropose
from mmd_pack.nodes.tsmc.tsmc_select import TSMCSelect
from mmd_pack.nodes.tsmc.tsmc_update import TSMCUpdate
from mmd_tests.support.tiny_models import gaussian_family
from mmd_tests.support.tsmc_runs import LinearReward, direction, graph, settings, steered

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def model():
    return gaussian_family("SD15")


@pytest.fixture(autouse=True)
def as_in_a_workflow():
    with torch.inference_mode():
        yield


def begin(given: dict, **changed):
    rest = {name: given[name] for name in ("noise", "sigmas", "latent")}
    return TSMCInit.execute(**rest, **settings(**changed)).result[0]


def propose(state, given: dict):
    return TSMCPropose.execute(state, given["guider"]).result


def update(state, scores=None, reward=None):
    reward = None if reward is None else [reward]
    return TSMCUpdate.execute([state], scores, reward).result


def select(state, mode="best", count=4):
    return TSMCSelect.execute(state, mode, count).result


def scores_of(latent: dict, state) -> list[float]:
    """What a scorer of one's own might give: a number for each image."""
    return (
        LinearReward(direction())
        .value(state.model.latent_format.process_in(latent["samples"]))
        .tolist()
    )


def steps(given: dict, batches: int, reward=None, **changed):
    state = begin(given, **changed)
    for _ in range(batches):
        latent, state = propose(state, given)
        state, _ = update(
            state, *([scores_of(latent, state)] if reward is None else [None, reward])
        )
    return state


def test_with_scores_it_is_the_surrogate_of_the_sampler(model):
    """2N + N paths, as TRITSMCSampler draws with a surrogate: bit by bit the same."""
    given = graph(model)
    state = steps(given, 2)
    whole = steered(given, LinearReward(direction()), feature="surrogate", final="all")
    assert state.steering.feature == "surrogate" and len(state.samples) == 12
    assert torch.equal(state.samples, whole[1]["samples"])
    latent, weights, log_z, ess, _ = select(state, "resample", 5)
    assert weights == whole[2] and (log_z, ess) == (whole[3], whole[4])
    again = steered(
        given, LinearReward(direction()), feature="surrogate", final="resample", out_count=5
    )
    assert latent["batch_index"] == again[0]["batch_index"]


def test_with_a_reward_it_is_its_gradient(model):
    given = graph(model)
    state = steps(given, 3, LinearReward(direction()), feature="gradient")
    whole = steered(given, LinearReward(direction()), final="all")
    assert state.steering.feature == "gradient"
    assert torch.equal(state.samples, whole[1]["samples"])
    assert state.learning.log_z == whole[3]


def test_steering_by_scores_raises_them(model):
    state = steps(graph(model, steps=8), 3, particles=16)
    first, *_, last = state.learning.summaries
    assert first.count == 32 and last.count == 16
    assert last.reward > first.reward + 0.2 * state.learning.sd


def test_a_state_never_changes(model):
    """So ComfyUI may hand out a cached one: two futures of one state do not know each other."""
    given = graph(model)
    latent, proposed = propose(begin(given), given)
    before = {field.name: getattr(proposed, field.name) for field in fields(proposed)}
    scores = scores_of(latent, proposed)
    one, _ = update(proposed, scores)
    other, _ = update(proposed, [-s for s in scores])
    assert before == {field.name: getattr(proposed, field.name) for field in fields(proposed)}
    futures = [propose(state, given)[0]["samples"] for state in (one, one, other)]
    assert torch.equal(futures[0], futures[1]) and not torch.equal(futures[0], futures[2])


@pytest.mark.parametrize("form", ["numbers", "one list", "tensor"])
def test_scores_of_every_form(model, form):
    given = graph(model)
    latent, state = propose(begin(given), given)
    plain = scores_of(latent, state)
    scores = {"numbers": plain, "one list": [plain], "tensor": [torch.tensor(plain)]}[form]
    assert update(state, scores)[0].learning.rewards.tolist() == pytest.approx(plain)


def test_scores_that_are_missing_have_no_weight(model):
    given = graph(model)
    latent, state = propose(begin(given), given)
    scores = scores_of(latent, state)
    scores[0], scores[1] = float("nan"), float("inf")
    state, report = update(state, scores)
    assert state.learning.weights[:2].tolist() == [0, 0]
    assert "2 of 8 scores are NaN or infinite" in report
    assert 0 not in select(state, "best", 6)[0]["batch_index"]


def test_a_constant_reward_is_reported_and_steers_nothing(model):
    given = graph(model)
    _, state = propose(begin(given), given)
    state, report = update(state, [1.5] * 8)
    assert "The reward is the same for all images" in report
    _, state = propose(state, given)
    state, _ = update(state, [1.5] * 4)
    assert state.learning.summaries[-1].kl_spent == 0 and state.learning.ess == pytest.approx(12)


def test_a_single_score_that_is_usable_teaches_nothing_and_breaks_nothing(model):
    given = graph(model)
    _, state = propose(begin(given), given)
    state, report = update(state, [1.0] + [float("nan")] * 7)
    assert not state.learning.theta.any() and "there is nothing to learn" in report
    assert select(state, "best", 1)[0]["batch_index"] == [0]


def test_nodes_in_an_impossible_order_are_refused(model):
    given, reward = graph(model), LinearReward(direction())
    start = begin(given)
    with pytest.raises(ValueError, match="TSMCUpdate: there is no batch to score"):
        update(start, [1.0])
    with pytest.raises(ValueError, match="TSMCSelect: nothing was scored yet"):
        select(start)
    _, state = propose(start, given)
    with pytest.raises(ValueError, match="TSMCPropose: the batch before this one was not scored"):
        propose(state, given)
    with pytest.raises(ValueError, match="TSMCUpdate: 3 scores came for 8 images"):
        update(state, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="TSMCUpdate: scores must be numbers"):
        update(state, ["good"] * 8)
    with pytest.raises(ValueError, match="connect scores or a reward; neither is"):
        update(state)
    with pytest.raises(ValueError, match="connect scores or a reward; both are"):
        update(state, [1.0] * 8, reward)
    with pytest.raises(ValueError, match="all rewards are NaN"):
        update(state, [float("nan")] * 8)
    with pytest.raises(ValueError, match="TSMCSelect: unknown mode"):
        select(update(state, list(range(8)))[0], "worst")


def test_a_gradient_cannot_come_from_scores(model):
    given = graph(model)
    _, state = propose(begin(given, feature="gradient"), given)
    with pytest.raises(ValueError, match="TSMCUpdate: feature is gradient, but"):
        update(state, [1.0, 2.0, 3.0, 4.0])


def test_latents_of_several_kinds_are_reported(model):
    class Nested:
        is_nested = True

        def __len__(self):
            return 1

    given = {**graph(model), "latent": {"samples": Nested()}}
    with pytest.raises(ValueError, match="TSMCInit: latents of several kinds"):
        begin(given)


@pytest.mark.parametrize("kind", ["surrogate", "witness"])
def test_no_path_of_the_first_batch_is_weighed_by_what_it_taught(model, kind):
    """h and H of each path are those of the twist that the other paths teach."""
    given = graph(model)
    y = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(2)) + 1
    unfixed = TSMCRewardReference.execute(References(y)).result[0]
    unfixed = unfixed.for_model(model.model.latent_format, "cpu")
    latent, state = propose(begin(given, feature="auto"), given)
    recording = state.batch.recording
    z = state.model.latent_format.process_in(latent["samples"])
    if kind == "surrogate":
        state, _ = update(state, scores_of(latent, state))
    else:
        state, _ = update(state, reward=unfixed)
    learning, i = state.learning, 3
    others = [j for j in range(8) if j != i]
    if kind == "surrogate":
        scores = torch.tensor(scores_of(latent, state)).double()
        gradient = fitted(z[others], 2.0 * (scores[others] - learning.mean) / learning.sd).gradient
    else:
        reward = unfixed.fixed_by(z[others])[1]
        gradient = lambda x: reward.gradient(x) * (2.0 / learning.sd)  # noqa: E731
    jacobians = white, DenoiserJacobian(z[others])
    twist = GradientTwist(gradient, state.model.steps, jacobians=jacobians)
    h, H = replayed(list(recording.paths())[i], state.model.steps, twist)
    torch.testing.assert_close(learning.h[i : i + 1], h, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learning.H[i : i + 1], H, rtol=1e-4, atol=1e-5)
    assert learning.excludes_pilot == (kind == "witness")
    state = propose(state, given)[1]
    again = {"scores": [1.0, 2.0, 3.0, 5.0]} if kind == "surrogate" else {"reward": unfixed}
    state, report = update(state, **again)
    assert ("from the 8 images of the first batch" in report) == (kind == "witness")
    assert (sum(state.learning.weights.tolist()[:8]) == 0) == (kind == "witness")
