"""The inputs of MMDTrainLoRA."""

import comfy.samplers
from comfy_api.latest import io

from ....mmd_core.ddm import (
    DECAYS,
    FEATURES,
    KEEP,
    TARGETS,
    DDMConfig,
)
from ...base.schema import advanced
from ...base.sockets import KernelSocket, LoRASocket, ReferencesSocket
from .private_copy import TRAINING_DTYPES

__all__ = ["DEFAULTS", "advanced_inputs", "optional_inputs", "required_inputs"]

DEFAULTS = DDMConfig()


def required_inputs() -> list[io.Input]:
    """The inputs that every training needs."""
    return [
        io.Model.Input(
            "model",
            tooltip="The model to train. The node does not change it; the result is a LoRA.",
        ),
        io.Conditioning.Input(
            "positive",
            tooltip="What the images show. For several prompts, connect MMDPrompts.",
        ),
        ReferencesSocket.Input(
            "references",
            tooltip="Connect MMDMakeReferences to make the model fast: it learns from its own "
            "images of many steps. Connect EncodeReferenceLatents to make it also draw like your "
            "images. Use some hundreds. Without validation, one in five is held out: these are not "
            "trained on, and decide which LoRA is best. Symbol y.",
        ),
        io.Int.Input(
            "steps_per_sample",
            default=5,
            min=1,
            max=50,
            tooltip="The number of steps you will draw with, 4 to 8. The LoRA works well only with "
            "this number. Symbol T.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.KSampler.SAMPLERS,
            default="euler",
            tooltip="The sampler you will draw with. euler and ddim are the simplest; dpmpp_2m, "
            "lcm, euler_ancestral and nearly all others work too.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="sgm_uniform",
            tooltip="The schedule of noise levels you will draw with.",
        ),
        io.Float.Input(
            "cfg",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="The cfg you will draw with. 1 is fastest: the LoRA learns the effect of a "
            "higher cfg from references that were drawn with it. Other values need negative and "
            "take twice the time.",
        ),
        io.Int.Input(
            "batch_size",
            default=DEFAULTS.batch_size,
            min=2,
            max=4096,
            tooltip="How many images are drawn for each update and compared together. More makes "
            "updates steadier and slower, and needs little more memory. Symbol N.",
        ),
        io.Int.Input(
            "micro_batch",
            default=DEFAULTS.micro_batch,
            min=1,
            max=4096,
            tooltip="How many images of the batch go through the model at once. Set it to 1 if "
            "memory runs out. It does not change the result.",
        ),
        io.Int.Input(
            "iterations",
            default=DEFAULTS.iterations,
            min=1,
            max=100000,
            tooltip="The number of updates. Some hundreds are enough.",
        ),
        io.Float.Input(
            "learning_rate",
            default=DEFAULTS.learning_rate,
            min=1e-7,
            max=0.1,
            step=1e-6,
            round=1e-7,
            tooltip="The size of the updates. Start with 0.0001 for SD1.5 and SDXL, and with 0.001 "
            "for tiny models.",
        ),
        io.Int.Input(
            "rank",
            default=DEFAULTS.rank,
            min=1,
            max=512,
            tooltip="The rank of the LoRA. A higher rank can learn more, and makes the file "
            "larger. Symbol r.",
        ),
        io.Combo.Input(
            "targets",
            options=list(TARGETS),
            default=DEFAULTS.targets,
            tooltip="Which layers are trained. all: every linear layer and convolution, best for "
            "few steps. The others make smaller files.",
        ),
        io.Combo.Input(
            "features",
            options=list(FEATURES),
            default=DEFAULTS.features,
            tooltip="What is compared. latent: the latents. pyramid: the latents and two smaller "
            "copies, so that composition counts more. unet: activations in the middle of the "
            "untrained network, so that content counts more than pixels; best for large images. "
            "Symbol f.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**63 - 2,
            control_after_generate=True,
            tooltip="The seed of all random numbers of the training.",
        ),
    ]


