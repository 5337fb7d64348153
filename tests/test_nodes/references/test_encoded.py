"""Latents and prompts that other nodes encoded: taken as they are, brought to one size, or refused with a reason."""

import comfy.nested_tensor
import pytest
import torch
from mmd_pack.nodes.references.encode_reference_latents import EncodeReferenceLatents
from mmd_tests.support.encoding import pictures, reference_set, run
from mmd_tests.support.tiny_encoders import TinyCLIP, TinyVAE
from torch.nn.functional import interpolate

pytestmark = pytest.mark.comfy


def take(encoded, **inputs):
    """What the node makes of latents (tensors), without a VAE."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in inputs.items()}
    encoded = [{"samples": latent} if torch.is_tensor(latent) else latent for latent in encoded]
    return EncodeReferenceLatents.execute([64], [64], ["crop"], encoded=encoded, **lists).args


def latents(n=3, size=(6, 8), channels=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, *size, generator=generator).to(dtype)


def prompt(*numbers, **options):
    """A CONDITIONING with one entry, whose prompts have these numbers as features."""
    pooled = torch.tensor([[float(n), 1.0] for n in numbers])
    return [[torch.zeros(len(numbers), 3, 5), {"pooled_output": pooled, **options}]]


# Forms


def test_lists_batches_and_buckets_give_the_same_references():
    expected = latents(5)
    for form in (
        [expected],
        list(expected.split(1)),
        [expected[:2], expected[2:3], expected[3:]],
    ):
        references, out, report = take(form)
        assert torch.equal(references.latents, expected)
        assert torch.equal(out["samples"], expected)
        assert "5 references, encoded before, latents (4, 6, 8)." in report
        assert "Cropped" not in report


def test_nothing_is_claimed_about_where_latents_come_from():
    references, _, report = run(TinyVAE(), encoded={"samples": latents()})
    assert references.vae == "" and references.thumbnails is None
    assert references.sizes == ((0, 0),) * 3 and references.size == (0, 0)
    assert references.names == ("latent 1", "latent 2", "latent 3")
    assert torch.allclose(references.weights, torch.full((3,), 1 / 3))
    assert "VAE" not in report


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_becomes_float32(dtype):
    references, out, _ = take([latents(dtype=dtype), latents()])
    assert references.latents.dtype == out["samples"].dtype == torch.float32
    assert torch.equal(references.latents[:3], latents(dtype=dtype).float())


def test_masks_and_other_entries_are_ignored_and_nothing_is_changed():
    samples = latents(2, (9, 9))
    latent = {
        "samples": samples.clone(),
        "noise_mask": torch.zeros(1, 1, 72, 72),
        "batch_index": [4],
    }
    references, _, _ = take([latent, latents(3)])
    assert references.latents.shape == (5, 4, 6, 8)
    assert torch.equal(latent["samples"], samples)
    references, out, _ = take([samples])
    out["samples"].zero_()
    assert torch.equal(take([samples])[0].latents, samples)


def test_films_of_one_frame_stay_what_they_are():
    film = torch.randn(2, 16, 1, 6, 8)
    references, out, _ = take([film[:1], film[1:]])
    assert torch.equal(references.latents, film) and torch.equal(out["samples"], film)


# Sizes


def test_the_usual_size_is_taken_and_of_equally_usual_ones_the_larger():
    small, tall, large = latents(1, (6, 8)), latents(1, (8, 6)), latents(1, (9, 9))
    assert take([small, small, large])[0].latents.shape[-2:] == (6, 8)
    assert take([small, large, large, small])[0].latents.shape[-2:] == (9, 9)
    assert take([torch.cat([small] * 3), large, large])[0].latents.shape[-2:] == (6, 8)
    assert take([small, tall])[0].latents.shape == take([tall, small])[0].latents.shape


def test_target_decides_the_size_and_width_and_height_do_not():
    target = {"samples": torch.zeros(1, 4, 5, 7)}
    assert take([latents()], target=target)[0].latents.shape == (3, 4, 5, 7)
    wide = {"samples": torch.zeros(1, 16, 1, 5, 7)}
    assert take([latents()], target=wide)[0].latents.shape == (3, 4, 5, 7)


def test_an_empty_target_made_for_another_vae_counts_as_the_sampler_resizes_it():
    target = {"samples": torch.zeros(1, 4, 64, 66), "downscale_ratio_spacial": 8}
    references, _, _ = run(TinyVAE(16), encoded={"samples": latents()}, target=target)
    assert references.latents.shape[-2:] == (32, 33)
    assert take([latents()], target=target)[0].latents.shape[-2:] == (64, 66)


@pytest.mark.parametrize("size, box", [
    ((6, 12), (0, 6, 2, 10)), ((11, 8), (2, 8, 0, 8)), ((6, 9), (0, 6, 0, 8)), ((6, 8), (0, 6, 0, 8)),
])  # fmt: skip
def test_where_cropping_is_enough_the_middle_is_kept_exactly(size, box):
    target = {"samples": torch.zeros(1, 4, 6, 8)}
    whole = latents(2, size)
    top, bottom, left, right = box
    references, _, report = take([whole], target=target)
    assert torch.equal(references.latents, whole[..., top:bottom, left:right])
    assert "blurred" not in report
    assert ("Cropped: 2. Scaled: 0." in report) == (size != (6, 8))


@pytest.mark.parametrize("size, scaled", [
    ((12, 16), (6, 8)), ((3, 4), (6, 8)), ((12, 12), (8, 8)), ((7, 9), (6, 8)), ((5, 20), (6, 24)),
    ((12, 9), (11, 8)),
])  # fmt: skip
def test_other_sizes_are_scaled_to_cover_the_target_and_cropped(size, scaled):
    """As PyTorch's own bicubic filter with antialiasing does, on all of the latent."""
    whole = latents(2, size)
    references, _, report = take([whole], target={"samples": torch.zeros(1, 4, 6, 8)})
    expected = interpolate(whole, scaled, mode="bicubic", antialias=True)
    top, left = (scaled[0] - 6) // 2, (scaled[1] - 8) // 2
    expected = expected[..., top : top + 6, left : left + 8]
    assert torch.allclose(references.latents, expected, atol=1e-6)
    assert "Cropped: 0. Scaled: 2. Encode the images at the size being drawn instead" in report


