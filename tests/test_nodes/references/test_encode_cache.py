"""Encoding each picture and caption once in its life, and holding few of them in memory at a time."""

import errno
import os
import weakref
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management as management
import comfy.sd
import folder_paths
import numpy as np
import pytest
import torch
from mmd_pack.nodes.host import large_tensor
from mmd_pack.nodes.references.folder.image_folder import ReferenceSet
from mmd_pack.nodes.references.folder.lazy_image import FileImage, Loaded
from mmd_tests.support.encoding import pictures, reference_set, run
from mmd_tests.support.tiny_encoders import TinyVAE, tiny_clip, tiny_vae
from PIL import Image
from safetensors.torch import save_file

pytestmark = pytest.mark.comfy


@pytest.fixture
def calls(monkeypatch):
    """How often ComfyUI's VAEs and text encoders were asked, and who was."""
    asked = []

    def note(kind, method):
        original = getattr(kind, method)

        def noted(self, *args, **options):
            asked.append(kind.__name__)
            return original(self, *args, **options)

        monkeypatch.setattr(kind, method, noted)

    note(comfy.sd.VAE, "encode")
    note(comfy.sd.CLIP, "encode_from_tokens")
    return asked


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def images(n=3, seed=0):
    return pictures(*[(32, 24), (50, 30), (20, 90), (64, 48), (32, 32)][:n], seed=seed)


def entries(user_folder):
    return sorted(user_folder.rglob("*.safetensors"))


def same(first, second):
    """Whether two References are equal to the last bit."""
    fields = ("latents", "thumbnails", "weights", "prompts")
    pairs = [(getattr(first, field), getattr(second, field)) for field in fields]
    return first.vae == second.vae and all(
        a is b or torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs
    )


def test_the_report_says_how_large_the_cache_is_and_cache_limit_empties_it(vae, user_folder):
    _, _, report = run(vae, images=images())
    size = sum(path.stat().st_size for path in entries(user_folder))
    assert f"Cache on disk: {size / 1e6:.1f} MB, at most 17.2 GB." in report
    assert "Cache on disk" not in run(vae, images=images(), cache=False)[2]
    _, _, report = run(vae, images=images(), cache_limit=0)
    assert "Cache on disk: 0.0 MB, at most 0.0 GB." in report and "from the cache" not in report
    assert entries(user_folder) == []


# Hits


def test_a_second_run_encodes_nothing_and_gives_the_same_bits(vae, clip, calls, user_folder):
    inputs = {"images": images(), "captions": ["a cat", "", "a (big:1.3) dog"], "clip": clip}
    first, latents, report = run(vae, **inputs)
    assert calls == ["VAE"] * 3 + ["CLIP"] * 3
    assert "from the cache" not in report and len(entries(user_folder)) == 6
    calls.clear()
    second, again, report = run(vae, **inputs)
    assert calls == []
    assert same(first, second) and torch.equal(latents["samples"], again["samples"])
    assert "3 of 3 from the cache." in report
    fresh, _, _ = run(vae, **inputs, cache=False)
    assert calls == ["VAE"] * 3 + ["CLIP"] * 3 and same(fresh, first)


def test_runs_within_and_without_inference_mode_agree(vae, clip, calls):
    """ComfyUI runs nodes within it; other programs may not."""
    inputs = {"images": images(), "captions": "a cat", "clip": clip}
    with torch.inference_mode():
        first, second = run(vae, **inputs)[0], run(vae, **inputs)[0]
    third = run(vae, **inputs)[0]
    assert calls == ["VAE"] * 3 + ["CLIP"]
    assert same(first, second) and same(first, third)


def test_only_new_images_are_encoded(vae, calls):
    run(vae, images=images(3))
    calls.clear()
    mixed = [*images(5)[3:], *images(3)]
    references, _, report = run(vae, images=mixed)
    assert calls == ["VAE"] * 2 and "3 of 5 from the cache." in report
    assert same(references, run(vae, images=mixed, cache=False)[0])


