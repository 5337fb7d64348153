"""Core's own nodes around EncodeReferenceLatents: the same pictures give the same references on every way."""

import json

import folder_paths
import numpy as np
import pytest
import torch
from comfy_extras import nodes_dataset
from mmd_pack.nodes.references.encode_reference_latents import EncodeReferenceLatents
from mmd_tests.support.encoding import pictures, run
from mmd_tests.support.tiny_encoders import tiny_clip, tiny_vae
from PIL import Image

import nodes

pytestmark = pytest.mark.comfy

TEXTS = ["a cat", "", "a (big:1.3) black dog"]


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """ComfyUI's folders, empty; data sets lie in `datasets`, or in `output` in older versions."""
    for kind in ("user", "input", "output", "temp", "datasets"):
        (tmp_path / kind).mkdir()
        if kind != "datasets":
            monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    places = {
        **folder_paths.folder_names_and_paths,
        "datasets": ([str(tmp_path / "datasets")], set()),
    }
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", places)
    return tmp_path


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def core(name, *values, **inputs):
    """The outputs of a node of core's nodes_dataset, with inputs as the executor hands them over."""
    with torch.inference_mode():
        return getattr(nodes_dataset, name).execute(*values, **inputs).args


def images(sizes=((32, 24),) * 3):
    return pictures(*sizes)


def expected(vae, clip, width=32, height=24):
    with torch.inference_mode():
        inputs = {"images": images(), "captions": TEXTS, "clip": clip}
        return run(vae, width, height, **inputs, cache=False)[0]


def taken(latents, conditioning=None):
    """The references made of LATENTs and CONDITIONINGs, without a VAE or text encoder."""
    lists = {"encoded": list(latents), "conditioning": conditioning and list(conditioning)}
    with torch.inference_mode():
        return EncodeReferenceLatents.execute([512], [512], ["crop"], **lists).args[0]


def same(first, second):
    return torch.equal(first.latents, second.latents) and torch.equal(first.prompts, second.prompts)


def test_a_training_dataset_is_what_we_encode_ourselves(vae, clip):
    latents, conditioning = core("MakeTrainingDataset", images(), [vae], [clip], TEXTS)
    assert same(taken(latents, conditioning), expected(vae, clip))


def test_a_training_dataset_without_texts_gives_all_the_same_prompt(vae, clip):
    latents, conditioning = core("MakeTrainingDataset", images(), [vae], [clip])
    references = taken(latents, conditioning)
    empty = expected(vae, clip).prompts[1]
    assert torch.equal(references.prompts, empty.expand(3, -1))


@pytest.mark.parametrize("shard_size", [1000, 2])
def test_a_saved_dataset_comes_back_as_it_was(vae, clip, shard_size):
    made = core("MakeTrainingDataset", images(), [vae], [clip], TEXTS)
    core("SaveTrainingDataset", *made, ["style"], [shard_size])
    loaded = core("LoadTrainingDataset", "style")
    assert same(taken(*loaded), expected(vae, clip))


def test_buckets_are_taken_apart_again(vae, clip):
    made = core("MakeTrainingDataset", images(), [vae], [clip], TEXTS)
    latents, conditioning = core("ResolutionBucket", *made)
    assert len(latents) == 1 and len(conditioning[0]) == 3
    assert same(taken(latents, conditioning), expected(vae, clip))


def test_buckets_of_several_sizes_keep_each_prompt_with_its_latent(vae, clip):
    sizes = [(32, 24), (48, 24), (32, 24)]
    made = core("MakeTrainingDataset", images(sizes), [vae], [clip], TEXTS)
    latents, conditioning = core("ResolutionBucket", *made)
    assert [len(latent["samples"]) for latent in latents] == [2, 1]
    references, alone = taken(latents, conditioning), taken(*made)
    order = [0, 2, 1]
    assert torch.equal(references.latents, alone.latents[order])
    assert torch.equal(references.prompts, expected(vae, clip).prompts[order])
    assert torch.equal(alone.latents[1], made[0][1]["samples"][0, ..., 1:5])


def test_vae_encode_and_our_own_output_can_be_put_in_again(vae, clip):
    ours = expected(vae, clip)
    with torch.inference_mode():
        (batch,) = nodes.VAEEncode().encode(vae, torch.cat(images()))
        single = [nodes.VAEEncode().encode(vae, image)[0] for image in images()]
    assert torch.equal(taken(single).latents, ours.latents)
    assert torch.allclose(taken([batch]).latents, ours.latents, atol=1e-4)  # a batch sums otherwise
    assert torch.equal(taken([{"samples": ours.latents}]).latents, ours.latents)


def test_our_latents_are_a_training_dataset(vae, clip, folders):
    """They can be saved by core, and loaded again."""
    ours = expected(vae, clip)
    _, conditioning = core("MakeTrainingDataset", images(), [vae], [clip], TEXTS)
    latents = [{"samples": latent[None]} for latent in ours.latents]
    core("SaveTrainingDataset", latents, conditioning, ["ours"], [1000])
    assert same(taken(*core("LoadTrainingDataset", "ours")), ours)


def save_pictures(folder):
    folder.mkdir(exist_ok=True)
    for j, (image, text) in enumerate(zip(images(), TEXTS, strict=True)):
        pixels = (image[0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{j}.png")
        (folder / f"{j}.txt").write_text(text)


def test_images_of_core_loaders_in_lists_and_batches(vae, clip, folders):
    save_pictures(folders / "input")
    save_pictures(folders / "input" / "style")
    ours = expected(vae, clip)
    singles = [nodes.LoadImage().load_image(f"{j}.png")[0] for j in range(3)]
    batch = nodes.ImageBatch().batch(*singles[:2])[0]
    batch = nodes.ImageBatch().batch(batch, singles[2])[0]
    found, texts = core("LoadImageTextDataSetFromFolderNode", "style")
    order = sorted(
        range(3), key=lambda j: TEXTS.index(texts[j])
    )  # core lists files as the disk does
    for form in (singles, [batch], [batch[:1], batch[1:]], [found[j] for j in order]):
        references, _, _ = run(vae, images=form, captions=TEXTS, clip=clip, cache=False)
        assert same(references, ours)


def test_the_test_data_sets_lie_where_this_comfyui_keeps_them(vae, clip, folders):
    core("SaveTrainingDataset", *core("MakeTrainingDataset", images(), [vae], [clip]), ["x"], [9])
    (metadata,) = folders.rglob("metadata.json")
    assert metadata.parent.parent in (folders / "datasets", folders / "output")
    assert json.loads(metadata.read_text())["num_samples"] == 3
