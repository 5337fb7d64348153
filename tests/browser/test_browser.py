"""The browser check: its geometry, its command line, and all of it where there is a Chromium."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mmd_tests.browser import run
from mmd_tests.browser.layout import Box, Group, Node, around, faults


def node(name, x, y, width=100.0, height=100.0):
    return Node(name, Box(x, y, width, height), (width, height - 30), (width, height - 30))


APART = [node("A", 0, 0), node("B", 100, 0), node("C", 0, 100.5)]
HELD = Group("G", Box(-10, -40, 220, 300))


def test_nodes_side_by_side_in_a_group_are_no_fault():
    assert faults(APART, [HELD]) == []
    assert faults(APART, []) == []


def test_a_graph_without_nodes_is_a_fault():
    assert faults([], [HELD]) == ["there is no node"]


@pytest.mark.parametrize(
    ("x", "y"), [(90, 90), (-90, 90), (90, -90), (-90, -90), (20, -95), (30, 30)]
)
def test_nodes_that_cover_each_other_are_found(x, y):
    other = node("B", x, y, *((10, 10) if x == 30 else (100, 100)))
    assert faults([APART[0], other], []) == ["A and B overlap"]


@pytest.mark.parametrize(("x", "y"), [(100, 0), (99.5, 50), (0, 100), (-100, -100), (200, 20)])
def test_nodes_that_touch_or_are_apart_do_not_overlap(x, y):
    assert faults([APART[0], node("B", x, y)], []) == []


def test_nodes_smaller_than_their_widgets_need_are_found():
    small = replace(APART[0], minimum=(130.0, 70.9))
    assert faults([small], []) == ["A is 100 wide and needs 130"]
    small = replace(APART[0], minimum=(100.0, 171.0))
    assert faults([small], []) == ["A is 70 high and needs 171"]


def test_cut_texts_are_found():
    assert faults([replace(APART[0], cut_text=12.0)], []) == ["the text of A is cut by 12 pixels"]


def test_nodes_half_in_a_group_and_empty_groups_are_found():
    group = Group("G", Box(-10, -10, 130, 115))
    found = ["B sticks out of group G", "C sticks out of group G"]
    assert faults(APART, [group]) == found
    far = Group("F", Box(1000, 1000, 50, 50))
    assert faults(APART, [HELD, far]) == ["group F holds no node"]


def test_groups_that_cross_are_found_and_nested_ones_are_not():
    inner = Group("I", Box(-5, -5, 110, 107))
    crossing = Group("X", Box(-20, -5, 121, 105.5))
    assert faults(APART, [HELD, replace(inner, box=Box(-5, -5, 210, 240))]) == []
    assert "groups G and X overlap" in faults(APART, [HELD, crossing])


def test_around_holds_all():
    whole = around([each.box for each in APART])
    assert whole == Box(0, 0, 200, 200.5)
    assert all(whole.holds(each.box) for each in APART)


def test_the_browser_that_is_named_goes_before_those_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert run.find_browser() is None
    end = ".exe" if os.name == "nt" else ""
    for name in ("google-chrome", "mine"):
        (tmp_path / f"{name}{end}").touch(0o755)
    assert Path(run.find_browser()).stem == "google-chrome"
    monkeypatch.setenv("CHROMIUM", str(tmp_path / f"mine{end}"))
    assert Path(run.find_browser()).stem == "mine"
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "not there"))
    assert run.find_browser() is None


def test_without_a_browser_it_says_so_before_anything_is_fetched(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(run, "find_browser", lambda: None)
    monkeypatch.setattr(run, "engine_or_exit", lambda *_: pytest.fail("must not be asked"))
    with pytest.raises(SystemExit, match="There is no Chromium"):
        run.main()


@pytest.mark.comfy
@pytest.mark.skipif(not run.find_browser(), reason="there is no Chromium on this machine")
def test_all_of_it(tmp_path):
    command = [sys.executable, Path(__file__).with_name("run.py"), "--screenshots", tmp_path]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    assert "all checks passed" in result.stdout
    assert (tmp_path / "digits.png").stat().st_size > 10_000
