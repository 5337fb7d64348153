"""The inputs that both guidance nodes share, and the settings that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ....mmd_core import MODES, GuidanceConfig, KernelConfig, References
from ...base.schema import advanced
from ...base.sockets import KernelSocket, MemorySocket, ReferencesSocket
from ...host.vae_match import other_vae
from .presets import preset_input
from .trace import Trace

if TYPE_CHECKING:
    from comfy.sd import VAE

OTHER_SIZES = ("refuse", "resize")

# Of new nodes. Saved workflows carry their own numbers.
DEFAULTS = GuidanceConfig(strength=30.0, mode="keep_prompt")


def source_inputs() -> list[io.Input]:
    """The model, the references and the kernel."""
    return [
        io.Model.Input("model", tooltip="The model that draws. It is not changed."),
        ReferencesSocket.Input(
            "references",
            tooltip="The images become distributed like these references (y), from "
            "EncodeReferenceLatents.",
        ),
        KernelSocket.Input(
            "kernel",
            optional=True,
            tooltip="How images are compared (k), from MMDKernel. Unconnected: rbf with three "
            "bandwidths around the median distance (in mode official the cubic polynomial, in "
            "official_l2norm rbf with bandwidth 0.75).",
        ),
    ]


def setting_inputs() -> list[io.Input]:
    """How strongly, when and how images are guided."""
    return [
        io.Float.Input(
            "strength",
            default=DEFAULTS.strength,
            min=0.0,
            max=10000.0,
            step=1.0,
            round=0.001,
            tooltip="10 is a nudge, 30 the default; 0 is off. 100 matches kinds and proportions "
            "best, but images come close to single references. The same value suits all models "
            "and numbers of steps. Other modes need other values (flow with a prompt of your own: "
            "3; official: 0.002 to 0.1). In formulas λ, a rate per unit of log-noise; in official "
            "α.",
        ),
        io.Float.Input(
            "start_percent",
            default=DEFAULTS.start_percent,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the noise schedule guidance begins. 0: at the start, where "
            "composition and color are decided.",
        ),
        io.Float.Input(
            "end_percent",
            default=DEFAULTS.end_percent,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the noise schedule guidance ends. Lower leaves more detail to the "
            "model; higher brings shapes closer to the references.",
        ),
        advanced(
            io.Combo.Input(
                "mode",
                options=list(MODES),
                default=DEFAULTS.mode,
                tooltip="keep_prompt: never moves images against the prompt (with cfg above 1; at "
                "cfg 1 it is flow). flow: may take the prompt back. paper and official are for "
                "comparison: the published method (arXiv 2601.08379) as in its equation 5 and as "
                "in its authors' code. official_l2norm: the same code with its option l2norm_img.",
            )
        ),
    ]


def later_inputs() -> list[io.Input]:
    """Inputs of later versions: optional and last, so that saved workflows keep their values."""
    return [
        io.Int.Input(
            "micro_batch",
            default=0,
            min=0,
            max=4096,
            optional=True,
            tooltip="Out of memory: try 4, then 1. So many images at a time go through the model "
            "(k), while guidance still sees the whole batch; the images stay the same. Use 0 with "
            "patches that let images see each other (StyleAligned). 0: the whole batch at once.",
        ),
        advanced(
            io.Float.Input(
                "preserve",
                default=DEFAULTS.preserve,
                min=0.0,
                max=1.0,
                step=0.01,
                optional=True,
                tooltip="Upper limit: guidance never moves an image further than (1 − p)/p × the "
                "model's own step. 0.5: equally far; 0.8: a quarter; 0: no limit.",
            )
        ),
        io.Boolean.Input(
            "preview_batch",
            default=False,
            optional=True,
            tooltip="Shows all images of the batch in the live preview, not only the first one.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Not needed. Connect the VAE of the checkpoint to check that it encoded the "
            "references.",
        ),
        MemorySocket.Input(
            "memory",
            optional=True,
            tooltip="Images of earlier runs or other machines that count as drawn together with "
            "these, from MMDMemory. Unconnected: none.",
        ),
        ReferencesSocket.Input(
            "base",
            optional=True,
            tooltip="What the model itself draws of the same things, from MMDBaseImages. Guidance "
            "then follows only what is different in the references: their style. Every image is "
            "guided by itself, in batches of any size. Unconnected: the batch is compared.",
        ),
        advanced(
            io.Combo.Input(
                "other_sizes",
                options=list(OTHER_SIZES),
                default=OTHER_SIZES[0],
                optional=True,
                tooltip="When images are not as large as the references. refuse: says so and "
                "stops. resize: scales the references for each run, a little softer; for "
                "detailers, tiled upscalers and LCM upscaling, which choose sizes of their own.",
            )
        ),
        preset_input(),
    ]


def guidance_config(
    node: str,
    kernel: KernelConfig | None,
    strength: float,
    start_percent: float,
    end_percent: float,
    mode: str,
    preserve: float,
) -> GuidanceConfig:
    """The settings of a node.

    Raises:
        ValueError: A setting is invalid. The message begins with the name of the node.
    """
    try:
        return GuidanceConfig(strength, start_percent, end_percent, mode, kernel, preserve)
    except ValueError as error:
        raise ValueError(f"{node}: {error}") from error


def new_trace(
    config: GuidanceConfig,
    references: References,
    vae: VAE | None,
    base: References | None = None,
) -> Trace:
    """An empty trace.

    Arguments:
        config: The settings.
        references: The references.
        vae: The VAE of the checkpoint, to check that it encoded the references, or None.
        base: The base images, or None.
    """
    trouble = other_vae(references, vae)
    warnings = () if trouble is None else (trouble,)
    return Trace(config, references.names, warnings, base=0 if base is None else len(base))
