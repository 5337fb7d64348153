"""Being a good neighbour while others work on the same machine."""

import os
import sys

WAITING = "OMP_WAIT_POLICY"


def step_back() -> None:
    """Low priority, and threads that wait asleep: spinning ones slow down everybody tenfold.

    OpenMP reads the setting when it is loaded, so the script is started again with it.
    """
    if os.environ.get(WAITING) != "PASSIVE":
        os.environ[WAITING] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    os.nice(10)
