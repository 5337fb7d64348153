"""Where this pack reads and writes: a workflow names a place below a folder of the server, nothing else."""

from pathlib import Path


def below(root: str | Path, name: str) -> Path | None:
    """The place called `name` at or below `root`, links resolved; None if it leads out of `root`.

    Separators of all systems are understood, so that workflows can be shared.
    """
    root = Path(root).resolve()
    try:
        path = (root / name.replace("\\", "/")).resolve()
    except (OSError, RuntimeError, ValueError):  # loops of links, names that no system has
        return None
    return path if path == root or root in path.parents else None
