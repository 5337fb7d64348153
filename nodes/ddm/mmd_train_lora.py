"""MMDTrainLoRA: finetunes a model for few steps, with an MMD loss."""

import logging

import comfy.model_management as management
import comfy.samplers
import comfy.utils
import latent_preview
import numpy as np
import torch
from comfy_api.latest import io, ui

from ...mmd_core.ddm import DECAYS, FEATURES, KEEP, TARGETS, DDMConfig, Step, Training
from .._compat import advanced, schema_options
from ..live import executing_node, show_text, tiled
from ..sockets import CATEGORY, KernelSocket, LoRASocket, LossSocket, ReferencesSocket
from .account import about, cost, line, plot, report
from .finetuning import Plan, finetuned, planned
from .trained_lora import Autosave, TrainedLoRA

NODE = "MMDTrainLoRA"
DEFAULTS = DDMConfig()
DTYPES = ("auto", "bf16", "fp32")
SHOWN = 16  # samples in the preview

log = logging.getLogger("mmd_guidance")


class MMDTrainLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDTrainLoRA",
            display_name="MMD Train LoRA",
            category=CATEGORY,
            description="Trains a LoRA with which a model draws well in few steps, and like your references: it draws "
            "batches with just these steps, compares them with the references (MMD), and follows the gradient back "
            "through all steps.",
            inputs=[
                io.Model.Input("model", tooltip="The model to train on. It is left as it is."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the images should show. Several prompts at once: from MMDPrompts.",
                ),
                ReferencesSocket.Input(
                    "references",
                    tooltip="What few steps are to draw (y): from MMDMakeReferences the model's own images of many "
                    "steps, which makes it fast; from EncodeReferenceLatents your images, which also makes it draw like them. "
                    "Some hundreds are good. One in five is kept out of training, to choose the best LoRA by, if validation is not "
                    "connected.",
                ),
                io.Int.Input(
                    "steps_per_sample",
                    default=5,
                    min=1,
                    max=50,
                    tooltip="With how many steps you will draw: 4 to 8. The LoRA is good for just these.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="The sampler you will draw with. Gradients go through nearly every one; euler and ddim are the "
                    "simplest, dpmpp_2m, lcm and euler_ancestral work too.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="sgm_uniform",
                    tooltip="The schedule of noise (σ) you will draw with.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="The cfg you will draw with. 1 is fastest: what a higher cfg does to images is learned from "
                    "references that were drawn with it. Others need negative and take twice the time.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=DEFAULTS.batch_size,
                    min=2,
                    max=4096,
                    tooltip="How many images (N) are drawn for each update and compared together. More is steadier; time grows "
                    "with it, memory hardly.",
                ),
                io.Int.Input(
                    "micro_batch",
                    default=DEFAULTS.micro_batch,
                    min=1,
                    max=4096,
                    tooltip="How many of them the model works on at once: decides the memory, changes no result. "
                    "Out of memory: 1.",
                ),
                io.Int.Input(
                    "iterations",
                    default=DEFAULTS.iterations,
                    min=1,
                    max=100000,
                    tooltip="How many updates. Some hundreds are enough.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=DEFAULTS.learning_rate,
                    min=1e-7,
                    max=0.1,
                    step=1e-6,
                    round=1e-7,
                    tooltip="How large the updates are. 0.0001 is a start for SD1.5 and SDXL; tiny models need more, about "
                    "0.001.",
                ),
                io.Int.Input(
                    "rank",
                    default=DEFAULTS.rank,
                    min=1,
                    max=512,
                    tooltip="The rank (r) of the LoRA: how much it can learn, and how large its file is.",
                ),
                io.Combo.Input(
                    "targets",
                    options=list(TARGETS),
                    default=DEFAULTS.targets,
                    tooltip="Which layers are trained. all: every linear layer and convolution, best for few steps. The others "
                    "make smaller files.",
                ),
                io.Combo.Input(
                    "features",
                    options=list(FEATURES),
                    default=DEFAULTS.features,
                    tooltip="What of the images is compared. latent: the latents. pyramid: these and two smaller copies, so "
                    "that composition counts more. unet: what the middle of the untrained network sees in them, with a "
                    "little noise: content more than pixels, best for large images.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 2,
                    control_after_generate=True,
                    tooltip="The seed of the adapters and of all noise.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Only for a cfg other than 1."
                ),
                ReferencesSocket.Input(
                    "validation",
                    optional=True,
                    tooltip="Other images of the same kind, by which the best LoRA is chosen. Unconnected: one in five of "
                    "references, which are then not trained on.",
                ),
                KernelSocket.Input(
                    "kernel",
                    optional=True,
                    tooltip="How images are compared (k), from MMDKernel. Unconnected: rbf with four bandwidths around the "
                    "median distance, and prompts by rbf, too.",
                ),
                LoRASocket.Input(
                    "existing_lora",
                    optional=True,
                    tooltip="A LoRA of an earlier training to go on from, with its rank. It must have the same targets.",
                ),
                advanced(
                    io.Combo.Input(
                        "lr_decay",
                        options=list(DECAYS),
                        default=DEFAULTS.lr_decay,
                        optional=True,
                        tooltip="How learning_rate falls until the last update.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "alpha",
                        default=DEFAULTS.alpha,
                        min=0.0,
                        max=512.0,
                        step=0.5,
                        optional=True,
                        tooltip="The LoRA's alpha (α): it counts α / rank. 0 takes the rank, for which that is 1.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "step_jitter",
                        default=0,
                        min=0,
                        max=20,
                        optional=True,
                        tooltip="1 trains for one step more and one less as well (each update draws with one of them), "
                        "so that the LoRA is less bound to its number of steps. 0: that number only.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "drift_penalty",
                        default=DEFAULTS.drift_penalty,
                        min=0.0,
                        max=1000.0,
                        step=0.001,
                        round=0.0001,
                        optional=True,
                        tooltip="How much it costs (β) to answer otherwise than the untrained model. Above 0 the model is called "
                        "once more for each step.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "grad_last_k",
                        default=DEFAULTS.grad_last_k,
                        min=0,
                        max=200,
                        optional=True,
                        tooltip="Follows the gradient back through the last k calls of the model only: faster, and biased. "
                        "0: through all.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "grad_clip",
                        default=DEFAULTS.grad_clip,
                        min=0.0,
                        max=1000.0,
                        step=0.1,
                        optional=True,
                        tooltip="The largest norm of a gradient. 0: no limit.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "ema",
                        default=DEFAULTS.ema,
                        min=0.0,
                        max=0.9999,
                        step=0.01,
                        round=0.0001,
                        optional=True,
                        tooltip="The LoRA is an average of its last states; this is how slowly old ones are forgotten. "
                        "0: the last state.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "validate_every",
                        default=DEFAULTS.validate_every,
                        min=1,
                        max=10000,
                        optional=True,
                        tooltip="After how many updates a batch is compared with the held-out images, shown as preview, and the "
                        "best LoRA so far is saved.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "patience",
                        default=DEFAULTS.patience,
                        min=0,
                        max=1000,
                        optional=True,
                        tooltip="Training ends when the distance from the held-out images rose so many times in a row. 0: never.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "keep",
                        options=list(KEEP),
                        default=DEFAULTS.keep,
                        optional=True,
                        tooltip="best: the LoRA that came closest to the held-out images. last: the last one.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "training_dtype",
                        options=list(DTYPES),
                        default="auto",
                        optional=True,
                        tooltip="What the model computes in. auto: as it does, but bf16 instead of fp16, whose numbers are too "
                        "coarse for these gradients. The LoRA itself is always trained in fp32.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "gradient_checkpointing",
                        default=True,
                        optional=True,
                        tooltip="Takes much less memory and about a quarter more time: what blocks of the network compute is computed "
                        "again for the gradient.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "autosave",
                        default="loras/mmd_ddm_autosave",
                        optional=True,
                        tooltip="Where in the output folder the best LoRA so far is kept while training goes on. If you stop it, "
                        "the file stays; after a whole training it is removed. Empty: nothing is kept.",
                    )
                ),
            ],
            outputs=[
                LoRASocket.Output(
                    "lora", tooltip="The LoRA, for MMDSaveLoRA or LoraModelLoader (Load LoRA Model)."
                ),
                LossSocket.Output("loss_map", tooltip="MMD² of every update, for LossGraphNode."),
                io.Int.Output("steps", tooltip="How many updates were made."),
                io.String.Output("report", tooltip="In words: cost, result, and what to change."),
                io.Image.Output("plot", tooltip="MMD² over the updates, of batches and of held-out images."),
            ],
            **schema_options(
                search_aliases=["mmd", "ddm", "few steps", "distill", "train", "finetune", "turbo", "lightning"]
            ),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, references, steps_per_sample, sampler_name, scheduler, cfg, batch_size, micro_batch,
        iterations, learning_rate, rank, targets, features, seed, negative=None, validation=None, kernel=None,
        existing_lora=None, lr_decay=DEFAULTS.lr_decay, alpha=DEFAULTS.alpha, step_jitter=0,
        drift_penalty=DEFAULTS.drift_penalty, grad_last_k=DEFAULTS.grad_last_k, grad_clip=DEFAULTS.grad_clip,
        ema=DEFAULTS.ema, validate_every=DEFAULTS.validate_every, patience=DEFAULTS.patience, keep=DEFAULTS.keep,
        training_dtype="auto", gradient_checkpointing=True, autosave="loras/mmd_ddm_autosave",
    ):  # fmt: skip
        try:
            config = DDMConfig(
                batch_size=batch_size, micro_batch=micro_batch, iterations=iterations, learning_rate=learning_rate,
                rank=rank, targets=targets, features=features, seed=seed, lr_decay=lr_decay, alpha=alpha,
                drift_penalty=drift_penalty, grad_last_k=grad_last_k, grad_clip=grad_clip, ema=ema,
                validate_every=validate_every, patience=patience, keep=keep,
            )  # fmt: skip
            if training_dtype not in DTYPES:
                raise ValueError(
                    f"unknown training_dtype {training_dtype!r}: choose one of {', '.join(DTYPES)}"
                )
            plan = planned(
                model, positive, negative, cfg, config, kernel, sampler_name, scheduler, steps_per_sample, step_jitter,
                references, validation, training_dtype, gradient_checkpointing, existing_lora,
            )  # fmt: skip
            watch = _Watch(plan, Autosave(autosave.strip()))
            watch.say(cost(plan))
            training = _watched(plan, watch)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        watch.autosave.remove()
        made = TrainedLoRA(training.lora.state_dict(training.values), about(plan, training))
        text = report(plan, training)
        watch.say(line(training, iterations))
        picture = torch.from_numpy(np.asarray(plot(training, iterations), np.float32) / 255)[None]
        losses = {"loss": list(training.losses)}
        return io.NodeOutput(
            made, losses, len(training.losses), text, picture, ui=ui.PreviewImage(picture, cls=cls)
        )


