"""The world *emoji*: a text-to-image model of usual design, only small.

Its networks, their vocabulary and their weights are in the folder of the scripts that learn them.
"""

from pathlib import Path

LEARNED = Path(__file__).resolve().parents[2] / "emoji"

__path__.append(str(LEARNED))
