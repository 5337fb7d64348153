"""Telling networks apart by their weights, and saying so when more than weights decides what they make."""

import pytest
import torch
from mmd_pack.nodes.host.fingerprint import clip_key, is_plain, vae_fingerprint, vae_key
from mmd_tests.support.tiny_encoders import tiny_clip, tiny_vae

pytestmark = pytest.mark.comfy


class Shown:
    """Something that shows weights as ComfyUI's VAE does."""

    def __init__(self, **weights):
        self.first_stage_model = self
        self.state_dict = lambda: weights


def fingerprint(**weights):
    return vae_fingerprint(Shown(**weights))


@pytest.fixture(scope="module")
def clips():
    """Two text encoders, for tests that leave them as they are."""
    return tiny_clip(), tiny_clip(seed=1)


# What is shared in files: which VAE it was


def test_the_fingerprint_differs_by_encoder_and_survives_casts():
    torch.manual_seed(0)
    weights = {f"encoder.{i}": torch.randn(3, 4) for i in range(12)}
    first = fingerprint(**weights)
    assert len(first) == 64
    cast = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    shuffled = dict(sorted(weights.items(), reverse=True))
    decoder = {"decoder.0": torch.randn(5), "decoder.steps": torch.tensor(3)}
    for same in (cast, shuffled, {**weights, **decoder}):
        assert fingerprint(**same) == first
    for name in weights:
        assert fingerprint(**{**weights, name: weights[name] + 1}) != first


def test_every_weight_that_encodes_counts_and_none_that_only_decodes():
    """By the names that ComfyUI's VAEs use; `quant_conv` and the norm of Flux 2 make the latents, too."""
    encodes = [
        "encoder.down.0.conv2.weight",
        "quant_conv.weight",
        "bn.running_mean",
        "conv1.weight",
    ]
    decodes = ["decoder.up.0.conv2.weight", "post_quant_conv.weight", "conv2.weight",
               "taesd_decoder.1.weight"]  # fmt: skip
    torch.manual_seed(0)
    weights = {name: torch.randn(4, 4) for name in encodes + decodes}
    for name in weights:
        other = fingerprint(**{**weights, name: torch.randn(4, 4)})
        assert (other == fingerprint(**weights)) == (name in decodes), name


def test_training_shows_in_large_weights():
    """Only a sample of each is looked at, from its first to its last numbers."""
    torch.manual_seed(0)
    weight = torch.randn(300, 301)
    first = fingerprint(encoder=weight)
    assert fingerprint(encoder=weight + 0.02 * torch.randn(300, 301)) != first
    for part in (slice(0, 30), slice(270, 300)):
        trained = weight.clone()
        trained[part] += 0.02 * torch.randn(30, 301)
        assert fingerprint(encoder=trained) != first


def test_shapes_and_memory_layout():
    weight = torch.arange(64.0).view(1, 4, 4, 4)
    first = fingerprint(encoder=weight)
    assert fingerprint(encoder=weight.to(memory_format=torch.channels_last)) == first
    assert fingerprint(encoder=weight.view(4, 16)) != first
    assert fingerprint(encoder=torch.empty(0), quant=weight) != first  # and nothing fails


def test_a_vae_that_shows_no_weights_has_no_fingerprint():
    for vae in (object(), Shown(), Shown(steps=torch.tensor(3))):
        assert vae_fingerprint(vae) == ""


# What the cache trusts


def test_equal_vaes_have_one_key_before_and_after_use():
    first, again, other = tiny_vae(), tiny_vae(), tiny_vae(seed=1)
    key = vae_key(first)
    assert len(key) == 64 and key == vae_key(again) != vae_key(other)
    first.encode(torch.rand(1, 16, 16, 3))
    assert vae_key(first) == key
    with torch.no_grad():
        again.first_stage_model.taesd_decoder[1].weight += 1
    assert vae_key(again) == key  # it encodes as before
    with torch.no_grad():
        again.first_stage_model.taesd_encoder[0].weight += 1e-6  # lost when rounded to bfloat16
    assert vae_key(again) != key


