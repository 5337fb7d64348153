"""Puts a demonstration world where a workflow names a checkpoint, so that it runs anywhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping

# Nodes without a counterpart in a demonstration world: which input each output lets through.
PASSED = {
    "ControlNetApplyAdvanced": {0: "positive", 1: "negative"},
    "ImageScaleToTotalPixels": {0: "image"},  # the worlds have one size
    "LoraLoader": {1: "clip"},  # the worlds read prompts without a network
}


def in_demo_world(
    prompt: Mapping[str, Mapping], world: str, changes: Mapping[str, Mapping] | None = None
) -> dict:
    """A workflow in the API format with a demo world as its checkpoint.

    `changes` gives new values to inputs, of the nodes of a type or with a title.
    """
    swapped = copy.deepcopy(dict(prompt))

    def through(value: object) -> object:
        """Where a link leads once what is let through is gone."""
        if not isinstance(value, list):
            return value
        source = prompt[value[0]]
        name = PASSED.get(source["class_type"], {}).get(value[1])
        return through(source["inputs"][name]) if name else value

    for number, node in prompt.items():
        kind, inputs = node["class_type"], swapped[number]["inputs"]
        inputs |= {name: through(value) for name, value in inputs.items()}
        if kind == "CheckpointLoaderSimple":
            swapped[number] |= {"class_type": "MMDDemoWorld", "inputs": {"world": world}}
        elif kind == "EmptyLatentImage":
            batch = {"world": world, "batch_size": inputs["batch_size"]}
            swapped[number] |= {"class_type": "MMDDemoLatent", "inputs": batch}
        elif kind == "LoraLoader":
            swapped[number]["class_type"] = "LoraLoaderModelOnly"
            del inputs["clip"], inputs["strength_clip"]
        elif kind in PASSED:
            del swapped[number]
    return changed(swapped, changes or {})


def changed(prompt: Mapping[str, Mapping], changes: Mapping[str, Mapping]) -> dict:
    """The workflow with new values for widgets, by the type or the title of their node.

    Raises:
        ValueError: A change that no node takes.
    """
    prompt = copy.deepcopy(dict(prompt))
    for which, values in changes.items():
        nodes = [n for n in prompt.values() if which in (n["class_type"], n["_meta"]["title"])]
        for node in nodes:
            node["inputs"] |= values
        if not nodes:
            raise ValueError(f"no node is called {which}")
    return prompt


def without(prompt: Mapping[str, Mapping], kind: str) -> dict:
    """The workflow without the nodes of that type and all that follows from them."""
    gone = {number for number, node in prompt.items() if node["class_type"] == kind}
    before = None
    while before != gone:
        before = set(gone)
        for number, node in prompt.items():
            if any(isinstance(v, list) and v[0] in gone for v in node["inputs"].values()):
                gone.add(number)
    return {number: node for number, node in prompt.items() if number not in gone}
