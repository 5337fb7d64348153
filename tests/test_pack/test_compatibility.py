"""The compatibility table of tests/studies/RESULTS.md: each cell is a run of core's own nodes on a small model.

The networks are random, but architectures, latent formats and noise models are those of the families.
A cell holds if guidance of strength 30 takes away at least 40 % of the MMD² to the references, if
strength 0 changes no bit, and if the model that was guided is as it was. Where a node of core does not
act on a family, the cell is a "–", and its test shows that the node changes nothing there.
"""

import os
import re
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import comfy.model_management as management
import comfy.samplers
import comfy_extras.nodes_easycache
import pytest
import torch
from comfy.cli_args import args
from comfy_extras.nodes_model_advanced import RescaleCFG
from mmd_pack.mmd_core import KernelConfig, References, mmd2
from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance
from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler
from mmd_tests.support.tiny_models import FAMILIES, family_latent, family_prompt, tiny_family

import nodes

pytestmark = pytest.mark.comfy

TRANSFORMERS = ("SD3", "Flux", "WAN21_T2V")  # flow matching, all of them
FAMILY = pytest.mark.parametrize("family", FAMILIES)
STEPS, CFG, SEED = 8, 3.0, 7
STRENGTH = 30.0


class Bench:
    """A family's model, prompts and references that are far from what the model draws."""

    def __init__(self, family: str):
        self.family, self.model = family, tiny_family(family)
        self.format = self.model.model.latent_format
        self.prompts = [family_prompt(family, seed) for seed in (1, 2, 3)]
        self.latent = family_latent(family)
        shape = self.latent["samples"].shape[1:]
        generator = torch.Generator().manual_seed(1)
        clean = torch.randn(16, *shape, generator=generator) / 2 + 0.7  # the model draws N(0, 1)
        self.drawn = self.format.process_out(clean)
        self.references = References(self.drawn.reshape(16, shape[0], *shape[-2:]))
        self.flat = clean.flatten(1)
        deviations = self.flat - self.flat.mean(0)
        self.kernel = KernelConfig().resolve(deviations @ deviations.T, self.flat.shape[1])

    def guided(self, model, strength: float = STRENGTH):
        result = ApplyMMDGuidance.execute(
            model, self.references, strength, 0.0, 0.75, "flow"
        ).result
        return result[0]

    def distance(self, samples) -> float:
        """The unbiased MMD² of LATENT samples to the references, in the space of the model."""
        flat = self.format.process_in(samples.float()).flatten(1)
        return float(mmd2(flat, self.flat, self.kernel, unbiased=True))

    def sample(self, model, latent=None, steps=STEPS, sampler="euler"):
        """Core's KSampler: the samples."""
        positive, negative, _ = self.prompts
        settings = SEED, steps, CFG, sampler, "normal", positive, negative
        return nodes.KSampler().sample(model, *settings, latent or self.latent)[0]["samples"]

    def check(self, draw, model=None) -> torch.Tensor:
        """The cell of `draw`, a function from models to samples, holds; returns the guided ones."""
        model = model or self.model
        before = state_of(model)
        unguided, guided = draw(model), draw(self.guided(model))
        assert torch.isfinite(guided).all() and guided.shape == unguided.shape
        assert self.distance(guided) < 0.6 * self.distance(unguided)
        # Drawn last: what guidance left behind in the model would show here.
        assert torch.equal(draw(self.guided(model, strength=0.0)), unguided)
        assert state_of(model) == before
        return guided

    @cache  # noqa: B019 (benches live as long as the tests)
    def plain(self, guided: bool, steps: int) -> torch.Tensor:
        """What is drawn without any node of core's on the model."""
        return self.sample(self.guided(self.model) if guided else self.model, steps=steps)

    def check_nothing(self, patched, steps=STEPS) -> None:
        """Core's node, whose result is `patched`, does nothing in this family, and guidance all the same."""
        same = {
            "rtol": 1e-3,
            "atol": 1e-3,
        }  # prompts go through the network apart, not in one batch
        torch.testing.assert_close(
            self.sample(patched, steps=steps), self.plain(False, steps), **same
        )
        guided = self.check(lambda model: self.sample(model, steps=steps), patched)
        torch.testing.assert_close(guided, self.plain(True, steps), **same)

    def check_patch(self, patched, steps=STEPS) -> None:
        """The cell of a node of core that acts; it acts on guided models too."""
        assert not torch.equal(self.sample(patched, steps=steps), self.plain(False, steps))
        guided = self.check(lambda model: self.sample(model, steps=steps), patched)
        assert not torch.equal(guided, self.plain(True, steps))


def state_of(model) -> str:
    sums = [tensor.double().sum().item() for tensor in model.model.state_dict().values()]
    return repr((model.model_options, model.wrappers, model.callbacks, model.patches, sums))


