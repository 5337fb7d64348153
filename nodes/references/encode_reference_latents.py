"""EncodeReferenceLatents: resizes reference images to one size and encodes them with the VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor, tensor

from ...mmd_core import References
from ...mmd_core.files import limits
from ..base.counted import counted
from ..base.limits import within_limits
from ..base.schema import advanced, schema_options
from ..base.sockets import REFERENCES, ReferenceSetSocket, ReferencesSocket
from ..base.told import told
from ..host.fingerprint import vae_fingerprint
from ..host.fit_latent import fit_latents, needs_scaling, usual_size
from ..host.large_tensor import spread
from ..host.vae_match import pixel_size, pixel_unit, target_size
from .encoding.encode_captions import encode_captions
from .encoding.encode_images import encode_images
from .encoding.gather_references import (
    NODE,
    check_sources,
    conditioning_features,
    gather_images,
    gather_latents,
    one_each,
)
from .encoding.latent_cache import LatentCache, cache_folder
from .folder.image_folder import ReferenceSet

if TYPE_CHECKING:
    from comfy.sd import CLIP, VAE


def from_images(
    vae: VAE, found: ReferenceSet, size: tuple[int, int], fit: str, cache: LatentCache
) -> tuple[dict[str, Any], list[str]]:
    """Encodes images at `size` (width and height in pixels).

    Returns:
        The fields for `References`, and lines for the report.
    """
    latents, thumbnails, cached = encode_images(vae, found, size, fit, cache)
    sizes = tuple(image.size for image in found.images)
    n, resized = len(sizes), [s for s in sizes if s != size]
    larger = all if fit == "pad" else any
    small = sum(larger((w < size[0], h < size[1])) for w, h in resized)
    lines = [
        f"{counted(n, 'reference')} at {size[0]}×{size[1]} pixels, latents "
        f"{tuple(latents.shape[1:])}." + (f" {cached} of {n} from the cache." if cached else ""),
        f"Resized: {len(resized)} ({fit})."
        + (f" Enlarged and therefore blurred: {small}." if small else ""),
    ]
    fields = {
        "latents": latents,
        "weights": tensor(found.weights),
        "names": found.names,
        "thumbnails": thumbnails,
        "vae": vae_fingerprint(vae),
        "sizes": sizes,
        "size": size,
    }
    return fields, lines


def from_latents(
    latents: list[Tensor], vae: VAE | None, target: dict[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """Crops or scales latents that another node encoded to one size.

    Returns:
        The fields for `References`, and lines for the report.
    """
    h, w = usual_size(latents)
    if target is not None:
        w, h = target_size(target, pixel_unit(vae))
    n, scaled = len(latents), sum(needs_scaling(latent, h, w) for latent in latents)
    cropped = sum(latent.shape[-2:] != (h, w) for latent in latents) - scaled
    fields = {
        "latents": fit_latents(latents, h, w),
        "names": [f"latent {j + 1}" for j in range(n)],
    }
    shape = tuple(fields["latents"].shape[1:])
    lines = [f"{counted(n, 'reference')}, encoded before, latents {shape}."]
    if cropped or scaled:
        soft = " Encode the images at the size being drawn instead: scaled latents are blurred."
        lines.append(f"Cropped: {cropped}. Scaled: {scaled}." + soft * bool(scaled))
    return fields, lines


def report(
    references: References, lines: list[str], has_conditioning: bool, clip: CLIP | None
) -> str:
    """The report for the user: what the node did, and statistics of the result."""
    captioned, (overall, between) = sum(map(bool, references.captions)), spread(references.latents)
    unused = captioned and clip is None and not has_conditioning
    lines = [
        *lines,
        f"Captions: {captioned}."
        + " Not used: connect clip to use them." * unused
        + " Prompts: those of conditioning." * has_conditioning,
        f"Standard deviation: {overall:.3f}, between images {between:.3f}.",
    ]
    return "\n".join(lines + [f"VAE: {references.vae[:12]}."] * bool(references.vae))


class EncodeReferenceLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncodeReferenceLatents",
            display_name="Encode Reference Latents",
            category=REFERENCES,
            description="Resizes the reference images to the size being drawn and encodes them.",
            is_input_list=True,
            inputs=[
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Connect the VAE of the checkpoint that draws. encoded does not need "
                    "it.",
                ),
                ReferenceSetSocket.Input(
                    "reference_set",
                    optional=True,
                    tooltip="The reference images, from LoadReferenceSet. Then leave images and "
                    "encoded unconnected.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The reference images from another node, as a list or batch, of any "
                    "size.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="Texts that describe the images: one per image, or one for all. "
                    "Unconnected: the captions of reference_set.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect this for prompt_kernel of MMDKernel: it encodes the captions, "
                    "which are not used otherwise.",
                ),
                io.Latent.Input(
                    "target",
                    optional=True,
                    tooltip="Connect the latent_image of the sampler: the references get its size.",
                ),
                *(
                    io.Int.Input(
                        side,
                        default=512,
                        min=16,
                        max=16384,
                        step=8,
                        tooltip=f"The {side} of the images being drawn, in pixels: the references "
                        "get it. No effect if target or encoded is connected.",
                    )
                    for side in ("width", "height")
                ),
                io.Combo.Input(
                    "fit",
                    options=["crop", "pad", "stretch"],
                    default="crop",
                    tooltip="How images of another aspect ratio are fitted. crop: keeps the "
                    "middle. pad: adds strips in the color of the edges; drawn images may get "
                    "them, too. stretch: distorts. No effect on images of the right size, and on "
                    "encoded.",
                ),
                io.Latent.Input(
                    "encoded",
                    optional=True,
                    tooltip="Instead of images: latents from the VAE of the checkpoint, as a list "
                    "or batch, from MakeTrainingDataset, LoadTrainingDataset or VAEEncode. Latents "
                    "of other sizes are cropped or, with some blur, scaled to the size of target, "
                    "or to the most frequent size.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="Encoded captions, one per reference or one for all, from "
                    "MakeTrainingDataset or LoadTrainingDataset. Then clip is not needed.",
                ),
                advanced(
                    io.Boolean.Input(
                        "cache",
                        optional=True,
                        default=True,
                        tooltip="Keeps encoded images and captions on disk, so that the next run "
                        "encodes only new ones (in ComfyUI's user folder).",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "cache_limit",
                        optional=True,
                        default=limits.CACHE_DISK // limits.GIGABYTE,
                        min=0,
                        max=1024,
                        tooltip="The maximum size of the cache on disk in GiB, for all workflows. "
                        "Beyond it, what was not used for longest is removed. 0: empties the "
                        "cache and keeps nothing.",
                    )
                ),
            ],
            outputs=[
                ReferencesSocket.Output("references", tooltip="For the guidance nodes."),
                io.Latent.Output("latents", tooltip="The references as a batch of latents."),
                io.String.Output("report", tooltip="As text: what was done to the images."),
            ],
            **schema_options(
                search_aliases=["mmd", "vae encode", "reference latents"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @within_limits
    def execute(
        cls,
        width: list[int],
        height: list[int],
        fit: list[str],
        vae: list[VAE] | None = None,
        reference_set: list[ReferenceSet] | None = None,
        images: list[Tensor] | None = None,
        captions: list[str] | None = None,
        clip: list[CLIP] | None = None,
        target: list[dict[str, Any]] | None = None,
        encoded: list[dict[str, Any]] | None = None,
        conditioning: list[list[Any]] | None = None,
        cache: list[bool] | None = None,
        cache_limit: list[int] | None = None,
    ) -> io.NodeOutput:
        # Every input is a list, because is_input_list is set.
        has_vae = bool(vae)
        vae, clip, target = (value[0] if value else None for value in (vae, clip, target))
        check_sources(reference_set=reference_set, images=images, encoded=encoded)
        folder = cache_folder() if cache is None or cache[0] else None
        most = cache_limit[0] * limits.GIGABYTE if cache_limit else None
        with LatentCache(folder, most) as store:
            if encoded:
                latents = gather_latents(encoded)
                captions = one_each(captions or [""], len(latents), "latent")
                fields, lines = from_latents(latents, vae, target)
                batches = [len(latent["samples"]) for latent in encoded]
            else:
                found = gather_images(reference_set, images)
                captions = one_each(captions or found.captions, len(found.images), "image")
                if vae is None:
                    problem = "the checkpoint has no VAE" if has_vae else "vae is not connected"
                    raise ValueError(f"{NODE}: {problem}: connect Load VAE to vae")
                size = pixel_size(vae, target, width[0], height[0])
                fields, lines = from_images(vae, found, size, fit[0], store)
                batches = [1] * len(captions)
            if conditioning:
                fields["prompts"] = conditioning_features(conditioning, batches)
            elif clip is not None and any(captions):
                fields["prompts"] = encode_captions(clip, captions, store)
        try:
            references = References(captions=captions, **fields)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        lines += store.notices() + store.disk_use()
        text = report(references, lines, bool(conditioning), clip)
        return told(references, {"samples": references.latents}, text, says=text)
