"""The inputs that both guidance nodes share, and what they mean together."""

from comfy_api.latest import io

from ....mmd_core import MODES, GuidanceConfig, References
from ...base.schema import advanced
from ...base.sockets import KernelSocket, MemorySocket, ReferencesSocket
from ...host.vae_match import other_vae
from .trace import Trace

DEFAULTS = GuidanceConfig()


def source_inputs() -> list:
    return [
        io.Model.Input("model", tooltip="The model that draws. It is left as it is."),
        ReferencesSocket.Input(
            "references",
            tooltip="What the images are to be distributed like (y), from EncodeReferenceLatents.",
        ),
        KernelSocket.Input(
            "kernel",
            optional=True,
            tooltip="How images are compared (k), from MMDKernel. Unconnected: rbf with three bandwidths "
            "around the median distance (in mode official the cubic polynomial).",
        ),
    ]


def setting_inputs() -> list:
    return [
        io.Float.Input(
            "strength",
            default=DEFAULTS.strength,
            min=0.0,
            max=10000.0,
            step=1.0,
            round=0.001,
            tooltip="How fast images move towards the references (λ, a rate per unit of log-noise, so it "
            "means the same for all models and step counts). 0 is off, 10 a nudge, 30 to 100 usual; above "
            "that the proportions match better still, but images come close to single references. The "
            "modes paper and official have scales of their own (official: α, 0.002 to 0.1).",
        ),
        io.Float.Input(
            "start_percent",
            default=DEFAULTS.start_percent,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the noise schedule (σ) guidance begins. 0: from the start, where "
            "composition and color are decided.",
        ),
        io.Float.Input(
            "end_percent",
            default=DEFAULTS.end_percent,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the noise schedule (σ) guidance ends. Earlier leaves more of the detail to the "
            "model; later binds shapes more closely to the references.",
        ),
        advanced(
            io.Combo.Input(
                "mode",
                options=list(MODES),
                default=DEFAULTS.mode,
                tooltip="flow: the default. paper and official: the published method (arXiv 2601.08379) "
                "as in its equation 5 and in its authors' code, for comparison.",
            )
        ),
    ]


def later_inputs() -> list:
    """Inputs of later versions: last, so that saved workflows keep their values, and optional."""
    return [
        io.Int.Input(
            "micro_batch",
            default=0,
            min=0,
            max=4096,
            optional=True,
            tooltip="For small cards: k sends k images at a time through the model, while guidance still "
            "sees the whole batch. The images stay the same. 1 takes the least memory, that of one image; "
            "4 is a good choice; 0 sends the whole batch at once.",
        ),
        advanced(
            io.Float.Input(
                "preserve",
                default=DEFAULTS.preserve,
                min=0.0,
                max=1.0,
                step=0.01,
                optional=True,
                tooltip="A safeguard (p): guidance moves an image at most (1 − p)/p as far as the model's own step "
                "does. 0.5: as far, which usual strengths never reach; 0.8: a quarter as far; 0: no limit.",
            )
        ),
        io.Boolean.Input(
            "preview_batch",
            default=False,
            optional=True,
            tooltip="The live preview shows all images of the batch instead of the first one.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Not needed. With the VAE of the checkpoint connected, it is checked that the references "
            "were encoded with it.",
        ),
        MemorySocket.Input(
            "memory",
            optional=True,
            tooltip="Images of earlier runs, or of other machines, that count as drawn together with these, from "
            "MMDMemory. Unconnected: these alone.",
        ),
    ]


def guidance_config(
    node: str, kernel, strength, start_percent, end_percent, mode, preserve
) -> GuidanceConfig:
    """The checked settings; errors name the node."""
    try:
        return GuidanceConfig(strength, start_percent, end_percent, mode, kernel, preserve)
    except ValueError as error:
        raise ValueError(f"{node}: {error}") from error


def new_trace(config: GuidanceConfig, references: References, vae) -> Trace:
    """An empty record of what guidance will do; `vae` is the one to compare the references' with, or None."""
    trouble = other_vae(references, vae)
    return Trace(config, references.names, () if trouble is None else (trouble,))