bench = cache(Bench)


def core(name: str, module: str = "nodes_custom_sampler"):
    """A node class of comfy_extras; skips the test where this ComfyUI does not have it yet."""
    found = getattr(import_module(f"comfy_extras.{module}"), name, None)
    if found is None:
        pytest.skip(f"this ComfyUI has no {name}")
    return found


def run(name: str, *args, module: str = "nodes_custom_sampler", **options):
    """The first output of a node of core."""
    return core(name, module).execute(*args, **options).result[0]


# ---- samplers and guiders


@FAMILY
def test_ksampler(family):
    cell = bench(family)
    cell.check(cell.sample)


@FAMILY
def test_our_ksampler_is_cores_with_a_guided_model(family):
    cell = bench(family)
    positive, negative, _ = cell.prompts

    def ours(strength):
        latent, *_ = MMDGuidedKSampler.execute(
            cell.model, cell.references, SEED, STEPS, CFG, "euler", "normal", positive, negative,
            cell.latent, denoise=1.0, strength=strength, start_percent=0.0, end_percent=0.75, mode="flow",
        ).result  # fmt: skip
        return latent["samples"]

    assert torch.equal(ours(STRENGTH), cell.sample(cell.guided(cell.model)))
    assert torch.equal(ours(0.0), cell.sample(cell.model))


def advanced(cell, model, latent, start, end, noise, leftover):
    positive, negative, _ = cell.prompts
    return nodes.KSamplerAdvanced().sample(
        model, noise, SEED, STEPS, CFG, "euler", "normal", positive, negative, latent, start, end, leftover
    )[0]  # fmt: skip


