"""Changed files in the cache of latents: never read as anything but what was written under that key."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import strategies as st
from mmd_tests.fuzz.edits import Case, changed
from mmd_tests.fuzz.limits import Crash, Misread, Watch
from mmd_tests.fuzz.tensor_files import FORM

SHAPES = {"image": (4, 3, 2), "video": (2, 2, 2, 1), "text": ()}


@cache
def entries() -> dict[str, tuple[str, dict[str, torch.Tensor]]]:
    """By name: key and tensors."""
    from mmd_pack.nodes.references.encoding.latent_cache import entry_key

    found = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        rng = torch.Generator().manual_seed(i)
        tensors = {"latent": torch.randn(1, *shape, generator=rng)}
        if len(shape) == 3:
            tensors["thumbnail"] = torch.rand(1, 3, 3, 2, generator=rng)
        found[name] = entry_key(name), tensors
    return found


@cache
def pool() -> dict[str, bytes]:
    from mmd_pack.nodes.references.encoding.latent_cache import LatentCache

    with TemporaryDirectory() as folder:
        store = LatentCache(Path(folder))
        for key, tensors in entries().values():
            store.write(key, tensors)
        return {
            name: next(Path(folder).rglob(f"{key}*")).read_bytes()
            for name, (key, _) in entries().items()
        }


@st.composite
def cases(draw) -> Case:
    """A file in the place of the entry `about`; one in eight is another entry, unchanged."""
    name = draw(st.sampled_from(sorted(pool())))
    if draw(st.integers(0, 7)) == 0:
        other = draw(st.sampled_from(sorted(set(pool()) - {name})))
        return Case(name, (pool()[other],))
    return Case(name, (draw(changed(pool(), FORM)),))


def check(case: Case, place: Path) -> list[str]:
    """One outcome, see `Target`."""
    from mmd_pack.nodes.references.encoding.latent_cache import LatentCache

    (data,), (key, tensors) = case.files, entries()[case.about]
    store = LatentCache(place)
    path = place / key[:2] / f"{key}.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with Watch() as watch:
        try:
            found = store.read(key)
        except BaseException as error:  # Rust's panics are no Exceptions
            raise Crash(repr(error)) from error
    watch.check()
    if found is not None:
        if not _same(found, tensors):
            raise Misread("read as other latents")
        return ["same"]
    if store.damaged != 1 or len(store.notices()) != 1:
        raise Crash("damage that nobody gets to know of")
    store.write(key, tensors)
    if path.read_bytes() != pool()[case.about] and not _same(store.read(key) or {}, tensors):
        raise Crash("not made anew")
    return ["refused"]


def _same(found: dict, tensors: dict) -> bool:
    return found.keys() == tensors.keys() and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and torch.equal(found[name].view(-1).view(torch.int32), tensor.view(-1).view(torch.int32))
        for name, tensor in tensors.items()
    )
