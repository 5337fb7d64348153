"""TRITSMCSampler in core's graph: the right chain, the right numbers, the right cost."""

import math
from functools import cache

import comfy.model_management as management
import comfy.utils
import comfy_extras.nodes_custom_sampler as core
import latent_preview
import pytest
import torch
from comfy.k_diffusion.sampling import sample_euler_ancestral
from comfy.samplers import KSAMPLER
from comfy_extras.nodes_custom_sampler import BasicGuider, BasicScheduler, SamplerCustomAdvanced
from mmd_pack.mmd_core import References
from mmd_pack.mmd_core.tsmc import TSMCConfig, transitions
from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance
from mmd_pack.nodes.host.particle_noise import ParticleNoise
from mmd_pack.nodes.tsmc.reward_reference import TSMCRewardReference
from mmd_pack.nodes.tsmc.run.settings import config_of, learning_inputs
from mmd_tests.studies.quality.methods import counted
from mmd_tests.support.tiny_models import (
    FAMILIES,
    empty_latent,
    family_latent,
    family_prompt,
    gaussian_family,
    prompt,
    tiny_family,
    tiny_model,
)
from mmd_tests.support.tsmc_runs import LinearReward, direction, graph, steered

pytestmark = pytest.mark.comfy

tiny = cache(tiny_family)
gaussian = cache(gaussian_family)
LATENT, ALL, WEIGHTS, LOG_Z, ESS, REPORT, STATE = range(7)


# ---- the chain


