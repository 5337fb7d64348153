"""The settings of MMDTrainLoRA: seeds, penalties, samplers, precision; and its progress."""

import json
import math

import comfy.model_patcher
import comfy.utils
import latent_preview
import pytest
import torch
from mmd_tests.support.ddm_runs import (
    LORA,
    LOSSES,
    QUICK,
    REPORT,
    denoised,
    estimates,
    own,
    own_family,
    plan_of,
    references,
    trained,
    usual,
    with_lora,
)
from mmd_tests.support.tiny_models import family_prompt, tiny_family

pytestmark = pytest.mark.comfy


def size(lora) -> float:
    """The norm of all up factors, which is 0 for an untrained LoRA."""
    return math.sqrt(sum(f.square().sum().item() for name, f in lora.items() if ".lora_up" in name))


# ---- how it is trained


def test_the_same_seed_gives_the_same_lora_however_many_are_worked_on_at_once():
    again, other, single = trained(), trained(seed=7139, iterations=1), trained(micro_batch=1)
    assert again[LOSSES] == usual()[LOSSES]
    assert all(torch.equal(factor, usual()[LORA][name]) for name, factor in again[LORA].items())
    assert other[LOSSES]["loss"][0] != usual()[LOSSES]["loss"][0]
    assert single[LOSSES]["loss"] == pytest.approx(usual()[LOSSES]["loss"], rel=1e-4)


def test_penalty_last_calls_and_average():
    far, drifting, last = (
        trained(**changed)
        for changed in ({"ema": 0.0}, {"ema": 0.0, "drift_penalty": 1000.0}, {"grad_last_k": 1})
    )
    assert size(drifting[LORA]) < 0.9 * size(far[LORA])
    assert size(usual()[LORA]) < size(far[LORA]) and usual()[LOSSES] == far[LOSSES]
    first, second = last[LOSSES]["loss"]
    assert first == far[LOSSES]["loss"][0] and second != far[LOSSES]["loss"][1]


def test_jitter_trains_for_neighboring_numbers_of_steps():
    plan = plan_of(steps_per_sample=2, step_jitter=2)
    assert plan.sampling.step_counts == (2, 1, 3, 4) and [len(chain) for chain in plan.chains] == [
        2,
        1,
        3,
        4,
    ]
    out = trained(step_jitter=1, iterations=1)
    about = out[LORA].metadata
    assert (about["steps"], about["steps_from"], about["steps_to"]) == (2, 1, 3)
    assert "Trained for 1 to 3 steps of euler, simple, cfg 1." in out[REPORT]


def test_rank_alpha_and_targets():
    lora = trained(rank=3, alpha=6.0, targets="attention", iterations=1)[LORA]
    names = {name.rsplit(".", 2 if "lora_" in name else 1)[0] for name in lora}
    assert names and all("attn" in name for name in names) and len(lora) == 3 * len(names)
    for name in names:
        assert lora[f"{name}.lora_down.weight"].shape[0] == 3 and lora[f"{name}.alpha"] == 6
        assert lora[f"{name}.lora_up.weight"].dtype == torch.float32
    assert len(usual()[LORA]) > len(lora)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun"])
def test_other_samplers(sampler):
    out = trained(sampler_name=sampler, scheduler="normal", iterations=1)
    assert math.isfinite(out[LOSSES]["loss"][0]) and size(out[LORA]) > 0
    assert (
        out[LORA].metadata["sampler_name"] == sampler
        and f"steps of {sampler}, normal" in out[REPORT]
    )


# ---- numbers of fewer bits


def dtypes_of(model, **changed) -> set:
    """The dtypes of the inputs of a layer in the network during training."""
    seen = set()

    def see(module, given):
        seen.add(given[0].dtype)

    layer = model.model.diffusion_model.joint_blocks[0].x_block.mlp.fc1
    layer.register_forward_pre_hook(see)  # copies have it too
    out = trained(model, iterations=1, **changed)
    assert math.isfinite(out[LOSSES]["loss"][0]) and size(out[LORA]) > 0
    assert {factor.dtype for factor in out[LORA].values()} == {torch.float32}
    return seen


def test_it_computes_in_what_is_asked_for():
    assert dtypes_of(own_family(QUICK)) == {torch.float32}
    assert dtypes_of(own_family(QUICK), training_dtype="bf16") == {torch.bfloat16}


