"""MMDTrainLoRA: finetunes a model for a few-step sampler with an MMD loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management as management
import comfy.utils
import folder_paths
import latent_preview
import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...mmd_core import KernelConfig, References
from ...mmd_core.ddm import DEFAULT_KERNEL, DDMConfig, Step, Training
from ...mmd_core.kernels.quoted import quoted
from ..base.limits import within_limits
from ..base.log import log, reason
from ..base.schema import schema_options
from ..base.sockets import TRAINING, LoRASocket, LossSocket
from ..base.told import told
from ..host.progress import executing_node, show_text, tiled
from .training.engine import ModelSetup
from .training.finetuning import finetuned
from .training.plan import Plan, planned
from .training.private_copy import TRAINING_DTYPES
from .training.sampler_chain import SamplerSettings
from .training.train_inputs import (
    DEFAULTS,
    advanced_inputs,
    optional_inputs,
    required_inputs,
)
from .training.trained_lora import Autosave, TrainedLoRA
from .training.training_report import (
    cost_text,
    loss_chart,
    progress_text,
    training_metadata,
    training_report,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

NODE = "MMDTrainLoRA"
PREVIEWED = 16  # samples in the preview


class MMDTrainLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDTrainLoRA",
            display_name="Train LoRA for Few Steps",
            category=TRAINING,
            description="Trains a LoRA with which a model draws well in few steps, and like your "
            "references. Each update draws a batch in these few steps, compares it with the "
            "references (MMD), and computes the gradient through all steps.",
            inputs=[*required_inputs(), *optional_inputs(), *advanced_inputs()],
            outputs=[
                LoRASocket.Output(
                    "lora",
                    tooltip="Connect it to MMDSaveLoRA or LoraModelLoader (Load LoRA Model).",
                ),
                LossSocket.Output("loss_map", tooltip="MMD² of each update, for LossGraphNode."),
                io.Int.Output("steps", tooltip="The number of updates that were made."),
                io.String.Output("report", tooltip="Cost, result and what to change, in words."),
                io.Image.Output(
                    "plot", tooltip="MMD² of batches and of held-out images over the updates."
                ),
            ],
            **schema_options(
                search_aliases=[
                    "mmd", "mmd train lora", "ddm", "mmd-ddm", "few steps", "distill", "train",
                    "finetune", "turbo", "lightning",
                ], has_intermediate_output=True,
            ),
        )  # fmt: skip

    @classmethod
    @within_limits
    def execute(
        cls, model: ModelPatcher, positive: list, references: References, steps_per_sample: int,
        sampler_name: str, scheduler: str, cfg: float, batch_size: int, micro_batch: int,
        iterations: int, learning_rate: float, rank: int, targets: str, features: str, seed: int,
        negative: list | None = None, validation: References | None = None,
        kernel: KernelConfig | None = None, existing_lora: dict[str, Tensor] | None = None,
        lr_decay: str = DEFAULTS.lr_decay, alpha: float = DEFAULTS.alpha, step_jitter: int = 0,
        drift_penalty: float = DEFAULTS.drift_penalty, grad_last_k: int = DEFAULTS.grad_last_k,
        grad_clip: float = DEFAULTS.grad_clip, ema: float = DEFAULTS.ema,
        validate_every: int = DEFAULTS.validate_every, patience: int = DEFAULTS.patience,
        keep: str = DEFAULTS.keep, training_dtype: str = "auto",
        gradient_checkpointing: bool = True, autosave: str = "loras/mmd_ddm_autosave",
    ) -> io.NodeOutput:  # fmt: skip
        try:
            config = DDMConfig(
                batch_size=batch_size, micro_batch=micro_batch, iterations=iterations,
                learning_rate=learning_rate, rank=rank, targets=targets, features=features,
                seed=seed, lr_decay=lr_decay, alpha=alpha, drift_penalty=drift_penalty,
                grad_last_k=grad_last_k, grad_clip=grad_clip, ema=ema,
                validate_every=validate_every, patience=patience, keep=keep,
            )  # fmt: skip
            if training_dtype not in TRAINING_DTYPES:
                raise ValueError(
                    f"unknown training_dtype {quoted(training_dtype)}: choose one of "
                    f"{', '.join(TRAINING_DTYPES)}"
                )
            setup = ModelSetup(
                model, positive, negative, cfg, training_dtype, gradient_checkpointing,
                existing_lora,
            )  # fmt: skip
            sampling = SamplerSettings(sampler_name, scheduler, steps_per_sample, step_jitter)
            plan = planned(
                setup, sampling, config, kernel or DEFAULT_KERNEL, references, validation
            )
            progress = _Progress(plan, Autosave(autosave.strip()))
            progress.show(cost_text(plan))
            training = _run(plan, progress)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        progress.autosave.remove()
        progress.show(progress_text(training, iterations))
        tensors = training.lora.state_dict(training.values)
        lora = TrainedLoRA(tensors, training_metadata(plan, training))
        chart = np.asarray(loss_chart(training, iterations), np.float32)
        image = torch.from_numpy(chart / 255)[None]
        text = training_report(plan, training)
        return told(
            lora, {"loss": list(training.losses)}, len(training.losses), text, image,
            says=text, shown=ui.PreviewImage(image, cls=cls),
        )  # fmt: skip


def _run(plan: Plan, progress: _Progress) -> Training:
    """Runs the training. If the user stops it, says where the best LoRA so far is."""
    try:
        return finetuned(plan, progress.step)
    except management.InterruptProcessingException:
        autosave = progress.autosave
        if autosave.path is not None:
            output = folder_paths.get_output_directory()
            name = autosave.path.relative_to(output).as_posix()
            progress.show(f"stopped; the best LoRA so far is {name} in the output folder")
        raise


class _Progress:
    """Shows the progress of a training, and saves the best LoRA so far."""

    def __init__(self, plan: Plan, autosave: Autosave) -> None:
        self.plan, self.autosave = plan, autosave
        self.node_id, self.best = executing_node(), 0
        self.bar = comfy.utils.ProgressBar(plan.config.iterations)
        model = plan.setup.model
        self.previewer = latent_preview.get_previewer(
            model.load_device, model.get_model_object("latent_format")
        )

    def step(self, training: Training, step: Step) -> None:
        iterations, preview = self.plan.config.iterations, None
        if step.samples is not None and self.previewer is not None:
            preview = self.previewer.decode_latent_to_preview_image(
                "JPEG", tiled(step.samples[:PREVIEWED])
            )
        self.bar.update_absolute(step.iteration, iterations, preview)
        text = progress_text(training, iterations)
        show_text(text, self.node_id)
        if step.held_out is not None:
            log.info("%s: %s", NODE, text)
        if training.best > self.best:
            self.best = training.best
            tensors = training.lora.state_dict(training.values)
            try:
                self.autosave.save(tensors, training_metadata(self.plan, training))
            except OSError as error:
                log.warning("%s: autosave failed, training continues: %s", NODE, reason(error))

    def show(self, text: str) -> None:
        log.info("%s: %s", NODE, text)
        show_text(text, self.node_id)