@pytest.mark.parametrize("family", ["SD15", "SD20", "SD3"])
def test_unsteered_paths_are_those_of_core_euler_ancestral(family):
    given = graph(tiny(family), family, cfg=3.0)
    drawn = steered(given, LinearReward(direction(family)), feature="none", iterations=0)[ALL]
    noise = ParticleNoise(given["noise"].seed, range(4))
    like = family_latent(family, 4)["samples"]
    sampler = KSAMPLER(sample_euler_ancestral, {"noise_sampler": lambda a, b: noise(like)})
    latent = {"samples": like}
    expected = SamplerCustomAdvanced.execute(
        given["noise"], given["guider"], sampler, given["sigmas"], latent
    )[0]["samples"]
    assert expected.std() > 0.1
    torch.testing.assert_close(drawn["samples"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("feature", ["gradient", "surrogate"])
@pytest.mark.parametrize("final", ["all", "smc"])
def test_the_size_of_micro_batches_changes_nothing(feature, final):
    """A network without sums over a batch leaves the rounding of single numbers at most."""
    given = graph(gaussian("SD15"))
    reward = LinearReward(direction())
    same = {"particles": 16, "feature": feature, "final": final, "out_count": 16}
    whole = steered(given, reward, **same)
    for size in (1, 4, 16):
        parts = steered(given, reward, **same, micro_batch=size)
        torch.testing.assert_close(
            parts[LATENT]["samples"], whole[LATENT]["samples"], rtol=1e-4, atol=1e-4
        )
        assert parts[WEIGHTS] == pytest.approx(whole[WEIGHTS], rel=1e-4, abs=1e-6)
        assert parts[LOG_Z] == pytest.approx(whole[LOG_Z], rel=1e-4)


def test_a_real_network_differs_by_its_own_rounding_only():
    given, reward = graph(tiny("SD15"), cfg=2.0), LinearReward(direction())
    whole = steered(given, reward, final="all")[ALL]["samples"]
    parts = steered(given, reward, final="all", micro_batch=1)[ALL]["samples"]
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3)


def test_same_seed_same_images_and_another_seed_others():
    reward = LinearReward(direction())
    first, again = (steered(graph(gaussian("SD15")), reward, final="all") for _ in range(2))
    other = steered(graph(gaussian("SD15"), seed=6), reward, final="all")
    assert torch.equal(first[ALL]["samples"], again[ALL]["samples"])
    assert not torch.equal(first[ALL]["samples"], other[ALL]["samples"])


def test_all_particles_of_all_batches_are_different():
    drawn = steered(graph(gaussian("SD15")), LinearReward(direction()), final="all")[ALL]
    flat = drawn["samples"].flatten(1)
    assert torch.pdist(flat).min() > 1e-3 and drawn["batch_index"] == list(range(12))


# ---- the numbers


def variance_of_last(given, model) -> float:
    """Of each number of z: the chain of `gaussian_family` is linear."""
    sigmas = given["sigmas"].tolist()
    variance = 1 + sigmas[0] ** 2  # core's noise at the top of the schedule
    for step in transitions(sigmas):
        gain = step.of_x + step.of_x0 / (1 + step.sigma**2)
        variance = gain**2 * variance + step.noise**2
    return variance


@pytest.mark.parametrize("final", ["best", "smc"])
def test_log_z_of_a_model_whose_truth_is_known(final):
    """r = a·z of Gaussian z: log Z = λ² var/2. Over 12 seeds the model alone is off by about .5."""
    scale, errors, swarms = 2.0, [], []
    for seed in range(12):
        given = graph(gaussian("SD15"), seed=seed, steps=10)
        out = steered(
            given, LinearReward(direction()), particles=16, iterations=3, standardize_reward=False,
            reward_scale=scale, final=final,
        )  # fmt: skip
        truth = scale**2 / 2 * variance_of_last(given, gaussian("SD15"))
        errors.append(out[LOG_Z] - truth)
        if final == "smc":
            words = out[REPORT].split("Last batch by SMC")[1]
            swarms.append(float(words.split("log Z ")[1].split()[0]) - truth)
    assert torch.tensor(errors).square().mean().sqrt() < 0.25
    if swarms:
        assert torch.tensor(swarms).square().mean().sqrt() < 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_steers_every_family(family):
    """Against the same noise unsteered, in the batch that follows the first."""
    reward, given = LinearReward(direction(family)), graph(tiny(family), family, cfg=2.0)
    out, without = (
        steered(given, reward, particles=6, final="resample", feature=feature)
        for feature in ("gradient", "none")
    )
    gain = out[STATE].learning.rewards[6:12] - without[STATE].learning.rewards[6:12]
    assert gain.min() > 0
    assert math.isclose(sum(out[WEIGHTS]), 1, abs_tol=1e-9) and 1 <= out[ESS] <= 18
    assert out[LATENT]["samples"].shape == (4, *family_latent(family)["samples"].shape[1:])


def test_best_are_the_best():
    out = steered(graph(gaussian("SD15")), LinearReward(direction()), out_count=3)
    rewards = out[STATE].learning.rewards
    chosen = out[LATENT]["batch_index"]
    assert rewards[chosen].tolist() == sorted(rewards.tolist(), reverse=True)[:3]
    torch.testing.assert_close(out[LATENT]["samples"], out[ALL]["samples"][chosen])


def test_mean_of_the_weighted_images_is_that_of_the_tilted_model():
    """E_π[a·z] = λ var: over 12 seeds the weighted mean of all images comes close."""
    scale, found = 1.5, []
    for seed in range(12):
        given = graph(gaussian("SD15"), seed=100 + seed, steps=10)
        out = steered(
            given, LinearReward(direction()), particles=16, iterations=3, standardize_reward=False, reward_scale=scale
        )  # fmt: skip
        found.append((torch.tensor(out[WEIGHTS]) * out[STATE].learning.rewards).sum().item())
    truth = scale * variance_of_last(given, gaussian("SD15"))
    mean = torch.tensor(found).mean().item()
    error = torch.tensor(found).std().item() / math.sqrt(len(found))
    assert abs(mean - truth) < max(4 * error, 0.05 * truth)


# ---- the cost


@pytest.mark.parametrize("cfg, network", [(1.0, 1), (3.0, 2)])
@pytest.mark.parametrize(
    "feature, final, iterations, scored", [
        ("gradient", "best", 2, 12), ("surrogate", "best", 2, 12), ("gradient", "smc", 2, 12 + 4 * 6),
        ("surrogate", "smc", 3, 16 + 4 * 6), ("none", "best", 0, 4),
    ],
)  # fmt: skip
def test_cost_that_is_shown_is_the_cost(cfg, network, feature, final, iterations, scored, caplog):
    model, calls = counted(gaussian("SD15"))
    given = graph(model, cfg=cfg)
    with caplog.at_level("INFO", "mmd_guidance"):
        out = steered(
            given, LinearReward(direction()), iterations=iterations, feature=feature, final=final, micro_batch=3
        )  # fmt: skip
    announced = caplog.records[0].getMessage()
    assert f"{sum(calls)} network evaluations, {scored} rewards" in announced
    assert f"({sum(calls)} network evaluations), {scored} rewards" in out[REPORT]
    assert sum(calls) == network * out[STATE].cost.estimates


def test_the_guider_and_its_model_stay_as_they_were():
    given = graph(gaussian("SD15"))
    guider, model = given["guider"], given["guider"].model_patcher
    before = repr((sorted(vars(guider)), model.model_options, model.wrappers))
    steered(given, LinearReward(direction()), final="smc", micro_batch=2)
    assert guider.model_patcher is model
    after = set(vars(guider)) - {"conds"}  # which core leaves there
    assert repr((sorted(after), model.model_options, model.wrappers)) == before


def test_interrupt_ends_it_and_the_next_run_is_as_ever():
    given, reward = graph(gaussian("SD15")), LinearReward(direction())
    expected = steered(given, reward, final="all")[ALL]["samples"]
    seen = []

    def value(scores):
        seen.append(len(scores))
        management.interrupt_current_processing(True)
        return scores

    with pytest.raises(management.InterruptProcessingException):
        steered(given, LinearReward(direction(), value), final="all")
    assert seen == [4]  # within the second batch
    torch.testing.assert_close(steered(given, reward, final="all")[ALL]["samples"], expected)


def test_progress_reaches_its_end_once(monkeypatch):
    shown = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **kw: shown.append(args[:2])
    )
    steered(graph(gaussian("SD15")), LinearReward(direction()), micro_batch=3, final="smc")
    values = [value for value, _ in shown]
    assert {total for _, total in shown} == {(3 * 2 + 1) * 6}
    assert values == sorted(values) and values[-1] == 42 and values.count(42) == 1


