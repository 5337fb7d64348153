"""What runs by default, and what only with `--all`."""

import os
import subprocess
import sys
from itertools import product

import pytest
from mmd_tests.support.packages import TESTS
from mmd_tests.support.selection import covering


@pytest.mark.parametrize("sizes", [(1,), (5,), (3, 7), (4, 4), (2, 3, 5)])
def test_each_value_of_each_parameter_is_tried_in_as_few_cases_as_can_be(sizes):
    cases = [dict(enumerate(values)) for values in product(*map(range, sizes))]
    kept = [cases[number] for number in covering(cases)]
    for name, size in enumerate(sizes):
        assert {case[name] for case in kept} == set(range(size))
    assert len(kept) == max(sizes)


def test_a_matrix_with_holes_is_covered():
    cases = [{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 1}]
    assert covering(cases) == {0, 2}


def test_nothing_is_left_out_of_both(chosen):
    """The default and the rest are all tests, and no test is in both."""
    default, rest, everything = chosen
    assert not default & rest and default | rest == everything
    assert len(everything) == 8
    assert {"test_short", "test_matrix[1-x]", "test_matrix[2-y]"} < default
    assert len(default) == 4 and "test_long" in rest  # each of three and of two values: three cases


LISTS = """
import sys
import pytest
sys.path.insert(0, {tests!r})


class Chosen:
    def pytest_collection_finish(self, session):
        print("chosen", *(item.name for item in session.items))


for options in ([], ["--rest"], ["--all"]):
    pytest.main(["--collect-only", "-qq", "-p", "no:xdist", "-p", "conftest", *options, {file!r}], [Chosen()])
"""
SOME_TESTS = """
import pytest

def test_short(): pass

@pytest.mark.long
def test_long(): pass

@pytest.mark.sampled
@pytest.mark.parametrize("b", ["x", "y"])
@pytest.mark.parametrize("a", [1, 2, 3])
def test_matrix(a, b): pass
"""


@pytest.fixture
def chosen(tmp_path):
    """The tests of a small file that the project's conftest chooses: by default, the rest, all."""
    file = tmp_path / "test_some.py"
    file.write_text(SOME_TESTS)
    without = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", LISTS.format(tests=str(TESTS), file=str(file))],
        cwd=tmp_path, env=without, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("chosen")]
    assert len(lines) == 3, done.stdout + done.stderr
    return [set(names) for names in lines]