def optional_inputs() -> list[io.Input]:
    """The optional inputs that other nodes connect to."""
    return [
        io.Conditioning.Input(
            "negative",
            optional=True,
            tooltip="What the images should not show. Needed only for a cfg other than 1.",
        ),
        ReferencesSocket.Input(
            "validation",
            optional=True,
            tooltip="Other images of the same kind, which decide which LoRA is best. Unconnected: "
            "one in five of the references is held out for this.",
        ),
        KernelSocket.Input(
            "kernel",
            optional=True,
            tooltip="Connect MMDKernel to choose how images are compared. Unconnected: rbf with "
            "four bandwidths around the median distance, and rbf for prompts. Symbol k.",
        ),
        LoRASocket.Input(
            "existing_lora",
            optional=True,
            tooltip="The LoRA of an earlier training, to continue from. It must have the same "
            "targets; its rank replaces rank.",
        ),
    ]


def advanced_inputs() -> list[io.Input]:
    """Optional settings that few users change."""
    settings = [
        io.Combo.Input(
            "lr_decay",
            options=list(DECAYS),
            default=DEFAULTS.lr_decay,
            optional=True,
            tooltip="How learning_rate falls until the last update. constant: it does not fall.",
        ),
        io.Float.Input(
            "alpha",
            default=DEFAULTS.alpha,
            min=0.0,
            max=512.0,
            step=0.5,
            optional=True,
            tooltip="The alpha of the LoRA, whose output is multiplied by alpha / rank. 0 "
            "takes the rank, so that this factor is 1. Symbol α.",
        ),
        io.Int.Input(
            "step_jitter",
            default=0,
            min=0,
            max=20,
            optional=True,
            tooltip="Set 1 to train also for one step more and one less; each update draws "
            "with one of these numbers of steps. The LoRA then works with all of them. 0: only "
            "with steps_per_sample.",
        ),
        io.Float.Input(
            "drift_penalty",
            default=DEFAULTS.drift_penalty,
            min=0.0,
            max=1000.0,
            step=0.001,
            round=0.0001,
            optional=True,
            tooltip="Raise it to keep the LoRA closer to the untrained model: the weight of "
            "the squared distance between their estimates. Above 0, the model is called once "
            "more for each step. Symbol β.",
        ),
        io.Int.Input(
            "grad_last_k",
            default=DEFAULTS.grad_last_k,
            min=0,
            max=200,
            optional=True,
            tooltip="The gradient passes only through this number of last calls of the model: "
            "faster, but biased. 0: through all calls.",
        ),
        io.Float.Input(
            "grad_clip",
            default=DEFAULTS.grad_clip,
            min=0.0,
            max=1000.0,
            step=0.1,
            optional=True,
            tooltip="The largest norm of a gradient. 0: no limit.",
        ),
        io.Float.Input(
            "ema",
            default=DEFAULTS.ema,
            min=0.0,
            max=0.9999,
            step=0.01,
            round=0.0001,
            optional=True,
            tooltip="The LoRA is a moving average over the updates. A higher value averages "
            "over more updates. 0: no average.",
        ),
        io.Int.Input(
            "validate_every",
            default=DEFAULTS.validate_every,
            min=1,
            max=10000,
            optional=True,
            tooltip="After this number of updates, a batch is drawn, compared with the held-out "
            "images and shown as preview, and the best LoRA so far is saved.",
        ),
        io.Int.Input(
            "patience",
            default=DEFAULTS.patience,
            min=0,
            max=1000,
            optional=True,
            tooltip="Training ends early if the distance from the held-out images rises this "
            "number of times in a row. 0: never.",
        ),
        io.Combo.Input(
            "keep",
            options=list(KEEP),
            default=DEFAULTS.keep,
            optional=True,
            tooltip="best: the LoRA closest to the held-out images. last: the LoRA after the "
            "last update.",
        ),
        io.Combo.Input(
            "training_dtype",
            options=list(TRAINING_DTYPES),
            default="auto",
            optional=True,
            tooltip="The number format in which the model computes. auto: its own, but bf16 or "
            "fp32 instead of fp16, which is too coarse for these gradients. The LoRA itself is "
            "always trained in fp32.",
        ),
        io.Boolean.Input(
            "gradient_checkpointing",
            default=True,
            optional=True,
            tooltip="Needs much less memory and about a quarter more time: each block of the "
            "network is computed again for the gradient.",
        ),
        io.String.Input(
            "autosave",
            default="loras/mmd_ddm_autosave",
            optional=True,
            tooltip="Where in the output folder the best LoRA so far is saved during training. "
            "The file stays if you stop the training; at its normal end it is removed. Empty: "
            "nothing is saved.",
        ),
    ]
    return [advanced(setting) for setting in settings]
