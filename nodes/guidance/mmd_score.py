"""MMDScore: how well images fit the references."""

import comfy.model_management
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...mmd_core import KernelConfig, References
from ...mmd_core.comparison.score import TESTABLE, Score, score
from ..base.schema import advanced, schema_options
from ..base.sockets import CATEGORY, KernelSocket, ReferencesSocket
from ..host.vae_match import other_vae, pixel_unit
from ..pictures.fit_image import fit_image
from ..pictures.picture_grid import Cell, captioned_sheet
from ..pictures.reference_pictures import first_frames, reference_pictures
from .run.report import COPY

NODE = "MMDScore"
SHOWN = 64  # images, in the report and on the sheet


def encoded(images: Tensor, references: References, vae) -> Tensor:
    """Latents of images, at the size of the references'."""
    h, w = references.latents.shape[-2:]
    unit = pixel_unit(vae)
    latents = []
    for image in images:
        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = fit_image(image[None, ..., :3], w * unit, h * unit, "crop")
        latents.append(vae.encode(pixels).float().cpu())
    return torch.cat(latents)


def to_score(references: References, latent, images, vae) -> Tensor:
    """The latents to score.

    Raises:
        ValueError: There are none, or they cannot be compared with the references.
    """
    if latent is not None:
        samples = latent["samples"].float().cpu()
    elif images is None:
        raise ValueError(f"{NODE}: there is nothing to score: connect latent or images")
    elif vae is None:
        raise ValueError(
            f"{NODE}: images are compared as latents: connect the VAE that encoded the references to vae"
        )
    else:
        samples = encoded(images, references, vae)
    have, want = samples.shape[1:], references.latents.shape[1:]
    if samples.ndim == references.latents.ndim + 1 and samples.shape[2] == 1:
        samples, have = samples.squeeze(2), have[:1] + have[2:]  # one frame
    if have != want:
        raise ValueError(
            f"{NODE}: the latents have shape {tuple(have)}, those of the references {tuple(want)}: encode the "
            "references with the same VAE and for the same size (target of EncodeReferenceLatents)"
        )
    if not torch.isfinite(samples).all():
        raise ValueError(f"{NODE}: the latents contain NaN or infinite numbers: draw them again")
    return samples


def report(found: Score, references: References, kernel: KernelConfig, trouble: str | None) -> str:
    """The score in words."""
    b, n = len(found.witness), len(references)
    estimate = "unbiased, may fall below 0" if min(b, found.compared) > 1 else "biased"
    space = "" if kernel.feature_space == "latent" else f", by {kernel.feature_space}"
    some = (
        f" (of which {found.compared}, drawn at random, are compared)" if found.compared < n else ""
    )
    lines = [] if trouble is None else [trouble]
    lines += [
        f"{b} images against {n} references{some}: MMD² {found.mmd2:.4f} (kernel {kernel.kernel}{space}; 0 is ideal; "
        f"{estimate}).",
    ]
    if found.mmd2 < 0 and min(b, found.compared) > 1:
        lines.append(
            "Below 0 the images are spread over the references more evenly than chance would spread them, as "
            "guided batches are."
        )
    if found.p_value == found.p_value:
        share = f"{found.p_value:.1%}" if found.p_value >= 0.001 else f"{found.p_value:.2g}"
        differs = found.p_value < 0.05
        told = "can be told" if differs else "cannot be told"
        lines.append(
            f"p-value {found.p_value:.3g}: of random splits of all pictures {share} differ as much, so the images "
            f"{told} from the references."
        )
        if not differs and b < 64:
            lines[-1] += " More images make the test sharper."
        if found.tested < found.compared:
            lines[-1] += f" (Tested: {found.tested} references, drawn by weight.)"
    else:
        lines.append(f"No p-value: that needs {TESTABLE} images and {TESTABLE} references or more.")
    if kernel.prompt_kernel != "none":
        lines.append("The prompt kernel is left out: images have no prompts here.")
    if kernel.radial and kernel.kernel != "energy" and kernel.bandwidth == "fixed":
        lines.append(
            "bandwidth_value was taken as a distance of latents as the VAE makes them, before the model scales them."
        )
    distances = found.distances.tolist()
    near = [d for d in distances if d < COPY]
    if near:
        lines.append(
            f"{len(near)} images lie nearer than {COPY} to a single reference: they may be copies of it."
        )
    lines.append(
        "Nearest: 0 is a copy, 1 as far as references are from each other. Witness: above 0 there are"
    )
    lines.append("more images like this one than references, below 0 fewer.")
    for i in range(min(b, SHOWN)):
        name = references.names[int(found.nearest[i])]
        lines.append(
            f"{i + 1}: nearest {distances[i]:.2f} ({name}), witness {found.witness[i]:+.3f}"
        )
    return "\n".join(lines + [f"and {b - SHOWN} more"] * (b > SHOWN))


