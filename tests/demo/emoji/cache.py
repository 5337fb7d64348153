"""Where packages, pictures and checkpoints are kept: outside of the repository."""

import argparse
import os
from pathlib import Path


def default_cache() -> Path:
    """The folder named by MMD_EMOJI_CACHE, or one in the user's cache."""
    return Path(os.environ.get("MMD_EMOJI_CACHE") or "~/.cache/mmd-guidance-emoji").expanduser()


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option that all scripts of this folder share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for all data")
    return parser
