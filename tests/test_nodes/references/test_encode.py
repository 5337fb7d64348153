"""Encoding reference images: sizes, order, captions, and what a VAE can do wrong."""

import inspect

import comfy.model_management as management
import comfy.sd
import comfy.utils
import pytest
import torch
from mmd_pack.nodes.pictures.fit_image import fit_image
from mmd_pack.nodes.references.encode_reference_latents import EncodeReferenceLatents
from mmd_pack.nodes.references.encode_reference_latents import EncodeReferenceLatents as node
from mmd_tests.support.encoding import pictures, reference_set, run
from mmd_tests.support.tiny_encoders import TinyCLIP, TinyVAE, tiny_vae

import nodes

pytestmark = pytest.mark.comfy


def fitted(image, width, height, fit):
    return fit_image(image, width, height, fit)


# Sizes


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_an_image_of_the_right_size_is_not_touched(fit):
    (image,) = pictures((32, 24))
    assert fitted(image, 32, 24, fit) is image
    vae = TinyVAE()
    run(vae, images=image, fit=fit)
    assert torch.equal(vae.seen[0], image)


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (64, 48), (7, 5), (33, 25)])
@pytest.mark.parametrize("fit, crop", [("crop", "center"), ("stretch", "disabled")])
def test_crop_and_stretch_are_those_of_core(size, fit, crop):
    (image,) = pictures(size)
    (expected,) = nodes.ImageScale().upscale(image, "lanczos", 32, 24, crop)
    assert torch.equal(fitted(image, 32, 24, fit), expected.clamp(0, 1))


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (7, 5), (33, 25), (500, 3), (1, 1)])
def test_pad_keeps_the_whole_image_between_strips_of_its_edges(size):
    (image,) = pictures(size)
    out = fitted(image, 32, 24, "pad")
    assert out.shape == (1, 24, 32, 3)
    scale = min(32 / size[0], 24 / size[1])
    w, h = (max(1, round(side * scale)) for side in size)
    assert w == 32 or h == 24
    left, top = (32 - w) // 2, (24 - h) // 2
    inner = comfy.utils.common_upscale(image.movedim(-1, 1), w, h, "lanczos", "disabled").movedim(
        1, -1
    )
    assert torch.equal(out[:, top : top + h, left : left + w], inner)
    for strip, edge in [
        (out[0, top : top + h, :left], inner[0, :, 0]),
        (out[0, top : top + h, left + w :], inner[0, :, -1]),
        (out[0, :top, left : left + w], inner[0, 0]),
        (out[0, top + h :, left : left + w], inner[0, -1]),
    ]:
        assert strip.numel() == 0 or (strip - edge.mean(0)).abs().max() < 1e-5


def test_pad_continues_a_plain_background_without_a_seam():
    image = torch.full((1, 10, 30, 3), 0.6)
    assert (fitted(image, 32, 24, "pad") - 0.6).abs().max() < 1 / 255


def test_an_unknown_fit_is_refused():
    with pytest.raises(KeyError):
        fitted(*pictures((9, 9)), 32, 24, "squeeze")


