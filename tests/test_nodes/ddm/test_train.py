"""MMDTrainLoRA on real models: the gradient is right, and the model does not change."""

import gc
import weakref

import comfy.model_management as management
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from mmd_pack.mmd_core.ddm import accumulate, draw
from mmd_pack.nodes.ddm.training import engine
from mmd_pack.nodes.ddm.training.sampler_chain import linear_chain
from mmd_tests.support.ddm_runs import (
    LORA,
    LOSSES,
    QUICK,
    STEPS,
    denoised,
    engine_of,
    estimates,
    gradients_of,
    own,
    own_family,
    references,
    trained,
    two_prompts,
    usual,
    with_lora,
)
from mmd_tests.support.tiny_models import FAMILIES, family_latent, family_prompt

pytestmark = pytest.mark.comfy

ARCHITECTURES = [family for family in FAMILIES if family != "SD20"]  # whose network is that of SD15
WRITES_IN_PLACE = ("Flux",)  # into what autograd needs: only with gradient checkpointing


# ---- the gradient


def gradients(engine, chain, start, target, micro_batch: int):
    """∂L/∂θ of L = ½ Σ (x − target)² by the adjoint, as one row."""

    def denoise(x, sigma, rows):
        return engine.estimate(x, sigma, [0] * len(rows))

    parameters = engine.lora.parameters
    drawn = draw(chain, denoise, start, start[None, :0], micro_batch)
    for parameter in parameters:
        parameter.grad = None
    accumulate(chain, denoise, drawn.states, drawn.samples - target, parameters, micro_batch)
    return torch.cat([parameter.grad.flatten() for parameter in parameters])


def whole(engine, chain, start, target):
    """L with a graph through the whole chain."""
    estimates = []
    for k, sigma in enumerate(chain.sigmas):
        u = chain.state(k, start, estimates, [])
        estimates.append(engine.estimate(u, sigma, [0] * len(u)))
    return 0.5 * (chain.state(len(chain), start, estimates, []) - target).square().sum()


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_adjoint_is_full_backpropagation(family):
    """With and without checkpointing, for all micro-batches; and it is the slope of the loss."""
    chain, found = linear_chain(own(gradients_of(family)), "euler", "simple", 2), {}
    shape = family_latent(family, 2)["samples"].shape

    def body(engine, max_denoise):
        random = torch.Generator().manual_seed(7120)
        start, target = torch.randn(2, *shape, generator=random)
        start = engine.scaled(start, chain.sigmas[0], max_denoise)
        for parameter in engine.lora.parameters:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=random)
        for micro_batch in (1, 2):
            found[saves, micro_batch] = gradients(engine, chain, start, target, micro_batch)
        if saves:
            return
        loss = whole(engine, chain, start, target)
        slopes = torch.autograd.grad(loss, engine.lora.parameters)
        found["whole"] = torch.cat([slope.flatten() for slope in slopes])

    for saves in (True, False):
        if saves or family not in WRITES_IN_PLACE:
            engine_of(body, family=family, checkpointing=saves)
    expected = found.pop("whole", found[True, 2])
    assert len(expected) > 1000 and (expected != 0).float().mean() > 0.9
    for gradient in found.values():
        assert (gradient - expected).norm() < 1e-3 * expected.norm()


def test_blocks_that_write_into_what_they_are_given():
    """Blocks of Flux: the gradient is the slope of the loss along each layer."""
    chain = linear_chain(own(gradients_of("Flux")), "euler", "simple", 1)
    shape, pairs = family_latent("Flux", 2)["samples"].shape, {}

    def body(engine, max_denoise):
        random = torch.Generator().manual_seed(7121)
        start, target = torch.randn(2, *shape, generator=random)
        for parameter in engine.lora.parameters:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=random)
        gradients(engine, chain, start, target, 2)
        with torch.no_grad():
            for name, adapter in engine.lora.adapters.items():
                away = torch.randn(adapter.up.shape, generator=random)
                found = (adapter.up.grad * away).sum().item()
                ends = []
                for step in (0.02, -0.02):
                    adapter.up += step * away
                    ends.append(whole(engine, chain, start, target).item())
                    adapter.up -= step * away
                pairs[name] = found, (ends[0] - ends[1]) / 0.04

    engine_of(body, family="Flux")
    assert len(pairs) > 15
    for name, (found, slope) in pairs.items():
        assert found == pytest.approx(slope, rel=0.02, abs=0.02), name


def test_without_checkpointing_it_is_the_same_training():
    settings = {"cfg": 2.0, "negative": family_prompt(QUICK, 2)}
    saving, plain = (trained(gradient_checkpointing=on, **settings) for on in (True, False))
    assert saving[LOSSES]["loss"] == pytest.approx(plain[LOSSES]["loss"], rel=1e-5)
    for name, factor in saving[LORA].items():
        torch.testing.assert_close(factor, plain[LORA][name], rtol=0.01, atol=1e-4)


def test_a_network_for_which_there_is_no_way_without_it():
    with pytest.raises(ValueError, match="^MMDTrainLoRA: .*set gradient_checkpointing to true"):
        trained(family=gradients_of("Flux"), gradient_checkpointing=False)


# ---- what the model is asked


