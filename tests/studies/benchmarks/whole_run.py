"""What guidance costs of a whole sampling run in ComfyUI: python tests/studies/benchmarks/whole_run.py

A U-Net of random weights draws with CFG, with and without guidance by turns; every network takes the
same time whatever its weights. The overhead is the difference of the two, which other load on the machine makes noisy;
the share is the time within guidance's own wrappers, the network's left out. Both are by the run without.
The steps are the first of 25 with karras, so that guidance acts in all of them; the share of a run of 25 steps
takes it that it does so in all 25, and counts its set-up and its end once. Below 8 images each image follows one
reference, from 8 on they are coupled: hence two batches.
Bar: guidance takes at most 1 % of a run at SD1.5's size, 512² pixels, B = 4, N = 200.

    --network   shallow (the checkpoint of the tests, an SD1.5 with fewer blocks), sd15, sdxl, or tiny
    --quick     a small run that shows that everything works
"""

import argparse
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_tests.studies.benchmarks.comfyui import start_comfyui
from mmd_tests.studies.benchmarks.timing import times_in_turns

STEPS, BAR = 25, 0.01
SIZE = 5.0  # of references by SD's: an untrained network draws latents of the size of the noise
FULL = {
    "sd15": {
        "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3,
    },
    "sdxl": {
        "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "context_dim": 2048, "num_classes": "sequential", "adm_in_channels": 2816, "num_heads": -1,
        "num_head_channels": 64, "use_linear_in_transformer": True,
    },
}  # fmt: skip


class Stopwatch:
    """Adds up the seconds within wrappers of a model, by name."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, name: str) -> Callable:
        """A wrapper that measures what it wraps."""

        def wrapper(executor, *args, **options):
            start = now()
            result = executor(*args, **options)
            self.seconds[name] += now() - start
            return result

        return wrapper


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def random_model(network: str):
    """A MODEL, loaded by core from random weights."""
    from mmd_tests.support.random_checkpoint import UNET, draw
    from mmd_tests.support.tiny_models import tiny_model

    if network == "tiny":
        return tiny_model()
    import comfy.sd
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        shapes = UNetModel(**{**UNET, **FULL.get(network, {})}).state_dict()
    rng = torch.Generator().manual_seed(0)
    weights = {name: draw(name, weight.shape, rng) for name, weight in shapes.items()}
    return comfy.sd.load_diffusion_model_state_dict(weights)


def random_prompt(model, seed: int):
    rng, unet = torch.Generator().manual_seed(seed), model.model.model_config.unet_config
    pooled = torch.randn(1, 1280, generator=rng)  # which SDXL alone looks at
    return [[torch.randn(1, 77, unet["context_dim"], generator=rng), {"pooled_output": pooled}]]


def guided(model, references, trace, watch: Stopwatch):
    """The model as MMDGuidedKSampler guides it, measured by `watch` within and without guidance."""
    from comfy.patcher_extension import WrappersMP
    from mmd_pack.nodes.guidance.run.hook import apply_guidance
    from mmd_pack.nodes.guidance.run.request import Request

    kinds, model = (WrappersMP.SAMPLER_SAMPLE, WrappersMP.PREDICT_NOISE), model.clone()
    for kind in kinds:
        model.add_wrapper_with_key(kind, "within", watch.around(f"{kind} within"))
    model = apply_guidance(model, Request("benchmark", references, trace.config, trace))
    for kind in kinds:  # the first is the outermost
        outer = {"without": [watch.around(f"{kind} without")]}
        model.wrappers[kind] = {**outer, **model.wrappers[kind]}
    return model


def runs(model, n: int, batch: int, side: int, steps: int):
    """Functions that draw with and without guidance, what the first records, and what measures it."""
    import comfy.sample
    import comfy.samplers
    from mmd_pack.mmd_core import GuidanceConfig, References
    from mmd_pack.nodes.guidance.run.trace import Trace
    from mmd_tests.studies.benchmarks.latent_world import LatentWorld

    channels = model.model.latent_format.latent_channels
    world, watch = LatentWorld((channels, side, side), "cpu"), Stopwatch()
    sampling, sampler = (
        model.get_model_object("model_sampling"),
        comfy.samplers.sampler_object("euler"),
    )
    sigmas = comfy.samplers.calculate_sigmas(sampling, "karras", STEPS)[: steps + 1]
    latents = model.model.latent_format.process_out(SIZE * world.references(n))
    trace = Trace(GuidanceConfig())
    with_guidance = guided(model, References(latents), trace, watch)
    noise = torch.randn(batch, *world.shape, generator=torch.Generator().manual_seed(0))
    prompts = random_prompt(model, 1), random_prompt(model, 2)

    def draw(model):
        empty = torch.zeros_like(noise)
        comfy.sample.sample_custom(
            model, noise, 7.0, sampler, sigmas, *prompts, empty, disable_pbar=True, seed=0
        )

    return {"without": lambda: draw(model), "with": lambda: draw(with_guidance)}, trace, watch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=("tiny", "shallow", *FULL), default="sd15")
    parser.add_argument("--pixels", type=int, default=512, help="the side of the pictures")
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--references", type=int, default=200)
    parser.add_argument("--steps", type=int, default=3, help="that are drawn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="that torch uses")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.network, options.pixels, options.references = "tiny", 64, 20
        options.steps, options.rounds = 2, 1
    start_comfyui()
    logging.getLogger("mmd_guidance").setLevel(logging.ERROR)
    if options.threads:
        torch.set_num_threads(options.threads)
    out, model = sys.stdout, random_model(options.network)
    out.write(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.network}, ")
    out.write(f"{options.pixels}² pixels, N = {options.references}, with CFG\n\n")
    out.write("| B | a step without | with | overhead | sub-steps | guidance in a step | share ")
    out.write(f"| its set-up and end | share of {STEPS} steps |\n|{'---|' * 9}\n")
    met = {}
    for batch in options.batches:
        side, steps = options.pixels // 8, options.steps
        variants, trace, watch = runs(model, options.references, batch, side, steps)
        for draw in variants.values():
            draw()  # loads the model, warms up
        watch.seconds.clear()
        times = times_in_turns(variants, options.rounds)
        rows = trace.runs[-1].rows
        if not all(row.substeps for row in rows):
            raise RuntimeError("guidance did not act in all steps: lower --steps")
        substeps = sum(row.substeps for row in rows) / len(rows)
        step, slow = times["without"].least / steps, times["with"].least / steps
        both = {
            name: (watch.seconds[f"{kind} without"] - watch.seconds[f"{kind} within"])
            / options.rounds
            for name, kind in (("calls", "predict_noise"), ("ends", "sampler_sample"))
        }
        call, ends = both["calls"] / steps, both["ends"]
        share = (call * STEPS + ends) / (step * STEPS)
        if options.network != "tiny":
            met[batch] = share <= BAR
        out.write(
            f"| {batch} | {step:.3f} s | {slow:.3f} s | {slow / step - 1:.2%} | {substeps:.0f} | {1e3 * call:.1f} ms "
            f"| {call / step:.2%} | {1e3 * ends:.1f} ms | {share:.2%} |\n"
        )
        out.flush()
    for batch, kept in met.items():
        out.write(f"\n{'Met' if kept else 'MISSED'}: B = {batch}: at most {BAR:.0%} of a run.")
    out.write("\n")


if __name__ == "__main__":
    main()
