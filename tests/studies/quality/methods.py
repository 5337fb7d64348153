"""What one can do with a model and references: through ComfyUI's samplers and our sampler node."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from mmd_tests.studies.quality.metrics import median_distance, rbf_matrix, sq_distance_matrix
from mmd_tests.studies.quality.universal import universally_guided
from mmd_tests.studies.quality.worlds import Case, get_case
from torch import Tensor
from torch.nn.functional import normalize

SAMPLER = {"sampler_name": "euler_ancestral", "scheduler": "karras", "cfg": 1.0}


@dataclass(frozen=True)
class Drawn:
    """Samples, the seconds they took, and how often the model was called for each image."""

    samples: Tensor
    seconds: float = 0.0
    calls: float = 0.0


def kernel_config(case: Case, **options):
    """The pack's kernel with the prompt kernel of the case."""
    from mmd_pack.mmd_core import KernelConfig

    return KernelConfig(**{"prompt_kernel": case.prompt_kernel, **options})


def counted(model):
    """A clone of the model, and a list that gets the number of images of each call."""
    from comfy.patcher_extension import WrappersMP

    calls: list[int] = []

    def count(executor, x, *rest, **options):
        calls.append(len(x))
        return executor(x, *rest, **options)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "quality_calls", count)
    return clone, calls


def draw(
    case: Case,
    references,
    seed: int,
    *,
    batch: int | None = None,
    config: dict | None = None,
    latent: dict | None = None,
    wrap: Callable = lambda model: model,
    **options,
) -> Drawn:
    """Samples drawn by MMDGuidedKSampler.

    Arguments:
        config: Settings of guidance other than the node's defaults, as `GuidanceConfig` names them.
        latent: A LATENT to start from; empty ones else.
        wrap: What to do to the model before.
        options: Other inputs of the node; steps, sampler and so on have defaults of the case.
    """
    from mmd_pack.mmd_core import GuidanceConfig
    from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler

    batch = batch or (len(latent["samples"]) if latent else case.batch)
    defaults = GuidanceConfig()
    names = ("strength", "start_percent", "end_percent", "mode")
    settings = {name: getattr(defaults, name) for name in names} | (config or {})
    if case.prompt_kernel != "none":
        settings.setdefault("kernel", kernel_config(case))
    positive, negative = case.prompts(batch)
    model, calls = counted(wrap(case.model))
    started = time.perf_counter()
    result = MMDGuidedKSampler.execute(
        model=model,
        references=references,
        seed=seed,
        positive=positive,
        negative=negative,
        latent_image=latent or {"samples": torch.zeros(batch, *case.shape)},
        **{"steps": case.steps, "denoise": 1.0, **SAMPLER, **settings, **options},
    ).result
    seconds = time.perf_counter() - started
    return Drawn(case.samples(result[0]["samples"]), seconds, sum(calls) / batch)


@lru_cache(maxsize=64)
def _unguided(world: str, target: str, seed: int) -> Drawn:
    case = get_case(world, target)
    return draw(case, case.draw_references(0), seed, config={"strength": 0.0})


def unguided(case: Case, seed: int) -> Drawn:
    """Without guidance: what strength 0 draws."""
    return _unguided(case.world, case.drawn_as, seed)


# --- each method: (case, references, seed, settings) → Drawn --------------------------------------


def _ideal(case, references, seed):
    return Drawn(case.fresh(case.batch, seed))


def _references(case, references, seed):
    return Drawn(case.samples(references.latents))


def _none(case, references, seed):
    return unguided(case, seed)


def _guided(case, references, seed, **config):
    return draw(case, references, seed, config=config)


def _blind(case, references, seed):
    return draw(
        case, references, seed, config={"kernel": kernel_config(case, prompt_kernel="none")}
    )


def _official(case, references, seed, strength, kernel):
    config = {"mode": "official", "strength": strength, "start_percent": 0.0, "end_percent": 1.0}
    return draw(
        case, references, seed, config={**config, "kernel": kernel_config(case, kernel=kernel)}
    )


def _paper(case, references, seed, rate):
    """λ is given as the share of the way to the references that a step may go: λ = rate · B · h²."""
    h = median_distance(sq_distance_matrix(case.model.model.process_latent_in(references.latents)))
    config = {"mode": "paper", "start_percent": 0.0, "end_percent": 1.0}
    config |= {"strength": rate * case.batch * h**2, "kernel": kernel_config(case)}
    return draw(case, references, seed, config=config)


