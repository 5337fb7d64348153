"""The operators that a kind of device lacks, from torch's own table of kernels."""

import functools
from pathlib import Path

import torchgen
import yaml

TABLE = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"


@functools.cache
def without_kernel(device: str) -> frozenset[str]:
    """Names of operators, with their overloads, that neither `device` nor all devices have a kernel for.

    Arguments:
        device: A dispatch key of torch, such as `MPS`.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with TABLE.open() as file:
        entries = {entry["func"].partition("(")[0]: entry for entry in yaml.load(file, loader)}
    lacking = set()
    for name, entry in entries.items():
        entry = entries.get(entry.get("structured_delegate"), entry)
        kernels = entry.get("dispatch", {"CompositeImplicitAutograd": name})
        keys = [key.strip() for names in kernels for key in names.split(",")]
        if not any(key == device or key.startswith("Composite") for key in keys):
            lacking.add(name)
    return frozenset(lacking)
