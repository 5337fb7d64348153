"""MMDMakeReferences: images of many steps by the model itself, for training it to few."""

import comfy.model_management as management
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io

from ...mmd_core import References
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, ReferencesSocket
from ..host.groups import group_conditioning
from ..host.particle_noise import ParticleNoise
from ..host.progress import executing_node, show_text
from ..host.prompts import batch_features, prompt_count

NODE = "MMDMakeReferences"


class MMDMakeReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDMakeReferences",
            display_name="MMD Make References",
            category=CATEGORY,
            description="Draws references with the model itself, with many steps: what MMDTrainLoRA teaches it to draw "
            "with few. Save them with SaveReferenceLatents, so that they are drawn only once.",
            inputs=[
                io.Model.Input("model", tooltip="The model that draws."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the images should show. From MMDPrompts several prompts, one image each in turn.",
                ),
                io.Conditioning.Input("negative", tooltip="What they should not show."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The size to draw: EmptyLatentImage. Its batch size does not count.",
                ),
                io.Int.Input(
                    "count",
                    default=256,
                    min=2,
                    max=100000,
                    tooltip="How many references (N). Some hundreds: from few, training learns these by heart.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=10000,
                    tooltip="With how many steps: as many as you would take for good images.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How closely the prompt is followed. What a high cfg does to images is learned with them, so "
                    "that the trained model can draw with cfg 1.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="Any that draws well. It need not be the one you will draw with after training.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    tooltip="How noise is removed over the steps.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The seed of the noise, as in KSampler.",
                ),
                io.Int.Input(
                    "micro_batch",
                    default=4,
                    min=1,
                    max=4096,
                    tooltip="How many are drawn at once. More is faster, and takes more memory.",
                ),
            ],
            outputs=[
                ReferencesSocket.Output("references", tooltip="For MMDTrainLoRA, or to save them."),
                io.Latent.Output("latents", tooltip="The same as a batch, for VAE Decode."),
                io.String.Output("report", tooltip="In words: what was drawn."),
            ],
            **schema_options(search_aliases=["mmd", "ddm", "teacher", "synthetic", "distill"]),
        )

    @classmethod
    def execute(
        cls, model, positive, negative, latent_image, count, steps, cfg, sampler_name, scheduler, seed, micro_batch
    ):  # fmt: skip
        # What EmptyLatentImage made may be of another VAE's size.
        ratios = {name: n for name, n in latent_image.items() if name.startswith("downscale_ratio")}
        empty = latent_image["samples"]
        empty = comfy.sample.fix_empty_latent_channels(model, empty, **ratios)[:1]
        entries = comfy.sampler_helpers.convert_cond(positive)
        prompts = prompt_count(entries)
        bar, node_id = comfy.utils.ProgressBar(count), executing_node()
        latents = []
        for first in range(0, count, micro_batch):
            management.throw_exception_if_processing_interrupted()
            index = list(range(first, min(first + micro_batch, count)))
            rows = empty.repeat(len(index), *[1] * (empty.ndim - 1))
            latents.append(
                comfy.sample.sample(
                    model, ParticleNoise(seed, index)(rows), steps, cfg, sampler_name, scheduler,
                    _for(positive, index), _for(negative, index), rows, seed=(seed + first) % 2**64,
                    disable_pbar=True, callback=_interrupted,
                ).float().cpu()
            )  # fmt: skip
            bar.update_absolute(index[-1] + 1, count)
            show_text(f"{index[-1] + 1} of {count} references", node_id)
        drawn = torch.cat(latents)
        features = batch_features(entries, prompts, float("inf"))
        if features is not None:
            features = features[torch.arange(count) % prompts]
        references = References(
            drawn, prompts=features, names=tuple(f"drawn {i + 1}" for i in range(count))
        )
        text = (
            f"{count} references drawn with {steps} steps of {sampler_name}, {scheduler}, cfg {cfg:g}, "
            f"{prompts} prompt{'s' * (prompts > 1)}."
        )
        return io.NodeOutput(references, {"samples": drawn}, text)


def _interrupted(*_) -> None:
    """ComfyUI looks for it where progress is shown, and here that is once for each micro-batch."""
    management.throw_exception_if_processing_interrupted()


def _for(conditioning: list, index: list[int]) -> list:
    """The prompts of these images: image i follows prompt i mod P."""
    prompts = max((len(tokens) for tokens, _ in conditioning if tokens is not None), default=1)
    return group_conditioning(conditioning, index, prompts) if prompts > 1 else conditioning
