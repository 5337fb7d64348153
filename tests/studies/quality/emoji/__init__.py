"""The benchmark of guidance in the emoji world: prompts, cfg, and sets of real pictures."""

import sys

from mmd_tests.support.packages import TESTS

LEARNED = TESTS / "demo" / "emoji"
"""The folder of the scripts that learned the world; they import each other by bare names."""

if str(LEARNED) not in sys.path:
    sys.path.append(str(LEARNED))
