"""The workflows that this pack ships and that its demo runs; standard library only.

`python tests/make/workflows.py` writes the shipped files anew, with node schemas asked of ComfyUI.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401


from mmd_tests.make.blueprints import BLUEPRINTS, described
from mmd_tests.make.languages.files import locale_files
from mmd_tests.make.templates import TEMPLATES
from mmd_tests.make.templates.from_folder import FIRST, Settings, describe
from mmd_tests.support.engine import get_engine
from mmd_tests.support.packages import ROOT
from mmd_tests.support.server import Server
from mmd_tests.support.workflow_format import Workflow

__all__ = ["DEMO_TYPES", "EXAMPLES", "NODE_TYPES", "SHIPPED", "Settings", "describe"]

EXAMPLES, SUBGRAPHS = ROOT / "example_workflows", ROOT / "subgraphs"
SHIPPED = (FIRST,)  # the settings of the workflow that the demo draws with, too
NODE_TYPES = (  # all that `describe` and the demo use
    "CheckpointLoaderSimple",
    "CLIPTextEncode",
    "EmptyLatentImage",
    "EncodeReferenceLatents",
    "ImageScaleBy",
    "KSampler",
    "LoadReferenceSet",
    "MMDGuidedKSampler",
    "MMDPrompts",
    "PreviewAny",
    "PreviewImage",
    "PrimitiveInt",
    "SaveImage",
    "SaveLatent",
    "VAEDecode",
)
DEMO_TYPES = ("MMDDemoWorld", "MMDDemoLatent")


def shipped(schemas: Mapping[str, Mapping]) -> dict[str, Workflow]:
    """All workflows in example_workflows, by name."""
    flows = {name: Workflow(name, schemas) for name in TEMPLATES}
    for name, flow in flows.items():
        TEMPLATES[name](flow)
    return flows


def shipped_files(schemas: Mapping[str, Mapping]) -> dict[Path, str]:
    """The files in example_workflows and in subgraphs, and what must be in them."""
    files = {}
    for name, flow in shipped(schemas).items():
        for folder, content in ((EXAMPLES, flow.ui()), (EXAMPLES / "api", flow.api())):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            files[folder / f"{name}.json"] = text
    for name in BLUEPRINTS:
        content = described(name, schemas)
        files[SUBGRAPHS / f"{name}.json"] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return files


def main() -> int:
    """Write the shipped files."""
    with (
        tempfile.TemporaryDirectory() as base,
        Server(get_engine(), [("mmd-guidance", ROOT)], base=Path(base)) as server,
    ):
        schemas = server.get("/object_info")
    ours = json.loads((ROOT / "node_list.json").read_text("utf-8"))
    files = shipped_files(schemas) | locale_files({name: schemas[name] for name in ours})
    for old in {*EXAMPLES.rglob("*.json"), *SUBGRAPHS.glob("*.json")} - set(files):
        old.unlink()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
