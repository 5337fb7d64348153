"""MMDScore: how well images fit the references."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...mmd_core import KernelConfig, References
from ...mmd_core.comparison.score import TESTABLE, Score, score
from ..base.counted import counted
from ..base.limits import within_limits
from ..base.schema import advanced, schema_options
from ..base.sockets import LOOK, KernelSocket, ReferencesSocket
from ..base.told import told
from ..host.picture import picture
from ..host.vae_match import other_vae, pixel_unit
from ..pictures.fit_image import fit_image
from ..pictures.picture_grid import Cell, captioned_sheet
from ..pictures.reference_pictures import first_frames, reference_pictures
from .run.report import COPY

if TYPE_CHECKING:
    from comfy.sd import VAE

NODE = "MMDScore"
SHOWN = 64  # most images in the report and on the sheet
SIGNIFICANT = 0.05  # p-value below which images can be told from the references
ENOUGH = 64  # images from which on more would hardly make the test sharper


def encoded(images: Tensor, references: References, vae: VAE) -> Tensor:
    """Latents of images with the size of the references, with shape `(B, C, *)`.

    Arguments:
        images: With shape `(B, H, W, 3)`, in [0, 1].
        references: The references.
        vae: The VAE that encodes the images.
    """
    h, w = references.latents.shape[-2:]
    unit = pixel_unit(vae)
    latents = []
    for image in images:
        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = fit_image(image[None, ..., :3], w * unit, h * unit, "crop")
        latents.append(vae.encode(pixels).float().cpu())
    return torch.cat(latents)


def to_score(
    references: References, latent: dict[str, Any] | None, images: Tensor | None, vae: VAE | None
) -> Tensor:
    """The latents to score, with shape `(B, C, *)`.

    Raises:
        ValueError: There are none, or they cannot be compared with the references.
    """
    if latent is not None:
        samples = picture(latent["samples"]).float().cpu()
    elif images is None:
        raise ValueError(f"{NODE}: there is nothing to score: connect latent or images")
    elif vae is None:
        raise ValueError(
            f"{NODE}: images are compared as latents: connect the VAE that encoded the references "
            "to vae"
        )
    else:
        samples = encoded(images, references, vae)
    have, want = samples.shape[1:], references.latents.shape[1:]
    if samples.ndim == references.latents.ndim + 1 and samples.shape[2] == 1:
        samples, have = samples.squeeze(2), have[:1] + have[2:]  # one frame
    if have != want:
        raise ValueError(
            f"{NODE}: the latents have shape {tuple(have)}, those of the references {tuple(want)}: "
            "encode the references with the same VAE and for the same size (target of "
            "EncodeReferenceLatents)"
        )
    if not torch.isfinite(samples).all():
        raise ValueError(f"{NODE}: the latents contain NaN or infinite numbers: draw them again")
    return samples


def score_report(
    found: Score, references: References, kernel: KernelConfig, trouble: str | None
) -> str:
    """The score in words, with a line for each image.

    Arguments:
        found: The score.
        references: The references.
        kernel: How images were compared.
        trouble: A sentence if the references come from another VAE, else None.
    """
    lines = [] if trouble is None else [trouble]
    lines += _distance_lines(found, len(references), kernel)
    lines.append(_test_line(found))
    if kernel.prompt_kernel != "none":
        lines.append("The prompt kernel is left out: images have no prompts here.")
    if kernel.radial and kernel.kernel != "energy" and kernel.bandwidth == "fixed":
        lines.append(
            "bandwidth_value was taken as a distance of latents as the VAE makes them, before the "
            "model scales them."
        )
    distances, b = found.distances.tolist(), len(found.witness)
    near = sum(distance < COPY for distance in distances)
    if near:
        are, copies = ("is", "it may be a copy") if near == 1 else ("are", "they may be copies")
        lines.append(
            f"{counted(near, 'image')} {are} nearer than {COPY} to a single reference: {copies} of "
            "it."
        )
    lines += [
        "Nearest: 0 is a copy, 1 is as far as references are from each other. Witness: above 0 "
        "there are",
        "more images like this one than references, below 0 fewer.",
    ]
    for i in range(min(b, SHOWN)):
        name = references.names[int(found.nearest[i])]
        lines.append(
            f"{i + 1}: nearest {distances[i]:.2f} ({name}), witness {found.witness[i]:+.3f}"
        )
    return "\n".join(lines + [f"and {b - SHOWN} more"] * (b > SHOWN))


def _distance_lines(found: Score, n: int, kernel: KernelConfig) -> list[str]:
    """MMD² between images and references, and what a negative value means.

    Arguments:
        n: The number of references.
    """
    b = len(found.witness)
    unbiased = min(b, found.compared) > 1
    estimate = "unbiased, may be below 0" if unbiased else "biased"
    space = "" if kernel.feature_space == "latent" else f", by {kernel.feature_space}"
    some = (
        f" (of which {found.compared}, drawn at random, are compared)" if found.compared < n else ""
    )
    lines = [
        f"{counted(b, 'image')} against {counted(n, 'reference')}{some}: MMD² {found.mmd2:.4f} "
        f"(kernel {kernel.kernel}{space}; 0 is ideal; {estimate})."
    ]
    if found.mmd2 < 0 and unbiased:
        lines.append(
            "Below 0 the images are spread over the references more evenly than chance would "
            "spread them, as guided batches are."
        )
    return lines


def _test_line(found: Score) -> str:
    """The p-value, and what it means."""
    if math.isnan(found.p_value):
        return f"No p-value: that needs {TESTABLE} images and {TESTABLE} references or more."
    share = f"{found.p_value:.1%}" if found.p_value >= 0.001 else f"{found.p_value:.2g}"
    differs = found.p_value < SIGNIFICANT
    line = (
        f"p-value {found.p_value:.3g}: of random splits of all images and references {share} "
        f"differ as much, so the images {'can' if differs else 'cannot'} be told from the "
        "references."
    )
    if not differs and len(found.witness) < ENOUGH:
        line += " More images make the test sharper."
    if found.tested < found.compared:
        line += f" (Tested: {counted(found.tested, 'reference')}, drawn by weight.)"
    return line


def nearest_sheet(
    found: Score, references: References, images: Tensor | None, latents: Tensor, vae: VAE | None
) -> Tensor:
    """Each image above the reference nearest to it, with shape `(1, H, W, 3)`.

    Arguments:
        found: The score.
        references: The references.
        images: The images, with shape `(B, h, w, 3)`; None: `latents` are decoded.
        latents: The latents that were scored, with shape `(B, C, *)`.
        vae: The VAE that decodes latents. Without it and without images only references are shown.
    """
    n = min(len(found.witness), SHOWN)
    if images is None and vae is not None:
        images = torch.cat([first_frames(vae.decode(latents[i : i + 1])) for i in range(n)])
    indices = found.nearest[:n].tolist()
    nearest = reference_pictures(references, indices)
    return captioned_sheet(
        [
            Cell(
                [None if images is None else images[i], nearest[i]],
                f"{i + 1}: {found.distances[i]:.2f}",
                references.names[indices[i]],
            )
            for i in range(n)
        ]
    )


class MMDScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDScore",
            display_name="Score against References (MMD)",
            category=LOOK,
            description="Tells how well images fit the references: MMD², whether chance explains "
            "it, and the reference nearest to each image.",
            inputs=[
                ReferencesSocket.Input("references", tooltip="What the images should be like."),
                io.Latent.Input(
                    "latent", optional=True, tooltip="What to score: the latents of a sampler."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The images to score; connect vae, too. With latent connected, the "
                    "latents are scored and these images are only shown.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The VAE that encoded the references. It encodes images.",
                ),
                KernelSocket.Input(
                    "kernel",
                    optional=True,
                    tooltip="How images are compared (k), from MMDKernel. Unconnected: rbf with "
                    "three bandwidths.",
                ),
                io.Int.Input(
                    "permutations",
                    default=1000,
                    min=0,
                    max=100_000,
                    tooltip="More make the p-value more precise and take longer; 0: no p-value. "
                    "The number of random splits of all images and references.",
                ),
                advanced(
                    io.Int.Input(
                        "seed",
                        default=0,
                        min=0,
                        max=0xFFFFFFFFFFFFFFFF,
                        control_after_generate=False,
                        tooltip="The seed of these splits.",
                    )
                ),
            ],
            outputs=[
                io.Float.Output(
                    "mmd2",
                    tooltip="0 is ideal, and chance may bring it a little below 0. The unbiased "
                    "MMD² between images and references.",
                ),
                io.Float.Output(
                    "p_value",
                    tooltip="Below 0.05 the images differ from the references; 1 if there are too "
                    "few images for the test. How often chance alone makes as large an MMD² (p).",
                ),
                io.String.Output("report", tooltip="In words, with a line for each image."),
                io.Image.Output("nearest", tooltip="Each image above the reference nearest to it."),
            ],
            is_output_node=True,
            **schema_options(
                search_aliases=[
                    "mmd", "mmd score", "metric", "measure", "kid", "fid", "evaluate", "similarity",
                    "nearest reference", "copies",
                ],
                has_intermediate_output=True,
            ),
        )  # fmt: skip

    @classmethod
    @within_limits
    def execute(
        cls, references: References, latent: dict[str, Any] | None = None,
        images: Tensor | None = None, vae: VAE | None = None, kernel: KernelConfig | None = None,
        permutations: int = 1000, seed: int = 0,
    ) -> io.NodeOutput:  # fmt: skip
        kernel = kernel or KernelConfig()
        latents = to_score(references, latent, images, vae)
        if images is not None and len(images) < len(latents):
            raise ValueError(
                f"{NODE}: {counted(len(images), 'image')} came with "
                f"{counted(len(latents), 'latent')}: connect the images that VAE Decode makes of "
                "latent"
            )
        found = score(
            latents, references.latents, references.weights, kernel, permutations, seed % 2**63
        )
        text = score_report(found, references, kernel, other_vae(references, vae))
        sheet = nearest_sheet(found, references, images, latents, vae)
        p_value = 1.0 if math.isnan(found.p_value) else found.p_value
        preview = ui.PreviewImage(sheet, cls=cls)
        return told(found.mmd2, p_value, text, sheet, says=text, shown=preview)
