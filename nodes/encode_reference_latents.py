"""EncodeReferenceLatents: brings reference images to one size and encodes them."""

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn.functional import interpolate

from ..mmd_core import References
from ._compat import schema_options
from .image_folder import ReferenceSet
from .prompts import encode_captions
from .sockets import CATEGORY, ReferenceSetSocket, ReferencesSocket
from .vae_match import pixel_size, vae_fingerprint

NODE = "EncodeReferenceLatents"


def fit_image(image: Tensor, width: int, height: int, fit: str) -> Tensor:
    """The image at that size, with shape `(1, height, width, 3)`; unchanged if it has the size already.

    crop keeps the middle, stretch ignores the aspect ratio, pad adds strips in the mean color of the edge
    that each continues.
    """
    h, w = image.shape[1:3]
    if (w, h) == (width, height):
        return image
    scale = min(width / w, height / h)
    inner = [max(1, round(side * scale)) for side in (w, h)] if fit == "pad" else [width, height]
    crop = {"crop": "center", "pad": "disabled", "stretch": "disabled"}[fit]
    image = comfy.utils.common_upscale(image.movedim(-1, 1), *inner, "lanczos", crop).clamp(0, 1)
    for dim, missing in ((3, width - inner[0]), (2, height - inner[1])):
        strips = (missing // 2, missing - missing // 2)
        edges = image.narrow(dim, 0, 1), image.narrow(dim, image.shape[dim] - 1, 1)
        before, after = (
            edge.mean(5 - dim, keepdim=True).expand_as(edge).repeat_interleave(strip, dim)
            for edge, strip in zip(edges, strips, strict=True)
        )
        image = torch.cat([before, image, after], dim)
    return image.movedim(1, -1)


def gather(reference_set, images, captions) -> ReferenceSet:
    """All images that are connected, one by one; each argument is a list or None.

    Raises:
        ValueError: Not exactly one source of images, or not one caption per image (or one for all).
    """
    if bool(reference_set) == bool(images):
        which = "only one of reference_set and images" if images else "reference_set or images"
        raise ValueError(f"{NODE}: connect {which}")
    if not reference_set:
        pictures = [p for batch in images for p in batch.reshape(-1, *batch.shape[-3:]).split(1)]
        names = [f"image {j + 1}" for j in range(len(pictures))]
        reference_set = [ReferenceSet(pictures, [""] * len(names), names, [1.0] * len(names), [])]
    lists = {
        field: [item for part in reference_set for item in getattr(part, field)]
        for field in ("images", "captions", "names", "weights", "skipped")
    }
    n = len(lists["images"])
    lists["images"] = [p[..., :3].expand(-1, -1, -1, 3).float().cpu() for p in lists["images"]]
    captions = captions or lists["captions"]
    if len(captions) not in (1, n):
        trouble = f"{len(captions)} captions for {n} images"
        raise ValueError(f"{NODE}: {trouble}: connect one per image to captions, or one for all")
    lists["captions"] = captions if len(captions) == n else captions * n
    return ReferenceSet(**lists)


def encode(vae, images: list[Tensor], names: list[str], size, fit: str) -> tuple[Tensor, Tensor]:
    """The latents, with shape `(N, C, *)`, and the pictures at their size, with shape `(N, 3, h, w)`.

    One image at a time: VAEs of video models would read a batch as the frames of one film.

    Raises:
        ValueError: An image cannot be encoded, or its latent is not finite.
    """
    progress = comfy.utils.ProgressBar(len(images))
    latents, thumbnails = [], []
    for image, name in zip(images, names, strict=True):
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            pixels = fit_image(image, *size, fit)
            latent = vae.encode(pixels[:, :, :, :3]).float().cpu()
            if not torch.isfinite(latent).all():
                raise ValueError("it becomes NaN or infinite; start ComfyUI with --fp32-vae")
        except comfy.model_management.OOM_EXCEPTION:
            raise  # ComfyUI tells what to do
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{NODE}: {name} cannot be encoded with vae: {error}") from error
        latents.append(latent)
        thumbnails.append(interpolate(pixels.movedim(-1, 1), latent.shape[-2:], mode="area"))
        progress.update(1)
    return torch.cat(latents), torch.cat(thumbnails)


def report(references: References, images: list[Tensor], size, fit: str, clip) -> str:
    """What was done to the images and what came of it, for people."""
    latents, captioned = references.latents, sum(map(bool, references.captions))
    resized = [image for image in images if image.shape[1:3] != size[::-1]]
    larger = all if fit == "pad" else any
    small = sum(larger((i.shape[2] < size[0], i.shape[1] < size[1])) for i in resized)
    unused = " Not used: connect clip to use them." if captioned and clip is None else ""
    lines = [
        f"{len(images)} references at {size[0]}×{size[1]} pixels, latents {tuple(latents.shape[1:])}.",
        f"Resized: {len(resized)} ({fit})." + (f" Enlarged, so blurred: {small}." if small else ""),
        f"Captions: {captioned}.{unused}",
        f"Standard deviation: {latents.std():.3f}, between images {latents.std(0, correction=0).mean():.3f}.",
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
                io.Vae.Input("vae", tooltip="The VAE of the checkpoint that draws."),
                ReferenceSetSocket.Input(
                    "reference_set",
                    optional=True,
                    tooltip="The reference images, from LoadReferenceSet. Leave images unconnected then.",
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
                        "drawn. No effect if target is connected.",
                    )
                    for side in ("width", "height")
                ),
                io.Combo.Input(
                    "fit",
                    options=["crop", "pad", "stretch"],
                    default="crop",
                    tooltip="What happens to images of another shape. crop: keeps the middle. pad: adds "
                    "strips in the color of the edges, which drawn images may then get too. stretch: "
                    "distorts. No effect on images of the right size.",
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
        cls, vae, width, height, fit, reference_set=None, images=None, captions=None, clip=None, target=None
    ):  # fmt: skip
        # Every input is a list, since is_input_list is set.
        vae, width, height, fit = vae[0], width[0], height[0], fit[0]
        clip, target = (value[0] if value else None for value in (clip, target))
        if vae is None:
            raise ValueError(f"{NODE}: the checkpoint has no VAE: connect Load VAE to vae")
        images = gather(reference_set, images, captions)
        size = pixel_size(vae, target, width, height)
        latents, thumbnails = encode(vae, images.images, images.names, size, fit)
        captioned = clip is not None and any(images.captions)
        prompts = encode_captions(clip, images.captions) if captioned else None
        about = (images.names, images.captions, thumbnails, vae_fingerprint(vae))
        references = References(latents, torch.tensor(images.weights), prompts, *about)
        text = report(references, images.images, size, fit, clip)
        return io.NodeOutput(references, {"samples": references.latents}, text)
