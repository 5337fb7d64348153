"""ReferencePreview: shows the images, captions and weights of references."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management as management
from comfy_api.latest import io, ui

from ...mmd_core import References
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import LOOK, ReferencesSocket
from ..base.told import told
from ..pictures.fonts import lacking
from ..pictures.picture_grid import Cell, captioned_sheet
from ..pictures.reference_pictures import reference_pictures

if TYPE_CHECKING:
    from comfy.sd import VAE


MAX_TEXT, MAX_TEXTS = 200, 64  # characters, and captions, of what is shown beside the sheet


def cells(references: References, max_images: int, vae: VAE | None = None) -> list[Cell]:
    """One cell for each of the references with the largest weights, in the order of the set.

    The heading is the weight times N, so that 1 is the mean. The text is the caption, or the name
    if there is no caption.
    """
    n = min(len(references), max_images)
    # A stable sort shows the first ones among equal weights.
    heaviest = references.weights.sort(descending=True, stable=True).indices[:n]
    indices = heaviest.sort().values.tolist()
    images = reference_pictures(references, indices, vae)
    return [
        Cell(
            [image],
            f"weight {references.weights[j] * len(references):.3g}",
            references.captions[j] or references.names[j],
        )
        for image, j in zip(images, indices, strict=True)
    ]


def unwritten(cells: list[Cell]) -> str:
    """The texts with letters that no font here has, to be shown beside the sheet; "" if none."""
    lines = []
    for number, cell in enumerate(cells, 1):
        management.throw_exception_if_processing_interrupted()
        text = " ".join(cell.text[:MAX_TEXT].split())
        if lacking(text):
            more = "" if len(cell.text) <= MAX_TEXT else " and so on"
            lines.append(f"{number}: {text}{more}")
    if not lines:
        return ""
    more = [f"And {len(lines) - MAX_TEXTS} more."] if len(lines) > MAX_TEXTS else []
    head = (
        "No font of this server has all letters of these captions, counted from the left and from "
        "the top. To see them on the sheet, install a font such as Noto Sans CJK."
    )
    return "\n".join([head, *lines[:MAX_TEXTS], *more])


class ReferencePreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReferencePreview",
            display_name="Reference Preview",
            category=LOOK,
            description="Shows references with their captions and weights. Use it after loading, "
            "merging or compressing a set.",
            inputs=[
                ReferencesSocket.Input(
                    "references",
                    tooltip="The references to show, each with its weight (y, w).",
                ),
                io.Int.Input(
                    "max_images",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="How many to show at most: those with the largest weights.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Connect this to decode the references in full size. Unconnected: "
                    "small images, without waiting.",
                ),
            ],
            outputs=[io.Image.Output("sheet", tooltip="One image of all, for SaveImage.")],
            is_output_node=True,
            **schema_options(
                search_aliases=["mmd", "contact sheet", "show references", "preview set"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @within_limits
    def execute(
        cls, references: References, max_images: int, vae: VAE | None = None
    ) -> io.NodeOutput:
        shown = cells(references, max_images, vae)
        sheet = captioned_sheet(shown, management.throw_exception_if_processing_interrupted)
        preview = ui.PreviewImage(sheet, cls=cls)
        if says := unwritten(shown):
            return told(sheet, says=says, shown=preview)
        return io.NodeOutput(sheet, ui=preview)
