"""The log: lines that every console can show, and no folder of the machine."""

import ast
import io
import logging

import pytest
from mmd_pack.nodes.base.log import log, reason
from mmd_tests.support.packages import ROOT

SOURCES = sorted([*(ROOT / "nodes").rglob("*.py"), *(ROOT / "mmd_core").rglob("*.py")])
SIGNS = "update 5 \u00b7 MMD\u00b2 0.5 \u2192 0.25, 8\u00d78, \u7d75, \U0001f600, \u201c\u2026\u201d, \ud800"


@pytest.mark.parametrize("code", ["cp1252", "cp932", "ascii"])
def test_a_line_fits_every_console(code):
    console = io.TextIOWrapper(io.BytesIO(), code, errors="strict")
    handler = logging.StreamHandler(console)
    log.addHandler(handler)
    try:
        log.warning("%s: %s", "Node", SIGNS)
        log.warning(SIGNS + " 100 %")
        log.warning("%(a)s %(b)d", {"a": SIGNS, "b": 5})
        log.log(logging.ERROR, RuntimeError(SIGNS))
    finally:
        log.removeHandler(handler)
    console.flush()
    lines = console.buffer.getvalue().decode("ascii").splitlines()
    assert len(lines) == 4  # a handler that fails writes none
    assert lines[0].startswith("Node: update 5 - MMD^2 0.5 -> 0.25, 8x8, \\u7d75, \\U0001f600")
    assert lines[1].endswith("100 %")


def test_nothing_is_logged_past_it():
    """One logger is in use, and nothing else writes to the console."""
    for path in SOURCES:
        if path.name == "log.py":
            continue
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call):
                name = ast.unparse(call.func)
                assert not name.startswith(("logging.", "sys.std")), f"{path.name} calls {name}"
                assert name not in ("print", "warnings.warn"), f"{path.name} calls {name}"


def test_errors_of_the_system_lose_their_folder(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "gone").read_bytes()
    assert str(tmp_path) in str(error.value) and str(tmp_path) not in reason(error.value)
    assert reason(error.value) == "No such file or directory"
    assert reason(ValueError("too long")) == "too long"
