"""MMDKernel: how similar two latents are, and two prompts."""

from comfy_api.latest import io

from ...mmd_core import (
    BANDWIDTHS,
    FEATURE_SPACES,
    KERNELS,
    PROMPT_KERNELS,
    KernelConfig,
)
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, KernelSocket

DEFAULTS = KernelConfig()


def parse_multipliers(text: str) -> tuple[float, ...]:
    """The numbers in a list like "0.5, 1, 2".

    Raises:
        ValueError: Something that is not a number.
    """
    try:
        return tuple(float(part) for part in text.replace(";", ",").split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"multipliers must be numbers separated by commas, not {text!r}: write for example 0.5, 1, 2"
        ) from None


class MMDKernel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDKernel",
            display_name="MMD Kernel",
            category=CATEGORY,
            description="How images are compared. Without this node: rbf, median bandwidth × 0.5, 1, 2.",
            inputs=[
                io.Combo.Input(
                    "kernel",
                    options=list(KERNELS),
                    default="rbf",
                    tooltip="The similarity k of two latents. rbf: a good default. imq, laplacian: feel "
                    "references farther away. energy: no bandwidth to choose. Both energy and laplacian come near "
                    "single references sooner. polynomial: that of the KID score. linear: matches only the average "
                    "image.",
                ),
                io.Combo.Input(
                    "bandwidth",
                    options=list(BANDWIDTHS),
                    default="median",
                    tooltip="The distance h over which images count as similar. median: the median "
                    "distance between references. fixed: bandwidth_value.",
                ),
                io.Float.Input(
                    "bandwidth_value",
                    default=100.0,
                    min=0.0,
                    max=1e6,
                    step=0.01,
                    tooltip="The bandwidth h if bandwidth is fixed, in units of the model's latents. "
                    "Typical: 100 to 250. Larger sees the whole set as alike, smaller only near twins.",
                ),
                io.String.Input(
                    "multipliers",
                    default="0.5, 1, 2",
                    tooltip="Several bandwidths at once, as multiples of h: small ones match detail, "
                    "large ones the set as a whole. A single 1 uses h alone.",
                ),
                io.Combo.Input(
                    "prompt_kernel",
                    options=["none", *PROMPT_KERNELS],
                    default="none",
                    tooltip="The similarity κ of prompts and captions, by which k is multiplied: an image follows mostly "
                    "the references whose captions are like its prompt. Needs captions and clip on EncodeReferenceLatents. none: all count.",
                ),
                io.Float.Input(
                    "prompt_bandwidth",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.01,
                    tooltip="Bandwidth h of prompt_kernel rbf: smaller heeds only close captions. 0: the "
                    "median distance between different captions.",
                ),
                io.Combo.Input(
                    "feature_space",
                    options=list(FEATURE_SPACES),
                    default="latent",
                    optional=True,
                    tooltip="What of an image is compared. latent: everything, layout included. low_pass: "
                    "the image seen from afar, palette and composition without detail. channel_stats: "
                    "palette and contrast, wherever they are. patches: small patches, wherever they "
                    "are: style without layout; best with kernel energy.",
                ),
                io.Int.Input(
                    "pool",
                    default=DEFAULTS.pool,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="For feature_space low_pass: how coarse the view is. So many places of the "
                    "latent (8 pixels each with most models) become one. No effect otherwise.",
                ),
                io.Int.Input(
                    "patch_size",
                    default=DEFAULTS.patch_size,
                    min=1,
                    max=32,
                    optional=True,
                    tooltip="For feature_space patches: the length of a patch, in places of the latent (8 "
                    "pixels each with most models). 1: color alone; 3: strokes and textures; larger ones "
                    "hold shapes, too. No effect otherwise.",
                ),
            ],
            outputs=[
                KernelSocket.Output("kernel", tooltip="For the kernel input of the guidance nodes.")
            ],
            **schema_options(search_aliases=["mmd kernel", "bandwidth", "prompt kernel"]),
        )

    @classmethod
    def execute(
        cls, kernel, bandwidth, bandwidth_value, multipliers, prompt_kernel, prompt_bandwidth,
        feature_space=DEFAULTS.feature_space, pool=DEFAULTS.pool, patch_size=DEFAULTS.patch_size,
    ):  # fmt: skip
        try:
            config = KernelConfig(
                kernel,
                bandwidth,
                bandwidth_value,
                parse_multipliers(multipliers),
                prompt_kernel,
                prompt_bandwidth,
                feature_space,
                pool,
                patch_size,
            )
        except ValueError as error:
            raise ValueError(f"MMDKernel: {error}") from error
        return io.NodeOutput(config)
