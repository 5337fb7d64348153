"""The scripts that learned the world *emoji*, and what judges and measures it."""

from pathlib import Path

JUDGE_WEIGHTS = Path(__file__).absolute().parent / "weights" / "judge.safetensors"
