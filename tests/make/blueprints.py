"""The subgraph blueprints that the pack ships: a few nodes that the search offers as one; standard library only.

`tests/make/workflows.py` writes them, too. Their names are what a search compares (see
`tests/support/node_search.py`): only one that is the word itself comes before nodes of ComfyUI that people use much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mmd_tests.make.templates.parts import FOLDER
from mmd_tests.support.subgraph import Part
from mmd_tests.support.wires import Inlet, Link
from mmd_tests.support.workflow_format import Node, Workflow, inside

CATEGORY = "MMD Guidance"
SOURCES = ("model", "positive", "negative", "latent_image")
SETTINGS = ("strength", "preset", "micro_batch")


@dataclass(frozen=True)
class Blueprint:
    """What is put into the one node, and what that does, in a sentence."""

    build: Callable[[Workflow, Part], None]
    about: str


def _encoded(flow: Workflow, part: Part, target: Inlet) -> Node:
    """References from a folder, of the size of `target`."""
    folder = flow.add("LoadReferenceSet", folder=part.take("folder", FOLDER))
    flow.column()
    return flow.add(
        "EncodeReferenceLatents",
        reference_set=folder["reference_set"],
        vae=part.take("vae"),
        clip=part.take("clip"),
        target=target,
    )


def _drawn(flow: Workflow, part: Part, **wires: Inlet | Link) -> Node:
    """A guided sampler; the latent of what it draws, its trace and report are given."""
    taken = (*SOURCES, "base", "seed", "steps", "cfg", *SETTINGS)
    loose = {name: part.take(name) for name in taken if name not in wires}
    drawn = flow.add("MMDGuidedKSampler", **loose, **wires)
    for name in ("latent", "trace", "report"):
        part.give(name, drawn[name])
    return drawn


def _references(flow: Workflow, part: Part) -> None:
    encoded = _encoded(flow, part, part.take("target"))
    for name in ("references", "report"):
        part.give(name, encoded[name])


def _sampler(flow: Workflow, part: Part) -> None:
    drawn = _drawn(flow, part, references=part.take("references"))
    flow.column()
    flow.add("PreviewAny", source=drawn["report"])


def _batch(flow: Workflow, part: Part) -> None:
    for name in ("model", "vae", *SOURCES[1:]):  # in the order in which they are shown
        part.take(name)
    latent = part.take("latent_image")
    encoded = _encoded(flow, part, latent)
    flow.column()
    _drawn(flow, part, latent_image=latent, references=encoded["references"])
    part.give("references", encoded["references"])


def _model(flow: Workflow, part: Part) -> None:
    for name in ("model", "vae", "target"):  # in the order in which they are shown
        part.take(name)
    encoded = _encoded(flow, part, part.take("target"))
    flow.column()
    wires = {name: part.take(name) for name in ("model", *SETTINGS)}
    guided = flow.add("ApplyMMDGuidance", references=encoded["references"], **wires)
    for name in ("model", "trace"):
        part.give(name, guided[name])
    part.give("references", encoded["references"])


BLUEPRINTS = {
    "MMD": Blueprint(
        _batch,
        "Draws a batch like the pictures of a folder: in place of KSampler, all in one node.",
    ),
    "Style": Blueprint(
        _model,
        "Gives a model the style of the pictures of a folder, as a LoRA would, for any sampler: nothing is trained.",
    ),
    "References from a folder (MMD)": Blueprint(
        _references,
        "Reads a folder of pictures and encodes them as references, of the size of the latents on target.",
    ),
    "Guided sampler with report (MMD)": Blueprint(
        _sampler, "Draws a batch like the references, and shows what guidance did in words."
    ),
}


def built(name: str, schemas: Mapping[str, Mapping]) -> Workflow:
    """A workflow of nothing but this blueprint."""
    flow = Workflow(name, schemas)
    flow.group()
    with flow.part(name) as part:
        BLUEPRINTS[name].build(flow, part)
    return flow


def described(name: str, schemas: Mapping[str, Mapping]) -> dict:
    """The file of a blueprint: one node, and the subgraph that it stands for."""
    flow = built(name, schemas)
    content = flow.ui()
    kept = ("revision", "last_node_id", "last_link_id", "nodes", "links", "version")
    more = {"category": CATEGORY, "description": BLUEPRINTS[name].about}
    subgraphs = [inside(part, **more) for part in flow.parts]
    return {
        **{key: content[key] for key in kept},
        "definitions": {"subgraphs": subgraphs},
        "extra": {},
    }
