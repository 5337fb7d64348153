"""The progress bar, preview and status text during sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.utils
import latent_preview
from torch import Tensor

from ...base.log import log
from ...host.progress import show_text, tiled

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

__all__ = ["Watch"]


class Watch:
    """One progress bar for all batches of a node.

    Arguments:
        node: The name of the node, for the log.
        node_id: The node that shows the status text, or None.
        guider: The guider; its model determines the preview.
        calls: The total number of calls of the model.
    """

    def __init__(self, node: str, node_id: str | None, guider: CFGGuider, calls: int) -> None:
        self.node, self.node_id = node, node_id
        self.bar = comfy.utils.ProgressBar(calls)
        model = guider.model_patcher
        self.previewer = latent_preview.get_previewer(
            model.load_device, model.get_model_object("latent_format")
        )

    def __call__(self, x0: Tensor) -> None:
        """Counts one call of the model, and shows a preview of `x0`."""
        preview = None
        if self.previewer is not None:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", tiled(x0))
        self.bar.update_absolute(self.bar.current + 1, None, preview)

    def say(self, text: str) -> None:
        """Writes a line to the log and shows it on the node."""
        log.info("%s: %s", self.node, text)
        show_text(text, self.node_id)
