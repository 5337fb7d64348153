"""The outputs of a node, and what it says about them."""

from typing import Any

from comfy_api.latest import io


def told(*values: Any, says: str, shown: Any = None) -> io.NodeOutput:
    """The outputs `values` of a node that says something.

    The text lies in the history beside the images of the run, and our page shows it on the node.

    Arguments:
        says: The text.
        shown: A preview of ComfyUI's `ui`, such as `ui.PreviewImage`; or None.
    """
    preview = {} if shown is None else shown.as_dict()
    return io.NodeOutput(*values, ui={**preview, "text": (says,)})
