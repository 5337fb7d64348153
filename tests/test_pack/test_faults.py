"""Faults in the middle of a run: the error names the cause, and the next run knows nothing of it."""

import contextlib
import gc
import hashlib
import logging
import os
import re
import shutil
import time
import weakref
from pathlib import Path

import comfy.cli_args
import comfy.k_diffusion.sampling as samplers
import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from mmd_pack.mmd_core import (
    Guidance,
    KernelConfig,
    Latents,
    References,
)
from mmd_pack.mmd_core.comparison.by_features import FeatureComparison
from mmd_pack.mmd_core.files import tensor_file
from mmd_pack.mmd_core.files.memory_file import append
from mmd_pack.mmd_core.kernels.config import FEATURE_SPACES
from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance
from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler
from mmd_pack.nodes.guidance.mmd_memory import MMDMemory
from mmd_pack.nodes.guidance.mmd_plot import MMDPlot
from mmd_pack.nodes.guidance.run import guided_run
from mmd_pack.nodes.guidance.run import shared_memory as memory_files
from mmd_pack.nodes.guidance.run.session import Session
from mmd_pack.nodes.host import faults, large_tensor
from mmd_pack.nodes.host.large_tensor import allocate
from mmd_pack.nodes.references.encoding import latent_cache
from mmd_pack.nodes.references.encoding.latent_cache import LatentCache, entry_key
from mmd_pack.nodes.references.folder.reference_files import KIND, find, list_sets
from mmd_pack.nodes.references.load_reference_latents import LoadReferenceLatents
from mmd_pack.nodes.references.save_reference_latents import SaveReferenceLatents as Save
from mmd_tests.support.crashes import deaths
from mmd_tests.support.guided_runs import SETTINGS
from mmd_tests.support.tiny_models import prompt, random, tiny_family

import nodes

pytestmark = pytest.mark.comfy
posix = pytest.mark.skipif(os.name == "nt", reason="needs signals and limits of POSIX")

BATCH, STEPS = 8, 3
SPACES = [KernelConfig(feature_space=name) for name in FEATURE_SPACES]


# ---- what breaks


@pytest.fixture(autouse=True)
def place(request, tmp_path, monkeypatch):
    """models/mmd_memories, and nothing of an interrupt that was not heeded."""
    if not request.node.get_closest_marker("comfy"):
        yield None
        return
    folder = tmp_path / "models" / memory_files.KIND
    entry = ([str(folder)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, memory_files.KIND, entry)
    monkeypatch.setattr(memory_files, "DEFAULT", str(folder))
    # ComfyUI's main.py looks for an interrupt whenever a progress bar moves.
    throw = comfy.model_management.throw_exception_if_processing_interrupted
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *_, **__: throw())
    yield folder
    comfy.model_management.interrupt_current_processing(False)


class Fault:
    """Something that goes wrong at one call of the network, or of what `at` puts it into."""

    def __init__(self, act, call=10**9):
        self.act, self.call, self.calls = act, call, 0

    def __call__(self, result):
        self.calls += 1
        return self.act(result) if self.calls == self.call else result


def interrupt(result):
    comfy.model_management.interrupt_current_processing()
    return result


def no_memory(result):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def nan(result):
    result = result.clone()
    result[-1, 0] = torch.nan
    return result


def crash(result):
    raise RuntimeError("a kernel failed")


