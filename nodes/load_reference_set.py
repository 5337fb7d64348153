"""LoadReferenceSet: reads a folder of reference images and shows them."""

import difflib
import math
from collections import Counter
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageOps

from . import image_folder
from ._compat import advanced, schema_options
from .sockets import CATEGORY, ReferenceSetSocket

MAX_THUMBNAILS = 64


def find_folder(folder: str, recursive: bool = True) -> Path:
    """The folder of that name in ComfyUI's input folder; a ValueError says why not, and the mend."""
    root = Path(folder_paths.get_input_directory()).resolve()
    path = (root / folder.replace("\\", "/").replace("\0", "")).resolve()
    if not folder:
        trouble = "no folder is chosen: make one in ComfyUI's input folder with the images, press R"
    elif root not in path.parents:
        trouble = f"{folder!r} is not in ComfyUI's input folder: copy the images to a folder there"
    elif not path.is_dir():
        similar = difflib.get_close_matches(folder, folder_paths.get_input_subfolders(), n=1)
        hint = f" (there is {similar[0]!r})" if similar else ""
        trouble = f"ComfyUI's input folder has no {folder!r}{hint}: make it and put the images in"
    elif image_folder.list_images(path, recursive):
        return path
    elif image_folder.list_images(path, True):
        trouble = f"all images of {folder!r} are in folders inside it: switch `recursive` on"
    else:
        trouble = f"the folder {folder!r} holds no images: put pictures such as .png or .jpg in"
    raise ValueError(f"LoadReferenceSet: {trouble}, or choose another folder in `folder`")


