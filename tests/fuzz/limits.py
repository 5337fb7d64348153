"""What reading a file may take: time, memory, and no noise."""

import gc
import re
import time
import warnings
from pathlib import Path

# Of all threads together, and twenty times what they need: other work slows them down, too.
SECONDS, SECONDS_PER_PIXEL = 60, 2e-6
BYTES, BYTES_PER_PIXEL = 200 * 2**20, 20
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Crash(AssertionError):
    """A reader did what it must not do, whatever the file holds."""


class Misread(AssertionError):
    """A reader made something of a file that it does not hold."""


def _memory(what: str) -> int:
    """Bytes of memory in use now (VmRSS), or at most (VmHWM), where Linux tells."""
    found = re.search(rf"{what}:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return int(found[1]) * 1024 if found else 0


class Watch:
    """`with Watch() as watch: ...; watch.check(pixels)`: raises Crash if that took too much, or warned."""

    def __enter__(self):
        self.collecting = gc.isenabled()
        gc.disable()  # garbage of others, collected now, would change the memory and may warn
        if CLEAR.exists():
            CLEAR.write_text("5")  # forgets the peak
        self.before = _memory("VmRSS")
        self.catcher = warnings.catch_warnings(record=True)
        self.warnings = self.catcher.__enter__()
        warnings.simplefilter("always")
        self.start = time.process_time()
        return self

    def __exit__(self, kind, error, trace):
        self.seconds = time.process_time() - self.start
        self.catcher.__exit__(None, None, None)
        if self.collecting:
            gc.enable()
        self.bytes = _memory("VmHWM") - self.before

    def check(self, pixels: int = 0) -> None:
        """Of a picture: `pixels` is what its header claims, and the readers allow."""
        if self.seconds > SECONDS + SECONDS_PER_PIXEL * pixels:
            raise Crash(f"{self.seconds:.0f} seconds")
        if self.bytes > BYTES + BYTES_PER_PIXEL * pixels:
            raise Crash(f"{self.bytes / 2**20:.0f} MB of memory")
        if self.warnings:
            raise Crash(f"a warning: {self.warnings[0].message}")