def nearest_sheet(
    found: Score, references: References, images: Tensor | None, latents: Tensor, vae
) -> Tensor:
    """Each image above the reference nearest to it."""
    n = min(len(found.witness), SHOWN)
    if images is None and vae is not None:
        images = torch.cat([first_frames(vae.decode(latents[i : i + 1])) for i in range(n)])
    indices = found.nearest[:n].tolist()
    pictures = reference_pictures(references, indices)
    return captioned_sheet(
        [
            Cell(
                [None if images is None else images[i], pictures[i]],
                f"{i + 1}: {found.distances[i]:.2f}",
                references.names[indices[i]],
            )
            for i in range(n)
        ]
    )


class MMDScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDScore",
            display_name="MMD Score",
            category=CATEGORY,
            description="Tells how well images fit the references: MMD², whether chance explains it, and the "
            "reference nearest to each image.",
            inputs=[
                ReferencesSocket.Input("references", tooltip="What the images should be like."),
                io.Latent.Input(
                    "latent", optional=True, tooltip="What to score: the latents of a sampler."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="What to score, or, with latent connected, the pictures of these latents to show. "
                    "Images need vae.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The VAE that encoded the references: encodes images.",
                ),
                KernelSocket.Input(
                    "kernel",
                    optional=True,
                    tooltip="How images are compared (k), from MMDKernel. Unconnected: rbf with three bandwidths.",
                ),
                io.Int.Input(
                    "permutations",
                    default=1000,
                    min=0,
                    max=100_000,
                    tooltip="How many random splits of all pictures the p-value p is made of; more make it finer and take "
                    "longer. 0: no p-value.",
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
                    tooltip="MMD² between images and references, unbiased: 0 is ideal, and a little below is chance.",
                ),
                io.Float.Output(
                    "p_value",
                    tooltip="p: how often chance alone makes as large an MMD². Below 0.05 the images differ from the "
                    "references; 1 where too few images can be tested.",
                ),
                io.String.Output("report", tooltip="In words, with a line for each image."),
                io.Image.Output("nearest", tooltip="Each image above the reference nearest to it."),
            ],
            is_output_node=True,
            **schema_options(
                search_aliases=[
                    "mmd",
                    "metric",
                    "kid",
                    "fid",
                    "evaluate",
                    "nearest reference",
                    "copies",
                ],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def execute(
        cls, references, latent=None, images=None, vae=None, kernel=None, permutations=1000, seed=0
    ):
        kernel = kernel or KernelConfig()
        latents = to_score(references, latent, images, vae)
        if images is not None and len(images) < len(latents):
            raise ValueError(
                f"{NODE}: {len(images)} images came with {len(latents)} latents: connect the images that "
                "VAE Decode makes of latent"
            )
        found = score(
            latents, references.latents, references.weights, kernel, permutations, seed % 2**63
        )
        text = report(found, references, kernel, other_vae(references, vae))
        sheet = nearest_sheet(found, references, images, latents, vae)
        p_value = found.p_value if found.p_value == found.p_value else 1.0
        return io.NodeOutput(found.mmd2, p_value, text, sheet, ui=ui.PreviewImage(sheet, cls=cls))
