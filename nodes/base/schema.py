"""Compatibility layer: hides the differences between the node schemas of ComfyUI versions."""

import dataclasses
from typing import Any, TypeVar

from comfy_api.latest import io

_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}

NodeInput = TypeVar("NodeInput", bound=io.Input)


def schema_options(**options: Any) -> dict[str, Any]:
    """The `options` that `io.Schema` of the installed ComfyUI has as fields.

    Pass them to `io.Schema` with `**`.
    """
    return {name: value for name, value in options.items() if name in _SCHEMA_FIELDS}


def advanced(node_input: NodeInput) -> NodeInput:
    """Marks an input as advanced and returns it.

    Newer frontends hide advanced inputs by default, older ones show them.
    """
    if hasattr(node_input, "advanced"):
        node_input.advanced = True
    else:
        node_input.extra_dict = {**(node_input.extra_dict or {}), "advanced": True}
    return node_input
