"""MMDScore and ReferencePreview: pictures and figures that tell how a batch, or a set, is."""

from dataclasses import replace

import pytest
import torch
from mmd_pack.mmd_core import KernelConfig, mmd2
from mmd_pack.nodes.guidance.mmd_score import MMDScore
from mmd_pack.nodes.host.fingerprint import vae_fingerprint
from mmd_pack.nodes.references.reference_preview import ReferencePreview, cells
from mmd_tests.support.guided_runs import make_references
from mmd_tests.support.tiny_encoders import tiny_vae

pytestmark = pytest.mark.comfy


def references_with_pictures(n=12, shape=(4, 8, 8), **options):
    thumbnails = torch.rand(n, 3, *shape[-2:], generator=torch.Generator().manual_seed(2))
    names = tuple(f"{j}.png" for j in range(n))
    return make_references(n, shape, thumbnails=thumbnails, names=names, **options)


def run(references, latent=None, images=None, vae=None, **options):
    latent = None if latent is None else {"samples": latent}
    return MMDScore.execute(references, latent, images, vae, **options).result


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


def test_latents_of_the_same_kind_fit_and_others_do_not():
    references = references_with_pictures(40)
    same = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(5)) * 5 + 2
    near, p_near, told, _ = run(references, same)
    far, p_far, told_far, _ = run(references, same + 3)
    flat = references.latents.flatten(1) - references.latents.flatten(1).mean(0)
    kernel = KernelConfig().resolve(flat @ flat.T, flat.shape[1])
    assert near == pytest.approx(
        mmd2(same, references.latents, kernel, unbiased=True).item(), abs=1e-6
    )
    assert far > near + 0.05 and p_far == pytest.approx(1 / 1001) and p_near > 0.05
    assert "cannot be told" in told and "can be told" in told_far


def test_every_image_has_its_line():
    references = references_with_pictures()
    samples = torch.cat([references.latents[4:5] + 1e-3, references.latents[:2] + 9])
    _, p_value, report, sheet = run(references, samples)
    assert "1: nearest 0.00 (4.png), witness" in report and "3: nearest" in report
    assert "1 image is nearer than 0.3" in report
    assert p_value == 1.0 and "No p-value" in report, "three images are too few"
    assert sheet.ndim == 4 and sheet.shape[-1] == 3


def test_images_are_encoded_at_the_size_of_the_references(vae):
    pictures = torch.rand(5, 48, 64, 3, generator=torch.Generator().manual_seed(3))
    pictures = pictures.mul(255).round() / 255  # as files hold them
    latents = torch.cat([vae.encode(picture[None, :, 8:56]) for picture in pictures])
    references = references_with_pictures(shape=latents.shape[1:])
    expected = run(references, latents)
    found = run(references, images=pictures, vae=vae)
    assert found[:2] == pytest.approx(expected[:2], rel=1e-4)
    assert run(references, latents, images=pictures)[:3] == expected[:3]


