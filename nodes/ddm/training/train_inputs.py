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

__all__ = ["DEFAULTS", "DTYPES", "fine_inputs", "main_inputs"]

DEFAULTS = DDMConfig()
DTYPES = ("auto", "bf16", "fp32")


def main_inputs() -> list:
    """What everybody sets."""
    return [
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
    ]


def fine_inputs() -> list:
    """What need not be connected or set."""
    return [
        io.Conditioning.Input("negative", optional=True, tooltip="Only for a cfg other than 1."),
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
    ]