def test_a_vae_in_another_precision_has_another_key():
    vae = tiny_vae()
    key = vae_key(vae)
    vae.vae_dtype = torch.bfloat16
    assert vae_key(vae) not in (key, "")


def seamless(vae):
    """As nodes for seamless textures do."""
    for layer in vae.first_stage_model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer._conv_forward = lambda *inputs: inputs[0]


@pytest.mark.parametrize("change", [
    seamless,
    lambda vae: vae.first_stage_model.register_forward_hook(lambda *x: None),
    lambda vae: setattr(vae, "encode", lambda pixels: pixels),
    lambda vae: vae.patcher.add_object_patch("taesd_encoder.0", torch.nn.Identity()),
    lambda vae: vae.patcher.add_wrapper("a kind", lambda *x: None),
    lambda vae: delattr(vae, "patcher"),
    lambda vae: vae.first_stage_model.to("meta"),
])  # fmt: skip
def test_a_vae_that_was_tampered_with_is_not_judged(change):
    vae = tiny_vae()
    change(vae)
    assert vae_key(vae) == ""


def test_circular_padding_makes_another_key():
    vae = tiny_vae()
    key = vae_key(vae)
    for layer in vae.first_stage_model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.padding_mode = "circular"
    assert vae_key(vae) not in (key, "")


def test_what_is_no_vae_or_text_encoder_of_comfyui_is_not_judged():
    for thing in (object(), Shown(encoder=torch.ones(3))):
        assert vae_key(thing) == clip_key(thing) == ""


def test_equal_text_encoders_have_one_key_before_and_after_use(clips):
    first, other = clips
    key = clip_key(first)
    assert len(key) == 64 and key != clip_key(other)
    first.encode_from_tokens_scheduled(first.tokenize("a cat"))
    assert clip_key(first) == key == clip_key(tiny_clip()) == clip_key(first.clone())


def test_options_of_a_text_encoder_make_another_key(clips):
    clip = clips[0].clone()
    keys = {clip_key(clip)}
    clip.clip_layer(-2)
    keys.add(clip_key(clip))
    clip.use_clip_schedule = True
    keys.add(clip_key(clip))
    assert len(keys) == 3 and "" not in keys


def test_a_text_encoder_with_lora_or_hooks_is_not_judged(clips):
    weight = "clip_l.transformer.text_model.final_layer_norm.weight"
    lora = clips[0].clone()
    assert lora.add_patches({weight: ("diff", (torch.ones(16),))}, 1.0)
    hooked, unknown = clips[0].clone(), clips[0].clone()
    hooked.apply_hooks_to_conds = object()
    unknown.something_new = object()
    assert clip_key(lora) == clip_key(hooked) == clip_key(unknown) == ""


def test_the_lora_of_a_copy_that_is_loaded_does_not_count(clips):
    """Copies share one network, whose weights are patched while one of them is in use."""
    plain, weight = clips[0], "clip_l.transformer.text_model.final_layer_norm.weight"
    key = clip_key(plain)
    lora = plain.clone()
    lora.add_patches({weight: ("diff", (torch.ones(16),))}, 1.0)
    before = plain.cond_stage_model.state_dict()[weight].clone()
    lora.encode_from_tokens_scheduled(lora.tokenize("a cat"))
    assert not torch.equal(plain.cond_stage_model.state_dict()[weight], before)
    assert clip_key(plain) == key
    plain.encode_from_tokens_scheduled(plain.tokenize("a cat"))
    assert clip_key(plain) == key


def test_only_what_repr_shows_is_plain():
    assert is_plain({"l": [[(49406, 1.0), (320, 1.2)]], "dtype": torch.float32, "none": None})
    for value in (torch.ones(1), {"l": [(torch.ones(3), 1.0)]}, object(), {1: {2: [print]}}):
        assert not is_plain(value)
