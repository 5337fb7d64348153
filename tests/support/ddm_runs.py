"""Trainings of small real models, for the tests of the MMD-DDM nodes."""

from functools import cache

import pytest
import torch
from mmd_tests.support.tiny_models import family_latent, family_prompt, gaussian_family, tiny_family

QUICK = "SD3"  # the family whose small model is the quickest


def gradients_of(family: str) -> str:
    """The family; skips the test where this ComfyUI has no gradients for its rotary embeddings."""
    import comfy.model_management as management

    if family in ("Flux", "WAN21_T2V") and not hasattr(management, "in_training"):
        pytest.skip("this ComfyUI has no gradients for Flux and Wan")
    return family


def own_family(family: str = QUICK):
    """A `tiny_family` that can be copied: its known answer belongs to the class of the network.

    In `tiny_family` the answer is bound to one network. A copy would call this network, so adapters
    on the copy would have no effect.
    """
    model, known = tiny_family(family), gaussian_family(family).model.diffusion_model
    network = model.model.diffusion_model
    name = "_forward" if hasattr(network, "_forward") else "forward"
    del vars(network)[name]
    kind, expected = type(network), getattr(known, name)

    def answer(self, x, *args, **options):
        return getattr(kind, name)(self, x, *args, **options) + expected(x, *args, **options)

    network.__class__ = type(kind.__name__, (kind,), {name: answer})
    return model


own = cache(own_family)


def references(
    family: str = QUICK, count: int = 6, seed: int = 1, side: int = 4, prompts=None, **options
):
    """LATENTs with mean 0.7 and half the standard deviation of the samples of the model."""
    from mmd_pack.mmd_core import References

    shape = family_latent(family, count, side)["samples"].shape
    clean = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 2 + 0.7
    latents = own(family).model.latent_format.process_out(clean)
    return References(latents, prompts=prompts, **options)


SETTINGS = {
    "steps_per_sample": 2,
    "sampler_name": "euler",
    "scheduler": "simple",
    "cfg": 1.0,
    "batch_size": 4,
    "micro_batch": 2,
    "iterations": 2,
    "learning_rate": 1e-2,
    "rank": 2,
    "targets": "all",
    "features": "latent",
    "seed": 7100,
    "autosave": "",
}
LORA, LOSSES, STEPS, REPORT, PLOT = range(5)


def trained(model=None, family: str = QUICK, positive=None, refs=None, **changed):
    """The outputs of MMDTrainLoRA, as a workflow would run it."""
    from mmd_pack.nodes.ddm.mmd_train_lora import MMDTrainLoRA

    model = own(family) if model is None else model
    positive = family_prompt(family, 1) if positive is None else positive
    refs = references(family) if refs is None else refs
    with torch.inference_mode():
        return MMDTrainLoRA.execute(
            model=model, positive=positive, references=refs, **{**SETTINGS, **changed}
        ).result


usual = cache(trained)


def engine_of(
    body, model=None, family=QUICK, positive=None, negative=None, cfg=1.0, side=4, steps=3,
    sampler="euler", scheduler="simple", existing_lora=None, checkpointing=True, dtype="auto",
    **config,
):  # fmt: skip
    """Calls `body(engine, max_denoise)` like a training, in inference mode like a node."""
    from mmd_pack.mmd_core.ddm import DDMConfig
    from mmd_pack.nodes.ddm.training.engine import ModelSetup, with_engine
    from mmd_pack.nodes.ddm.training.sampler_chain import schedule

    model = own(family) if model is None else model
    positive = family_prompt(family, 1) if positive is None else positive
    shape = family_latent(family, 1, side)["samples"].shape[1:]
    sigmas = schedule(model, sampler, scheduler, steps)
    config = DDMConfig(**{"rank": 2, "seed": SETTINGS["seed"], **config})
    setup = ModelSetup(model, positive, negative, cfg, dtype, checkpointing, existing_lora)
    with torch.inference_mode():
        with_engine(setup, config, sigmas, shape, body)


