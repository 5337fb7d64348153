"""CompressReferences: a small weighted subset of the references with a small MMD² to all."""

from dataclasses import replace

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ...mmd_core import GuidanceConfig, KernelConfig, References
from ...mmd_core.comparison.by_features import comparable_rows
from ...mmd_core.references.compress import Compressed, compress
from ..base.counted import counted
from ..base.limits import within_limits
from ..base.schema import advanced, schema_options
from ..base.sockets import REFERENCES, KernelSocket, ReferencesSocket
from ..base.told import told
from ..guidance.run.checks import check_captions

NODE = "CompressReferences"
STEPS = 1000  # resolution of the progress bar


def chosen(references: References, compressed: Compressed) -> References:
    """The subset of the references that `compressed` selects, with its new weights."""
    indices = compressed.indices
    rows = {
        field: None if value is None else value[indices]
        for field in ("latents", "prompts", "thumbnails")
        for value in [getattr(references, field)]
    }
    lists = {
        field: tuple(getattr(references, field)[j] for j in indices.tolist())
        for field in ("names", "captions", "sizes")
    }
    return replace(references, weights=compressed.weights, **rows, **lists)


def report(references: References, compressed: Compressed, kernel: KernelConfig) -> str:
    """The report for the user: how well the subset approximates the whole set."""
    n, k = len(references), len(compressed.indices)
    kept = f"Kept: {k} of {counted(n, 'reference')}"
    if k == references.weights.count_nonzero():
        return f"{kept}. The others have weight 0, so nothing changes."
    relative = compressed.weights * k
    about = "" if compressed.exact else "about "
    times = compressed.mmd2_random / max(compressed.mmd2, 1e-12)
    space = "" if kernel.feature_space == "latent" else f", {kernel.feature_space}"
    lines = [
        f"{kept}, with weights of {relative.min():.2g} to {relative.max():.2g} times their mean.",
        f"MMD² to the whole set: {about}{compressed.mmd2:.3g} (kernel {kernel.kernel}{space}).",
        "MMD² of as many references drawn at random: "
        f"{about}{compressed.mmd2_random:.3g}, {times:.1f} times as much.",
    ]
    if 2 * compressed.mmd2 > compressed.mmd2_random:
        lines.append(
            "Raise count: the chosen references are hardly better than random ones, because all "
            "references are nearly equally far from each other."
        )
    if kernel.radial and kernel.kernel != "energy" and kernel.bandwidth == "fixed":
        lines.append(
            "Set bandwidth of MMDKernel to median, or check bandwidth_value: here it is a distance "
            "between latents of the VAE, before the model scales them."
        )
    return "\n".join(lines)


class CompressReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompressReferences",
            display_name="Compress References",
            category=REFERENCES,
            description="Keeps a few of many references, with weights that make them represent the "
            "whole set. Guidance with a few hundred references is faster and needs less memory "
            "than with thousands.",
            inputs=[
                ReferencesSocket.Input("references", tooltip="The references to choose from."),
                io.Int.Input(
                    "count",
                    default=128,
                    min=1,
                    max=100_000,
                    tooltip="How many references to keep (k of N). More represent the whole set "
                    "better; the report says how well. A set that is not larger is kept as it is.",
                ),
                KernelSocket.Input(
                    "kernel",
                    optional=True,
                    tooltip="Connect the MMDKernel that guidance uses: it says how images are "
                    "compared, and with a prompt_kernel also captions. Unconnected: rbf with three "
                    "bandwidths.",
                ),
                advanced(
                    io.Float.Input(
                        "memory",
                        default=2.0,
                        min=0.1,
                        max=1024.0,
                        step=0.1,
                        optional=True,
                        tooltip="How many GB this node may use, besides the references themselves. "
                        "More is faster for large sets, and slightly better for more than 10 000 "
                        "references.",
                    )
                ),
            ],
            outputs=[
                ReferencesSocket.Output(
                    "references",
                    tooltip="The chosen references with their weights, for the guidance nodes.",
                ),
                io.String.Output(
                    "report",
                    tooltip="As text: the MMD² of the chosen references to the whole set.",
                ),
            ],
            **schema_options(
                search_aliases=["mmd", "coreset", "herding", "reduce references"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @within_limits
    def execute(
        cls,
        references: References,
        count: int,
        kernel: KernelConfig | None = None,
        memory: float = 2.0,
    ) -> io.NodeOutput:
        kernel = kernel or KernelConfig()
        check_captions(references, GuidanceConfig(kernel=kernel), NODE)
        n = len(references)
        if n <= count:
            text = f"All references are kept ({n}), because count is {count}."
            return told(references, text, says=text)
        bar = comfy.utils.ProgressBar(STEPS)

        def progress(share: float) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if int(share * STEPS) > bar.current:
                bar.update_absolute(int(share * STEPS))

        device, memory = comfy.model_management.get_torch_device(), int(memory * 2**30)
        if device.type != "cpu":
            comfy.model_management.free_memory(memory / 2, device)
        rows, compared = comparable_rows(kernel, references.latents, references.weights)
        try:
            compressed = compress(
                references.latents,
                references.weights,
                count,
                compared,
                features=rows,
                prompts=references.prompts,
                memory=memory,
                device=device,
                progress=progress,
            )
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        text = report(references, compressed, kernel)
        return told(chosen(references, compressed), text, says=text)