def test_one_file_serves_whatever_name_and_place_it_has(vae, calls, tmp_path):
    pixels = (images()[0][0].numpy() * 255).astype(np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    for name in ("a.png", "b.png"):
        picture = FileImage(tmp_path / name, (32, 24))
        run(vae, reference_set=ReferenceSet([picture], [""], [name], [1.0], []))
    assert calls == ["VAE"]
    Image.fromarray(pixels[::-1].copy()).save(tmp_path / "a.png")
    picture = FileImage(tmp_path / "a.png", (32, 24))
    run(vae, reference_set=ReferenceSet([picture], [""], ["a.png"], [1.0], []))
    assert calls == ["VAE"] * 2  # another content


@pytest.mark.parametrize("change", [
    {"width": 40}, {"height": 40}, {"fit": "pad"}, {"fit": "stretch"}, {"vae": tiny_vae},
])  # fmt: skip
def test_whatever_changes_the_result_is_encoded_again(vae, calls, change):
    run(vae, images=images())
    calls.clear()
    if "vae" in change:
        change = {"vae": change["vae"](seed=1)}
    inputs = {"vae": vae, "images": images(), **change}
    references, _, _ = run(**inputs)
    assert len(calls) == 3
    assert same(references, run(**inputs, cache=False)[0])


def test_captions_and_weights_do_not_change_the_key_of_images(vae, calls):
    run(vae, reference_set=reference_set(images()))
    calls.clear()
    other = reference_set(images(), captions=["x", "y", "z"], weights=[1.0, 2.0, 3.0])
    references, _, _ = run(vae, reference_set=other)
    assert calls == [] and references.captions == ("x", "y", "z")


def test_a_vae_that_cannot_be_judged_is_not_cached(user_folder):
    vae = TinyVAE()
    for _ in range(2):
        run(vae, images=images())
    assert len(vae.seen) == 6 and entries(user_folder) == []


def test_cache_can_be_switched_off(vae, calls, user_folder):
    for _ in range(2):
        run(vae, images=images(), cache=False)
    assert len(calls) == 6 and not user_folder.exists()


# Captions


def test_a_caption_is_known_by_its_tokens(vae, clip, calls):
    run(vae, images=images(1), captions="a cat", clip=clip)
    calls.clear()
    run(vae, images=images(1), captions="A  Cat", clip=clip)  # the tokenizer sees no difference
    assert calls == []
    run(vae, images=images(1), captions="a (cat:1.1)", clip=clip)
    assert calls == ["CLIP"]


def test_a_layer_or_lora_that_changes_captions_is_not_overlooked(vae, clip, calls):
    inputs = {"images": images(1), "captions": "a cat"}
    plain, layer, lora = clip, clip.clone(), clip.clone()
    layer.clip_layer(-1)
    weight = "clip_l.transformer.text_model.final_layer_norm.weight"
    lora.add_patches({weight: ("diff", (torch.ones(16),))}, 1.0)
    prompts = [run(vae, **inputs, clip=c)[0].prompts for c in (plain, layer, lora, plain)]
    assert torch.equal(prompts[0], prompts[3])
    assert not torch.equal(prompts[0], prompts[2])
    calls.clear()
    again = [run(vae, **inputs, clip=c)[0].prompts for c in (plain, layer, lora)]
    assert calls == ["CLIP"]  # the one with a LoRA is never cached
    assert all(map(torch.equal, prompts, again))


def test_an_embedding_in_a_caption_is_read_again_each_time(vae, calls, tmp_path):
    clip = tiny_clip()
    clip.tokenizer.clip_l.embedding_directory = str(tmp_path)
    clip.tokenizer.clip_l.embedding_size = 16
    seen = []
    for _ in range(2):
        save_file({"emb": torch.randn(1, 16)}, tmp_path / "style.safetensors")
        inputs = {"images": images(1), "captions": "in embedding:style", "clip": clip}
        seen.append(run(vae, **inputs)[0].prompts)
    assert not torch.equal(*seen) and calls.count("CLIP") == 2


# What can go wrong


def test_a_damaged_file_is_made_again_with_a_notice(vae, calls, user_folder):
    first, _, _ = run(vae, images=images())
    victim = entries(user_folder)[1]
    victim.write_bytes(victim.read_bytes()[:-1])
    calls.clear()
    again, _, report = run(vae, images=images())
    assert calls == ["VAE"] and same(first, again)
    assert "2 of 3 from the cache." in report
    assert "Damaged files in the cache, made again: 1." in report
    calls.clear()
    assert "Damaged" not in run(vae, images=images())[2] and calls == []


def test_a_full_disk_is_reported_and_stops_nothing(vae, monkeypatch, user_folder):
    expected, _, _ = run(vae, images=images(), cache=False)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    references, _, report = run(vae, images=images())
    assert same(references, expected)
    assert "Not all is cached for the next run: No space left on device." in report
    assert [path for path in user_folder.rglob("*") if path.is_file()] == []


def test_an_interrupted_run_keeps_what_it_encoded(vae, user_folder, monkeypatch):
    original = management.throw_exception_if_processing_interrupted

    def after_two():
        if len(entries(user_folder)) == 2:
            management.interrupt_current_processing(True)
        original()

    with monkeypatch.context() as patch:
        patch.setattr(management, "throw_exception_if_processing_interrupted", after_two)
        with pytest.raises(management.InterruptProcessingException):
            run(vae, images=images())
    _, _, report = run(vae, images=images())
    assert "2 of 3 from the cache." in report


def test_a_latent_that_is_not_finite_is_not_kept(calls, user_folder):
    vae = tiny_vae()
    with torch.no_grad():
        vae.first_stage_model.taesd_encoder[0].bias.fill_(float("nan"))
    for _ in range(2):
        with pytest.raises(ValueError, match="NaN"):
            run(vae, images=images())
    assert entries(user_folder) == []


def file_set(path, name="deep/cat.png"):
    return ReferenceSet([FileImage(path, (32, 24))], [""], [name], [1.0], [])


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\nhalf", b"text"])
def test_a_file_that_broke_since_it_was_listed_is_named(vae, tmp_path, content):
    path = tmp_path / "cat.png"
    if content is not None:
        path.write_bytes(content)
    found = file_set(path)
    with pytest.raises(
        ValueError, match="EncodeReferenceLatents: deep/cat.png .*: run again"
    ) as info:
        run(vae, reference_set=found)
    assert str(Path(path).parent) not in str(info.value)  # no places of the server


def test_running_out_of_memory_is_handled_as_core_does(calls, monkeypatch, caplog):
    """Core encodes in tiles instead; only if that fails as well, its error comes out as it is."""
    vae = tiny_vae()
    with torch.inference_mode():  # as ComfyUI runs nodes
        expected, _, _ = run(vae, 96, 64, images=images(1), cache=False)
    encode, asked = type(vae.first_stage_model).encode, []

    def scarce(self, pixels, **options):
        asked.append(pixels.shape)
        if len(asked) == 1:
            raise management.OOM_EXCEPTION("full")
        return encode(self, pixels, **options)

    monkeypatch.setattr(type(vae.first_stage_model), "encode", scarce)
    with torch.inference_mode():
        references, _, _ = run(vae, 96, 64, images=images(1), cache=False)
    assert len(asked) > 1 and "tiled" in caplog.text
    assert torch.allclose(references.latents, expected.latents, atol=1e-3)

    def full(self, pixels, **options):
        raise management.OOM_EXCEPTION("full")

    monkeypatch.setattr(type(vae.first_stage_model), "encode", full)
    with pytest.raises(management.OOM_EXCEPTION, match="full"):
        run(vae, 96, 64, images=images(1), cache=False)


# Memory


@dataclass
class Counted:
    """A picture that notes how many decoded pictures are alive."""

    content: int
    size: tuple = (32, 24)
    decoded = []
    alive = set()
    most = 0

    def load(self):
        def decode():
            image = torch.full((1, 24, 32, 3), self.content / 255)
            Counted.decoded.append(self.content)
            Counted.alive.add(id(image))
            weakref.finalize(image, Counted.alive.discard, id(image))
            Counted.most = max(Counted.most, len(Counted.alive))
            return image

        return Loaded(str(self.content), decode)


def counted_set(contents):
    n = len(contents)
    pictures = list(map(Counted, contents))
    return ReferenceSet(pictures, [""] * n, list(map(str, contents)), [1.0] * n, [])


def test_pictures_are_decoded_one_at_a_time_and_only_when_they_are_new(vae):
    Counted.decoded.clear()
    first, _, _ = run(vae, reference_set=counted_set(range(40)))
    assert Counted.decoded == list(range(40))
    assert Counted.most <= 2 and Counted.alive == set()
    Counted.decoded.clear()
    second, _, _ = run(vae, reference_set=counted_set(range(41)))
    assert Counted.decoded == [40]
    assert torch.equal(first.latents, second.latents[:40])


def test_a_set_larger_than_the_memory_lies_in_a_file(vae, monkeypatch, tmp_path):
    expected, _, report = run(vae, images=images(5))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(large_tensor, "IN_MEMORY", 100)
    paths, from_file = [], torch.from_file
    monkeypatch.setattr(
        torch, "from_file", lambda path, **options: paths.append(path) or from_file(path, **options)
    )
    references, latents, again = run(vae, images=images(5))
    assert len(paths) == 2  # latents and thumbnails
    assert same(references, expected)
    assert again.split("\n")[2:] == report.split("\n")[2:]
    assert latents["samples"].data_ptr() == references.latents.data_ptr()  # not a copy
