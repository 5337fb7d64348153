"""Makes the packages of the repository importable beside the modules of this folder."""

import sys
from pathlib import Path

FOLDER = Path(__file__).absolute().parent

sys.path.insert(0, str(FOLDER.parents[1]))
import support.packages  # noqa: E402, F401

if str(FOLDER) not in sys.path:  # the line above removed it
    sys.path.append(str(FOLDER))