def test_previews_show_all_that_is_drawn_at_once(monkeypatch):
    class Previewer:
        def decode_latent_to_preview_image(self, kind, x0):
            shapes.append(tuple(x0.shape))
            return kind, None, None

    shapes = []
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *args: Previewer())
    steered(graph(gaussian("SD15")), LinearReward(direction()), micro_batch=4)
    assert set(shapes) == {(1, 4, 8, 8)} and len(shapes) == 18  # four latents of 4 × 4 in a square


@pytest.mark.parametrize("size, advice", [(0, "Set micro_batch to 2"), (1, "Draw smaller images")])
def test_memory_that_runs_out_is_told_with_advice(size, advice, caplog):
    def too_large(args):
        raise management.OOM_EXCEPTION("too much")

    model = gaussian("SD15").clone()
    model.set_model_sampler_post_cfg_function(too_large)
    with pytest.raises(management.OOM_EXCEPTION):
        steered(graph(model), LinearReward(direction()), micro_batch=size)
    assert advice in caplog.text


# ---- what surrounds it


def test_with_a_mask_only_the_masked_part_moves():
    latent = {"samples": torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))}
    mask = torch.zeros(1, 4, 4)
    mask[:, :, 2:] = 1
    given = {**graph(gaussian("SD15")), "latent": {**latent, "noise_mask": mask}}
    reward = LinearReward(direction())
    out = steered(given, reward, particles=8, final="all")
    kept = out[ALL]["samples"][..., :2]
    torch.testing.assert_close(
        kept, latent["samples"][..., :2].expand_as(kept), rtol=1e-4, atol=1e-4
    )
    state = out[STATE]
    _, features = state.twist(mask[:, None])(torch.ones(2, 4, 4, 4), 1)
    assert features[..., :2].abs().max() == 0 and features[..., 2:].abs().min() > 0
    assert state.learning.summaries[-1].kl_spent > 0
    assert "only the masked part is drawn and steered" in out[REPORT]


