"""Changed parts of a memory: never read as anything but what was written, and never without a word."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import strategies as st
from mmd_tests.fuzz.edits import Case, changed
from mmd_tests.fuzz.limits import Crash, Misread, Watch
from mmd_tests.fuzz.tensor_files import FORM

NAME = f"{1:020d}_00002_{0:032x}.safetensors"
KINDS = {
    "image": ("SD15", (4, 3, 2), None),
    "video": ("Wan21", (2, 2, 2, 1), 3),
    "sound": ("A", (2, 3), 1),
}


@cache
def parts() -> dict[str, tuple[torch.Tensor, str, torch.Tensor | None]]:
    """By name: latents, latent format and prompt features."""
    rng = torch.Generator().manual_seed(0)
    return {
        name: (
            torch.randn(2, *shape, generator=rng),
            kind,
            None if features is None else torch.randn(2, features, generator=rng),
        )
        for name, (kind, shape, features) in KINDS.items()
    }


@cache
def pool() -> dict[str, bytes]:
    from mmd_pack.mmd_core.files.memory_file import append

    with TemporaryDirectory() as folder:
        return {
            name: (Path(folder) / append(Path(folder), *given)).read_bytes()
            for name, given in parts().items()
        }


@st.composite
def cases(draw) -> Case:
    """A file in the place of the part `about`."""
    name = draw(st.sampled_from(sorted(pool())))
    return Case(name, (draw(changed(pool(), FORM)),))


def check(case: Case, place: Path) -> list[str]:
    """One outcome, see `Target`."""
    from mmd_pack.mmd_core.files.memory_file import append, recall

    (data,), (latents, kind, prompts) = case.files, parts()[case.about]
    wanted = latents.shape[1:], kind, None if prompts is None else prompts.shape[1]
    for old in place.iterdir():  # of the last case
        old.unlink()
    (place / NAME).write_bytes(data)
    with Watch() as watch:
        try:
            found = recall(place, 9, *wanted)
            anything = recall(place, 9)
        except BaseException as error:  # Rust's panics are no Exceptions
            raise Crash(repr(error)) from error
    watch.check()
    whole = [given for given in parts().values() if _same(anything.latents, given[0])]
    if anything.latents is not None and not whole:
        raise Misread("read as other latents")
    if found.latents is not None:
        if not _same(found.latents, latents) or not _same(found.prompts, prompts):
            raise Misread("read as latents of another kind")
        return ["same"]
    if len(found.notices) != 1 or not found.notices[0].isprintable():
        raise Crash("left out without a word, or with strange ones")
    append(place, latents, kind, prompts)
    if not _same(recall(place, 9, *wanted).latents, latents):
        raise Crash("it spoils the parts beside it")
    return ["refused"]


def _same(found: torch.Tensor | None, given: torch.Tensor | None) -> bool:
    if found is None or given is None:
        return found is given
    return found.shape == given.shape and torch.equal(
        found.reshape(-1).view(torch.int32), given.reshape(-1).view(torch.int32)
    )
