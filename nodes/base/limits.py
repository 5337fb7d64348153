"""Numbers that other nodes send: they have the limits of the widgets that they replace.

ComfyUI checks the numbers that users type, but not those that come over a wire.
"""

import functools
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ...mmd_core.kernels.quoted import quoted

__all__ = ["within_limits"]


def within_limits(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """The `execute` of a node, which first checks all its numbers by the schema of the node.

    A whole number that comes as a float, such as 4.0, becomes an int where the schema wants one.
    Write it below `@classmethod`. It raises a ValueError that names node, input and limits.
    """
    signature = inspect.signature(execute)
    schema: io.Schema | None = None

    @functools.wraps(execute)
    def checked(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> io.NodeOutput:
        nonlocal schema
        # Read at the first run and once, because a schema may list the files of a folder.
        schema = schema or cls.define_schema()
        given = signature.bind(cls, *args, **kwargs)
        values = given.arguments
        for each in filter(_is_limited, schema.inputs):
            value = values.get(each.id)
            if each.id not in values or (value is None and each.optional):
                continue
            if schema.is_input_list:  # every input then is a list
                values[each.id] = [_number(schema.node_id, each, one) for one in value]
            else:
                values[each.id] = _number(schema.node_id, each, value)
        return execute(*given.args, **given.kwargs)

    return checked


def _is_limited(given: io.Input) -> bool:
    """Whether an input is a number with limits."""
    return isinstance(given, io.Int.Input | io.Float.Input) and None not in (given.min, given.max)


def _number(node: str, given: io.Input, value: object) -> int | float:
    """The number, within the limits of its input.

    Raises:
        ValueError: It is none, or it is outside the limits.
    """
    whole = isinstance(given, io.Int.Input)
    if isinstance(value, numbers.Real) and given.min <= value <= given.max:
        if not whole:
            return value
        if value == math.floor(value):
            return int(value)
    kind = "whole number" if whole else "number"
    low, high = (format(limit, "" if whole else ".12g") for limit in (given.min, given.max))
    raise ValueError(
        f"{node}: {given.id} must be a {kind} from {low} to {high}, not {quoted(value)}: change "
        "what is connected to it"
    )