def contact_sheet(images: list[torch.Tensor], gap: int = 4) -> torch.Tensor:
    """Up to 64 images, evenly chosen, in rows of equal width, with shape `(1, H, W, 3)`."""
    n = min(len(images), MAX_THUMBNAILS)
    shown = [images[i * len(images) // n] for i in range(n)]
    # Very long pictures are cut at 2:1, or they would leave no room for the others.
    aspects = np.array([min(max(image.shape[2] / image.shape[1], 0.5), 2.0) for image in shown])
    n_rows = round(math.sqrt(aspects.sum())) or 1  # makes the sheet about as high as wide
    row_of = ((np.cumsum(aspects) - aspects / 2) / aspects.sum() * n_rows).astype(int)
    width = min(1024, round(512 * math.sqrt(aspects.sum())))
    strips = []
    for members in (np.flatnonzero(row_of == row) for row in np.unique(row_of)):
        height = (width - gap * (len(members) - 1)) / aspects[members].sum()
        edges = np.rint(np.cumsum([0, *aspects[members]]) * height).astype(int).tolist()
        strip = Image.new("RGB", (width, round(height) + gap), (32, 32, 32))
        for place, i in enumerate(members):
            picture = Image.fromarray((shown[i][0].numpy() * 255).round().astype(np.uint8))
            size = (edges[place + 1] - edges[place], round(height))
            picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
            strip.paste(picture, (edges[place] + gap * place, 0))
        strips.append(np.asarray(strip))
    sheet = np.concatenate(strips)[:-gap]
    return torch.from_numpy(sheet.astype(np.float32) / 255)[None]


def report(references: image_folder.ReferenceSet, selection: str, caption_source: str) -> str:
    """What was read, what was not and why, for people."""
    n, skipped = len(references.images), references.skipped
    sizes = Counter(f"{image.shape[2]}×{image.shape[1]}" for image in references.images)
    weights = Counter(f"{weight:g}" for weight in references.weights)
    captioned = sum(map(bool, references.captions))
    size_text = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(6))
    lines = [
        f"{n} of the {references.found} images in {references.folder!r} are used ({selection}).",
        f"Sizes: {size_text}" + (f" and {len(sizes) - 6} more." if len(sizes) > 6 else "."),
        f"Captions: {captioned} of {n} images have one ({caption_source}).",
    ]
    if any(min(image.shape[1:3]) == image_folder.SHORT_SIDE for image in references.images):
        lines[1] += f" Larger ones get a shorter side of {image_folder.SHORT_SIDE}."
    if len(weights) > 1:
        counts = ", ".join(f"{count} images count {w} times" for w, count in weights.items())
        lines.append(f"Weights, from the names of their folders: {counts}.")
    lines += [f"Not used: {name}: {reason}" for name, reason in skipped[:20]]
    return "\n".join(lines + [f"Not used: {len(skipped) - 20} more."] * (len(skipped) > 20))


class LoadReferenceSet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoadReferenceSet",
            display_name="Load Reference Set",
            category=CATEGORY,
            description="Reads the reference images in a folder, with their captions.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=folder_paths.get_input_subfolders() or [""],
                    tooltip="The folder with the reference images. Put it into ComfyUI's input folder "
                    "and press R to see it here.",
                ),
                io.Boolean.Input(
                    "recursive",
                    default=True,
                    tooltip="Also reads the folders inside it. Images in a folder named like 10_concept "
                    "count 10 times, as in kohya's trainers.",
                ),
                io.Int.Input(
                    "max_images",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="How many images to use at most: more describe the set better and take "
                    "longer to encode. 0: all.",
                ),
                io.Combo.Input(
                    "selection",
                    options=["first", "even", "random"],
                    default="even",
                    tooltip="Which images to use if there are more than max_images: the first by name, "
                    "evenly spaced ones or random ones. No effect if max_images is 0.",
                ),
                advanced(
                    io.Int.Input(
                        "seed",
                        default=0,
                        min=0,
                        max=0xFFFFFFFFFFFFFFFF,
                        control_after_generate=False,  # or every run would get another set
                        tooltip="For selection random: each seed draws other images, and always the "
                        "same ones. No effect otherwise.",
                    )
                ),
                io.Combo.Input(
                    "caption_source",
                    options=list(image_folder.CAPTION_SOURCES),
                    default="auto",
                    tooltip="Where captions are: in a .txt file beside each image, in a metadata.jsonl "
                    "(file_name, text), or in the folder's name. auto: .txt, else metadata.jsonl. "
                    "none: no captions.",
                ),
            ],
            outputs=[
                ReferenceSetSocket.Output("reference_set", tooltip="For EncodeReferenceLatents."),
                io.Image.Output(
                    "images", is_output_list=True, tooltip="The images, each in its own size."
                ),
                io.String.Output(
                    "captions", is_output_list=True, tooltip="One per image, empty where none is."
                ),
                io.String.Output("report", tooltip="In words: what was read and what was not."),
            ],
            **schema_options(
                search_aliases=["mmd", "load images from folder", "dataset", "reference images"],
                has_intermediate_output=True,  # keeps the preview when the result is cached
            ),
        )

    @classmethod
    def validate_inputs(cls, folder=None):
        try:
            if folder is not None:  # else another node names it
                find_folder(folder)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder=None, recursive=True, **_):
        try:
            return image_folder.fingerprint(find_folder(folder or ""), recursive)
        except ValueError:
            return ""

    @classmethod
    def execute(
        cls, folder, recursive=True, max_images=0, selection="even", seed=0, caption_source="auto"
    ):
        path = find_folder(folder, recursive)
        n = len(image_folder.list_images(path, recursive))
        progress = comfy.utils.ProgressBar(min(max_images or n, n))

        def on_image():
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update(1)

        references = image_folder.read_folder(
            path, recursive, max_images, selection, seed, caption_source, on_image
        )
        if not references.images:
            raise ValueError(
                f"LoadReferenceSet: none of the images in {folder!r} can be read ("
                f"{': '.join(references.skipped[0])}): save them as .png or .jpg, or choose another "
                "folder in `folder`"
            )
        preview = ui.PreviewImage(contact_sheet(references.images), cls=cls)
        text = report(references, selection, caption_source)
        return io.NodeOutput(references, references.images, references.captions, text, ui=preview)