def test_denoise_below_one_starts_from_the_image():
    model = gaussian("SD15")
    latent = {"samples": torch.full((1, 4, 4, 4), 6.0)}
    given = {**graph(model), "latent": latent}
    given["sigmas"] = BasicScheduler.execute(model, "karras", 4, 0.2)[0]
    out = steered(given, LinearReward(direction()), final="all")
    assert (out[ALL]["samples"].mean() - 0).abs() > 1  # the model alone draws around 0


@pytest.mark.parametrize("name", ["BasicGuider", "DualCFGGuider"])
def test_other_guiders(name):
    model, calls = counted(tiny("SD15"))
    given = graph(model)
    a, b, c = (family_prompt("SD15", seed) for seed in (1, 2, 3))
    if name == "BasicGuider":
        given["guider"] = core.BasicGuider.execute(model, a)[0]
    else:
        given["guider"] = core.DualCFGGuider.execute(model, a, b, c, 3.0, 2.0, "regular")[0]
    out = steered(given, LinearReward(direction()), final="smc", micro_batch=2)
    assert out[STATE].learning.summaries[-1].kl_spent > 0
    assert torch.isfinite(out[LATENT]["samples"]).all()
    assert sum(calls) in (out[STATE].cost.estimates, 3 * out[STATE].cost.estimates)


def test_lora_and_other_patches_are_part_of_the_model():
    """A patch of the model changes what is drawn, and steering still works on it."""

    def brighter(args):
        return args["denoised"] + 1.0

    model = gaussian("SD15").clone()
    model.set_model_sampler_post_cfg_function(brighter)
    plain = steered(graph(gaussian("SD15")), LinearReward(direction()), final="all")
    patched = steered(graph(model), LinearReward(direction()), final="all")
    assert patched[ALL]["samples"].mean() > plain[ALL]["samples"].mean() + 1
    assert patched[STATE].learning.summaries[-1].kl_spent > 0


def test_a_batch_of_templates_and_mmd_guidance_are_refused():
    references = References(torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(1)))
    model = ApplyMMDGuidance.execute(tiny_model(), references, 5.0, 0.0, 0.8, "flow").result[0]
    given = {**graph(model, steps=3), "latent": empty_latent(3)}
    given["guider"] = BasicGuider.execute(model, prompt(1))[0]
    a = torch.ones(1, 4, 8, 8) / 16
    report = steered(given, LinearReward(a), particles=8, iterations=1)[REPORT]
    assert "Of the 3 images of latent only the first was used" in report
    assert "only approximate" in report


@pytest.mark.parametrize(
    "change, words", [
        ({"kl_budget": 1.5}, "TRITSMCSampler: kl_budget must be above 0 and below log(particles) = 1.39"),
        ({"eta": 0.0}, "eta must be above 0"),
        ({"final": "worst"}, "TRITSMCSampler: unknown final 'worst': choose one of best, resample, all, smc"),
        ({"feature": "magic"}, "unknown feature 'magic'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_drawn(change, words):
    model, calls = counted(gaussian("SD15"))
    with pytest.raises(ValueError) as error:
        steered(graph(model), LinearReward(direction()), **change)
    assert words in str(error.value) and not calls


def test_inputs_that_do_not_fit_are_said_before_anything_is_drawn():
    model, calls = counted(gaussian("SD15"))
    reward = LinearReward(direction())
    half = graph(model)
    half["sigmas"] = half["sigmas"][:4]
    with pytest.raises(ValueError, match="TRITSMCSampler: sigmas must fall .* end at 0"):
        steered(half, reward)
    two = graph(model)
    two["guider"] = BasicGuider.execute(model, prompt(1, batch=2))[0]
    with pytest.raises(ValueError, match="TRITSMCSampler: .* 2 prompts"):
        steered(two, reward)
    assert not calls


def test_references_of_another_size_are_refused_before_anything_is_drawn():
    model, calls = counted(gaussian("SD15"))
    reward = TSMCRewardReference.execute(References(torch.zeros(3, 4, 8, 8))).result[0]
    with pytest.raises(ValueError, match="encoded for another image size"):
        steered(graph(model), reward)
    assert not calls


def test_defaults_of_the_nodes_are_those_of_the_method():
    defaults = {i.id: i.default for i in learning_inputs()}
    assert defaults.pop("micro_batch") == 4
    assert config_of("X", **defaults) == TSMCConfig()
