"""Compatibility layer: hides the differences between the node schemas of ComfyUI versions."""

import dataclasses

from comfy_api.latest import io

_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema_options(**options):
    """The `options` that `io.Schema` of the installed ComfyUI has as fields. Pass them to it with `**`."""
    return {name: value for name, value in options.items() if name in _SCHEMA_FIELDS}


def advanced(node_input):
    """Marks an input as advanced and returns it. Newer frontends hide it by default, older ones show it."""
    if hasattr(node_input, "advanced"):
        node_input.advanced = True
    else:
        node_input.extra_dict = {**(node_input.extra_dict or {}), "advanced": True}
    return node_input
