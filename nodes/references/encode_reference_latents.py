"""EncodeReferenceLatents: resizes reference images to one size and encodes them with the VAE."""

from comfy_api.latest import io
from torch import tensor

from ...mmd_core import References
from ..base.schema import advanced, schema_options
from ..base.sockets import CATEGORY, ReferenceSetSocket, ReferencesSocket
from ..host.fingerprint import vae_fingerprint
from ..host.large_tensor import spread
from ..host.vae_match import pixel_size, pixel_unit, target_size
from .encoding.encode_captions import encode_captions
from .encoding.encode_images import encode_images
from .encoding.fit_latent import fit_latents, needs_scaling, usual_size
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


def from_pictures(vae, found: ReferenceSet, size: tuple[int, int], fit: str, cache: LatentCache):
    """Encodes pictures at `size` (width and height in pixels).

    Returns:
        The fields for `References`, and lines for the report.
    """
    latents, thumbnails, cached = encode_images(vae, found, size, fit, cache)
    sizes = tuple(picture.size for picture in found.images)
    n, resized = len(sizes), [s for s in sizes if s != size]
    larger = all if fit == "pad" else any
    small = sum(larger((w < size[0], h < size[1])) for w, h in resized)
    lines = [
        f"{n} references at {size[0]}×{size[1]} pixels, latents {tuple(latents.shape[1:])}."
        + (f" {cached} of {n} from the cache." if cached else ""),
        f"Resized: {len(resized)} ({fit})." + (f" Enlarged, so blurred: {small}." if small else ""),
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


def from_latents(latents: list, vae, target: dict | None):
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
    lines = [f"{n} references, encoded before, latents {tuple(fields['latents'].shape[1:])}."]
    if cropped or scaled:
        soft = " That softens latents: better encode the images at the size being drawn."
        lines.append(f"Cropped: {cropped}. Scaled: {scaled}." + soft * bool(scaled))
    return fields, lines


def report(references: References, lines: list[str], has_conditioning: bool, clip) -> str:
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
    def define_schema(cls):
        return io.Schema(
            node_id="EncodeReferenceLatents",
            display_name="Encode Reference Latents",
            category=CATEGORY,
            description="Brings the reference images to the size being drawn and encodes them.",
            is_input_list=True,
            inputs=[
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The VAE of the checkpoint that draws. With encoded it is not needed.",
                ),
                ReferenceSetSocket.Input(
                    "reference_set",
                    optional=True,
                    tooltip="The reference images, from LoadReferenceSet. Leave images and encoded "
                    "unconnected then.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The reference images from another node, as a list or batch of any sizes.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="What the images show: one text per image, or one for all. Unconnected: the "
                    "captions of reference_set.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Encodes the captions, for prompt_kernel of MMDKernel. Else they are unused.",
                ),
                io.Latent.Input(
                    "target",
                    optional=True,
                    tooltip="The latent_image of the sampler: references get its size.",
                ),
                *(
                    io.Int.Input(
                        side,
                        default=512,
                        min=16,
                        max=16384,
                        step=8,
                        tooltip=f"The {side} of the references in pixels: that of the images being "
                        "drawn. No effect if target or encoded is connected.",
                    )
                    for side in ("width", "height")
                ),
                io.Combo.Input(
                    "fit",
                    options=["crop", "pad", "stretch"],
                    default="crop",
                    tooltip="What happens to images of another shape. crop: keeps the middle. pad: adds "
                    "strips in the color of the edges, which drawn images may then get too. stretch: "
                    "distorts. No effect on images of the right size, and on encoded.",
                ),
                io.Latent.Input(
                    "encoded",
                    optional=True,
                    tooltip="Instead of images: latents that the VAE of the checkpoint made already, as a "
                    "list or batch, from MakeTrainingDataset, LoadTrainingDataset or VAEEncode. Other "
                    "sizes are cropped or, less well, scaled to that of target, or to the usual one.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="Captions that are encoded already, one per reference or one for all, from "
                    "MakeTrainingDataset or LoadTrainingDataset. clip is not needed then.",
                ),
                advanced(
                    io.Boolean.Input(
                        "cache",
                        optional=True,
                        default=True,
                        tooltip="Keeps encoded images and captions on disk (in ComfyUI's user folder, up "
                        "to 16 GiB), so that the next run encodes only new ones.",
                    )
                ),
            ],
            outputs=[
                ReferencesSocket.Output("references", tooltip="For the guidance nodes."),
                io.Latent.Output("latents", tooltip="The same as a batch of latents, in order."),
                io.String.Output("report", tooltip="In words: what was done to the images."),
            ],
            **schema_options(search_aliases=["mmd", "vae encode", "reference latents"]),
        )

    @classmethod
    def execute(
        cls, width, height, fit, vae=None, reference_set=None, images=None, captions=None, clip=None,
        target=None, encoded=None, conditioning=None, cache=None,
    ):  # fmt: skip
        # Every input is a list, since is_input_list is set.
        has_vae = bool(vae)
        vae, clip, target = (value[0] if value else None for value in (vae, clip, target))
        check_sources(reference_set=reference_set, images=images, encoded=encoded)
        folder = cache_folder() if cache is None or cache[0] else None
        with LatentCache(folder) as store:
            if encoded:
                latents = gather_latents(encoded)
                captions = one_each(captions or [""], len(latents), "latent")
                fields, lines = from_latents(latents, vae, target)
                batches = [len(latent["samples"]) for latent in encoded]
            else:
                found = gather_images(reference_set, images)
                captions = one_each(captions or found.captions, len(found.images), "image")
                if vae is None:
                    trouble = "the checkpoint has no VAE" if has_vae else "vae is not connected"
                    raise ValueError(f"{NODE}: {trouble}: connect Load VAE to vae")
                size = pixel_size(vae, target, width[0], height[0])
                fields, lines = from_pictures(vae, found, size, fit[0], store)
                batches = [1] * len(captions)
            if conditioning:
                fields["prompts"] = conditioning_features(conditioning, batches)
            elif clip is not None and any(captions):
                fields["prompts"] = encode_captions(clip, captions, store)
        try:
            references = References(captions=captions, **fields)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        lines += store.notices()
        text = report(references, lines, bool(conditioning), clip)
        return io.NodeOutput(references, {"samples": references.latents}, text)
