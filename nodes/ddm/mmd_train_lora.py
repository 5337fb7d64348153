"""MMDTrainLoRA: finetunes a model for few steps, with an MMD loss."""

import logging

import comfy.model_management as management
import comfy.utils
import latent_preview
import numpy as np
import torch
from comfy_api.latest import io, ui

from ...mmd_core.ddm import DDMConfig, Step, Training
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, LoRASocket, LossSocket
from ..host.progress import executing_node, show_text, tiled
from .training.account import (
    about,
    cost,
    line,
    plot,
    report,
)
from .training.finetuning import Plan, finetuned, planned
from .training.train_inputs import (
    DEFAULTS,
    DTYPES,
    fine_inputs,
    main_inputs,
)
from .training.trained_lora import Autosave, TrainedLoRA

NODE = "MMDTrainLoRA"
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
            inputs=[*main_inputs(), *fine_inputs()],
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
