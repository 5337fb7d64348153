"""Errors before a training draws anything, and problems during a training."""

import math
from dataclasses import replace
from pathlib import Path

import comfy.model_management as management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_train import LoraModelLoader
from mmd_pack.mmd_core import KernelConfig
from mmd_pack.nodes.ddm.training import engine, trained_lora
from mmd_pack.nodes.ddm.training.features import middle_block
from mmd_pack.nodes.ddm.training.trained_lora import Autosave
from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance
from mmd_tests.support.ddm_runs import (
    LORA,
    LOSSES,
    PLOT,
    QUICK,
    REPORT,
    STEPS,
    asked,
    output_folder,  # noqa: F401  (a fixture)
    own,
    references,
    trained,
    two_prompts,
    usual,
    with_lora,
)
from mmd_tests.support.tiny_models import family_prompt, tiny_model
from safetensors import safe_open

pytestmark = pytest.mark.comfy


def guided():
    return {
        "model": ApplyMMDGuidance.execute(own(QUICK), references(), 5.0, 0.0, 0.8, "flow").result[0]
    }


def patches():
    return {"kernel": KernelConfig(feature_space="patches")}


def weighted(*weights: float):
    return replace(references(count=len(weights)), weights=torch.tensor(weights))


def with_control():
    tokens, options = family_prompt(QUICK, 1)[0]
    return [[tokens, {**options, "control": object(), "control_apply_to_uncond": True}]]


def captions(width: int):
    return replace(references(), prompts=torch.randn(6, width))


def small():
    refs = references()
    return replace(refs, latents=refs.latents[..., :2])