def _universal(case, references, seed, strength):
    """Without our guidance, but for the prompt weights of pairs."""
    given = case.model.model.process_latent_in(references.latents)
    weights = None, None
    if case.prompt_kernel != "none":
        (tokens, options), *_ = case.prompts(case.batch)[0]
        prompts, captions = (
            normalize(p, dim=1) for p in (options["pooled_output"], references.prompts)
        )
        weights = prompts @ prompts.T, prompts @ captions.T

    def wrap(model):
        return universally_guided(model, given, strength, weights)

    return draw(case, references, seed, config={"strength": 0.0}, wrap=wrap)


def _best_of_4(case, references, seed):
    """Of four unguided batches, the images that together are closest to the references.

    With several prompts each one's images are chosen by themselves, closest to its own references.
    """
    draws = [unguided(case, seed + 10_000 * i) for i in range(4)]
    started, rows, chosen = time.perf_counter(), case.samples(references.latents), []
    part_of_image = torch.tensor(case.parts(case.batch) or [0] * case.batch)
    captions = case.captions or ("",)
    for part, caption in enumerate(captions):
        pool = torch.cat([d.samples[part_of_image == part] for d in draws])
        own = rows[[text == caption for text in references.captions]]
        chosen.append(pool[closest_batch(pool, own, len(pool) // 4)])
    seconds = time.perf_counter() - started + sum(d.seconds for d in draws)
    return Drawn(torch.cat(chosen), seconds, sum(d.calls for d in draws))


def closest_batch(
    pool: Tensor, references: Tensor, n: int, prompts: Tensor | None = None
) -> list[int]:
    """n rows of the pool, each chosen so that MMD² of those chosen so far is least.

    The kernel is that of the references' median distance.

    Arguments:
        prompts: The number of each row's prompt, if only one row of each prompt may be chosen.
    """
    m = len(pool)
    h = median_distance(sq_distance_matrix(references))
    kernel = rbf_matrix(sq_distance_matrix(torch.cat([pool, references])), h)
    within, attraction = kernel[:m, :m], kernel[:m, m:].mean(1)
    free = torch.ones(m, dtype=torch.bool)
    chosen: list[int] = []
    to_chosen = torch.zeros(m, dtype=kernel.dtype)
    for k in range(1, n + 1):
        # MMD² of k rows = (S + 2 Σ k(x, chosen) + k(x, x)) / k² − 2 (A + attraction) / k + constant
        score = (2 * to_chosen + within.diagonal()) / k**2 - 2 * attraction / k
        best = int(score.masked_fill(~free, torch.inf).argmin())
        chosen.append(best)
        free[best] = False
        if prompts is not None:
            free &= prompts != prompts[best]
        to_chosen += within[best]
    return chosen


# --- sweeps and the list --------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A method and the settings to choose among.

    Attributes:
        draw: `(case, references, seed, **settings)` to Drawn.
        sweep: The settings to try on tuning seeds; without any, there is nothing to choose.
        usual: The settings to take where nothing is tuned.
    """

    draw: Callable
    sweep: tuple[dict, ...] = ()
    usual: dict = field(default_factory=dict)
    worlds: Callable[[Case], bool] = lambda case: True


METHODS = {
    "ideal": Method(_ideal),
    "references": Method(_references),
    "none": Method(_none),
    "guided": Method(_guided),
    "prompt-blind": Method(_blind, worlds=lambda case: case.prompt_kernel != "none"),
    "official": Method(
        _official,
        sweep=tuple(
            {"strength": strength, "kernel": kernel}
            for kernel in ("polynomial", "rbf")
            for strength in (0.002, 0.01, 0.03, 0.05, 0.1)
        ),
        usual={"strength": 0.05, "kernel": "rbf"},
    ),
    "paper": Method(
        _paper,
        sweep=tuple({"rate": rate} for rate in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
        usual={"rate": 0.1},
    ),
    "best-of-4": Method(_best_of_4),
    "universal": Method(
        _universal,
        sweep=tuple({"strength": strength} for strength in (0.1, 0.3, 1.0, 3.0, 10.0)),
        usual={"strength": 0.3},
    ),
}