@FAMILY
def test_ksampler_advanced_in_two_stages_is_one_run(family):
    cell = bench(family)

    def two_stages(model):
        half = advanced(cell, model, cell.latent, 0, STEPS // 2, "enable", "enable")
        return advanced(cell, model, half, STEPS // 2, 10000, "disable", "disable")["samples"]

    guided = cell.check(two_stages)
    torch.testing.assert_close(guided, cell.plain(True, STEPS), rtol=1e-3, atol=1e-3)


@pytest.mark.sampled
@FAMILY
@pytest.mark.parametrize("batch", range(1, 8))
@pytest.mark.parametrize("cuts", [(0, 4, STEPS), (0, 2, 5, STEPS)], ids=["two", "three"])
def test_few_images_in_stages_are_one_run(cuts, batch, family):
    """Each image follows one reference, the same one in all stages."""
    cell = bench(family)
    latent = {"samples": cell.latent["samples"][:batch]}

    def stages(model):
        part = latent
        for start, end in pairwise(cuts):
            noise, leftover = ("disable", "enable")[start == 0], ("disable", "enable")[end < STEPS]
            part = advanced(cell, model, part, start, end, noise, leftover)
        return part["samples"]

    one = cell.sample(cell.guided(cell.model), latent)
    torch.testing.assert_close(stages(cell.guided(cell.model)), one, rtol=1e-3, atol=1e-3)
    unguided = stages(cell.model)
    assert not torch.allclose(unguided, one, atol=0.1)
    assert torch.equal(stages(cell.guided(cell.model, strength=0.0)), unguided)


def core_guiders() -> list[str]:
    """The nodes of this ComfyUI that make a GUIDER, by its source."""
    folder = Path(os.environ.get("COMFYUI_PATH", "."), "comfy_extras")
    names = []
    for file in sorted(folder.glob("nodes_*.py")):
        for node in re.split(r"^class ", file.read_text("utf-8"), flags=re.MULTILINE)[1:]:
            if "Guider.Output(" in node:
                names.append(f"{file.stem}.{re.match('[A-Za-z0-9_]+', node)[0]}")
    return names


GUIDERS = {  # what each takes besides the model
    "BasicGuider": lambda a, b, c: ((a,), {}),
    "CFGGuider": lambda a, b, c: ((a, b, CFG), {}),
    "DualCFGGuider": lambda a, b, c: ((a, c, b, 2.0, CFG, "regular"), {}),
    "DualCFGGuider nested": lambda a, b, c: ((a, c, b, 2.0, CFG, "nested"), {}),
    "DualModelGuider": lambda a, b, c: ((a, CFG), {"negative": b}),
    "PerpNegGuider": lambda a, b, c: ((a, b, c, CFG, 1.0), {}),
}


def custom(cell, make_guider, sampler="euler", latent=None):
    """Draws with SamplerCustomAdvanced, core's guider, and what else it takes."""

    def draw(model):
        sigmas = run("BasicScheduler", model, "normal", STEPS, 1.0)
        noise = run("RandomNoise", SEED)
        chosen = run("KSamplerSelect", sampler)
        latents = latent or cell.latent
        output = run("SamplerCustomAdvanced", noise, make_guider(model), chosen, sigmas, latents)
        return output["samples"]

    return draw


@pytest.mark.sampled
@FAMILY
@pytest.mark.parametrize("path", [*core_guiders(), "nodes_custom_sampler.DualCFGGuider nested"])
def test_every_guider_of_core(path, family):
    """A guider that core adds fails here until GUIDERS says what it takes."""
    module, name = path.split(".")
    cell = bench(family)
    args, options = GUIDERS[name](*cell.prompts)
    if name == "DualModelGuider":
        options["model_negative"] = tiny_family(family)
    cell.check(custom(cell, lambda m: run(name.split()[0], m, *args, module=module, **options)))


# ---- patches of the model


@FAMILY
def test_perturbed_attention_guidance(family):
    """It replaces attn1 of the middle block: transformers have none, so nothing happens there."""
    cell = bench(family)
    patched = run("PerturbedAttentionGuidance", cell.model, 3.0, module="nodes_pag")
    check = cell.check_nothing if family in TRANSFORMERS else cell.check_patch
    check(patched)


SLG = {
    "SkipLayerGuidanceDiT": {
        "scale": 3.0, "start_percent": 0.0, "end_percent": 0.9,
        "double_layers": "0", "single_layers": "0", "rescaling_scale": 0.5,
    },
    "SkipLayerGuidanceDiTSimple": {
        "start_percent": 0.0, "end_percent": 0.9, "double_layers": "0", "single_layers": "0",
    },
    "SkipLayerGuidanceSD3": {
        "layers": "0", "scale": 3.0, "start_percent": 0.0, "end_percent": 0.9,
    },
}  # fmt: skip


@pytest.mark.sampled
@FAMILY
@pytest.mark.parametrize("node", SLG)
def test_skip_layer_guidance(node, family):
    """It replaces blocks of transformers: the U-Nets have none, so nothing happens there.

    (To rescale after it would act on those too, and is left out there.)
    """
    cell = bench(family)
    module = "nodes_sd3" if node == "SkipLayerGuidanceSD3" else "nodes_slg"
    acts = family in TRANSFORMERS
    options = dict(SLG[node])
    if not acts and "rescaling_scale" in options:
        options["rescaling_scale"] = 0.0
    patched = run(node, cell.model, module=module, **options)
    (cell.check_patch if acts else cell.check_nothing)(patched)


@FAMILY
def test_rescale_cfg(family):
    cell = bench(family)
    cell.check_patch(RescaleCFG().patch(cell.model, 0.7)[0])


@pytest.mark.sampled
@FAMILY
@pytest.mark.parametrize("momentum", [0.0, -0.5])
def test_adaptive_projected_guidance(momentum, family):
    cell = bench(family)
    norm = 0.1  # below that of these networks' prompts, so that it acts
    cell.check_patch(run("APG", cell.model, 0.5, norm, momentum, module="nodes_apg"))


class Watch:
    """The batches that a model's network saw within the block."""

    def __init__(self, model):
        self.network, self.batches = model.model.diffusion_model, []

    def __enter__(self):
        self.hook = self.network.register_forward_pre_hook(
            lambda _, inputs: self.batches.append(len(inputs[0]))
        )
        return self

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.sampled
@FAMILY
@pytest.mark.parametrize("kind", ["EasyCache", "LazyCache"])
def test_caches_skip_steps_of_a_guided_run(kind, family, monkeypatch):
    """EasyCache wraps the network where core lets wrappers in, which the network of SD3 does not."""
    cell = bench(family)
    holder = getattr(comfy_extras.nodes_easycache, f"{kind}Holder")
    reset, skipped = holder.reset, []

    def noted(self):
        skipped.append(self.total_steps_skipped)
        return reset(self)

    monkeypatch.setattr(holder, "reset", noted)
    settings = 0.1, 0.15, 0.95, False  # half the default threshold: these runs are short
    patched = run(f"{kind}Node", cell.model, *settings, module="nodes_easycache")
    acts = (kind, family) != ("EasyCache", "SD3")
    (cell.check_patch if acts else cell.check_nothing)(patched, steps=20)
    assert skipped and all(bool(steps) == acts for steps in skipped)


@FAMILY
def test_context_windows_over_the_batch(family):
    """As films of image models are drawn: the network sees 4 images at a time, guidance all 8."""
    cell = bench(family)
    patched = run(
        "ContextWindowsManualNode", cell.model, 4, 1, "standard_static", 1, False, "pyramid", 0, False,
        module="nodes_context_windows",
    )  # fmt: skip
    with Watch(cell.model) as watch:
        guided = cell.check(cell.sample, patched)
    assert max(watch.batches) <= 2 * (4 + 1)  # with and without prompt; core adds an image before
    torch.testing.assert_close(guided, cell.plain(True, STEPS), rtol=1e-2, atol=1e-2)


def test_context_windows_over_time_leave_a_single_frame_whole():
    cell = bench("WAN21_T2V")
    patched = run(
        "WanContextWindowsManualNode", cell.model, 81, 30, "standard_uniform", 1, False, "pyramid", True,
        module="nodes_context_windows",
    )  # fmt: skip
    guided = cell.check(cell.sample, patched)
    assert torch.equal(guided, cell.sample(cell.guided(cell.model)))


@pytest.mark.sampled
@FAMILY
@pytest.mark.parametrize("differential", [False, True], ids=["mask", "differential diffusion"])
def test_what_a_mask_keeps_is_untouched(differential, family):
    """Masked as for inpainting, and with a gradient that differential diffusion thresholds."""
    cell = bench(family)
    generator = torch.Generator().manual_seed(3)
    shape = cell.latent["samples"].shape
    picture = {"samples": cell.format.process_out(torch.randn(shape, generator=generator))}
    mask = torch.zeros(1, *shape[-2:])
    mask[:, 1:] = torch.linspace(0.4, 1, 3)[:, None] if differential else 1.0
    (latent,) = nodes.SetLatentNoiseMask().set_mask(picture, mask)
    model, draw = cell.model, lambda m: cell.sample(m, latent, steps=12)
    if differential:
        model = run("DifferentialDiffusion", model, module="nodes_differential_diffusion")
        assert not torch.equal(draw(model), draw(cell.model))
    unguided, guided = draw(model), draw(cell.guided(model))
    assert torch.equal(draw(cell.guided(model, strength=0.0)), unguided)
    assert torch.isfinite(guided).all()
    # Differential diffusion releases all of the picture in the last step, where core so schedules.
    error, cores = ((s - picture["samples"])[..., :1, :].abs().max() for s in (guided, unguided))
    assert error <= 1.5 * cores + 1e-4
    assert differential or cores < 1e-4
    assert cell.distance(guided) < cell.distance(unguided)
    drawn = cell.drawn.mean(0)[..., 3:, :]  # where the mask is 1
    far, near = (
        (samples.mean(0)[..., 3:, :] - drawn).square().mean() for samples in (unguided, guided)
    )
    assert near < far / 2


# ---- CFG++


def cfg_pp_samplers() -> list[str]:
    return [name for name in comfy.samplers.KSampler.SAMPLERS if "cfg_pp" in name]


# With flow matching, core takes second-order steps in the wrong variable here: too much noise is left.
NOT_FOR_FLOW = ("dpmpp_2m_cfg_pp", "res_multistep_cfg_pp", "res_multistep_ancestral_cfg_pp")


@pytest.mark.sampled
@FAMILY
@pytest.mark.parametrize("sampler", cfg_pp_samplers())
def test_cfg_pp_samplers(sampler, family):
    cell = bench(family)

    steps = 40 if sampler == "res_multistep_ancestral_cfg_pp" else 20  # it leaves much noise below

    def draw(model):
        return cell.sample(model, steps=steps, sampler=sampler)

    if family in TRANSFORMERS and sampler in NOT_FOR_FLOW:
        assert (
            cell.format.process_in(draw(cell.model)).std() > 1.3
        )  # of latents of N(0, 1), unguided
        assert torch.isfinite(draw(cell.guided(cell.model))).all()
    else:
        cell.check(draw)


# ---- modes of the program


@FAMILY
def test_weights_that_stay_outside_of_the_card(family, monkeypatch):
    """What --lowvram is for: core brings each weight when it is used; the images are the same.

    Where there is no card, the processor is taken for one that has no memory left.
    """
    cell = bench(family)
    expected = cell.sample(cell.guided(cell.model))
    management.unload_all_models()
    monkeypatch.setattr(management, "vram_state", management.VRAMState.LOW_VRAM)
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(
        management,
        "get_free_memory",
        lambda dev=None, torch_free_too=False: (0, 0) if torch_free_too else 0,
    )
    streamed = []

    def draw(model):
        samples = cell.sample(model)
        streamed.append(model.model.model_lowvram)
        return samples

    guided = cell.check(draw)
    assert all(streamed)
    monkeypatch.undo()
    management.unload_all_models()
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-4)


@FAMILY
def test_half_precision_between_nodes(family, monkeypatch):
    """--fp16-intermediates: latents, references among them, go from node to node as float16."""
    if not hasattr(args, "fp16_intermediates"):
        pytest.skip("this ComfyUI has no --fp16-intermediates")
    monkeypatch.setattr(args, "fp16_intermediates", True)
    cell = Bench(family)
    cell.references = References(cell.references.latents.half())
    (latent,) = nodes.EmptyLatentImage().generate(32, 32, 8)
    assert latent["samples"].dtype == torch.float16
    guided = cell.check(lambda model: cell.sample(model, latent))
    assert guided.dtype == torch.float16
