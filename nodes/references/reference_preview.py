"""ReferencePreview: shows the pictures, captions and weights of a set of encoded references."""

from comfy_api.latest import io, ui

from ...mmd_core import References
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, ReferencesSocket
from ..pictures.picture_grid import Cell, captioned_sheet
from ..pictures.reference_pictures import reference_pictures


def cells(references: References, max_images: int, vae=None) -> list[Cell]:
    """One cell for each of the references with the largest weights, in the order of the set.

    The heading is the weight times N, so that 1 is the average; the text is the caption, or else the name.
    """
    n = min(len(references), max_images)
    # A stable sort shows the first ones among equal weights.
    heaviest = references.weights.sort(descending=True, stable=True).indices[:n]
    indices = heaviest.sort().values.tolist()
    pictures = reference_pictures(references, indices, vae)
    return [
        Cell(
            [picture],
            f"weight {references.weights[j] * len(references):.3g}",
            references.captions[j] or references.names[j],
        )
        for picture, j in zip(pictures, indices, strict=True)
    ]


class ReferencePreview(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ReferencePreview",
            display_name="Reference Preview",
            category=CATEGORY,
            description="Shows references with their captions, and how much each counts: after loading, merging "
            "or compressing a set.",
            inputs=[
                ReferencesSocket.Input(
                    "references", tooltip="The references y to show, each with its weight w."
                ),
                io.Int.Input(
                    "max_images",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="How many to show: those that count most.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the references, for pictures in full size. Unconnected: small ones at once.",
                ),
            ],
            outputs=[io.Image.Output("sheet", tooltip="The sheet, for SaveImage.")],
            is_output_node=True,
            **schema_options(
                search_aliases=["mmd", "contact sheet", "show references", "preview set"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def execute(cls, references, max_images, vae=None):
        sheet = captioned_sheet(cells(references, max_images, vae))
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))