class World:
    """What a user has connected: all of it is used again and again."""

    def __init__(self, fault=None):
        self.fault = fault or Fault(lambda result: result)
        self.model = tiny_family("SD15")
        # Not a wrapper of the model: what counts its calls may keep more, so it is not split.
        self.model.model.diffusion_model.register_forward_hook(
            lambda network, given, result: self.fault(result)
        )
        self.references = References(random(12, 4, 8, 8, seed=1) * 5 + 2)
        self.positive, self.negative = prompt(1), prompt(2)
        self.latent = {"samples": random(2 * BATCH, 4, 8, 8, seed=3)}

    def memory(self, action="load and append"):
        return MMDMemory.execute("a", action, 64).args[0]

    def sampler(self, **options):
        """MMDGuidedKSampler, in two groups: (images, trace)."""
        options = {
            **SETTINGS,
            "group_size": BATCH,
            "micro_batch": 4,
            "memory": self.memory(),
        } | options
        latent, trace, _ = MMDGuidedKSampler.execute(
            self.model, self.references, 7, STEPS, 2.0, "euler_ancestral", "normal", self.positive, self.negative,
            self.latent, 1.0, **options,
        ).args  # fmt: skip
        return latent["samples"], trace

    def patch(self, **options):
        """The outputs of ApplyMMDGuidance: (model, trace)."""
        options = {**SETTINGS, "micro_batch": 4, "memory": self.memory()} | options
        return ApplyMMDGuidance.execute(self.model, self.references, **options).args

    def draw(self, model, batch=BATCH, steps=STEPS, latent=None):
        """Core's KSampler."""
        latent = latent or {"samples": self.latent["samples"][:batch]}
        (out,) = nodes.common_ksampler(
            model, 7, steps, 2.0, "euler_ancestral", "normal", self.positive, self.negative, latent,
        )  # fmt: skip
        return out["samples"]

    def facts(self, *models):
        """All that a run must leave as it was."""
        given = self.references, self.positive, self.negative, self.latent
        weights = sorted(self.model.model.state_dict().items())
        described = [
            repr(
                (
                    m.model_options,
                    m.wrappers,
                    m.callbacks,
                    m.patches,
                    m.object_patches,
                    m.injections,
                )
            )
            for m in (self.model, *models)
        ]
        return described, digest(given), digest([list(pair) for pair in weights])


def digest(value):
    found = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            add((str(value.dtype), tuple(value.shape)))
            found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            add(list(value.items()))
        elif isinstance(value, list | tuple):
            found.update(str(len(value)).encode())
            for part in value:
                add(part)
        elif hasattr(value, "latents"):
            # Not what runs left unfinished, which is looked up when it is first asked for.
            add({name: part for name, part in vars(value).items() if name != "unfinished"})
        else:
            found.update(repr(value).encode())

    add(value)
    return found.hexdigest()


def stored(place):
    """The files of all memories."""
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def restore(place, files):
    for path in stored(place):
        path.unlink()
    for path, content in files.items():
        path.write_bytes(content)


def failing(work) -> str:
    """The type and text of the error, of which nothing is kept."""
    try:
        work()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "nothing failed"


@pytest.fixture
def alive(monkeypatch):
    """How many runs, and what they consist of, are still there."""
    seen = {}
    for kind in (guided_run.GuidedRun, Guidance, FeatureComparison):
        seen[kind] = weakref.WeakSet()

        def counted(self, *args, kind=kind, original=kind.__init__, **kwargs):
            seen[kind].add(self)
            original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", counted)

    def count():
        gc.collect()
        return sum(map(len, seen.values()))

    return count


def remembering(world, place):
    """The world with a memory of 4 images, whose files are returned."""
    append(place / "a", random(4, 4, 8, 8, seed=9) * 5, "SD15")
    return stored(place)


