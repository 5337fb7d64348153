"""Keeps what was computed in files that are named by hashes of all that it depends on."""

import ast
import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def stored(folder: Path, key: tuple, compute: Callable[[], tuple[Tensor, dict]]) -> tuple:
    """A tensor and facts about it, computed once for each key.

    Arguments:
        key: Everything that the result depends on; its `repr` is hashed.
    """
    path = folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.safetensors"
    if not path.exists():
        tensor, facts = compute()
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")  # another process may compute the same
        save_file({"tensor": tensor.contiguous()}, part, {"facts": json.dumps(facts)})
        os.replace(part, path)
    with safe_open(path, "pt") as file:
        return file.get_tensor("tensor"), json.loads(file.metadata()["facts"])


def _says(line: ast.stmt) -> bool:
    """Whether a statement is a docstring."""
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


@cache
def code_digest(*paths: Path) -> str:
    """A hash of Python files or folders, whatever their comments, docstrings and line breaks."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            tree = ast.parse(file.read_text("utf-8"))
            for node in ast.walk(tree):
                if isinstance(getattr(node, "body", None), list):
                    node.body = [line for line in node.body if not _says(line)]
            found.update(ast.dump(tree).encode())
    return found.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """A hash of the numbers of a tensor."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