def denoised(model, x, family=QUICK, cfg=1.0, positive=None, negative=None):
    """x̂0 of noisy `x` by ComfyUI: the result of one step of KSampler, in the model's units.

    Arguments:
        x: Noise, with the shape of latents; ComfyUI scales it.
    """
    import comfy.sample

    positive = family_prompt(family, 1) if positive is None else positive
    negative = family_prompt(family, 2) if negative is None else negative
    with torch.inference_mode():
        found = comfy.sample.sample(
            model, x.clone(), 1, cfg, "euler", "simple", positive, negative, torch.zeros_like(x),
            disable_pbar=True, seed=0,
        )  # fmt: skip
        return model.model.process_latent_in(found)


def two_prompts(family=QUICK):
    """Two prompts as rows of one entry, as MMDPrompts makes them, and each of them alone."""
    from mmd_pack.nodes.ddm.mmd_prompts import stacked

    each = [family_prompt(family, seed) for seed in (1, 3)]
    return stacked(each), each


def estimates(x, batches, model=None, family=QUICK, **options) -> list[torch.Tensor]:
    """x̂0 of `x` by the engine, as in `denoised`, for each list of one prompt per sample."""
    found = []

    def body(engine, max_denoise):
        sigma = float(engine.sampling.sigma_max)
        with torch.no_grad():
            start = engine.scaled(x, sigma, max_denoise)
            found.extend(engine.estimate(start, sigma, prompts) for prompts in batches)

    engine_of(body, model, family, steps=1, **options)
    return found


def with_lora(model, lora, strength: float = 1.0, **options):
    """The model with a LORA_MODEL, by the node of ComfyUI."""
    from comfy_extras.nodes_train import LoraModelLoader

    with torch.inference_mode():
        found = LoraModelLoader.execute(model, lora, strength, **options)
        return getattr(found, "result", found)[0]


def plan_of(model=None, family=QUICK, positive=None, refs=None, **changed):
    """The plan of `trained`."""
    from mmd_pack.mmd_core.ddm import DEFAULT_KERNEL, DDMConfig
    from mmd_pack.nodes.ddm.training.engine import ModelSetup
    from mmd_pack.nodes.ddm.training.plan import planned
    from mmd_pack.nodes.ddm.training.sampler_chain import SamplerSettings

    given = {**SETTINGS, **changed}
    del given["autosave"]
    kernel, validation = given.pop("kernel", None), given.pop("validation", None)
    setup = ModelSetup(
        own(family) if model is None else model,
        family_prompt(family, 1) if positive is None else positive,
        given.pop("negative", None), given.pop("cfg"), given.pop("training_dtype", "auto"),
        given.pop("gradient_checkpointing", True), given.pop("existing_lora", None),
    )  # fmt: skip
    sampling = SamplerSettings(
        given.pop("sampler_name"), given.pop("scheduler"), given.pop("steps_per_sample"),
        given.pop("step_jitter", 0),
    )  # fmt: skip
    refs = references(family) if refs is None else refs
    return planned(setup, sampling, DDMConfig(**given), kernel or DEFAULT_KERNEL, refs, validation)


def asked(model, then=None):
    """A clone of the model, and a list that grows with each of its estimates.

    Arguments:
        then: Maps `(number, x0)` to the estimate that replaces x0.
    """
    calls = []

    def note(args):
        calls.append(len(args["denoised"]))
        return args["denoised"] if then is None else then(len(calls), args["denoised"])

    model = model.clone()
    model.set_model_sampler_post_cfg_function(note)
    return model, calls


@pytest.fixture
def output_folder(tmp_path, monkeypatch):
    """ComfyUI's output folder, empty; LoRAs in it are found, as main.py arranges."""
    import folder_paths

    folder = tmp_path / "output"
    (folder / "loras").mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    known = {**folder_paths.folder_names_and_paths}
    known["loras"] = ([str(folder / "loras")], known["loras"][1])
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder
