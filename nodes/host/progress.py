"""Progress of a sampler for the user: a line of text on the node, and a preview of the batch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import comfy.utils
import latent_preview
import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..base.log import log

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat


MAX_SHOWN = 1000  # characters
# Pages of some versions read the text as HTML, and show &lt; as it is in others.
HARMLESS = str.maketrans("<>&", "\u2039\u203a\uff06")


def executing_node() -> str | None:
    """The id of the node that is executing; None outside of a workflow."""
    context = get_executing_context()
    return None if context is None else context.node_id


def show_text(text: str, node_id: str | None) -> None:
    """Shows `text` on the node, to the client that queued the workflow.

    The text may hold what a stranger wrote, such as the name of a file. It is cut to `MAX_SHOWN`
    characters, and signs of HTML are replaced by similar ones. Does nothing without a node id, a
    running server, or a client.
    """
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    client = getattr(instance, "client_id", None)
    if client is not None and node_id is not None:
        instance.send_progress_text(text[:MAX_SHOWN].translate(HARMLESS), node_id, client)


def tiled(x0: Tensor) -> Tensor:
    """A batch as one grid of images, with shape `(1, C, *, rows · H, columns · W)`."""
    batch, (h, w) = len(x0), x0.shape[-2:]
    # This number of columns makes the grid about square.
    columns = max(1, min(batch, round(math.sqrt(batch * h / w))))
    rows = -(-batch // columns)
    empty = x0.new_zeros(rows * columns - batch, *x0.shape[1:])
    grid = torch.cat([x0, empty]).unflatten(0, (rows, columns))  # (rows, columns, C, *, H, W)
    strips = torch.cat(grid.unbind(1), -1)
    return torch.cat(strips.unbind(0), -2)[None]


class BatchPreview:
    """A sampler callback that previews all images of a batch.

    ComfyUI itself previews only the first image.

    Arguments:
        callback: The sampler's own callback, which is called first; or None.
        device: The device of the latents.
        latent_format: The latent format of the model.
        pictures: What of the latents are pictures.
    """

    def __init__(
        self,
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
        device: torch.device,
        latent_format: LatentFormat,
        pictures: Callable[[Tensor], Tensor] = lambda latents: latents,
    ) -> None:
        self.callback, self.bar, self.pictures = callback, None, pictures
        self.previewer = latent_preview.get_previewer(device, latent_format)
        # Previews may be off in ComfyUI. This one is always shown if the format allows it.
        if self.previewer is None and latent_format.latent_rgb_factors is not None:
            self.previewer = latent_preview.Latent2RGBPreviewer(
                latent_format.latent_rgb_factors,
                latent_format.latent_rgb_factors_bias,
                latent_format.latent_rgb_factors_reshape,
            )

    def __call__(self, step: int, x0: Tensor, x: Tensor, total_steps: int) -> None:
        if self.callback is not None:
            self.callback(step, x0, x, total_steps)
        if self.previewer is None:
            return
        self.bar = self.bar or comfy.utils.ProgressBar(total_steps)
        grid = tiled(self.pictures(x0))
        try:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", grid)
        except RuntimeError as error:  # the latents are not as the format says: draw without it
            log.warning("The batch cannot be previewed: %s", error)
            self.previewer = None
        else:
            self.bar.update_absolute(step + 1, total_steps, preview)