def noise(count: int, family: str = QUICK, seed: int = 7122) -> torch.Tensor:
    shape = family_latent(family, count)["samples"].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def test_each_sample_follows_its_own_prompt_where_core_would_average():
    """With several entries, ComfyUI would average over them for each sample."""
    x, (rows, each) = noise(2), two_prompts()
    first, second = (denoised(own(QUICK), x, positive=positive) for positive in each)
    assert (first - second).abs().amax((1, 2, 3)).min() > 0.01
    straight, crossed = estimates(x, [[0, 1], [1, 0]], positive=rows)
    close(straight, torch.stack([first[0], second[1]]))
    close(crossed, torch.stack([second[0], first[1]]))
    entries = [*each[0], *each[1]]
    close(denoised(own(QUICK), x, positive=entries), (first + second) / 2)
    close(estimates(x, [[0, 0]], positive=entries)[0], (first + second) / 2)


@pytest.mark.parametrize("family", ["SDXL", "Flux", "WAN21_T2V"])
def test_prompts_of_every_kind_of_network_go_by_rows(family):
    """Also pooled features, sizes and guidance."""
    x, (rows, each) = noise(2, family), two_prompts(family)
    expected = [denoised(own(family), x, family, positive=positive) for positive in each]
    (found,) = estimates(x, [[1, 0]], family=family, positive=rows)
    close(found, torch.stack([expected[1][0], expected[0][1]]))


def test_cfg():
    x, negative = noise(2), family_prompt(QUICK, 2)
    (found,) = estimates(x, [[0, 0]], cfg=3.0, negative=negative)
    (with_prompt,), (without,) = estimates(x, [[0, 0]]), estimates(x, [[0, 0]], positive=negative)
    close(found, without + 3 * (with_prompt - without))
    close(found, denoised(own(QUICK), x, cfg=3.0))
    assert (found - with_prompt).abs().max() > 0.01
    losses = trained(cfg=3.0, negative=negative)[LOSSES]["loss"]
    assert losses != usual()[LOSSES]["loss"]


def test_lora_and_noise_schedule_on_the_model_are_part_of_it():
    x = noise(2)
    model = ModelSamplingSD3().patch(with_lora(own(QUICK), usual()[LORA], 2.0), 9.0)[0]
    (found,) = estimates(x, [[0, 0]], model=model)
    expected, plain = denoised(model, x), denoised(own(QUICK), x)
    close(found, expected)
    assert (expected - plain).abs().max() > 0.01
    assert trained(model)[LORA].metadata["shift"] == 9.0 and usual()[LORA].metadata["shift"] == 3.0


def test_a_model_made_in_inference_mode_and_drawn_with_before():
    """As in a workflow: autograd cannot use its weights."""
    with torch.inference_mode():
        model = own_family(QUICK)
        positive = family_prompt(QUICK, 1)
        refs = references()
    assert all(parameter.is_inference() for parameter in model.model.parameters())
    denoised(model, noise(1))
    found, expected = trained(model, positive=positive, refs=refs), usual()
    assert found[LOSSES] == expected[LOSSES]
    assert all(torch.equal(factor, expected[LORA][name]) for name, factor in found[LORA].items())


# ---- the model of the user


def state_of(model):
    """Everything in a ModelPatcher that a training could change."""
    modules = [
        (name, module.training, len(module._forward_hooks), sorted(vars(module)))
        for name, module in model.model.named_modules()
    ]
    flags = [parameter.requires_grad for parameter in model.model.parameters()]
    patches = (
        model.model_options, model.patches.keys(), model.object_patches.keys(), model.wrappers,
        model.callbacks,
        model.backup.keys(), model.object_patches_backup.keys(), model.injections, model.parent,
    )  # fmt: skip
    return repr((modules, flags, patches, model.model.manual_cast_dtype, model.model.get_dtype()))


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_the_model_stays_as_it_was(ends):
    model, x = with_lora(own_family(QUICK), usual()[LORA], 2.0), noise(2)
    weights = {name: tensor.clone() for name, tensor in own(QUICK).model.state_dict().items()}
    drawn, before = denoised(model, x), state_of(model)
    if ends == "well":
        trained(model, training_dtype="bf16")
    else:
        with pytest.raises(ZeroDivisionError):
            trained(failing(model, after=3))
    assert torch.equal(denoised(model, x), drawn)
    assert state_of(model) == before
    management.unload_all_models()
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def failing(model, after: int, error=ZeroDivisionError):
    """A clone of the model that raises `error` after this number of estimates."""
    calls = []

    def fail(args):
        calls.append(1)
        if len(calls) > after:
            raise error("on purpose")
        return args["denoised"]

    model = model.clone()
    model.set_model_sampler_post_cfg_function(fail)
    return model


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_nothing_of_the_copy_is_left(ends, monkeypatch):
    copies, training = [], []

    def copied(*args):
        copy = private_copy(*args)
        copies.append(weakref.ref(copy.model))
        training.append(getattr(management, "in_training", None))
        return copy

    private_copy = engine.private_copy
    monkeypatch.setattr(engine, "private_copy", copied)
    if ends == "well":
        assert trained()[STEPS] == 2
    else:
        with pytest.raises(ZeroDivisionError):
            trained(failing(own(QUICK), after=3))
    gc.collect()
    assert [copy() for copy in copies] == [None]
    if hasattr(management, "in_training"):
        assert training == [True] and management.in_training is False
