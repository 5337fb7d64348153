"""What MMDTrainLoRA compares: features, kernels, prompts and held-out references."""

import math
from dataclasses import replace

import pytest
import torch
from mmd_pack.mmd_core import KernelConfig, References
from mmd_pack.nodes.ddm.training.features import NOISE_PERCENT, NetworkFeatures, pyramid
from mmd_pack.nodes.ddm.training.finetuning import finetuned
from mmd_tests.support.ddm_runs import (
    LORA,
    LOSSES,
    PLOT,
    QUICK,
    REPORT,
    STEPS,
    engine_of,
    gradients_of,
    own,
    plan_of,
    references,
    trained,
    two_prompts,
    usual,
)
from mmd_tests.support.tiny_models import family_latent, family_prompt

pytestmark = pytest.mark.comfy


def size(lora) -> float:
    """The norm of all up factors, which is 0 for an untrained LoRA."""
    return math.sqrt(sum(f.square().sum().item() for name, f in lora.items() if ".lora_up" in name))


# ---- what is compared


@pytest.mark.parametrize("family", ["SD15", "SD3", "Flux", "WAN21_T2V"])
def test_features_of_the_untrained_network(family):
    """Mean activations of its middle block for slightly noisy samples, without adapters."""
    shape = family_latent(gradients_of(family), 3)["samples"].shape
    x, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(7130))
    found, seen = [], []

    def body(engine, max_denoise):
        network = engine.network
        middle = {
            "SD15": lambda: network.middle_block[-1],
            "SD3": lambda: network.joint_blocks[1],
            "Flux": lambda: network.double_blocks[0],
            "WAN21_T2V": lambda: network.blocks[1],
        }[family]()
        features = NetworkFeatures(engine)
        for scale in (0.0, 1.0):
            for parameter in engine.lora.parameters:
                parameter.data = scale * torch.ones_like(parameter)
            x.requires_grad_()
            found.append(features(x, noise, [0, 0, 0]))
        (slope,) = torch.autograd.grad(found[0][0, 0], x)
        assert slope[0].abs().max() > 0 and slope[1:].abs().max() == 0  # each sample by itself
        assert len(middle._forward_hooks) == 0
        middle.register_forward_hook(lambda module, given, output: seen.append(output))
        sigma = engine.sampling.percent_to_sigma(NOISE_PERCENT)
        noisy = engine.sampling.noise_scaling(torch.tensor([sigma]), noise, x.detach(), False)
        with engine.lora.set_active(False), torch.no_grad():
            engine.estimate(noisy, float(sigma), [0, 0, 0])

    engine_of(body, family=family)
    torch.testing.assert_close(found[0], found[1])
    output = seen[0]
    tokens = {
        "SD15": lambda: output.flatten(2).mT,
        "SD3": lambda: output[1],
        "Flux": lambda: output[0],
    }
    means = tokens.get(family, lambda: output)().mean(1)
    expected = (means - means.mean(1, keepdim=True)) / means.std(1, keepdim=True, unbiased=False)
    torch.testing.assert_close(found[0], expected, rtol=1e-2, atol=1e-3)


def test_features_of_the_network_are_those_of_positive_alone():
    """Also if the model computes the negative prompt as well."""
    model, negative = own(QUICK).clone(), family_prompt(QUICK, 2)
    model.model_options["disable_cfg1_optimization"] = True
    both, alone = (
        trained(each, negative=given, features="unet", iterations=1)[LOSSES]["loss"][0]
        for each, given in ((model, negative), (None, None))
    )
    assert both == pytest.approx(alone, rel=1e-4)


def test_a_pyramid_is_made_of_projections():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(7131))
    whole, half, quarter = pyramid(x).split([192, 48, 12], 1)
    assert torch.equal(whole, x.flatten(1))
    torch.testing.assert_close(half[1, 0], x[1, 0, :2, :2].sum() / 2)
    torch.testing.assert_close(quarter[0, -1], x[0, 2, 4:, 4:].sum() / 4)
    flat = torch.ones(1, 3, 8, 8)  # which each of them keeps whole
    norms = [part.norm() for part in pyramid(flat).split([192, 48, 12], 1)]
    torch.testing.assert_close(torch.stack(norms), torch.full((3,), math.sqrt(192)))
    film = torch.randn(2, 16, 1, 4, 4)
    torch.testing.assert_close(pyramid(film), pyramid(film[:, :, 0]))


def test_features_and_kernel_are_those_that_are_asked_for():
    runs = [usual(), *(trained(features=name, iterations=1) for name in ("pyramid", "unet"))]
    for kernel in (
        KernelConfig(kernel="energy", feature_space="low_pass"),
        KernelConfig(kernel="polynomial", feature_space="channel_stats"),
    ):
        runs.append(trained(kernel=kernel, iterations=1))
    losses = [run[LOSSES]["loss"] for run in runs]
    assert all(math.isfinite(loss) for run in losses for loss in run)
    assert len({run[0] for run in losses}) == len(runs)
    assert all(size(run[LORA]) > 0 for run in runs)
    told = [(run[LORA].metadata["features"], run[LORA].metadata["kernel"]) for run in runs]
    assert told[1:4] == [("pyramid", "rbf"), ("unet", "rbf"), ("latent", "energy")]
    assert "compares only a few moments" in runs[4][REPORT] and "few moments" not in runs[3][REPORT]


