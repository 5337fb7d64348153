"""What ComfyUI's node schema accepts differs between versions; this file hides the difference."""

import dataclasses

from comfy_api.latest import io

_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema_options(**options):
    """The `options` that this ComfyUI's `io.Schema` knows, to be splatted into it."""
    return {name: value for name, value in options.items() if name in _SCHEMA_FIELDS}


def advanced(node_input):
    """Marks an input as advanced: newer frontends fold it away, older ones show it."""
    if hasattr(node_input, "advanced"):
        node_input.advanced = True
    else:
        node_input.extra_dict = {**(node_input.extra_dict or {}), "advanced": True}
    return node_input
