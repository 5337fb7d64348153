"""Noticing references that were encoded with another VAE: it must see SD 1.5 in SDXL, and see no ghosts."""

import comfy.latent_formats
import pytest
import torch
from mmd_pack.mmd_core import References
from mmd_pack.nodes.host.vae_match import agreement, known_formats, wrong_vae

pytestmark = pytest.mark.comfy

FAMILIES = {"SD15": "SD 1.5", "SDXL": "SDXL", "Flux": "Flux", "SD3": "SD 3", "Wan21": "Wan 2.1"}


def pictures(n=8, side=32, seed=0, gain=1.0):
    """Blurred clouds of color: brightness varies most, as in photographs, with shape `(n, 3, side, side)`."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(side)
    radius = (frequency[:, None].square() + frequency.square()).sqrt().clamp_min(1 / side)
    waves = torch.fft.fft2(torch.randn(n, 3, side, side, generator=generator)) / radius**1.5
    clouds = torch.fft.ifft2(waves).real
    clouds = clouds / clouds.std((2, 3), keepdim=True)
    brightness, red_green, blue = clouds.split(1, 1)
    colors = [brightness + 0.4 * red_green, brightness - 0.4 * red_green, brightness + 0.4 * blue]
    return (0.5 + 0.2 * gain * torch.cat(colors, 1)).clamp(0, 1)


def latent_format(name):
    return getattr(comfy.latent_formats, name)()


def encoded(name, images, noise=0.0, seed=0):
    """References whose latents preview as `images` in that format, but for the noise."""
    format = latent_format(name)
    decode = torch.tensor(format.latent_rgb_factors).T  # (RGB, C)
    latents = torch.einsum("ck,nkhw->nchw", torch.linalg.pinv(decode), 2 * images - 1)
    generator = torch.Generator().manual_seed(seed)
    latents = latents + noise * latents.std() * torch.randn(latents.shape, generator=generator)
    latents = latents.unsqueeze(2) if format.latent_dimensions == 3 else latents
    return References(format.process_out(latents), thumbnails=images)


def verdict(references, name):
    return wrong_vae(references, latent_format(name))


@pytest.mark.parametrize("noise", [0.0, 0.4, 0.75])
@pytest.mark.parametrize(
    "name, model", [("SD15", "SDXL"), ("SDXL", "SD15"), ("Flux", "SD3"), ("Wan21", "HunyuanVideo")]
)
def test_latents_of_another_family_are_noticed(name, model, noise):
    references = encoded(name, pictures(), noise)
    message = verdict(references, model)
    assert f"the VAE of {FAMILIES[name]}," in message
    assert message.endswith(
        "connect the VAE of the checkpoint that draws to EncodeReferenceLatents"
    )
    assert verdict(references, name) is None


@pytest.mark.parametrize("noise", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("name", ["SD15", "SDXL", "SDXL_Playground_2_5", "SD3", "Wan21"])
def test_the_right_vae_is_never_suspected(name, noise):
    gray = pictures().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    red = pictures() * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    for images in (
        pictures(),
        pictures(1, seed=5),
        pictures(gain=0.1),
        gray,
        (gray > 0.5).float(),
        red,
        torch.full((3, 3, 8, 8), 0.5),
    ):
        assert verdict(encoded(name, images, noise), name) is None


def test_formats_that_share_a_vae_count_as_equal():
    assert verdict(encoded("SDXL", pictures()), "SDXL_Playground_2_5") is None
    assert verdict(encoded("SDXL_Playground_2_5", pictures()), "SDXL") is None


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["SD15", "SDXL"])
def test_latents_unlike_any_vae_are_not_judged(seed, name):
    torch.manual_seed(seed)
    images = pictures(seed=seed)
    untrained = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(16, 4, 3, padding=1)
    )
    with torch.no_grad():
        for latents in (torch.randn(8, 4, 32, 32), untrained(images), images[:, [0, 1, 2, 0]] * 0):
            assert verdict(References(latents, thumbnails=images), name) is None


def test_another_number_of_channels_is_seen_without_pictures():
    references = References(torch.randn(2, 4, 8, 8))
    assert "4 latent channels, but the model expects 16: connect the VAE" in verdict(
        references, "Flux"
    )
    assert verdict(references, "SD15") is None  # no thumbnails: nothing more to tell


def test_latents_of_films_do_not_fit_a_model_of_images():
    film = References(torch.randn(2, 16, 1, 8, 8))
    assert "video" in verdict(film, "Flux")
    assert verdict(film, "Wan21") is None
    assert verdict(References(torch.randn(2, 16, 8, 8)), "Wan21") is None  # taken as one frame


def test_every_format_can_be_asked():
    """Formats without factors, of sound and with a reshaped preview included."""
    formats = [format for channels in range(1, 300) for format in known_formats(channels)]
    assert len(formats) > 15
    for format in formats:
        shape = (2, format.latent_channels, 1, 6, 6)[: 2 + format.latent_dimensions]
        references = References(torch.randn(shape), thumbnails=torch.rand(2, 3, 6, 6))
        assert wrong_vae(references, format) is None


def test_a_reshaped_preview_is_compared_at_the_size_of_the_pictures():
    if not hasattr(latent_format("SD15"), "latent_rgb_factors_reshape"):
        pytest.skip("this ComfyUI does not know Flux 2")
    format, images = latent_format("Flux2"), pictures()
    fine = encoded("Flux2", torch.nn.functional.interpolate(images, scale_factor=2)).latents
    latents = torch.nn.functional.pixel_unshuffle(fine, 2)
    scores = agreement(References(latents, thumbnails=images), format)
    assert scores.min() > 0.99
