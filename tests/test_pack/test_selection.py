"""What runs by default, and what only with `--all`."""

from itertools import product

import pytest
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


def test_nothing_is_left_out_of_both(pytester_run):
    """The default and the rest are all tests, and no test is in both."""
    default, rest, everything = (pytester_run(*options) for options in ([], ["--rest"], ["--all"]))
    assert default and rest and not default & rest
    assert default | rest == everything


@pytest.fixture
def pytester_run(tmp_path):
    """The tests that the project's conftest chooses of a small file, by options."""
    import os
    import subprocess
    import sys

    from mmd_tests.support.packages import TESTS

    (tmp_path / "conftest.py").write_text(
        f"import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('ours', {str(TESTS / 'conftest.py')!r})\n"
        f"ours = importlib.util.module_from_spec(spec)\n"
        f"spec.loader.exec_module(ours)\n"
        f"for name in dir(ours):\n"
        f"    if name.startswith('pytest_'):\n"
        f"        globals()[name] = getattr(ours, name)\n"
    )
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_short(): pass\n"
        "@pytest.mark.long\n"
        "def test_long(): pass\n"
        "@pytest.mark.sampled\n"
        "@pytest.mark.parametrize('a', [1, 2, 3])\n"
        "@pytest.mark.parametrize('b', [1, 2])\n"
        "def test_matrix(a, b): pass\n"
    )
    without = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}

    def run(*options):
        command = ["-m", "pytest", "--collect-only", "-q", "--strict-markers", "-p", "no:xdist"]
        done = subprocess.run(
            [sys.executable, *command, *options, tmp_path],
            cwd=tmp_path,
            env=without,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return {line for line in done.stdout.splitlines() if "::" in line}

    return run