def _watched(plan: Plan, watch: "_Watch") -> Training:
    try:
        return finetuned(plan, watch)
    except management.InterruptProcessingException:
        if watch.autosave.written:
            watch.say(
                f"stopped; the best LoRA so far is {watch.autosave.path.name} in {watch.autosave.path.parent}"
            )
        raise


class _Watch:
    """Progress, preview and the file of the best so far."""

    def __init__(self, plan: Plan, autosave: Autosave):
        self.plan, self.autosave = plan, autosave
        self.node_id, self.best = executing_node(), 0
        self.bar = comfy.utils.ProgressBar(plan.config.iterations)
        model = plan.model
        self.previewer = latent_preview.get_previewer(
            model.load_device, model.get_model_object("latent_format")
        )

    def __call__(self, training: Training, step: Step) -> None:
        preview = None
        if step.samples is not None and self.previewer is not None:
            preview = self.previewer.decode_latent_to_preview_image(
                "JPEG", tiled(step.samples[:SHOWN])
            )
        self.bar.update_absolute(step.iteration, self.plan.config.iterations, preview)
        text = line(training, self.plan.config.iterations)
        show_text(text, self.node_id)
        if step.held_out is not None:
            log.info("%s: %s", NODE, text)
        if training.best > self.best:
            self.best = training.best
            tensors = training.lora.state_dict(training.values)
            try:
                self.autosave(tensors, about(self.plan, training))
            except OSError as error:
                log.warning("%s: autosave failed, training goes on: %s", NODE, error)

    def say(self, text: str) -> None:
        log.info("%s: %s", NODE, text)
        show_text(text, self.node_id)
