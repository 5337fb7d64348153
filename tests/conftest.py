"""Makes the pack, the demonstration pack and the test tools importable, as ComfyUI would import them."""

import ast
import os
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).absolute().parent))
import support.packages  # noqa: E402, F401
from mmd_tests.support.packages import ROOT, TESTS  # noqa: E402
from mmd_tests.support.selection import MARKERS, left_out  # noqa: E402

COMFYUI = os.environ.get("COMFYUI_PATH")

if COMFYUI:
    sys.path.insert(0, COMFYUI)
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()  # before comfy.model_management asks for a GPU
    # Our `nodes/` must never shadow ComfyUI's `nodes.py`: pin ComfyUI's module first.
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    import nodes

    assert hasattr(nodes, "common_ksampler")


NO_COMFYUI = "COMFYUI_PATH is not set: use `python tests/run.py`"
COMFY = re.compile(r"^pytestmark = .*pytest\.mark\.comfy\b", re.MULTILINE)  # all tests of a file
LONG_FOLDERS = (TESTS / "studies", TESTS / "fuzz")


def pytest_addoption(parser):
    parser.addoption(
        "--update-schemas", action="store_true", help="rewrite tests/node_schemas.json"
    )
    parser.addoption(
        "--all", action="store_true", help="all tests: full matrices, studies, long fuzzing"
    )
    parser.addoption("--rest", action="store_true", help="only what --all adds to the default")


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if any(folder in item.path.parents for folder in LONG_FOLDERS):
            item.add_marker(pytest.mark.long)
    rest = set() if config.option.all else set(left_out(items))
    gone = [item for item in items if (item in rest) != config.option.rest]
    if not config.option.all and gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if (item in rest) == config.option.rest]
    if not COMFYUI:
        for item in items:
            if item.get_closest_marker("comfy"):
                item.add_marker(pytest.mark.skip(reason=NO_COMFYUI))


class NotImported(pytest.Module):
    """A test file that imports ComfyUI, which is not there: each test function counts as one skipped test."""

    def collect(self):
        for node in ast.parse(self.path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield NotRun.from_parent(self, name=node.name)


class NotRun(pytest.Item):
    def runtest(self):
        pytest.skip(NO_COMFYUI)


def pytest_pycollect_makemodule(module_path, parent):
    if not COMFYUI and COMFY.search(module_path.read_text("utf-8")):
        return NotImported.from_parent(parent, path=module_path)
    return None


@pytest.fixture
def rng():
    """A seeded generator: tests draw the same numbers whatever ran before them."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def seeded():
    """What is drawn without a generator is the same in each run, too."""
    torch.manual_seed(0)


@pytest.fixture(autouse=bool(COMFYUI))
def user_folder(tmp_path, monkeypatch):
    """ComfyUI's user folder, empty: caches of the tests do not mix with those of anyone."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    return tmp_path / "user"
