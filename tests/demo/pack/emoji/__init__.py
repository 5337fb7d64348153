"""The world *emoji*: a text-to-image model of usual design, only small.

Its networks, their vocabulary and their weights are in the folder of the scripts that learn them.
"""

from pathlib import Path

LEARNED = Path(__file__).resolve().parents[2] / "emoji"

if not LEARNED.is_dir():
    raise ImportError(f"There is no {LEARNED}: link tests/demo/pack into custom_nodes, not a copy.")

__path__.append(str(LEARNED))