@pytest.mark.parametrize("width, height, unit, size", [
    (32, 24, 8, (32, 24)), (39, 31, 8, (32, 24)), (40, 24, 16, (32, 16)), (16, 16, 32, (32, 32)),
    (20, 21, 1, (20, 21)),
])  # fmt: skip
def test_width_and_height_are_rounded_down_to_what_the_vae_can_do(width, height, unit, size):
    references, latents, _ = run(TinyVAE(unit), width, height, images=pictures((64, 64)))
    assert latents["samples"].shape[-2:] == (size[1] // unit, size[0] // unit)
    assert references.thumbnails.shape == (1, 3, size[1] // unit, size[0] // unit)


def test_a_target_decides_the_size_alone():
    target = {"samples": torch.zeros(4, 4, 5, 6)}
    references, _, _ = run(images=pictures((64, 64)), target=target, width=512, height=512)
    assert references.latents.shape == (1, 4, 5, 6)
    references, _, _ = run(
        images=pictures((64, 64)), target={"samples": torch.ones(1, 16, 1, 5, 6)}
    )
    assert references.latents.shape == (1, 4, 5, 6)


@pytest.mark.parametrize("h, w", [(8, 8), (64, 67), (65, 66), (5, 7)])
def test_an_empty_target_made_for_another_vae_is_resized_as_core_does(h, w):
    """Core, 0.30: `round(side * downscale_ratio_spacial / the format's ratio)`."""
    target = {"samples": torch.zeros(1, 4, h, w), "downscale_ratio_spacial": 8}
    references, _, _ = run(TinyVAE(16), images=pictures((64, 64)), target=target)
    assert references.latents.shape[-2:] == (round(h * 8 / 16), round(w * 8 / 16))
    target["samples"] = torch.ones(1, 4, h, w)  # not empty: the sampler takes it as it is
    references, _, _ = run(TinyVAE(16), images=pictures((64, 64)), target=target)
    assert references.latents.shape[-2:] == (h, w)


def test_a_target_without_images_is_refused():
    with pytest.raises(ValueError, match="EncodeReferenceLatents: target holds no images"):
        run(images=pictures((8, 8)), target={"samples": torch.zeros(1, 8, 100)})


# Images in every form


def test_lists_and_batches_give_the_same_latents_in_order():
    images = pictures(*[(32, 24)] * 5)
    expected = torch.cat([TinyVAE().encode(image) for image in images])
    for form in (
        images,
        [torch.cat(images)],
        [torch.cat(images[:2]), images[2], torch.cat(images[3:])],
    ):
        references, latents, _ = run(images=form)
        assert torch.equal(references.latents, expected)
        assert torch.equal(latents["samples"], expected)
        assert references.names == tuple(f"image {j + 1}" for j in range(5))
    references, _, _ = run(reference_set=reference_set(images))
    assert torch.equal(references.latents, expected)


def test_images_of_any_size_type_and_number_of_channels_are_taken():
    rgb, grey = pictures((50, 30))[0], torch.rand(1, 24, 32, 1)
    rgba = torch.cat([rgb, torch.zeros_like(rgb[..., :1])], -1)
    references, _, _ = run(images=[rgb, rgba, rgb.half(), grey, rgb[0]])
    assert references.latents.dtype == torch.float32
    assert torch.equal(references.latents[0], references.latents[1])
    assert torch.equal(references.latents[0], references.latents[4])
    assert torch.equal(references.thumbnails[3, 0], references.thumbnails[3, 2])


def test_a_video_vae_sees_single_images_and_keeps_its_dimension():
    vae = TinyVAE(video=True)
    references, latents, _ = run(vae, images=[torch.cat(pictures((32, 24), (32, 24)))])
    assert len(vae.seen) == 2
    assert references.latents.shape == latents["samples"].shape == (2, 4, 1, 3, 4)
    assert references.thumbnails.shape == (2, 3, 3, 4)


def test_thumbnails_are_block_means():
    (image,) = pictures((32, 24))
    references, _, _ = run(images=image)
    expected = image.reshape(3, 8, 4, 8, 3).mean((1, 3)).movedim(-1, 0)[None]
    assert torch.allclose(references.thumbnails, expected, atol=1e-6)


def test_the_inputs_are_left_alone_and_two_runs_agree():
    images = pictures((50, 30), (32, 24))
    copies = [image.clone() for image in images]
    first, second = (run(images=list(images), fit="pad")[0].latents for _ in range(2))
    assert torch.equal(first, second)
    assert all(map(torch.equal, images, copies))


def test_several_reference_sets_are_joined():
    a, b = (
        reference_set(pictures((32, 24), seed=s), names=[f"{s}.png"], weights=[s]) for s in (1, 3)
    )
    references, _, _ = run(reference_set=[a, b])
    assert references.names == ("1.png", "3.png")
    assert torch.allclose(references.weights, torch.tensor([0.25, 0.75]))


# Captions


def test_captions_stay_with_their_images():
    images = pictures(*[(32, 24)] * 3)
    clip, texts = TinyCLIP(), ["a cat", "", "a black dog"]
    references, _, report = run(images=images, captions=texts, clip=clip)
    assert references.captions == tuple(texts)
    assert references.prompts.tolist() == [[5, 2], [0, 0], [11, 3]]
    assert "Captions: 2." in report


def test_captions_of_the_set_are_used_unless_others_are_connected():
    loaded = reference_set(pictures((32, 24), (32, 24)), captions=["a", "bb"])
    assert run(reference_set=loaded)[0].captions == ("a", "bb")
    assert run(reference_set=loaded, captions=["c", ""])[0].captions == ("c", "")
    assert run(reference_set=loaded, captions="ddd")[0].captions == ("ddd", "ddd")


@pytest.mark.parametrize("inputs", [{}, {"captions": ["", "", ""]}, {"clip": TinyCLIP()}])
def test_without_captions_there_are_no_prompts(inputs):
    references, _, report = run(images=pictures(*[(32, 24)] * 3), **inputs)
    assert references.prompts is None
    assert "Captions: 0." in report and "clip" not in report


def test_captions_without_clip_are_kept_and_reported():
    references, _, report = run(images=pictures((32, 24)), captions="a cat")
    assert references.prompts is None and references.captions == ("a cat",)
    assert "connect clip" in report


def test_a_wrong_number_of_captions_is_refused():
    with pytest.raises(ValueError, match="EncodeReferenceLatents: 2 captions for 3 images"):
        run(images=pictures(*[(32, 24)] * 3), captions=["a", "b"])


# What can go wrong


def test_exactly_one_source_of_images_is_wanted():
    with pytest.raises(ValueError, match="connect reference_set, images or encoded"):
        run()
    with pytest.raises(ValueError, match="only one of reference_set and images"):
        run(images=pictures((8, 8)), reference_set=reference_set(pictures((8, 8))))


def test_a_checkpoint_without_vae_is_explained():
    with pytest.raises(ValueError, match="EncodeReferenceLatents: the checkpoint has no VAE"):
        EncodeReferenceLatents.execute([16], [16], ["crop"], vae=[None], images=pictures((8, 8)))
    with pytest.raises(ValueError, match="vae is not connected: connect Load VAE to vae"):
        EncodeReferenceLatents.execute([16], [16], ["crop"], images=pictures((8, 8)))


def test_an_image_that_cannot_be_encoded_is_named():
    images = reference_set(pictures(*[(32, 24)] * 3), names=["a.png", "bad.png", "c.png"])
    with pytest.raises(ValueError, match="EncodeReferenceLatents: bad.png .* NaN .* --fp32-vae"):
        run(TinyVAE(fail="nan"), reference_set=images)
    with pytest.raises(ValueError, match="EncodeReferenceLatents: bad.png .* odd size"):
        run(TinyVAE(fail=RuntimeError("odd size")), reference_set=images)


def test_interrupts_and_out_of_memory_reach_comfyui():
    images = pictures(*[(32, 24)] * 3)
    for error in (management.OOM_EXCEPTION("full"), KeyError("bug")):
        with pytest.raises(type(error)):
            run(TinyVAE(fail=error), images=images)
    vae = TinyVAE()
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        run(vae, images=images)
    assert vae.seen == []
    management.interrupt_current_processing(False)


def test_the_report_says_what_was_done():
    images = pictures((32, 24), (64, 48), (20, 90))
    _, _, report = run(images=images)
    for fact in ("3 references at 32×24", "(4, 3, 4)", "Resized: 2 (crop)", "blurred: 1"):
        assert fact in report, (fact, report)
    assert "blurred" not in run(images=images, fit="pad")[2]
    assert "VAE" not in report  # a VAE that shows no weights has no fingerprint


# Real VAEs


def test_a_vae_of_comfyui_encodes_lists_as_core_encodes_single_images():
    vae, images = tiny_vae(), pictures((64, 48), (100, 80))
    references, latents, report = run(vae, 64, 48, images=images)
    cropped = nodes.ImageScale().upscale(images[1], "lanczos", 64, 48, "center")[0]
    for latent, image in zip(latents["samples"], (images[0], cropped), strict=True):
        expected = nodes.VAEEncode().encode(vae, image)[0]["samples"]
        assert torch.equal(latent, expected[0].float().cpu())
    assert references.latents.shape == (2, 4, 6, 8)
    assert len(references.vae) == 64 and references.vae[:12] in report


def test_pixel_space_models_get_pixels():
    try:
        vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
        vae.throw_exception_if_invalid()
    except (RuntimeError, AttributeError):
        pytest.skip("this ComfyUI has no pixel space VAE")
    references, _, _ = run(vae, 21, 16, images=pictures((21, 16)))
    assert references.latents.shape == (1, 3, 16, 21)
    assert torch.allclose(references.latents, references.thumbnails * 2 - 1, atol=0.01)


def test_parameters_are_the_inputs_and_every_one_is_explained():
    schema = node.GET_SCHEMA()
    names = [entry.id for entry in schema.inputs]
    sockets = ["vae", "reference_set", "images", "captions", "clip", "target"]
    widgets = ["width", "height", "fit"]
    assert names == [*sockets, *widgets, "encoded", "conditioning", "cache", "cache_limit"]
    assert set(inspect.signature(node.execute).parameters) == set(names)
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])
    assert list(node.INPUT_TYPES()["required"]) == ["width", "height", "fit"]  # widgets as ever
