"""LoadReferenceSet: reads a folder of reference images and shows them."""

from collections import Counter
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.latest import io, ui
from torch import Tensor

from ...mmd_core.kernels.quoted import quoted
from ..base.counted import counted
from ..base.limits import within_limits
from ..base.schema import advanced, schema_options
from ..base.sockets import REFERENCES, ReferenceSetSocket
from ..base.told import told
from ..host.progress import executing_node, show_text
from ..pictures.picture_grid import contact_sheet
from .folder import image_folder
from .folder.captions import CAPTION_SOURCES
from .folder.list_files import fingerprint
from .folder.offered_folders import offered_folders
from .folder.open_image import SHORT_SIDE, reduced
from .folder.reference_folders import allowed_folders, find_folder, list_images, locate

MANY = 5000  # files: after so many, the node says how many were found


def report(
    references: image_folder.ReferenceSet, images: list[Tensor], selection: str, caption_source: str
) -> str:
    """The report for the user: what was read, and what was skipped and why.

    Arguments:
        references: The images on demand.
        images: The same images, decoded.
        selection, caption_source: The inputs of the node.
    """
    n, skipped = len(references.images), references.skipped
    sizes = Counter("×".join(map(str, image.size)) for image in references.images)
    weights = Counter(f"{weight:g}" for weight in references.weights)
    captioned = sum(map(bool, references.captions))
    size_text = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(6))
    lines = [
        f"Images used: {n} of {references.found} in {references.folder!r} ({selection}).",
        f"Sizes: {size_text}" + (f" and {len(sizes) - 6} more." if len(sizes) > 6 else "."),
        f"Captions: {captioned} of {n} ({caption_source}).",
    ]
    if any(min(image.size) > SHORT_SIDE for image in references.images):
        lines[1] += f" Larger images get a shorter side of {SHORT_SIDE} pixels."
    smaller = [
        min(decoded.shape[1:3])
        for decoded, image in zip(images, references.images, strict=True)
        if decoded.shape[2:0:-1] != reduced(image.size, SHORT_SIDE)
    ]
    if smaller:
        lines.append(
            f"Reduced in the output `images`, to a shorter side of {max(smaller)} pixels: "
            f"{len(smaller)}. All images together may take {image_folder.MAX_DECODED / 2**30:g} GB "
            "there; `reference_set` has them in full."
        )
    if len(weights) > 1:
        counts = ", ".join(
            f"{counted(count, 'image counts', 'images count')} {w} times"
            for w, count in weights.items()
        )
        lines.append(f"Weights, from the names of their folders: {counts}.")
    lines += references.notes
    lines += [f"Not used: {name}: {reason}" for name, reason in skipped[:20]]
    return "\n".join(lines + [f"Not used: {len(skipped) - 20} more."] * (len(skipped) > 20))


class LoadReferenceSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadReferenceSet",
            display_name="Reference Folder",
            category=REFERENCES,
            description="Loads the reference images in a folder, with their captions.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=offered_folders(),
                    tooltip="The folder with the reference images. Drag pictures or a folder onto "
                    "this node, or put the folder into ComfyUI's input folder and press R. The "
                    "owner of the server can add other folders: mmd_reference_images in "
                    "extra_model_paths.yaml.",
                ),
                io.Boolean.Input(
                    "recursive",
                    default=True,
                    tooltip="Also loads the folders inside it. Images in a folder named like "
                    "10_concept count 10 times, as in kohya's trainers, and 0_concept is left out.",
                ),
                io.Int.Input(
                    "max_images",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="How many images to use at most (N). More describe the set better, but "
                    "take longer to encode. 0: all.",
                ),
                io.Combo.Input(
                    "selection",
                    options=["first", "even", "random"],
                    default="even",
                    tooltip="Which images to use if there are more than max_images. first: the "
                    "first by name. even: evenly spaced by name. random: random ones. No effect if "
                    "max_images is 0.",
                ),
                advanced(
                    io.Int.Input(
                        "seed",
                        default=0,
                        min=0,
                        max=0xFFFFFFFFFFFFFFFF,
                        control_after_generate=False,  # otherwise every run would use another set
                        tooltip="For selection random: another seed chooses other images, the same "
                        "seed chooses the same. No effect otherwise.",
                    )
                ),
                io.Combo.Input(
                    "caption_source",
                    options=list(CAPTION_SOURCES),
                    default="auto",
                    tooltip="Where the captions are. txt: a .txt or .caption file beside each "
                    "image. metadata.jsonl: that or metadata.csv, with file_name and text. "
                    "captions.json: that or a .json file beside each image. folder name: the name "
                    "of the folder. auto: txt, else metadata.jsonl, else captions.json. none: no "
                    "captions.",
                ),
            ],
            outputs=[
                ReferenceSetSocket.Output("reference_set", tooltip="For EncodeReferenceLatents."),
                io.Image.Output(
                    "images",
                    is_output_list=True,
                    tooltip="The images, each in its own size. A large set is reduced here to 2 "
                    "GB; reference_set has it in full.",
                ),
                io.String.Output(
                    "captions", is_output_list=True, tooltip="One per image, empty if it has none."
                ),
                io.String.Output("report", tooltip="As text: what was loaded, and what was not."),
            ],
            **schema_options(
                search_aliases=[
                    "mmd",
                    "reference",
                    "references",
                    "load reference set",
                    "reference images",
                    "style",
                    "style folder",
                    "load images from folder",
                    "image folder",
                    "dataset",
                    "moodboard",
                    "directory",
                ],
                has_intermediate_output=True,  # keeps the preview when the result is cached
            ),
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        try:
            if folder is not None:  # None: another node provides the name
                find_folder(folder)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, recursive: bool = True, **_: Any) -> str:
        path, _ = locate(folder or "")
        # An exception would be lost here: the next node to run stops the workflow.
        stopped = comfy.model_management.processing_interrupted
        return fingerprint(path, recursive, allowed_folders(), stopped) if path else ""

    @classmethod
    @within_limits
    def execute(
        cls,
        folder: str,
        recursive: bool = True,
        max_images: int = 0,
        selection: str = "even",
        seed: int = 0,
        caption_source: str = "auto",
    ) -> io.NodeOutput:
        node_id = executing_node()

        def on_found(files: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if files and files % MANY == 0:
                show_text(f"{files} files found so far", node_id)

        path, listing = list_images(folder, recursive, on_found)
        n = len(listing.images)
        progress = comfy.utils.ProgressBar(min(max_images or n, n))

        def on_progress(finished: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            if finished:
                progress.update(finished)

        references, images = image_folder.read_folder(
            path, recursive, max_images, selection, seed, caption_source, on_progress,
            allowed_folders(), listing,
        )  # fmt: skip
        if not images:
            raise ValueError(
                f"LoadReferenceSet: none of the images in {quoted(folder)} can be read ("
                f"{': '.join(references.skipped[0])}): save them as .png or .jpg, or choose "
                "another folder in `folder`"
            )
        preview = ui.PreviewImage(contact_sheet(images), cls=cls)
        text = report(references, images, selection, caption_source)
        return told(references, images, references.captions, text, says=text, shown=preview)