FAULTS = {
    "interrupt": (interrupt, "^InterruptProcessingException"),
    "out of memory": (no_memory, "^OutOfMemoryError: CUDA out of memory"),
    "NaN": (
        nan,
        r"^ValueError: MMDGuidedKSampler: the model returned NaN .* for image \d at sigma",
    ),
}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_call_of_the_network_leaves_no_trace_in_the_next_run(
    name, every, place, alive
):
    """With groups, micro_batch, memory and trace; the group before the fault stays remembered."""
    act, told = FAULTS[name]
    fresh = World()
    files = remembering(fresh, place)
    expected, trace = fresh.sampler()  # a run of objects that nothing has happened to
    calls, after = fresh.fault.calls, stored(place)
    assert calls == 2 * STEPS * 2 and len(after) == 3 and len(trace.runs) == 2
    first = sorted(set(after) - set(files))[0]

    world = World()
    facts = world.facts()
    # The first and the last call of each group, or all calls.
    ends = {1, calls // 2, calls // 2 + 1, calls}
    for call in range(1, calls + 1) if every else sorted(ends):
        restore(place, files)
        world.fault = Fault(act, call)
        assert re.search(told, failing(world.sampler)), call
        assert world.fault.calls <= call + 1  # the last call of a step is followed by its end
        left = stored(place)
        second_group = call > calls / 2
        assert len(left) == len(files) + second_group and files.items() <= left.items()
        if second_group:
            (added,) = set(left) - set(files)
            assert left[added] == after[first]
        assert world.facts() == facts and alive() == 0
        restore(place, files)
        world.fault = Fault(None)
        images, again = world.sampler()
        assert torch.equal(images, expected)
        assert again.runs == trace.runs and again.problems == trace.problems
        assert sorted(stored(place).values()) == sorted(after.values())
    del again, images
    assert alive() == 0


@pytest.mark.parametrize("name", FAULTS)
def test_a_model_that_was_patched_before_a_fault_draws_on(name, place, alive):
    """ComfyUI keeps the outputs of ApplyMMDGuidance, and of MMDMemory, for the next run."""
    act, told = FAULTS[name]
    told = told.replace("MMDGuidedKSampler", "ApplyMMDGuidance")
    fresh = World()
    files = remembering(fresh, place)
    model, trace = fresh.patch()
    expected = fresh.draw(model)
    calls, after = fresh.fault.calls, stored(place)

    world = World()
    guided, again = world.patch()
    facts = world.facts(guided)
    for call in range(1, calls + 1):
        restore(place, files)
        world.fault = Fault(act, call)
        assert re.search(told, failing(lambda: world.draw(guided)))
        assert not again.runs and not again.problems and not again.rows
        assert stored(place) == files and world.facts(guided) == facts and alive() == 0
        world.fault = Fault(None)
        assert torch.equal(world.draw(guided), expected)
        assert again.runs == trace.runs and again.remembered == 4
        assert sorted(stored(place).values()) == sorted(after.values())
        again.runs.clear()


# ---- where it breaks


def broken_references(monkeypatch, fault):
    """References that are streamed, of which a piece does not arrive."""
    monkeypatch.setattr(guided_run, "room", lambda *_: 0.0)
    pieces = Latents.pieces

    def arriving(self, *args):
        for which, piece in pieces(self, *args):
            yield which, fault(piece)

    monkeypatch.setattr(Latents, "pieces", arriving)


def broken_comparison(monkeypatch, fault):
    start = FeatureComparison.start
    monkeypatch.setattr(FeatureComparison, "start", lambda *args: fault(start(*args)))


def broken_end(monkeypatch, fault):
    """Finished images cannot be judged."""
    finished = Guidance.finished
    monkeypatch.setattr(Guidance, "finished", lambda *args: fault(finished(*args)))


@pytest.mark.parametrize("act", [no_memory, crash])
@pytest.mark.parametrize(
    "where", [broken_references, broken_comparison, broken_end], ids=lambda f: f.__name__
)
def test_a_fault_of_guidance_leaves_no_trace_in_the_next_run(where, act, place, alive, monkeypatch):
    fresh, world, fault = World(), World(), Fault(None)
    files = remembering(fresh, place)
    where(monkeypatch, fault)
    model, trace = fresh.patch()
    expected, calls = fresh.draw(model), fault.calls
    assert calls > 0
    restore(place, files)
    guided, again = world.patch()
    facts = world.facts(guided)
    for call in sorted({1, 2, calls // 2, calls - 1, calls} & set(range(1, calls + 1))):
        fault.act, fault.call, fault.calls = act, call, 0
        assert re.search("out of memory|a kernel failed", failing(lambda: world.draw(guided)))
        assert not again.runs and world.facts(guided) == facts and alive() == 0
        assert stored(place) == files
        fault.call = 10**9
        assert torch.equal(world.draw(guided), expected)
        assert again.runs == trace.runs
        restore(place, files)
        again.runs.clear()


# ---- what is told


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_broken_model_is_reported_before_guidance_spreads_it(number, place):
    """Image 5 alone is broken, and neither its neighbors nor later steps are asked."""

    def break_one(result):
        result = result.clone()
        result[4::BATCH] = number  # with and without prompt
        return result

    world = World(Fault(break_one, call=2))
    error = failing(lambda: world.draw(world.patch(memory=None, micro_batch=0)[0]))
    assert re.fullmatch(
        r"ValueError: ApplyMMDGuidance: the model returned NaN or infinite numbers for image 5 at sigma [\d.]+, before "
        "guidance touched them. Its checkpoint may be damaged, .* start ComfyUI with --force-upcast-attention or "
        "--force-fp32, and leave out LoRAs and other patches one by one.",
        error,
    )
    assert world.fault.calls == 2
    world.fault.calls = 0
    error = failing(lambda: world.sampler(memory=None, micro_batch=0, group_size=0))
    assert (
        "MMDGuidedKSampler: the model returned NaN or infinite numbers for images 5, 13 at" in error
    )


def test_the_options_that_are_named_exist():
    named = set(re.findall(r"--[a-z0-9-]+", Path(faults.__file__).read_text(encoding="utf-8")))
    assert len(named) == 3
    for option in named:
        assert option in comfy.cli_args.parser.format_help()


def test_without_guidance_a_broken_model_is_only_reported(place, caplog):
    """Strength 0 changes nothing, not even this."""
    world = World(Fault(nan, call=2))
    expected = world.draw(world.model)
    world.fault = Fault(nan, call=2)
    guided, trace = world.patch(strength=0.0, memory=None, micro_batch=0)
    with caplog.at_level(logging.WARNING):
        drawn = world.draw(guided)
    assert drawn[-1].isnan().any() and drawn[:-1].isfinite().all()
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0, equal_nan=True)
    (problem,) = trace.problems
    assert problem.short == "not finite" and problem.text.startswith(
        "Strength is 0, but the model returned NaN or infinite numbers for image 8 at sigma "
    )
    assert caplog.text.count(problem.text) == 1 and len(trace.rows) == 1  # of the call before


def test_the_report_and_the_plot_of_a_broken_run_at_strength_0_can_be_made(place):
    for kernel in SPACES:
        world = World(Fault(nan, call=3))
        _, trace = world.sampler(strength=0.0, memory=None, group_size=0, kernel=kernel)
        assert [short for short, _ in trace.problems] == ["not finite"]
        picture = MMDPlot.execute([trace]).args[0]
        assert torch.isfinite(picture).all()


def test_a_run_without_finite_distances_ends_well(place):
    """Equal references have no distance between them to measure others by."""
    world = World()
    world.references = References(world.references.latents[:1].expand(2, -1, -1, -1))
    images, trace = world.sampler(memory=None, strength=5.0)
    assert images.isfinite().all() and len(trace.runs) == 2
    assert all(torch.tensor(run.distances).isnan().all() for run in trace.runs)


def test_a_latent_image_that_is_broken_is_named_before_the_model_is_asked(place):
    world = World()
    world.latent["samples"][[1, 11], 0, 0, 0] = torch.nan
    error = failing(lambda: world.sampler(group_size=0))
    assert error.startswith(
        "ValueError: MMDGuidedKSampler: latent_image holds NaN or infinite numbers (images 2, 12). Connect another"
    )
    assert world.fault.calls == 0
    images, trace = world.sampler(group_size=0, strength=0.0, memory=None)
    assert images[1].isnan().any() and "noisy latents of images 2, 12 hold" in trace.problems[0][1]


def test_a_group_that_ends_in_nan_does_not_change_the_next(place, monkeypatch):
    """Such as by a sampler that overflows: the images are kept, but do not count as drawn together with others."""
    world, original, ends = World(), samplers.sample_euler, []

    def overflowing(*args, **kwargs):
        ends.append(original(*args, **kwargs))
        return ends[-1] * (torch.nan if len(ends) == 1 else 1)

    overflowing.__name__ = "sample_euler"
    monkeypatch.setattr(samplers, "sample_euler", overflowing)
    kept, keep = [], Session.keep

    def noted(self, *args):
        result = keep(self, *args)
        kept.append(0 if self.finished is None else len(self.finished.latents))
        return result

    monkeypatch.setattr(Session, "keep", noted)
    latent, _, _ = MMDGuidedKSampler.execute(
        world.model, world.references, 7, STEPS, 2.0, "euler", "normal", world.positive, world.negative,
        world.latent, 1.0, **SETTINGS, group_size=BATCH,
    ).args  # fmt: skip
    assert latent["samples"][:BATCH].isnan().all() and latent["samples"][BATCH:].isfinite().all()
    assert kept == [0, BATCH]


@pytest.mark.parametrize("micro_batch, told", [
    (0, "Set micro_batch to 4, now 8 images go through the model at once"),
    (3, "Set micro_batch to 1, now 3 images go"),
    (1, "not enough for this run. Draw fewer images at once (batch_size, or group_size of MMDGuidedKSampler)"),
])  # fmt: skip
def test_out_of_memory_is_logged_once_with_advice(micro_batch, told, place, caplog):
    world = World(Fault(no_memory, call=3))
    guided, _ = world.patch(micro_batch=micro_batch, memory=None)
    error = torch.cuda.OutOfMemoryError
    with caplog.at_level(logging.ERROR), pytest.raises(error, match="Tried to allocate 2.00 GiB"):
        world.draw(guided)
    (record,) = [
        r for r in caplog.records if r.name == "mmd_guidance" and r.levelno == logging.ERROR
    ]
    assert record.getMessage().startswith("ApplyMMDGuidance: ") and told in record.getMessage()


def test_other_errors_are_not_reported_as_out_of_memory(place, caplog):
    for act in (crash, interrupt, nan):
        world = World(Fault(act, call=2))
        failing(lambda world=world: world.draw(world.patch(memory=None)[0]))
    assert not [r for r in caplog.records if "memory" in r.getMessage()]


# ---- files


@contextlib.contextmanager
def full_disk(size):
    """No file may grow beyond `size` bytes."""
    import resource  # POSIX

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(folder):
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """models/mmd_references."""
    folder = tmp_path / "sets"
    entry = ([str(folder)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, KIND, entry)
    return folder


@posix
@pytest.mark.parametrize("size", [1000, 300_000])
def test_a_set_that_finds_no_room_is_explained_and_the_old_one_kept(size, sets):
    old, new = (References(random(n, 4, 32, 32)) for n in (1, 40))
    Save.execute(old, "ink", "float32")
    before = stored(sets)
    with full_disk(size), pytest.raises(ValueError) as caught:
        Save.execute(new, "ink", "float32", overwrite=True)
    assert str(caught.value).startswith(
        "SaveReferenceLatents: 'ink' cannot be written (File too large)"
    )
    assert "check whether the disk is full" in str(caught.value)
    assert stored(sets) == before
    Save.execute(new, "ink", "float32", overwrite=True)
    assert files(sets) == ["ink.safetensors"] and stored(sets) != before


@posix
def test_pictures_that_find_no_room_in_the_cache_are_encoded_all_the_same(tmp_path):
    small, large = {"latent": random(4, 8, 8)}, {"latent": random(4, 64, 64)}
    with LatentCache(tmp_path) as cache:
        cache.write(entry_key(1), small)
        with full_disk(5000):
            cache.write(entry_key(2), large)
        assert cache.notices() == ["Not all is cached for the next run: File too large."]
        assert torch.equal(cache.read(entry_key(1))["latent"], small["latent"])
        assert cache.read(entry_key(2)) is None and not cache.damaged
    assert files(tmp_path) == [f"{entry_key(1)}.safetensors"]


@pytest.fixture
def temp(tmp_path, monkeypatch):
    """ComfyUI's temp folder, where every tensor beyond 1000 bytes lies."""
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(large_tensor, "IN_MEMORY", 1000)
    return tmp_path / "temp"


@posix
def test_latents_that_find_no_room_on_disk_are_in_memory(temp, caplog):
    with full_disk(5000):
        tensor = allocate((100, 100)).fill_(
            2.0
        )  # through a map beyond the disk it would kill the process
    assert tensor.sum() == 20_000 and files(temp) == []
    assert "References of 0.0 GB are held in memory: File too large" in caplog.text


@posix
def test_drafts_of_killed_processes_are_no_sets(sets):
    sets.mkdir()
    (sets / f".{0x123:032x}.tmp").write_bytes(b"half")
    assert list_sets() == [] and find(f".{0x123:032x}.tmp") is None
    assert "0123" not in str(LoadReferenceLatents.INPUT_TYPES())


@posix
def test_a_process_killed_at_any_step_of_filling_the_cache_leaves_whole_entries(
    tmp_path, monkeypatch
):
    folder = tmp_path / "cache"

    def fill(*numbers):
        with LatentCache(folder) as cache:
            for i in numbers:
                cache.write(entry_key(i), {"latent": torch.full((4, 8, 8), float(i))})

    def age(path):
        os.utime(path, (time.time() - 2 * tensor_file.ABANDONED,) * 2)

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        fill(1, 2)
        for path in folder.rglob("*.safetensors"):
            age(path)

    prepare()
    room = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    monkeypatch.setattr(latent_cache, "LIMIT", room)  # for two
    for steps in deaths(lambda: fill(3, 4), prepare):
        with LatentCache(folder) as cache:
            found = {i: cache.read(entry_key(i)) for i in (1, 2, 3, 4)}
        there = {i for i, entry in found.items() if entry is not None}
        assert all((found[i]["latent"] == i).all() for i in there) and not cache.damaged, steps
        named = [3, 4][: steps[:-1].count("replace")]
        assert there & {3, 4} == set(named), steps
        assert len(named) == 2 or {1, 2} <= there, steps  # the old ones go in the end
        drafts = [path for path in folder.rglob("*") if path.suffix == ".tmp"]
        assert len(drafts) + len(there) == len(files(folder)) and len(drafts) <= 1, steps
        for draft in drafts:
            age(draft)
        fill(3)
        assert not list(folder.rglob("*.tmp")), steps
    one = ["mkdir", "open", "write", "close", "replace", "unlink"]  # the last one removes no more
    assert steps == 2 * one + ["unlink", "unlink"]
    assert files(folder) == sorted(f"{entry_key(i)}.safetensors" for i in (3, 4))


@posix
def test_a_process_killed_at_any_step_of_filling_a_large_tensor_leaves_no_file(temp):
    """Except between making the file and removing its name, on systems that cannot make it without one."""
    functions = [(torch, "from_file"), (torch.Tensor, "fill_"), (torch.Tensor, "add_")]
    if hasattr(os, "posix_fallocate"):
        functions.insert(0, (os, "posix_fallocate"))

    def fill():
        assert large_tensor.allocate((100, 100)).fill_(1.0).add_(1.0).sum() == 20_000

    def prepare():
        shutil.rmtree(temp, ignore_errors=True)

    for steps in deaths(fill, prepare, (large_tensor,), functions):
        named = steps[-1] == "unlink"
        assert len(files(temp)) == named, steps
        assert all(name.startswith("mmd_guidance_") for name in files(temp))
    assert steps[-3:] == ["from_file", "fill_", "add_"]
    assert files(temp) == []