def in_type(weights, computing):
    """A model with weights of one dtype that computes in another, as in ComfyUI."""
    config = tiny_family(QUICK).model.model_config
    config.set_inference_dtype(weights, computing)
    config.unet_config["dtype"] = weights
    model = config.get_model({}, device=torch.device("cpu"))
    source = own(QUICK).model.diffusion_model.state_dict()
    model.diffusion_model.load_state_dict({n: t.to(weights) for n, t in source.items()})
    model.diffusion_model.to(weights)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@pytest.mark.parametrize(
    "weights, computing", [(torch.float16, None), (torch.float8_e4m3fn, torch.float16)]
)  # fmt: skip
def test_half_and_quarter_precision_are_trained_in_something_better(weights, computing):
    model = in_type(weights, computing)
    assert next(model.model.diffusion_model.parameters()).dtype == weights
    assert dtypes_of(model) <= {torch.float32, torch.bfloat16}
    assert next(model.model.diffusion_model.parameters()).dtype == weights
    assert model.model.manual_cast_dtype == computing


def quantised():
    """A model with ComfyUI's scaled 8-bit weights in its attention and MLPs."""
    config = tiny_family(QUICK).model.model_config
    config.quant_config = {"mixed_ops": True}
    config.set_inference_dtype(torch.bfloat16, torch.bfloat16)
    model = config.get_model({}, device=torch.device("cpu"))
    state = {}
    for name, weight in own(QUICK).model.diffusion_model.state_dict().items():
        state[name] = weight
        if name.startswith("joint_blocks") and name.endswith(".weight") and weight.ndim == 2:
            place, scale = name.removesuffix("weight"), weight.abs().max() / 448
            state[name] = (weight / scale).to(torch.float8_e4m3fn)
            state[f"{place}weight_scale"] = scale
            kind = json.dumps({"format": "float8_e4m3fn"}).encode()
            state[f"{place}comfy_quant"] = torch.tensor(list(kind), dtype=torch.uint8)
    assert not model.diffusion_model.load_state_dict(state, strict=False).unexpected_keys
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def test_quantised_weights_are_trained_on():
    with torch.inference_mode():  # as nodes load them
        model = quantised()
    layer = model.model.diffusion_model.joint_blocks[0].x_block.mlp.fc1
    kind, x = type(layer.weight), torch.randn(2, 16, 4, 4)
    assert kind is not torch.nn.Parameter
    before = denoised(model, x)
    lora = trained(model, iterations=1)[LORA]
    assert type(layer.weight) is kind and torch.equal(denoised(model, x), before)
    assert all(factor.any() for name, factor in lora.items() if ".lora_up" in name)
    louder = {name: f * 10 if ".lora_up" in name else f for name, f in lora.items()}
    (expected,) = estimates(x, [[0, 0]], model=model, existing_lora=louder)
    error = (denoised(with_lora(model, louder), x) - expected).norm()
    assert error < 0.1 * (expected - before).norm()  # a merged weight is quantised once more


# ---- what is shown


def test_progress_reaches_its_end_and_previews_show_what_was_drawn(monkeypatch):
    class Previewer:
        def decode_latent_to_preview_image(self, kind, x0):
            shapes.append(tuple(x0.shape))
            return kind, None, None

    shapes, shown = [], []
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *args: Previewer())
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **kw: shown.append(args[:3])
    )
    trained(validation=references(count=4, seed=2), iterations=3, validate_every=2, batch_size=2)
    values = [value for value, *_ in shown]  # ComfyUI skips some updates without a preview
    assert values == sorted(set(values)) and {total for _, total, _ in shown} == {3}
    assert [value for value, _, preview in shown if preview is not None] == [0, 2, 3]
    assert shapes == [(1, 16, 8, 8)] * 3  # 4 latents of 4 × 4


def test_cost_and_progress_are_reported(caplog):
    with caplog.at_level("INFO", "mmd_guidance"):
        out = trained(
            validation=references(count=4, seed=2), cfg=2.0, negative=family_prompt(QUICK, 2)
        )
    told = [record.getMessage() for record in caplog.records]
    assert told[0].startswith("MMDTrainLoRA: 2 updates. Each runs the model 8 times forward")
    assert "the work of 160 forward passes for one image" in told[0] and "Memory about" in told[0]
    assert "adapters " in told[0]
    assert told[0].removeprefix("MMDTrainLoRA: ") in out[REPORT]
    assert any("update 2 of 2 - MMD^2" in text and "held out" in text for text in told)