def test_the_sheet_shows_what_there_is(vae):
    """Pictures given, or decoded, or none; references small, or none."""
    pictures = torch.rand(5, 64, 64, 3)
    latents = torch.cat([vae.encode(picture[None]) for picture in pictures])
    references = references_with_pictures(shape=latents.shape[1:])
    sheets = [
        run(references, latents)[3],
        run(references, latents, images=pictures)[3],
        run(references, latents, vae=vae)[3],
        run(replace(references, thumbnails=None), latents)[3],
    ]
    assert len({sheet.shape for sheet in sheets}) == 1
    assert all(not torch.equal(a, b) for a, b in zip(sheets, sheets[1:], strict=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to score: connect latent or images"),
        ({"images": torch.rand(4, 64, 64, 3)}, "connect the VAE"),
        ({"latent": torch.zeros(4, 4, 8, 16)}, r"have shape \(4, 8, 16\), those of the references"),
        ({"latent": torch.full((4, 4, 8, 8), torch.nan)}, "NaN"),
        (
            {"latent": torch.zeros(4, 4, 8, 8), "images": torch.rand(2, 8, 8, 3)},
            "2 images came with 4",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_with_a_fix(options, message):
    with pytest.raises(ValueError, match=f"MMDScore: .*{message}"):
        run(references_with_pictures(), **options)


def test_another_vae_is_reported(vae):
    pictures = torch.rand(4, 64, 64, 3)
    shape = vae.encode(pictures[:1]).shape[1:]
    mine = references_with_pictures(shape=shape, vae=vae_fingerprint(vae))
    assert "another VAE" not in run(mine, images=pictures, vae=vae)[2]
    assert "another VAE" in run(mine, images=pictures, vae=tiny_vae(7))[2]


def test_kernels_and_what_is_left_of_them():
    references, samples = references_with_pictures(), torch.randn(6, 4, 8, 8)
    for kernel in (KernelConfig("energy"), KernelConfig(feature_space="channel_stats")):
        found, _, report, _ = run(references, samples, kernel=kernel)
        assert kernel.kernel in report and found != run(references, samples)[0]
    prompted = KernelConfig(prompt_kernel="cosine")
    found, _, report, _ = run(references, samples, kernel=prompted)
    assert found == run(references, samples)[0] and "prompt kernel is left out" in report
    fixed = KernelConfig(bandwidth="fixed", bandwidth_value=3.0)
    assert "before the model scales them" in run(references, samples, kernel=fixed)[2]


def test_the_same_seed_gives_the_same_p_value():
    references, samples = references_with_pictures(), torch.randn(6, 4, 8, 8) * 5 + 2
    p = [run(references, samples, seed=s, permutations=200)[1] for s in (1, 1, 2, 3, 2**64 - 1)]
    assert p[0] == p[1] and len(set(p)) > 1
    assert run(references, samples, permutations=0)[1] == 1.0


def test_one_frame_of_a_film_is_an_image():
    references, samples = references_with_pictures(), torch.randn(6, 4, 8, 8)
    assert run(references, samples[:, :, None])[0] == run(references, samples)[0]


# --- ReferencePreview -----------------------------------------------------------------------------


def preview_cells(references, most=64, vae=None):
    return cells(references, most, vae)


def test_references_are_shown_with_weights_and_captions():
    weights = torch.tensor([1.0, 4.0, 1.0, 0.0])
    captions = ("a cat", "", "a dog", "a bird")
    references = references_with_pictures(4, weights=weights, captions=captions)
    shown = preview_cells(references)
    assert [cell.heading for cell in shown] == [
        f"weight {w:.3g}" for w in (4 / 6, 16 / 6, 4 / 6, 0)
    ]
    assert [cell.text for cell in shown] == ["a cat", "1.png", "a dog", "a bird"]
    assert torch.equal(shown[2].images[0], references.thumbnails[2].movedim(0, -1))


def test_of_many_those_that_count_most_are_shown_in_their_order():
    weights = torch.tensor([1.0, 5.0, 1.0, 3.0, 1.0])
    references = references_with_pictures(5, weights=weights)
    assert [cell.text for cell in preview_cells(references, 3)] == ["0.png", "1.png", "3.png"]


def test_the_preview_decodes_where_it_can(vae):
    latents = torch.cat([vae.encode(picture[None]) for picture in torch.rand(2, 64, 64, 3)])
    references = references_with_pictures(2, shape=latents.shape[1:])
    references = replace(references, latents=latents)
    small, large = preview_cells(references), preview_cells(references, vae=vae)
    assert large[0].images[0].shape == (64, 64, 3) and small[0].images[0].shape == (8, 8, 3)
    assert torch.equal(large[1].images[0], vae.decode(latents[1:])[0])


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_sheets_of_any_number_are_about_square(n):
    captions = tuple("a long caption with very many words " * 5 for _ in range(n))
    (sheet,) = ReferencePreview.execute(references_with_pictures(n, captions=captions), 64).result
    _, h, w, c = sheet.shape
    assert c == 3 and 0.4 < h / w < 2.5 and sheet.min() >= 0 and sheet.max() <= 1


def test_without_pictures_their_places_say_so():
    (sheet,) = ReferencePreview.execute(
        replace(references_with_pictures(), thumbnails=None), 64
    ).result
    assert sheet.std() > 0