def test_a_plain_latent_stays_plain_when_it_is_scaled():
    plain = torch.tensor([1.5, -2.0, 0.0, 7.0]).view(1, 4, 1, 1, 1).expand(2, -1, 1, 11, 17)
    references, _, _ = take([plain], target={"samples": torch.zeros(1, 4, 6, 8)})
    assert references.latents.shape == (2, 4, 1, 6, 8)
    assert (references.latents - plain[:, :, :, :1, :1]).abs().max() < 1e-5


# What cannot be used


def nested():
    return {"samples": comfy.nested_tensor.NestedTensor([latents(), latents(channels=8)])}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("odd", [
    nested, lambda: {}, lambda: None, lambda: {"samples": torch.zeros(1, 64, 100)},
    lambda: {"samples": torch.nested.nested_tensor([torch.zeros(4, 6, 8)] * 2)},
])  # fmt: skip
def test_what_holds_no_latents_of_images_is_refused(odd):
    try:
        odd = odd()
    except ImportError:
        assert odd is nested  # this ComfyUI does not know them, so none will come
        return
    message = "EncodeReferenceLatents: encoded holds no latents of images.*: connect latents from"
    with pytest.raises(ValueError, match=message):
        take([{"samples": latents()}, odd])


def test_latents_of_different_models_are_refused():
    for other in (latents(channels=16), torch.zeros(1, 4, 1, 6, 8)):
        with pytest.raises(ValueError, match="EncodeReferenceLatents: .* different models"):
            take([latents(), other])
    with pytest.raises(ValueError, match="different models"):
        take([torch.zeros(1, 4, 1, 6, 8), torch.zeros(1, 4, 2, 6, 8)])


def test_empty_and_broken_latents_are_refused():
    with pytest.raises(ValueError, match="EncodeReferenceLatents: encoded is empty"):
        take([torch.zeros(0, 4, 6, 8)])
    broken = latents()
    broken[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="EncodeReferenceLatents: references .* 1 of 3 .latent 2."):
        take([broken])


