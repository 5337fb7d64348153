"""The page of remarks is complete, and the forms ask for what an answer needs."""

import ast
import re

import pytest
from mmd_tests.support.packages import ROOT

PAGE = (ROOT / "nodes/web/troubleshooting.md").read_text("utf-8")
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"


def constants(file):
    """The names that a file gives to texts."""
    found = {}
    for item in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant):
            found |= {ast.unparse(target): item.value.value for target in item.targets}
    return found


def remarks():
    """The short words of every remark in the sources."""
    found = set()
    for file in (ROOT / "nodes").rglob("*.py"):
        named = constants(file)
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = ast.unparse(call.func)
            if name == "Remark" or name == "trace.told":
                short = call.args[0]
                text = named.get(short.id) if isinstance(short, ast.Name) else short.value
                found |= {text} if text else set()
    return found


def training_remarks():
    """How each remark on a training begins."""
    file = ROOT / "nodes" / "ddm" / "training" / "training_report.py"
    for call in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "texts.append":
            (text,) = call.args
            part = text.values[0] if isinstance(text, ast.JoinedStr) else text
            yield part.value


def rows(heading):
    """The first cell of each row of the table below a heading, and the others."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| ")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in cells[1:]}


def test_every_remark_has_a_row_with_cause_and_fix():
    table = rows("Guidance") | rows("Steering (TRI-TSMC)")
    assert set(table) == remarks()
    for short, (cause, fix) in table.items():
        assert len(cause) > 15 and len(fix) > 15, short


def test_every_remark_on_a_training_has_a_row():
    table = rows("Training (MMD-DDM)")
    texts = list(training_remarks())
    assert len(texts) == len(table) >= 7
    for text in texts:
        assert [start for start in table if text.startswith(start)], text


def test_nodes_and_inputs_that_the_page_names_exist():
    listed = (ROOT / "tests" / "node_schemas.json").read_text("utf-8")
    for name in set(re.findall(r"`(\w+)`", PAGE)):
        assert f'"{name}"' in listed or name == "report", name


@pytest.mark.parametrize("asked", ["report", "workflow", "pack", "comfyui", "machine", "model"])
def test_the_form_asks_for_what_an_answer_needs(asked):
    form = (FORMS / "problem.yml").read_text("utf-8")
    part = form.split(f"    id: {asked}\n")[1].split("  - type:")[0]
    assert "required: true" in part
