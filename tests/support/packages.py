"""Names the packages of this repository for the tests and for every script below tests/; standard library only.

A script puts tests/ on the path and imports this module; from then on it imports `mmd_pack`, `mmd_tests` and `mmd_demo`
like every test does.
"""

import sys
import types
from pathlib import Path

TESTS = Path(__file__).absolute().parents[1]  # not resolved: the pack may be linked into ComfyUI
ROOT = TESTS.parent
PACKAGES = {
    "mmd_pack": ROOT,
    "mmd_tests": TESTS,
    "mmd_demo": TESTS / "demo" / "pack",
    "mmd_pictures": ROOT / "nodes" / "pictures",  # which needs no ComfyUI, unlike `mmd_pack.nodes`
}

for _name, _folder in PACKAGES.items():
    if _name not in sys.modules:
        _package = types.ModuleType(_name)  # without its __init__.py, which may need ComfyUI
        _package.__path__ = [str(_folder)]
        sys.modules[_name] = _package

# A module beside a script must not hide a library or a module of ComfyUI that has the same name.
sys.path[:] = [path for path in sys.path if not Path(path or ".").absolute().is_relative_to(TESTS)]
