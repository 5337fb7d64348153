"""Smaller questions, each with a table and a figure of its own: steps, strength, batches and so on."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from mmd_tests.studies.quality.methods import Drawn, Method, draw
from mmd_tests.studies.quality.tasks import Task
from mmd_tests.studies.quality.worlds import generator

DIGITS = ("digits", "3/8/1")
SHAPES = ("shapes", "blue triangles")
LATENTS = ("latents", "16384 D, 5% apart")
RING = ("ring", "8 modes, some modes")
PROMPTS = ("prompt-digits", "bold 3s, thin 8s")
IN_CORNER = ("corner", "in the corner")

SAMPLERS = (
    "euler",
    "euler_ancestral",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "heun",
    "uni_pc",
    "ddim",
    "lcm",
)
SCHEDULERS = ("normal", "karras", "sgm_uniform", "beta")
STEPS = (4, 8, 12, 25, 50)
FACTORS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
FEATURES = (
    {"feature_space": "latent"},
    {"feature_space": "low_pass"},
    {"feature_space": "low_pass", "pool": 8},
    {"feature_space": "palette"},
    {"feature_space": "channel_stats"},
    {"feature_space": "patches", "patch_size": 5},
    {"feature_space": "patches", "patch_size": 5, "kernel": "energy"},
)
CFGS = (1.0, 2.0, 4.0, 7.0, 10.0)


class Study(NamedTuple):
    """What is asked, and what has to be drawn to answer it.

    Attributes:
        about: The question.
        tasks: `(seeds)` to Tasks without their part.
    """

    about: str
    tasks: Callable[[list[int]], Iterable[dict]]


# --- drawing --------------------------------------------------------------------------------------


def starting_latent(case, kind: str, n: int, seed: int) -> torch.Tensor:
    """n clean latents to draw over: of the target, or of `any` picture of the world."""
    if kind == "target":
        samples = case.fresh(n, seed)
    elif case.world == "digits":
        from mmd_tests.studies.quality.digits_worlds import digit_data

        pictures = digit_data()[0]
        rng = generator("start", seed)
        samples = pictures[torch.randperm(len(pictures), generator=rng)[:n]]
    else:
        from mmd_demo.drawing import draw_random

        samples = draw_random(n, generator("start", seed))[0]
    return case.latents(samples)


def _draw(
    case, references, seed, strength, pool=None, batch=None, start=None, mask=False, kernel=None,
    **options,
) -> Drawn:  # fmt: skip
    """`pool` images in batches that know nothing of each other, each drawn by the sampler node.

    Arguments:
        strength: A multiple of the default.
        start: What to draw over, see `starting_latent`.
        mask: Whether to draw the lower half only.
        kernel: How images are compared, as `KernelConfig` names it.
    """
    from mmd_pack.mmd_core import GuidanceConfig, KernelConfig

    batch = batch or case.batch
    config = {"strength": strength * GuidanceConfig().strength}
    if kernel:
        config["kernel"] = KernelConfig(**kernel)
    latent, parts = None, []
    if start:
        latent = {"samples": starting_latent(case, start, batch, seed)}
        batch = len(latent["samples"])
    if mask:
        half = torch.zeros(1, *case.shape[1:])
        half[:, case.shape[1] // 2 :] = 1
        latent["noise_mask"] = half
    for i in range((pool or batch) // batch):
        parts.append(
            draw(
                case,
                references,
                seed + 10_000 * i,
                batch=batch,
                config=config,
                latent=latent,
                **options,
            )
        )
    return Drawn(
        torch.cat([part.samples for part in parts]),
        sum(part.seconds for part in parts),
        sum(part.calls for part in parts) / len(parts),
    )


def _guided(case, references, seed, strength=1.0, **options):
    return _draw(case, references, seed, strength, **options)


def _none(case, references, seed, **options):
    return _draw(case, references, seed, 0.0, **options)


def _ideal(case, references, seed, pool=None):
    return Drawn(case.fresh(pool or case.batch, seed))


def _references(case, references, seed):
    return Drawn(case.samples(references.latents))


STUDY_METHODS = {
    "ideal": Method(_ideal),
    "references": Method(_references),
    "none": Method(_none),
    "guided": Method(_guided),
}


# --- the studies ----------------------------------------------------------------------------------


def _each(case, method, seeds, references=None, **settings) -> Iterable[dict]:
    world, target = case
    for seed in seeds:
        yield {
            "world": world,
            "target": target,
            "method": method,
            "seed": seed,
            "settings": settings,
            "references": references,
        }


def _steps(seeds):
    for case in (DIGITS, SHAPES):
        few = seeds[: 3 if case == DIGITS else 2]
        yield from _each(case, "references", few)
        for sampler in ("euler", "euler_ancestral", "dpmpp_2m", "lcm"):
            for steps in STEPS:
                for method in ("guided", "none"):
                    options = {"sampler_name": sampler, "scheduler": "karras", "steps": steps}
                    yield from _each(case, method, few, **options)


def _samplers(seeds):
    for case in (DIGITS, SHAPES):
        few = seeds[: 3 if case == DIGITS else 2]
        yield from _each(case, "references", few)
        for sampler in SAMPLERS:
            for scheduler in SCHEDULERS:
                for method in ("guided", "none"):
                    options = {"sampler_name": sampler, "scheduler": scheduler, "steps": 20}
                    yield from _each(case, method, few, **options)


def _strength(seeds):
    for case in (RING, DIGITS, LATENTS, SHAPES):
        few = seeds[: 2 if case == SHAPES else 3]
        yield from _each(case, "references", few)
        yield from _each(case, "none", few)
        for factor in FACTORS:
            yield from _each(case, "guided", few, strength=factor)


def _batches(seeds):
    for case, pool in ((LATENTS, 64), (SHAPES, 32)):
        few = seeds[:2]
        yield from _each(case, "ideal", few, pool=pool)
        yield from _each(case, "none", few, pool=pool)
        for batch in (1, 2, 4, 8, 16, 32, 64):
            if batch <= pool and (case, batch) != (LATENTS, 32):
                yield from _each(case, "guided", few, batch=batch, pool=pool)


def _groups(seeds):
    few = seeds[:3]
    for total, sizes in ((64, (4, 16)), (16, (1, 4))):
        yield from _each(LATENTS, "ideal", few, pool=total)
        yield from _each(LATENTS, "none", few, batch=total)
        yield from _each(LATENTS, "guided", few, batch=total)
        for size in sizes:
            yield from _each(LATENTS, "guided", few, batch=total, group_size=size)
            yield from _each(LATENTS, "guided", few, batch=size, pool=total)
    yield from _each(SHAPES, "guided", seeds[:2], batch=32)
    yield from _each(SHAPES, "guided", seeds[:2], batch=32, group_size=4)


def _reference_counts(seeds):
    for case, counts in ((LATENTS, (8, 16, 32, 64, 128, 256, 512)), (SHAPES, (16, 32, 64, 128))):
        for n in counts:
            for method in ("references", "guided"):
                yield from _each(case, method, seeds[:2], references=n)


def _cfg(seeds):
    for cfg in CFGS:
        for method in ("none", "guided"):
            yield from _each(PROMPTS, method, seeds[:3], cfg=cfg)


def _partial(seeds):
    for case in (DIGITS, SHAPES):
        few = seeds[: 3 if case == DIGITS else 2]
        for options in (
            {"start": "any", "denoise": 0.5},
            {"start": "any", "denoise": 0.3},
            {"start": "target", "denoise": 0.3},
            {"start": "target", "mask": True},
        ):
            for method in ("none", "guided"):
                yield from _each(case, method, few, **options)


def _features(seeds):
    yield from _each(IN_CORNER, "references", seeds)
    yield from _each(IN_CORNER, "none", seeds)
    for kernel in FEATURES:
        yield from _each(IN_CORNER, "guided", seeds, kernel=kernel)


STUDIES = {
    "strength": Study("Multiples of the default strength: is there a plateau?", _strength),
    "steps": Study("Does strength mean the same for all numbers of steps? Karras.", _steps),
    "samplers": Study("And for all samplers and schedules? 20 steps.", _samplers),
    "batches": Study(
        "Images drawn in batches that know nothing of each other, judged together.", _batches
    ),
    "groups": Study("Groups that remember finished images, and batches that do not.", _groups),
    "references": Study("How many references?", _reference_counts),
    "cfg": Study("Does guidance go with classifier-free guidance?", _cfg),
    "partial": Study(
        "Does guidance help, or at least not harm, with denoise below 1 from other pictures (`any`), or "
        "from right ones (`target`), and when only the lower half of right ones is drawn anew (`mask`)?",
        _partial,
    ),
    "features": Study(
        "What is compared is what is transferred. Red and blue shapes with wide outlines, all in the upper "
        "left corner (of free shapes a quarter is there); layout spread is by that of unguided ones.",
        _features,
    ),
}


def study_tasks(names: Iterable[str], seeds) -> list[Task]:
    """The tasks of some studies, each only once."""
    return [Task(name, **fields) for name in names for fields in STUDIES[name].tasks(list(seeds))]


def study_label(row: dict) -> str:
    """Method and settings in a few words."""
    words = [row["method"]]
    names = {
        "strength": "×",
        "sampler_name": "",
        "scheduler": "",
        "group_size": "groups of",
        "pool": "of",
        "start": "from",
    }
    for name, value in row["settings"].items():
        if name == "mask":
            words.append("lower half")
            continue
        if name == "kernel":
            words += [f"{v}" if k != "pool" else f"pool {v}" for k, v in value.items()]
            continue
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        words.append(f"{names.get(name, name)} {shown}".strip())
    if row["references"]:
        words.append(f"{row['references']} references")
    return ", ".join(words)
