"""The images of a run of TRI-TSMC: each begins with its own noise and keeps what is its own."""

from collections.abc import Callable
from functools import cache

import comfy.sample
import pytest
import torch
from comfy.controlnet import ControlBase
from comfy_extras.nodes_custom_sampler import BasicScheduler, CFGGuider, DisableNoise, RandomNoise
from mmd_pack.nodes.host.particle_noise import InitialNoise, Starts
from mmd_pack.nodes.tsmc.run import drawing
from mmd_tests.support.conditionings import controlled, net, own_control, with_options
from mmd_tests.support.tiny_models import empty_latent, prompt, random, tiny_model
from mmd_tests.support.tsmc_runs import LinearReward, steered

pytestmark = pytest.mark.comfy

ALL, REPORT = 1, 5
model_of = cache(tiny_model)


class BySeed:
    """A NOISE that knows nothing of `batch_index`."""

    seed = 5

    def generate_noise(self, latent: dict) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(latent["samples"].shape, generator=generator)


class OneForAll(BySeed):
    """A NOISE that gives all images the same."""

    def generate_noise(self, latent: dict) -> torch.Tensor:
        noise = super().generate_noise({"samples": latent["samples"][:1]})
        return noise.expand(latent["samples"].shape)


class Variations(OneForAll):
    """A NOISE that adds some noise of its own to one noise for all, as KSampler (inspire) does."""

    def __init__(self, own: float) -> None:
        self.own = own

    def generate_noise(self, latent: dict) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(100 + i) for i in latent["batch_index"]]
        shape = latent["samples"].shape[1:]
        own = torch.stack([torch.randn(shape, generator=each) for each in generators])
        return (1 - self.own**2) ** 0.5 * super().generate_noise(latent) + self.own * own


def run(noise: InitialNoise, positive: list | None = None, **changed: object) -> tuple:
    given = {
        "noise": noise,
        "guider": CFGGuider.execute(model_of(), positive or prompt(1), prompt(2), 1.0)[0],
        "sigmas": BasicScheduler.execute(model_of(), "karras", 2, 1.0)[0],
        "latent": empty_latent(1),
    }
    return steered(given, LinearReward(random(1, 4, 8, 8, seed=3) / 16), iterations=1, **changed)


@pytest.mark.parametrize("noise", [RandomNoise.execute(5)[0], BySeed()])
def test_every_image_of_a_run_begins_with_its_own_noise(
    noise: InitialNoise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with final smc, and the same noise for every size of micro-batches."""
    begun, propose, smc = [], drawing.propose, drawing.smc

    def watched(original: object) -> object:
        def spy(denoise: object, x: torch.Tensor, *args: object, **kwargs: object) -> object:
            begun[-1].append(x.clone())
            return original(denoise, x, *args, **kwargs)

        return spy

    monkeypatch.setattr(drawing, "propose", watched(propose))
    monkeypatch.setattr(drawing, "smc", watched(smc))
    for size in (0, 3):
        begun.append([])
        run(noise, micro_batch=size, final="smc")
    whole, parts = map(torch.cat, begun)
    assert torch.equal(whole, parts) and len(whole.flatten(1).unique(dim=0)) == len(whole) == 12


def test_noise_by_numbers_is_that_of_core() -> None:
    samples = empty_latent(3)["samples"]
    made = Starts(RandomNoise.execute(7)[0], 4, 100).generate_noise({"samples": samples})
    assert torch.equal(made, comfy.sample.prepare_noise(samples, 7, [4, 5, 6]))


def test_equal_noise_is_refused_but_none_is_told() -> None:
    for noise in (OneForAll(), Variations(0.01)):
        with pytest.raises(ValueError, match="TRI-TSMC: noise gives several images the same noise"):
            run(noise)
    assert "all images begin with the same latent" in run(DisableNoise.execute()[0])[REPORT]
    assert "all images begin" not in run(RandomNoise.execute(5)[0])[REPORT]


def hinted() -> list:
    positive, _ = controlled(net(model_of()), 3)
    return positive + with_options(prompt(3), mask=random(4, 8, 8).abs())


def test_micro_batches_keep_hints_and_masks() -> None:
    noise = RandomNoise.execute(5)[0]
    whole, parts = (run(noise, hinted(), micro_batch=size)[ALL]["samples"] for size in (0, 3))
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(run(noise)[ALL]["samples"], whole, rtol=0.1)


def with_own_hints() -> list:
    """Hints in an attribute that ComfyUI's control objects do not have."""
    return owned(random(4, 64, 8, 8))


def with_inner_hints() -> list:
    """Hints of a control object that another one holds."""
    return owned(ControlBase().set_cond_hint(random(4, 64, 8, 8)))


def owned(hints: object) -> list:
    control = own_control(hints)
    return with_options(prompt(1), control=control, control_apply_to_uncond=True)


@pytest.mark.parametrize("micro_batch", [0, 3])
@pytest.mark.parametrize("hints", [hinted, with_own_hints, with_inner_hints])
def test_smc_refuses_images_that_differ_before_anything_is_drawn(
    hints: Callable[[], list], micro_batch: int
) -> None:
    """It continues an image in the place of another one, which has another hint."""
    with pytest.raises(ValueError, match=r"positive conditioning .* differs .*\(control\)"):
        run(RandomNoise.execute(5)[0], hints(), final="smc", micro_batch=micro_batch)


@pytest.mark.parametrize("final", ["all", "smc"])
def test_variations_of_one_noise_are_told(final: str) -> None:
    assert "variations of one noise" in run(Variations(0.5), final=final)[REPORT]
    for noise in (RandomNoise.execute(5)[0], Variations(0.9)):
        assert "variations of one noise" not in run(noise, final=final)[REPORT]
