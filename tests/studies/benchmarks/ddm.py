"""What an update of MMD-DDM takes in memory and time: python tests/studies/benchmarks/ddm.py

On the U-Net of SD 1.5 with random weights, in ComfyUI: draw N samples in T steps, then the adjoint back to the adapters,
as ratios to one call of the same network without gradients for one sample. Next to it backpropagation through all
calls at once for the whole batch, as one would write it, with and without computing blocks again. Memory is that of
tensors made, without weights.
"""

import argparse
import sys
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_tests.studies.benchmarks import comfyui
from mmd_tests.studies.benchmarks.peak_memory import tensors_made

RANK = 8


def sd15():
    """A MODEL with the U-Net of SD 1.5, random, in fp32."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "num_heads": 8,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1,
        "context_dim": 768, "use_spatial_transformer": True, "use_linear_in_transformer": False,
        "legacy": False, "dtype": torch.float32,
    }  # fmt: skip
    device = comfy.model_management.get_torch_device()
    model = comfy.model_base.BaseModel(comfy.supported_models.SD15(config), device=device)
    for parameter in model.diffusion_model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return comfy.model_patcher.ModelPatcher(model, device, torch.device("cpu"))


class Update:
    """Drawing and the gradient of one update, in an engine."""

    def __init__(self, engine, chain, batch: int, side: int):
        from mmd_pack.mmd_core.ddm import accumulate, draw

        self.engine, self.chain, self.batch = engine, chain, batch
        self.draw, self.accumulate = draw, accumulate
        random = torch.Generator().manual_seed(0)
        noise = torch.randn(batch, 4, side, side, generator=random).to(engine.device)
        self.start = engine.scaled(noise, chain.sigmas[0])
        self.upstream = noise / noise.numel()
        self.nothing = noise.new_empty(0, *noise.shape)

    def denoise(self, x, sigma, rows):
        return self.engine.estimate(x, sigma, [0] * len(x))

    @torch.no_grad()
    def call(self):
        return self.denoise(self.start[:1], self.chain.sigmas[0], range(1))

    def by_adjoint(self, micro_batch: int):
        self._forget()
        drawn = self.draw(self.chain, self.denoise, self.start, self.nothing, micro_batch)
        parameters = self.engine.lora.parameters
        self.accumulate(
            self.chain, self.denoise, drawn.states, self.upstream, parameters, micro_batch
        )
        return [parameter.grad for parameter in parameters]

    def at_once(self):
        """Backpropagation through all calls for the whole batch."""
        self._forget()
        estimates = []
        for k, sigma in enumerate(self.chain.sigmas):
            x = self.chain.state(k, self.start, estimates, [])
            estimates.append(self.denoise(x, sigma, range(self.batch)))
        sample = self.chain.state(len(self.chain), self.start, estimates, [])
        parameters = self.engine.lora.parameters
        sample.backward(self.upstream, inputs=parameters)
        return [parameter.grad for parameter in parameters]

    def _forget(self):
        for parameter in self.engine.lora.parameters:
            parameter.grad = None


def measured(run, on_gpu: bool) -> tuple[float, int, list]:
    """Seconds, the most bytes at once, and what came out."""
    begun = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    made = tensors_made(run, on_gpu)
    return seconds, made.peak, made.result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32, help="of the latents: 64 is 512 pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--skip-at-once", action="store_true", help="which needs the most memory")
    options = parser.parse_args()
    comfyui.start_comfyui()
    pass
    from mmd_pack.mmd_core.ddm import DDMConfig
    from mmd_pack.nodes.ddm.training.engine import ModelSetup, with_engine
    from mmd_pack.nodes.ddm.training.sampler_chain import linear_chain, schedule

    out, model, on_gpu = sys.stdout, sd15(), torch.cuda.is_available()
    chain = linear_chain(model, "euler", "sgm_uniform", options.steps)
    sigmas = schedule(model, "euler", "sgm_uniform", options.steps)
    prompt = [[torch.randn(1, 77, 768), {}]]
    out.write(
        f"SD 1.5's U-Net, latents 4 × {options.side} × {options.side}, N {options.batch}, T {options.steps}, "
        f"rank {RANK}, {'GPU' if on_gpu else 'CPU'}, torch {torch.__version__}\n"
    )
    out.write(f"{'':46} {'MB':>8} {'of a call':>10} {'s':>8} {'of N·T calls':>13}\n")
    gradients = {}

    def body(engine, max_denoise):
        update = Update(engine, chain, options.batch, options.side)
        one, least, _ = measured(update.call, on_gpu)
        out.write(
            f"{'one call, one sample, no gradient':46} {least / 2**20:8.0f} {1:10.1f} {one:8.2f}\n"
        )
        saved = "blocks computed again" if engine_saves[0] else "all kept"
        ways = {f"adjoint, micro_batch 1, {saved}": lambda: update.by_adjoint(1)}
        if options.batch > 1:
            ways[f"adjoint, micro_batch {options.batch}, {saved}"] = lambda: update.by_adjoint(
                options.batch
            )
            if not options.skip_at_once:
                ways[f"all calls at once, {saved}"] = update.at_once
        for name, run in ways.items():
            seconds, peak, found = measured(run, on_gpu)
            gradients[name] = torch.cat([g.flatten() for g in found]).double()
            share = seconds / one / options.batch / options.steps
            out.write(
                f"{name:46} {peak / 2**20:8.0f} {peak / least:10.1f} {seconds:8.2f} {share:13.2f}\n"
            )

    engine_saves = [True]
    for engine_saves[0] in (True, False):
        config = DDMConfig(micro_batch=1, rank=RANK)
        setup = ModelSetup(model, prompt, None, 1.0, "auto", engine_saves[0], None)
        with_engine(setup, config, sigmas, (4, options.side, options.side), body)
    exact = next(iter(gradients.values()))
    worst = max(((g - exact).norm() / exact.norm()).item() for g in gradients.values())
    out.write(f"Gradients differ by at most {worst:.1g} of their norm.\n")


if __name__ == "__main__":
    main()