def test_images_are_one_frame_for_models_of_video():
    refs = references(gradients_of("WAN21_T2V"))
    images = replace(refs, latents=refs.latents[:, :, 0])
    film, image = (
        trained(family="WAN21_T2V", refs=given, iterations=1) for given in (refs, images)
    )
    assert film[LOSSES] == image[LOSSES]


# ---- prompts


def captioned(count: int = 6, weights=None, seed: int = 1):
    """References whose captions are the prompts of `two_prompts`, in turn, with opposite means."""
    _, each = two_prompts()
    features = torch.cat([positive[0][1]["pooled_output"] for positive in each])
    sign = torch.tensor([1.0, -1.0]).repeat(count)[:count]
    latents = references(count=count, seed=seed).latents * sign.reshape(-1, 1, 1, 1)
    owners = torch.arange(count) % 2
    return References(latents, weights=weights, prompts=features[owners])


def problem_of(plan):
    """The `Problem` of a training; the training stops as soon as it exists."""
    found = []

    class Known(Exception):
        pass

    def watch(training, step):
        found.append(training.problem)
        raise Known

    with pytest.raises(Known), torch.inference_mode():
        finetuned(plan, watch)
    return found[0]


def test_samples_are_compared_with_references_of_their_prompt():
    rows, _ = two_prompts()
    weights = torch.tensor([1.0, 2, 1, 2, 1, 2])
    problem = problem_of(plan_of(positive=rows, refs=captioned(weights=weights)))
    torch.testing.assert_close(problem.chances, torch.tensor([1 / 3, 2 / 3]))
    assert problem.prompt_features.shape == (2, 16)
    x = captioned(seed=5).latents
    features = own(QUICK).model.process_latent_in(x).flatten(1)
    right, wrong = (
        problem.loss(features, problem.prompt_features[(torch.arange(6) + shift) % 2])[0]
        for shift in (0, 1)
    )
    assert right < 0.2 * wrong


def test_without_captions_all_prompts_are_matched_with_all_references():
    rows, _ = two_prompts()
    for refs, kernel in (
        (references(), None),
        (captioned(), KernelConfig(prompt_kernel="none")),
    ):
        plan = plan_of(positive=rows, refs=refs, kernel=kernel)
        assert plan.setup.prompts == 2 and plan.prompt_features is None
    out = trained(positive=rows, iterations=1)
    assert "each prompt is matched with all references" in out[REPORT]
    assert out[LORA].metadata["prompts"] == 2 and out[LORA].metadata["prompt_kernel"] == "none"
    assert "each prompt" not in trained(positive=rows, refs=captioned(), iterations=1)[REPORT]


# ---- validation


def test_one_reference_in_five_is_held_out_where_they_suffice():
    refs = captioned(13, weights=torch.arange(1.0, 14))
    plan = plan_of(refs=refs)
    trains, judges = plan.references, plan.validation
    assert (len(trains), len(judges)) == (11, 2)
    where = [
        int((refs.latents == latent).flatten(1).all(1).nonzero())
        for latent in torch.cat([trains.latents, judges.latents])
    ]
    assert sorted(where) == list(range(13))
    assert where == [*sorted(where[:11]), *sorted(where[11:])]
    torch.testing.assert_close(judges.prompts, refs.prompts[where[11:]])
    expected = refs.weights[where[11:]]
    torch.testing.assert_close(judges.weights, expected / expected.sum())
    assert plan_of(refs=references(count=9)).validation is None
    given = plan_of(refs=refs, validation=references(count=4))
    assert (len(given.references), len(given.validation)) == (13, 4)


def test_the_best_is_chosen_by_what_was_held_out():
    refs, validation = references(count=6), references(count=8, seed=9)
    out = trained(refs=refs, validation=validation, iterations=3, validate_every=1)
    about, text = out[LORA].metadata, out[REPORT]
    assert about["references"] == 6 and about["held_out"] == 8 and out[STEPS] == 3
    assert about["kept_iteration"] == 3 and about["mmd2_after"] < about["mmd2_before"]
    before, after = about["mmd2_before"], about["mmd2_after"]
    assert f"is {before:.3g} without the LoRA, {after:.3g} with it" in text
    assert "6 are few" in text and "none is held out" in usual()[REPORT]
    height, width = out[PLOT].shape[1:3]
    assert out[PLOT].shape == (1, height, width, 3) and out[PLOT].std() > 0.05


def test_what_only_gets_worse_ends_early_and_changes_nothing():
    """With held-out references that are the negatives of the training references."""
    validation = references(count=8, seed=9)
    validation = replace(validation, latents=-validation.latents)
    out = trained(validation=validation, iterations=9, validate_every=1, patience=2, ema=0.0)
    assert out[STEPS] == len(out[LOSSES]["loss"]) == 2
    assert out[LORA].metadata["kept_iteration"] == 0 and size(out[LORA]) == 0
    assert (
        "Training brought no improvement" in out[REPORT] and "rose 2 times in a row" in out[REPORT]
    )
    last = trained(validation=validation, validate_every=1, keep="last")
    assert last[STEPS] == 2 and last[LORA].metadata["kept_iteration"] == 2 and size(last[LORA]) > 0
