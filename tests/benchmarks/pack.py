"""Makes the pack, its tests and the demonstration pack importable without ComfyUI."""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"

for name, folder in (
    ("mmd_pack", ROOT),
    ("mmd_tests", TESTS),
    ("mmd_demo", TESTS / "demo" / "pack"),
):
    if name not in sys.modules:
        package = types.ModuleType(name)  # without its __init__.py, which may need ComfyUI
        package.__path__ = [str(folder)]
        sys.modules[name] = package