BEFORE = {  # the inputs, and words of the error
    "guided": (guided, "model already has MMD guidance: connect the model from before"),
    "channels": (
        lambda: {"refs": references("SD15")},
        "latents of 4 × 4 × 4 numbers, this model has latents of 16 channels in 2 dimensions",
    ),
    "film": (
        lambda: {"refs": references("WAN21_T2V")},
        "references has latents of 16 × 1 × 4 × 4 numbers",
    ),
    "channels of validation": (
        lambda: {"validation": references("SD15")}, "validation has latents of 4 × 4 × 4 numbers"
    ),
    "size": (
        lambda: {"validation": small()},
        "validation has latents of 16 × 4 × 2, references of 16 × 4 × 4: encode both at one size",
    ),
    "one": (
        lambda: {"refs": weighted(1.0)},
        "references has 1 image with a weight above 0, the MMD needs at least 2",
    ),
    "weightless": (
        lambda: {"refs": weighted(1.0, 0, 0)}, "references has 1 image with a weight above 0"
    ),
    "one held out": (
        lambda: {"validation": weighted(1.0)},
        "validation has 1 image with a weight above 0, the MMD needs at least 2",
    ),
    "patches": (
        patches, "patches cannot be used in training: set feature_space of MMDKernel to latent"
    ),
    "cfg": (
        lambda: {"cfg": 2.0}, "cfg 2 needs a negative prompt: connect negative, or set cfg to 1"
    ),
    "ControlNet": (lambda: {"positive": with_control()}, "the prompts have a ControlNet"),
    "ControlNet in negative": (
        lambda: {"negative": with_control(), "cfg": 2.0}, "the prompts have a ControlNet"
    ),
    "captions": (
        lambda: {"positive": two_prompts()[0], "refs": captions(7)},
        "the prompts have 16 features and the captions of the references 7: encode the captions",
    ),
    "captions of validation": (
        lambda: {"positive": two_prompts()[0], "refs": captions(16), "validation": references()},
        "the references have captions and validation has none: encode both with captions",
    ),
    "batch_size": (lambda: {"batch_size": 1}, "batch_size must be a whole number from 2 to 4096"),
    "learning_rate": (
        lambda: {"learning_rate": math.nan}, "learning_rate must be a number from 1e-07 to 0.1"
    ),
    "lr_decay": (
        lambda: {"lr_decay": "slow"},
        "unknown lr_decay 'slow': choose one of linear, cosine, constant",
    ),
    "targets": (lambda: {"targets": "some"}, "unknown targets 'some': choose one of all"),
    "features": (
        lambda: {"features": "clip"},
        "unknown features 'clip': choose one of latent, pyramid, unet",
    ),
    "keep": (lambda: {"keep": "all"}, "unknown keep 'all': choose one of best, last"),
    "training_dtype": (
        lambda: {"training_dtype": "fp16"},
        "unknown training_dtype 'fp16': choose one of auto, bf16, fp32",
    ),
    "autosave": (
        lambda: {"autosave": "../x"},
        "'../x' leads out of the output folder: set autosave to a name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BEFORE)
def test_impossible_inputs_are_refused_before_the_model_is_copied(case, monkeypatch, output_folder):  # noqa: F811
    monkeypatch.delattr(engine, "private_copy")
    given, words = BEFORE[case]
    with pytest.raises(ValueError) as error:
        trained(**given())
    assert str(error.value).startswith("MMDTrainLoRA: ") and words in str(error.value)
    assert not list(output_folder.rglob("*.safetensors"))


DRAWN_NOTHING = {
    "rank of one layer": (
        lambda: {"existing_lora": dict(list(usual()[LORA].items())[3:])}, "it has 24 layers"
    ),
    "no LoRA": (lambda: {"existing_lora": {}}, "it has 0 layers"),
    "targets of the LoRA": (
        lambda: {"existing_lora": usual()[LORA], "targets": "attention"},
        "Connect one that was trained with the same targets",
    ),
    "no such layers": (
        lambda: {
            "model": tiny_model(), "family": "SD15", "targets": "attention",
            "existing_lora": usual()[LORA],
        },
        "it has 25 layers, 0 of the",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DRAWN_NOTHING)
def test_an_existing_lora_that_does_not_fit_is_refused_before_anything_is_drawn(case):
    given, words = DRAWN_NOTHING[case]
    given = given()
    model, calls = asked(given.pop("model", own(QUICK)))
    with pytest.raises(ValueError) as error:
        trained(model, **given)
    assert str(error.value).startswith("MMDTrainLoRA: ") and words in str(error.value)
    assert not calls


def test_a_network_without_a_middle_is_reported():
    with pytest.raises(ValueError, match="no middle block .*: set features to latent or pyramid"):
        middle_block(torch.nn.Sequential(torch.nn.Linear(2, 2)))


# ---- models that cannot be copied


def test_a_lora_in_bypass_mode_is_reported():
    if "bypass" not in LoraModelLoader.execute.__code__.co_varnames:
        pytest.skip("this ComfyUI has no bypass mode")
    model = with_lora(own(QUICK), usual()[LORA], bypass=True)
    with pytest.raises(ValueError, match="^MMDTrainLoRA: model has a LoRA in bypass mode"):
        trained(model)


def test_a_network_that_is_not_the_copy_is_reported():
    """As with TorchCompileModel: adapters on the copy would have no effect."""
    model = own(QUICK).clone()
    network = model.model.diffusion_model

    def replaced(executor, *args, **options):
        inner = executor.class_obj
        kept, inner.diffusion_model = inner.diffusion_model, network
        try:
            return executor(*args, **options)
        finally:
            inner.diffusion_model = kept

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "replaced", replaced)
    with pytest.raises(ValueError, match="^MMDTrainLoRA: the LoRA has no effect on the samples"):
        trained(model)


def test_tensors_of_inference_mode_in_patches_are_reported():
    """As in IP-Adapter."""
    with torch.inference_mode():
        held = torch.ones(1)
    model, _ = asked(own(QUICK), lambda number, denoised: denoised * held)
    with pytest.raises(ValueError, match="^MMDTrainLoRA: a patch of the model .* has tensors"):
        trained(model)


# ---- during the training


def test_networks_without_gradients_are_reported():
    """Such as networks with rotary embeddings before ComfyUI 0.16."""
    error = RuntimeError("apply_rope but no autograd formula was registered")
    with pytest.raises(ValueError, match="^MMDTrainLoRA: this version .*: update ComfyUI"):
        trained(failing(error, after=5))


def failing(error, after: int):
    """A model that raises `error` after this number of estimates."""

    def fail(number, denoised):
        if number > after:
            raise error
        return denoised

    return asked(own(QUICK), fail)[0]


@pytest.mark.parametrize(
    "changed, advice", [
        ({}, "Set micro_batch to 1."),
        ({"micro_batch": 1, "gradient_checkpointing": False}, "Turn gradient_checkpointing on"),
    ],
)  # fmt: skip
def test_memory_that_runs_out_is_reported_with_advice(changed, advice, caplog):
    error = management.OOM_EXCEPTION("too much")
    with pytest.raises(management.OOM_EXCEPTION) as raised:
        trained(failing(error, after=5), **changed)
    assert raised.value is error and error.__cause__ is None
    assert advice in caplog.text


def test_an_interrupt_keeps_the_best_and_the_next_training_is_as_ever(output_folder, caplog):  # noqa: F811
    def stop(number, denoised):
        if number > 30:  # the first update was 4 + 4 calls; validations before it and after
            management.interrupt_current_processing(True)
        return denoised

    model, _ = asked(own(QUICK), stop)
    settings = {
        "validation": references(count=4, seed=2),
        "validate_every": 1,
        "iterations": 50,
        "keep": "last",
    }
    caplog.set_level("INFO", "mmd_guidance")
    with pytest.raises(management.InterruptProcessingException):
        trained(model, **settings, autosave="loras/kept")
    (file,) = output_folder.rglob("*.safetensors")
    assert file.name == "kept_00001_.safetensors" and file.parent.name == "loras"
    assert f"the best LoRA so far is loras/{file.name} in the output folder" in caplog.text
    assert str(output_folder) not in caplog.text and caplog.text.isascii()
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == set(usual()[LORA])
        assert opened.get_tensor("diffusion_model.final_layer.linear.lora_up.weight").any()
        assert '"kept_iteration": 1' in opened.metadata()["mmd_ddm"]
    assert trained(autosave="loras/kept")[LOSSES] == usual()[LOSSES]
    assert list(output_folder.rglob("*.safetensors")) == [file]


def test_autosave_is_there_while_training_goes_on_and_gone_afterwards(output_folder, monkeypatch):  # noqa: F811
    there, save = [], Autosave.save

    def noted(self, *args):
        save(self, *args)
        there.append(len(list(output_folder.rglob("*.safetensors"))))

    monkeypatch.setattr(Autosave, "save", noted)
    trained(validate_every=1, autosave="loras/kept")
    assert there == [1, 1] and not list(output_folder.rglob("*.safetensors"))
    trained(validate_every=1)
    assert there == [1, 1, 0, 0]


def test_a_disk_that_is_full_does_not_end_a_training(output_folder, monkeypatch, caplog):  # noqa: F811
    def full(path, *_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(trained_lora, "write_new", full)
    assert trained(autosave="loras/kept")[LOSSES] == usual()[LOSSES]
    assert "autosave failed, training continues" in caplog.text and "No space left" in caplog.text
    assert str(output_folder) not in caplog.text and caplog.text.isascii()
    Path(output_folder, "file").write_text("")
    with pytest.raises(ValueError, match="^MMDTrainLoRA: the folder of 'file/x' cannot be created"):
        trained(autosave="file/x")


def test_numbers_that_are_not_finite_end_it_with_the_best_so_far():
    def broken(number, denoised):
        return denoised * math.nan if number > 22 else denoised

    model, _ = asked(own(QUICK), broken)
    out = trained(
        model, validation=references(count=4, seed=2), validate_every=1, iterations=5, keep="last"
    )
    assert out[STEPS] == 1 and math.isfinite(out[LOSSES]["loss"][0])
    assert (
        "Training ended after 1 updates, because the loss or its gradient was not a finite"
        in out[REPORT]
    )
    assert all(factor.isfinite().all() for factor in out[LORA].values())
    assert any(factor.any() for name, factor in out[LORA].items() if "lora_up" in name)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_model_that_only_returns_nan(held_out):
    model, _ = asked(own(QUICK), lambda number, denoised: denoised * math.nan)
    out = trained(model, validation=references(count=4) if held_out else None)
    assert out[STEPS] == 0 and "was not a finite number" in out[REPORT]
    assert not any(factor.any() for name, factor in out[LORA].items() if "lora_up" in name)
    assert out[PLOT].isfinite().all()
