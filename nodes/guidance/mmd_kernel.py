"""MMDKernel: the kernels that compare latents and prompts."""

from comfy_api.latest import io

from ...mmd_core import (
    BANDWIDTHS,
    FEATURE_SPACES,
    KERNELS,
    PROMPT_KERNELS,
    KernelConfig,
)
from ...mmd_core.kernels.quoted import quoted
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import SAMPLING, KernelSocket

DEFAULTS = KernelConfig()
LONGEST = 1_000_000  # characters: more are a mistake, and would take seconds


def parse_multipliers(text: str) -> tuple[float, ...]:
    """The numbers in a list like "0.5, 1, 2".

    Raises:
        ValueError: A part is not a number, or the list is far too long.
    """
    if len(text) > LONGEST:
        raise ValueError(
            f"multipliers must be 1 to 32 numbers, not {len(text)} characters: write for example "
            "0.5, 1, 2"
        )
    try:
        return tuple(float(part) for part in text.replace(";", ",").split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"multipliers must be numbers separated by commas, not {quoted(text)}: write for "
            "example 0.5, 1, 2"
        ) from None


class MMDKernel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDKernel",
            display_name="MMD Kernel",
            category=SAMPLING,
            description="How images are compared. Without this node: rbf with three bandwidths, "
            "the median distance × 0.5, 1 and 2.",
            inputs=[
                io.Combo.Input(
                    "kernel",
                    options=list(KERNELS),
                    default="rbf",
                    tooltip="How similar two latents are (k). rbf: a good default. imq, laplacian: "
                    "references farther away count, too. energy: no bandwidth to choose. With "
                    "laplacian and energy images come near single references at lower strengths. "
                    "polynomial: the kernel of the KID score. linear: matches only the average "
                    "image.",
                ),
                io.Combo.Input(
                    "bandwidth",
                    options=list(BANDWIDTHS),
                    default="median",
                    tooltip="The distance over which images count as similar (h). median: the "
                    "median distance between references. fixed: bandwidth_value.",
                ),
                io.Float.Input(
                    "bandwidth_value",
                    default=100.0,
                    min=0.0,
                    max=1e6,
                    step=0.01,
                    tooltip="Typical: 100 to 250. Used if bandwidth is fixed; in units of the "
                    "model's latents (h). If it is too large, all images count as similar; if too "
                    "small, none.",
                ),
                io.String.Input(
                    "multipliers",
                    default="0.5, 1, 2",
                    tooltip="Several bandwidths at once, as multiples of the bandwidth (h): small "
                    "ones match detail, large ones the set as a whole. A single 1: the bandwidth "
                    "alone.",
                ),
                io.Combo.Input(
                    "prompt_kernel",
                    options=["none", *PROMPT_KERNELS],
                    default="none",
                    tooltip="With cosine or rbf an image follows mostly the references whose "
                    "captions are similar to its prompt: connect captions and clip to "
                    "EncodeReferenceLatents. none: all references count. In formulas κ, a factor "
                    "of k.",
                ),
                io.Float.Input(
                    "prompt_bandwidth",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.01,
                    tooltip="0: the median distance between different captions. Used if "
                    "prompt_kernel is rbf: with smaller values only very similar captions count.",
                ),
                io.Combo.Input(
                    "feature_space",
                    options=list(FEATURE_SPACES),
                    default="latent",
                    optional=True,
                    tooltip="What is compared. latent: everything, with the layout. low_pass: "
                    "palette and composition, without detail. palette: palette and contrast, "
                    "without position. patches: small patches, without position, which is style "
                    "without layout. With a prompt of your own keep strength at 3 to 10 for both. "
                    "channel_stats: as palette, but it can make images pale.",
                ),
                io.Int.Input(
                    "pool",
                    default=DEFAULTS.pool,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="Used if feature_space is low_pass: larger values leave out more "
                    "detail. The factor by which width and height of the latent shrink.",
                ),
                io.Int.Input(
                    "patch_size",
                    default=DEFAULTS.patch_size,
                    min=1,
                    max=32,
                    optional=True,
                    tooltip="Used if feature_space is patches: 1 compares color alone, 3 strokes "
                    "and textures, larger values shapes, too. The side of a patch, in elements of "
                    "the latent (8 pixels with most models).",
                ),
            ],
            outputs=[
                KernelSocket.Output("kernel", tooltip="For the kernel input of the guidance nodes.")
            ],
            **schema_options(search_aliases=["mmd kernel", "bandwidth", "prompt kernel"]),
        )

    @classmethod
    @within_limits
    def execute(
        cls, kernel: str, bandwidth: str, bandwidth_value: float, multipliers: str,
        prompt_kernel: str, prompt_bandwidth: float, feature_space: str = DEFAULTS.feature_space,
        pool: int = DEFAULTS.pool, patch_size: int = DEFAULTS.patch_size,
    ) -> io.NodeOutput:  # fmt: skip
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
