"""The copy that is trained, of models as ComfyUI and other packs load them: one stand-in of each kind."""

import ctypes
from types import SimpleNamespace

import comfy.model_management as management
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from mmd_pack.nodes.ddm.training.private_copy import private_copy
from mmd_tests.support.ddm_runs import QUICK, STEPS, denoised, own_family, trained
from mmd_tests.support.tiny_models import family_latent

pytestmark = pytest.mark.comfy


class Dynamic(ModelPatcher):
    """As with dynamic VRAM, whose own class exists only where there is an NVIDIA card."""

    def is_dynamic(self):
        return True


class WithoutDeepcopy(Dynamic):
    """The `clone` of ComfyUI 0.16.3 and of the GGUF loaders."""

    def clone(self, disable_dynamic=False, model_override=None):
        return super().clone(disable_dynamic=disable_dynamic, model_override=model_override)


class WithoutArguments(Dynamic):
    """A `clone` as it was before dynamic VRAM."""

    def clone(self):
        return super().clone()


class Refusing(Dynamic):
    def clone(self, disable_dynamic=False, **_):
        if disable_dynamic:
            raise ValueError("shared weights cannot be copied")
        return super().clone()


class Sharing(Dynamic):
    """Its `clone` is itself, whatever is asked for."""

    def clone(self, **_):
        return self


KINDS = [Dynamic, WithoutDeepcopy, WithoutArguments, Refusing, Sharing]
RELOADING = (Dynamic, WithoutDeepcopy)


def as_loaded(kind, with_file: bool):
    """A small model, as a loader makes it that remembers its file or not; and what was loaded."""
    model, loads = own_family(QUICK), []
    patcher = kind(model.model, model.load_device, model.offload_device)

    def load(name, disable_dynamic=False):
        loads.append((name, disable_dynamic))
        return ["no model", own_family(QUICK)]

    patcher.cached_patcher_init = (load, ("a.safetensors",), 1) if with_file else None
    for module in model.model.modules():  # as ComfyUI keeps addresses of memory there
        if isinstance(module, torch.nn.Linear):
            module._v = (SimpleNamespace(pointer=ctypes.pointer(ctypes.c_int(1))), 1, 2)
            module._v_signature, module.weight_lowvram_function = None, None
    return patcher, loads


@pytest.mark.parametrize("with_file", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_dynamic_vram_is_loaded_again_or_copied(kind, with_file):
    """Whatever its loader allows; the copy draws the same and shares nothing."""
    patcher, loads = as_loaded(kind, with_file)
    patcher.set_model_sampler_post_cfg_function(lambda call: call["denoised"] * 0.5)
    with torch.inference_mode(False):
        own = private_copy(patcher, None)
    assert loads == [("a.safetensors", True)] * (with_file and kind in RELOADING)
    assert not own.is_dynamic() and own.model is not patcher.model
    theirs = {weight.data_ptr() for weight in patcher.model.parameters()}
    assert not any(weight.data_ptr() in theirs for weight in own.model.parameters())
    assert not any("_v" in vars(module) for module in own.model.modules())
    assert any("_v" in vars(module) for module in patcher.model.modules())
    plain = own_family(QUICK)
    plain.set_model_sampler_post_cfg_function(lambda call: call["denoised"] * 0.5)
    x = torch.randn(family_latent(QUICK, 1)["samples"].shape)
    assert torch.equal(denoised(own, x), denoised(plain, x))


def test_a_model_with_dynamic_vram_is_trained():
    assert trained(as_loaded(Refusing, False)[0])[STEPS] == 2


def test_a_model_that_cannot_be_copied_is_refused_in_words():
    patcher, _ = as_loaded(Sharing, False)
    patcher.model.diffusion_model.address = ctypes.pointer(ctypes.c_int(1))
    with pytest.raises(ValueError, match="MMDTrainLoRA: .*cannot be copied.*Load Checkpoint"):
        trained(patcher)


def test_running_out_of_memory_is_not_taken_for_a_refusal():
    class Full(Dynamic):
        def clone(self, **_):
            raise management.OOM_EXCEPTION("full")

    with torch.inference_mode(False), pytest.raises(management.OOM_EXCEPTION):
        private_copy(as_loaded(Full, True)[0], None)


def test_weights_that_stay_on_the_gpu_make_room_for_the_copy():
    """As with --highvram. Weights without numbers stand for those on a GPU."""

    class OnGPU(ModelPatcher):
        moved = ()

        def unpatch_model(self, device_to=None, unpatch_weights=True):
            self.moved += (device_to,)
            self.model.to_empty(device=device_to)

    model = own_family(QUICK)
    patcher = OnGPU(model.model.to("meta"), model.load_device, model.offload_device)
    with torch.inference_mode(False):
        own = private_copy(patcher, None)
    assert patcher.moved == (torch.device("cpu"),)
    assert {weight.device.type for weight in own.model.parameters()} == {"cpu"}


def test_copies_on_other_gpus_are_not_trained():
    model = own_family(QUICK)
    model.set_additional_models("multigpu", [model.clone()])
    with torch.inference_mode(False):
        own = private_copy(model, None)
    assert not own.get_additional_models() and len(model.get_additional_models()) == 1