def test_only_one_source_is_wanted():
    encoded = {"samples": latents()}
    with pytest.raises(ValueError, match="connect only one of images and encoded"):
        run(images=pictures((32, 24)), encoded=encoded)
    with pytest.raises(ValueError, match="only one of reference_set, images and encoded"):
        found = pictures((32, 24))
        run(images=found, encoded=encoded, reference_set=reference_set(found))


# Prompts


def test_captions_and_clip_go_with_latents():
    clip = TinyCLIP()
    references, _, report = take([latents()], captions=["a", "", "b c"], clip=clip)
    assert references.captions == ("a", "", "b c")
    assert references.prompts.tolist() == [[1, 1], [0, 0], [3, 2]]
    assert "Captions: 2." in report
    with pytest.raises(ValueError, match="2 captions for 3 latents"):
        take([latents()], captions=["a", "b"])


@pytest.mark.parametrize("encoded, conditioning", [
    ([1, 1, 1], [prompt(1), prompt(2), prompt(3)]),  # one LATENT and one CONDITIONING each
    ([3], [prompt(1), prompt(2), prompt(3)]),  # a batch, and a list
    ([3], [[*prompt(1), *prompt(2), *prompt(3)]]),  # a bucket
    ([1, 2], [prompt(1), [*prompt(2), *prompt(3)]]),  # two buckets
    ([1, 2], [prompt(1), prompt(2, 3)]),  # batches of prompts
    ([3], [prompt(1, 2, 3)]),
    ([1, 1, 1], [prompt(1, 2, 3)]),
])  # fmt: skip
def test_conditioning_of_every_form_stays_with_its_latents(encoded, conditioning):
    references, _, report = take(list(latents().split(encoded)), conditioning=conditioning)
    assert references.prompts.tolist() == [[1, 1], [2, 1], [3, 1]]
    assert torch.equal(references.latents, latents())
    assert references.captions == ("",) * 3 and "Prompts: those of conditioning." in report


@pytest.mark.parametrize("encoded, conditioning, features", [
    ([1, 1, 1], [prompt(7)], [7, 7, 7]),
    ([3], [prompt(7)], [7, 7, 7]),
    ([1, 2], [prompt(7), prompt(8)], [7, 8, 8]),
])  # fmt: skip
def test_one_conditioning_serves_for_all(encoded, conditioning, features):
    references, _, _ = take(list(latents().split(encoded)), conditioning=conditioning)
    assert references.prompts[:, 0].tolist() == features


def test_combined_prompts_of_one_reference_are_averaged_by_strength():
    combined = [*prompt(1, strength=3.0), *prompt(5)]
    references, _, _ = take([latents(1)], conditioning=[combined])
    assert references.prompts.tolist() == [[2, 1]]


def test_conditioning_serves_for_images_too():
    clip, images = TinyCLIP(), pictures((32, 24), (32, 24))
    inputs = {"captions": ["a", "b"], "clip": clip, "conditioning": [prompt(1), prompt(2)]}
    references, _, report = run(images=images, **inputs)
    assert references.prompts.tolist() == [[1, 1], [2, 1]] and clip.calls == []
    assert references.captions == ("a", "b") and "connect clip" not in report


def test_conditioning_that_does_not_fit_is_refused():
    for conditioning in ([prompt(1), prompt(2)], [prompt(1, 2)], [[*prompt(1), *prompt(2)]]):
        with pytest.raises(
            ValueError, match="EncodeReferenceLatents: .* 3 references: connect one"
        ):
            take([latents()], conditioning=conditioning)
    with pytest.raises(ValueError, match="2 prompts for 1 reference:"):
        take(list(latents().split(1)), conditioning=[prompt(1), prompt(2, 3), prompt(4)])
    other = [[torch.zeros(1, 3, 5), {}]]  # without pooled output: another length
    for conditioning in ([prompt(1), other, prompt(2)], [[]]):
        with pytest.raises(ValueError, match="EncodeReferenceLatents: conditioning is empty or"):
            take([latents()], conditioning=conditioning)
