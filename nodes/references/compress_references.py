"""CompressReferences: reduces a reference set to a small weighted subset with a small MMD² to the whole set."""

from dataclasses import replace

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ...mmd_core import GuidanceConfig, KernelConfig, References
from ...mmd_core.comparison.by_features import comparable_rows
from ...mmd_core.references.compress import Compressed, compress
from ..base.schema import advanced, schema_options
from ..base.sockets import CATEGORY, KernelSocket, ReferencesSocket
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
    n, k, about = len(references), len(compressed.indices), "" if compressed.exact else "about "
    if k == references.weights.count_nonzero():
        return f"{k} of {n} references are kept: the others have weight 0, so nothing changes."
    times = compressed.mmd2_random / max(compressed.mmd2, 1e-12)
    relative = compressed.weights * k
    of = "" if kernel.feature_space == "latent" else f", {kernel.feature_space}"
    lines = [
        f"{k} of {n} references stand for all of them. Each counts {relative.min():.2g} to "
        f"{relative.max():.2g} times as much as on average.",
        f"MMD² to the whole set: {about}{compressed.mmd2:.3g} (kernel {kernel.kernel}{of}).",
        f"{k} references drawn at random: {about}{compressed.mmd2_random:.3g}, {times:.1f} times as much.",
    ]
    if 2 * compressed.mmd2 > compressed.mmd2_random:
        lines.append(
            "That is little: the references are nearly equally far from each other, so none can stand "
            "for others. Raise count."
        )
    if kernel.radial and kernel.kernel != "energy" and kernel.bandwidth == "fixed":
        lines.append(
            "bandwidth_value was taken as a distance of latents as the VAE makes them, before the model "
            "scales them. bandwidth median of MMDKernel needs no such care."
        )
    return "\n".join(lines)


class CompressReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="CompressReferences",
            display_name="Compress References",
            category=CATEGORY,
            description="Makes few references of many: those that, with weights, stand for the whole set "
            "best. Guidance by a few hundred is faster and takes less memory than by thousands.",
            inputs=[
                ReferencesSocket.Input("references", tooltip="The references to choose from."),
                io.Int.Input(
                    "count",
                    default=128,
                    min=1,
                    max=100_000,
                    tooltip="How many references to keep (k of N). More describe the set better: the report says "
                    "how well. If there are no more than that, all are kept.",
                ),
                KernelSocket.Input(
                    "kernel",
                    optional=True,
                    tooltip="How images are compared, from MMDKernel: the one that guidance uses. With a "
                    "prompt_kernel captions are compared, too. Unconnected: rbf with three bandwidths.",
                ),
                advanced(
                    io.Float.Input(
                        "memory",
                        default=2.0,
                        min=0.1,
                        max=1024.0,
                        step=0.1,
                        optional=True,
                        tooltip="How many GB to work with, besides the references themselves. More is "
                        "faster for large sets, and a little better for more than 10 000 references.",
                    )
                ),
            ],
            outputs=[
                ReferencesSocket.Output(
                    "references",
                    tooltip="Those that were chosen, with weights, for the guidance nodes.",
                ),
                io.String.Output(
                    "report", tooltip="In words: how far the chosen ones are from the whole set."
                ),
            ],
            **schema_options(search_aliases=["mmd", "coreset", "herding", "reduce references"]),
        )

    @classmethod
    def execute(cls, references, count, kernel=None, memory=2.0):
        kernel = kernel or KernelConfig()
        check_captions(references, GuidanceConfig(kernel=kernel), NODE)
        n = len(references)
        if n <= count:
            text = f"All {n} references are kept: there are no more than count ({count})."
            return io.NodeOutput(references, text)
        bar = comfy.utils.ProgressBar(STEPS)

        def progress(share):
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
        return io.NodeOutput(chosen(references, compressed), report(references, compressed, kernel))
