"""ReferencePreview: shows the images, captions and weights of references."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from ...mmd_core import References
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import LOOK, ReferencesSocket
from ..pictures.picture_grid import Cell, captioned_sheet
from ..pictures.reference_pictures import reference_pictures

if TYPE_CHECKING:
    from comfy.sd import VAE


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
        sheet = captioned_sheet(cells(references, max_images, vae))
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))
