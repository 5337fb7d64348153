"""Makes the packages of the repository importable beside the modules of this folder."""

import sys
from pathlib import Path

FOLDER = Path(__file__).absolute().parent

if "mmd_tests" not in sys.modules:
    sys.path.insert(0, str(FOLDER.parents[1]))
    import support.packages  # noqa: F401

    sys.path.append(str(FOLDER))  # the import took everything below tests/ from the path
