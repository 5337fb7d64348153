"""MMDMemory, and what guidance does with it: runs that share a memory draw one batch."""

import asyncio
import copy
import errno
import inspect
import logging
import os
from collections import defaultdict
from types import SimpleNamespace

import comfy.model_management
import execution
import folder_paths
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_execution.graph_utils import ExecutionBlocker
from mmd_pack.mmd_core import KernelConfig
from mmd_pack.mmd_core.files.memory_file import append, recall
from mmd_pack.nodes.guidance.apply_mmd_guidance import ApplyMMDGuidance
from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler
from mmd_pack.nodes.guidance.mmd_memory import MMDMemory
from mmd_pack.nodes.guidance.run import guided_run, session
from mmd_pack.nodes.guidance.run import shared_memory as memory_files
from mmd_pack.nodes.guidance.run.shared_memory import KIND, SharedMemory, folder_of
from mmd_pack.nodes.host.prompts import entry_feature
from mmd_tests.support.guided_runs import apply, core_draw, guided_draw, make_references
from mmd_tests.support.tiny_models import (
    empty_latent,
    family_latent,
    family_prompt,
    prompt,
    tiny_family,
    tiny_model,
)

import nodes

pytestmark = pytest.mark.comfy
links = pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """models/mmd_memories, which is not there yet."""
    folder = tmp_path / "models" / memory_files.KIND
    entry = ([str(folder)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, memory_files.KIND, entry)
    monkeypatch.setattr(memory_files, "DEFAULT", str(folder))
    return folder


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def references():
    return make_references(12)


def memory_node(name="a", action="load and append", limit=256):
    """The outputs of MMDMemory: (memory, latents, report)."""
    return MMDMemory.execute(name, action, limit).args


def handle(*args, **options):
    return memory_node(*args, **options)[0]


def remembered(name="a"):
    """The latents in a memory, or None."""
    return recall(folder_of(name), 4096).latents


def add(latents, name="a", kind="SD15", prompts=None):
    return append(folder_of(name), latents, kind, prompts)


def some_latents(n=4, shape=(4, 8, 8), seed=5):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) * 5


def part_of_batch(first, count):
    """The latent of some images of a larger batch, with the noise that they have in it."""
    return {**empty_latent(count), "batch_index": list(range(first, first + count))}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


# ---- what it is for


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("mode, strength", [("flow", 20.0), ("paper", 100.0), ("official", 0.02)])
def test_queue_runs_with_a_memory_are_groups_of_one_batch(size, mode, strength, model, references):
    """Through files, two runs draw what one run draws in two groups."""
    options = {"mode": mode, "strength": strength}
    whole = part_of_batch(0, 2 * size)
    grouped, trace, _ = guided_draw(model, references, whole, group_size=size, **options)
    runs = [
        guided_draw(model, references, part_of_batch(first, size), memory=handle(), **options)
        for first in (0, size)
    ]
    close(torch.cat([run[0] for run in runs]), grouped)
    assert f"{size} remembered images" in runs[1][2] and "remembered" not in runs[0][2]
    found, expected = runs[1][1].runs[0], trace.runs[1]
    assert found.mmd2 == pytest.approx(expected.mmd2, rel=1e-3)  # of all images together
    if not found.config.companions:  # else each image follows one reference, whatever is remembered
        forgetful, _, _ = guided_draw(model, references, part_of_batch(size, size), **options)
        assert not torch.allclose(runs[1][0], forgetful, rtol=1e-2, atol=1e-2)
    close(remembered(), torch.cat([run[0] for run in runs]))


def test_the_patch_shares_a_memory_with_the_sampler(model, references):
    first, _, _ = guided_draw(model, references, part_of_batch(0, 8), memory=handle())
    guided, trace = apply(model, references, handle())
    second = core_draw(guided, part_of_batch(8, 8))
    grouped, _, _ = guided_draw(model, references, part_of_batch(0, 16), group_size=8)
    close(torch.cat([first, second]), grouped)
    assert trace.remembered == 8 and len(remembered()) == 16


def test_groups_of_several_runs_are_one_batch(model, references):
    """A run's own groups count once, whether the memory holds them or not."""
    three, _, _ = guided_draw(model, references, part_of_batch(0, 24), group_size=8)
    first, _, _ = guided_draw(model, references, part_of_batch(0, 8), memory=handle())
    rest = guided_draw(model, references, part_of_batch(8, 16), group_size=8, memory=handle())
    close(torch.cat([first, rest[0]]), three)
    assert len(remembered()) == 24 and "8 remembered images" in rest[2]


def test_groups_of_a_run_that_only_loads_know_each_other(model, references):
    three, _, _ = guided_draw(model, references, part_of_batch(0, 24), group_size=8)
    guided_draw(model, references, part_of_batch(0, 8), memory=handle())
    rest, _, _ = guided_draw(
        model, references, part_of_batch(8, 16), group_size=8, memory=handle(action="load")
    )
    close(rest, three[8:])
    assert len(remembered()) == 8


def test_a_group_is_added_as_soon_as_it_ends(model, references, monkeypatch):
    """An interrupt in the third group leaves two in the memory."""
    calls, original = [], guided_run.GuidedRun.denoised

    def stopping(self, *args):
        calls.append(self)
        if len(set(map(id, calls))) == 3:
            raise comfy.model_management.InterruptProcessingException
        return original(self, *args)

    monkeypatch.setattr(guided_run.GuidedRun, "denoised", stopping)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        guided_draw(model, references, part_of_batch(0, 12), group_size=4, memory=handle())
    assert len(remembered()) == 8


def test_the_memory_is_read_when_sampling_starts(model, references):
    """Nodes run early; what other machines draw meanwhile counts."""
    guided, trace = apply(model, references, handle())
    add(some_latents())
    late = core_draw(guided)
    expected = core_draw(apply(model, references, handle(action="load"), strength=20.0)[0])
    assert trace.remembered == 4
    assert not torch.equal(late, expected)  # which knows what `late` added
    memory = handle("b", "load")
    add(some_latents(), "b")
    assert torch.equal(core_draw(apply(model, references, memory)[0]), late)


def test_load_adds_nothing_and_append_counts_nothing(model, references):
    alone, _, _ = guided_draw(model, references)
    add(some_latents())
    counted, _, _ = guided_draw(model, references, memory=handle(action="load"))
    assert not torch.allclose(counted, alone, rtol=1e-2, atol=1e-2) and len(remembered()) == 4
    added, _, report = guided_draw(model, references, memory=handle(action="append"))
    assert torch.equal(added, alone) and "remembered" not in report
    assert torch.equal(remembered(), torch.cat([some_latents(), added]))


def test_reset_forgets_when_it_runs_and_adds_nothing(model, references):
    alone, _, _ = guided_draw(model, references)
    add(some_latents())
    memory, _, report = memory_node(action="reset")
    assert remembered() is None and "4 images forgotten" in report
    assert "Until the next reset, their files are in mmd_memories/a/.trash" in report
    assert "In the trash: 0.0 MB. The action reset empties it." in memory_node()[2]
    again, _, _ = guided_draw(model, references, memory=memory)
    assert torch.equal(again, alone) and remembered() is None


def test_limit_counts_the_newest(model, references):
    add(some_latents(4, seed=5))
    add(some_latents(4, seed=6))
    add(some_latents(4, seed=6), "b")
    draws = [
        guided_draw(model, references, memory=handle(*args))[0]
        for args in (("a", "load", 4), ("b", "load", 256), ("a", "load", 256))
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_official_mode_forgets_by_the_order_of_drawing(model, references):
    """At 100 images it remembers the last alone."""
    for i in range(9):
        add(some_latents(11, seed=i))
    add(some_latents(1, seed=20))
    add(some_latents(1, seed=20), "b")
    options = {"mode": "official", "strength": 0.05}
    many, _, _ = guided_draw(model, references, memory=handle("a", "load"), **options)
    last, _, _ = guided_draw(model, references, memory=handle("b", "load"), **options)
    first, _, _ = guided_draw(model, references, **options)
    close(many, last)
    assert not torch.allclose(many, first, rtol=1e-3, atol=1e-3)


def test_strength_0_changes_no_bit_and_is_remembered(model, references):
    expected = core_draw(model)
    samples, _, _ = guided_draw(model, references, strength=0.0, memory=handle())
    assert torch.equal(samples, expected)
    assert torch.equal(core_draw(apply(model, references, handle(), strength=0.0)[0]), expected)
    assert torch.equal(remembered(), torch.cat([expected, expected]))


def test_strength_0_accepts_any_references(model):
    other = make_references(12, shape=(4, 8, 10))
    samples, _, report = guided_draw(model, other, strength=0.0, memory=handle())
    assert torch.equal(samples, core_draw(model)) and torch.equal(remembered(), samples)
    assert "Strength is 0" in report


def test_masks_are_remembered_as_the_picture_is(model, references):
    latent = {"samples": some_latents(4, seed=3)}
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    samples, _, _ = guided_draw(
        model, references, {**latent, "noise_mask": mask}, memory=handle("a", "append")
    )
    assert torch.equal(remembered(), samples)
    close(remembered()[..., 4:, :], latent["samples"][..., 4:, :])


@pytest.mark.parametrize("family", ["SDXL", "SD3", "Flux", "WAN21_T2V"])
def test_every_kind_of_latents_comes_back_to_rounding(family, monkeypatch):
    """Some models' ways in and out of the VAE's space are no exact inverses."""
    recalled, original = [], session.Session.recall

    def noted(self, *args):
        recalled.append(original(self, *args))
        return recalled[-1]

    monkeypatch.setattr(session.Session, "recall", noted)
    model, latent = tiny_family(family), family_latent(family, 8)
    shape = tuple(latent["samples"].shape[1:])
    references = make_references(12, shape=shape if len(shape) == 3 else shape[:1] + shape[2:])
    prompts = {"positive": family_prompt(family, 1), "negative": family_prompt(family, 2)}
    guided, trace = apply(model, references, handle())
    first = core_draw(guided, latent, **prompts)
    second = core_draw(guided, latent, **prompts)
    assert torch.equal(remembered(), torch.cat([first, second]))
    (nothing, _), (memory, _) = recalled
    assert nothing is None and memory.latents.shape == (8, *shape)
    close(memory.latents, model.model.process_latent_in(first))
    assert not trace.problems


# ---- what does not count


def test_images_of_another_size_do_not_count_and_are_reported(model, references, caplog):
    add(some_latents(3, (4, 8, 10)))
    alone, _, _ = guided_draw(model, references)
    with caplog.at_level(logging.WARNING):
        samples, _, report = guided_draw(model, references, memory=handle())
    assert torch.equal(samples, alone)
    told = (
        "Remembered images that do not count: 3 "
        "(their latents are 4×8×10, those being drawn 4×8×8)."
    )
    assert told in report and caplog.text.count(told.replace("×", "x")) == 1  # logs are ASCII
    assert torch.equal(remembered(), samples)


def test_images_of_another_model_do_not_count(model, references):
    guided_draw(model, references, memory=handle())
    _, trace, report = guided_draw(tiny_model("SDXL"), references, memory=handle())
    assert "Remembered images that do not count: 8 (they are latents of SD15" in report
    assert trace.remembered == 0


def prompted_references():
    (tokens, options), *_ = prompt(3, batch=2)
    features = entry_feature({"cross_attn": tokens, **options})
    return make_references(12, prompts=features.repeat_interleave(6, 0))


def test_prompts_are_remembered_with_the_images(model):
    options = {"kernel": KernelConfig(prompt_kernel="rbf")}
    both = {"positive": prompt(3, batch=2)}
    references = prompted_references()
    whole = guided_draw(model, references, part_of_batch(0, 16), group_size=8, **options, **both)[0]
    runs = [
        guided_draw(model, references, part_of_batch(i, 8), memory=handle(), **options, **both)[0]
        for i in (0, 8)
    ]
    close(torch.cat(runs), whole)


def test_images_without_prompts_do_not_count_for_a_prompt_kernel(model):
    references, kernel = prompted_references(), KernelConfig(prompt_kernel="rbf")
    alone, _, _ = guided_draw(model, references, kernel=kernel)
    add(some_latents(3))
    add(some_latents(2), prompts=torch.ones(2, 5))
    samples, _, report = guided_draw(model, references, kernel=kernel, memory=handle())
    assert torch.equal(samples, alone)
    assert "do not count: 3 (they were drawn without a prompt kernel" in report
    assert "do not count: 2 (their prompts come from another text enc" in report
    _, trace, _ = guided_draw(model, references, memory=handle(action="load"))
    assert trace.remembered == 3 + 2 + 8  # without a prompt kernel all do


def test_a_damaged_file_is_left_out_and_named(model, references, place):
    name = add(some_latents(3))
    add(some_latents(2))
    data = bytearray((place / "a" / name).read_bytes())
    data[-5] ^= 1
    (place / "a" / name).write_bytes(data)
    _, trace, report = guided_draw(model, references, memory=handle())
    assert trace.remembered == 2 and f"{name} (damaged)" in report
    assert f"{name} (damaged)" in memory_node()[2]


def test_what_a_mask_keeps_is_remembered_without_noise_of_earlier_runs(model, references):
    """Core keeps the noise that the first stage left there."""
    guided, _ = apply(model, references, handle())
    mask = torch.ones(1, 8, 8)
    mask[:, :4] = 0
    pictures = some_latents(8)
    first = core_draw(guided, {"samples": pictures, "noise_mask": mask}, steps=6, last_step=3)
    latent = {"samples": first, "noise_mask": mask}
    second = core_draw(guided, latent, steps=6, start_step=3, disable_noise=True)
    kept, new = (..., slice(0, 4), slice(None)), (..., slice(4, 8), slice(None))
    assert not torch.allclose(second[kept], pictures[kept], atol=0.5)
    torch.testing.assert_close(remembered()[kept], pictures[kept], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(remembered()[new], second[new], rtol=1e-4, atol=1e-4)


def test_noise_that_is_left_is_not_remembered(model, references, caplog):
    guided, _ = apply(model, references, handle())
    with caplog.at_level(logging.INFO):
        first = core_draw(guided, steps=6, last_step=3)
    assert remembered() is None and "noise is left" in caplog.text
    second = core_draw(
        guided,
        {"samples": first},
        steps=6,
        start_step=3,
        disable_noise=True,
        force_full_denoise=True,
    )
    assert torch.equal(remembered(), second)


def test_latents_of_several_kinds_are_not_remembered(model, references, caplog):
    guided, _ = apply(model, references, handle())
    (((start_run,)),) = guided.wrappers[WrappersMP.SAMPLER_SAMPLE].values()
    packed = torch.zeros(2, 1, 512)
    guider = SimpleNamespace(inner_model=model.model, conds={})
    with caplog.at_level(logging.WARNING):
        drawn = start_run(
            lambda *args: packed + 1, guider, torch.tensor([1.0, 0.0]), {}, None, packed
        )
    assert torch.equal(drawn, packed + 1) and remembered() is None
    assert "drawn without guidance and not remembered" in caplog.text


# ---- what fails


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_append_costs_no_picture(model, references, monkeypatch, caplog):
    expected, _, _ = guided_draw(model, references)
    memory = handle()
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(os, "replace", full)
        samples, trace, report = guided_draw(model, references, memory=memory)
    assert torch.equal(samples, expected) and remembered() is None
    told = "not added to the memory 'a' (No space left on device): check that the disk is not full"
    assert told in report
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("MMDGuidedKSampler: ") and told in record.getMessage()
    assert [short for short, _ in trace.problems] == ["not remembered"]


def test_groups_that_could_not_be_added_still_know_each_other(model, references, monkeypatch):
    grouped, _, _ = guided_draw(model, references, part_of_batch(0, 16), group_size=8)
    memory = handle()
    monkeypatch.setattr(os, "replace", full)
    samples, trace, report = guided_draw(
        model, references, part_of_batch(0, 16), group_size=8, memory=memory
    )
    close(samples, grouped)
    assert len(trace.problems) == 1 and report.count("not added") == 1


def test_strength_0_reports_a_failed_append_too(model, references, monkeypatch):
    memory = handle()
    monkeypatch.setattr(os, "replace", full)
    samples, _, report = guided_draw(model, references, strength=0.0, memory=memory)
    assert torch.equal(samples, core_draw(model)) and "not added" in report


def test_nan_is_not_remembered(model, references, monkeypatch):
    monkeypatch.setattr(guided_run.GuidedRun, "denoised", lambda self, x0, *_: x0 * torch.nan)
    samples, _, report = guided_draw(model, references, memory=handle(action="append"))
    assert samples.isnan().all() and remembered() is None
    assert "were not added to the memory 'a' (they contain NaN or infinite numbers)" in report


def test_a_memory_that_cannot_be_read_stops_before_sampling(model, references, place):
    memory = handle()
    place.mkdir(parents=True)
    (place / "a").write_text("a file where the folder should be")
    calls = []
    spied = model.clone()
    spied.set_model_unet_function_wrapper(lambda apply, args: calls.append(1))
    with pytest.raises(
        ValueError, match="^MMDGuidedKSampler: memory: the memory 'a' cannot be read"
    ):
        guided_draw(spied, references, memory=memory)
    with pytest.raises(ValueError, match="^ApplyMMDGuidance: memory: .* set `action` of MMDMemory"):
        core_draw(apply(spied, references, memory)[0])
    assert not calls
    with pytest.raises(ValueError, match="^MMDMemory: the memory 'a' cannot be read"):
        memory_node()
    with pytest.raises(ValueError, match="^MMDMemory: the memory 'a' cannot be forgotten"):
        memory_node(action="reset")


def test_a_drive_that_is_gone_is_no_empty_memory(model, references, tmp_path):
    drive = tmp_path / "drive"
    drive.mkdir()
    folder_paths.folder_names_and_paths[KIND] = ([str(drive)], {".safetensors"})
    memory = handle()
    samples, _, _ = guided_draw(model, references, memory=memory)
    assert torch.equal(remembered(), samples) and (drive / "a").is_dir()
    os.rename(drive, tmp_path / "unplugged")
    with pytest.raises(ValueError, match="memory: the folder that extra_model_paths.yaml names"):
        guided_draw(model, references, memory=memory)
    assert "connect its drive" in MMDMemory.validate_inputs(name="a")
    _, _, report = guided_draw(model, references, memory=memory._replace(loads=False))
    assert "were not added" in report and "connect its drive" in report
    assert not drive.exists()


# ---- the node


def test_an_empty_memory_blocks_what_needs_latents(place):
    memory, latents, report = memory_node()
    assert isinstance(latents, ExecutionBlocker) and latents.message is None
    assert "nothing is remembered yet" in report and not place.exists()
    assert memory == ("a", True, True, 256)


def test_latents_are_what_is_remembered():
    add(some_latents(3, seed=1))
    add(some_latents(2, seed=2))
    _, latents, report = memory_node()
    expected = torch.cat([some_latents(3, seed=1), some_latents(2, seed=2)])
    assert latents.keys() == {"samples"} and torch.equal(latents["samples"], expected)
    assert report.startswith("a: 5 images, 4×8×8, SD15.\nThey count")
    assert "\nOn disk: 0.0 MB, at most 17.2 GB." in report and "trash" not in report
    _, latents, report = memory_node(action="append", limit=4)
    assert torch.equal(latents["samples"], expected[1:])
    assert "the newest 4 images" in report and "They do not count" in report


def test_names_that_are_memories(place):
    for name in ("a", "comics/ink", "comics\\pencil", "日本", "two words"):
        add(some_latents(1), name)
    parts = sorted(
        path.parent.relative_to(place).as_posix() for path in place.rglob("*.safetensors")
    )
    assert parts == ["a", "comics/ink", "comics/pencil", "two words", "日本"]


@pytest.mark.parametrize("name", [
    "", "..", "../a", "a/../../b", "/tmp/a", "C:\\a", "C:a", "\\\\server\\a", "a//b",
    ".hidden", "a/",
    "nul", "a:b", "a\0b", "a\n", "x" * 201, " a", "a.",
])  # fmt: skip
def test_names_that_lead_out_are_refused(name, place, tmp_path):
    assert "`name` of MMDMemory" in MMDMemory.validate_inputs(name=name)
    for action in ("load", "reset"):
        with pytest.raises(ValueError, match="^MMDMemory: .* cannot be the name of a memory"):
            memory_node(name, action)
    assert MMDMemory.fingerprint_inputs(name=name) == ""
    told = SharedMemory(name, True, True, 4).append(some_latents(1), "SD15", None)
    assert "were not added" in told
    assert not place.exists() and not list(tmp_path.rglob("*.safetensors"))


@links
def test_links_that_lead_out_are_refused(place, tmp_path):
    (tmp_path / "private").mkdir()
    place.mkdir(parents=True)
    (place / "a").symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match="a link leads out"):
        memory_node()
    with pytest.raises(ValueError, match="a link leads out"):
        memory_node("a/b", "reset")


def test_another_node_may_give_the_name():
    assert MMDMemory.validate_inputs() is True and MMDMemory.validate_inputs(name=None) is True
    assert MMDMemory.fingerprint_inputs() == ""


def test_the_fingerprint_is_that_of_what_is_there():
    seen = [MMDMemory.fingerprint_inputs(name="a")]
    for _ in range(2):
        add(some_latents(1))
        seen.append(MMDMemory.fingerprint_inputs(name="a"))
        assert seen[-1] == MMDMemory.fingerprint_inputs(name="a")
    assert len(set(seen)) == 3
    memory_node(action="reset")
    assert MMDMemory.fingerprint_inputs(name="a") == seen[0]


class Adds:
    """A node that does what sampling with the memory does at its end."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "run", (), True
    seen = []

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"memory": ("MMD_MEMORY",)}}

    def run(self, memory):
        self.seen.append(memory.recall().latents)
        assert memory.append(some_latents(1), "SD15", None) is None
        return ()


class Shows:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "run", (), True
    seen = []

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latents": ("LATENT",)}}

    def run(self, latents):
        self.seen.append(len(latents["samples"]))
        return ()


def test_comfyui_runs_it_again_when_the_memory_has_changed(monkeypatch):
    classes = {"Memory": MMDMemory, "Adds": Adds, "Shows": Shows}
    monkeypatch.setattr(nodes, "NODE_CLASS_MAPPINGS", nodes.NODE_CLASS_MAPPINGS | classes)
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None)
    executor = execution.PromptExecutor(
        server, cache_type=execution.CacheType.CLASSIC, cache_args=defaultdict(int)
    )
    graph = {
        "1": {
            "class_type": "Memory",
            "inputs": {"name": "a", "action": "load and append", "limit": 8},
        },
        "2": {"class_type": "Adds", "inputs": {"memory": ["1", 0]}},
        "3": {"class_type": "Shows", "inputs": {"latents": ["1", 1]}},
    }
    for run in range(3):
        fresh = copy.deepcopy(graph)  # ComfyUI writes into it
        valid, error, ends, errors = asyncio.run(execution.validate_prompt("id", fresh, None))
        assert valid, (error, errors)
        executor.execute(fresh, "id", {}, ends)
        assert executor.success, executor.status_messages
        assert len(remembered()) == run + 1
    assert Adds.seen[0] is None and [len(latents) for latents in Adds.seen[1:]] == [1, 2]
    assert Shows.seen == [1, 2]  # the first run has nothing to show, and that is no error


def test_both_guidance_nodes_take_memory_and_base():
    for node in (ApplyMMDGuidance, MMDGuidedKSampler):
        inputs = [(each.id, each.io_type, each.optional) for each in node.GET_SCHEMA().inputs]
        first = inputs.index(("memory", "MMD_MEMORY", True))
        assert inputs[first + 1] == ("base", "MMD_REFERENCES", True)
        parameters = inspect.signature(node.execute).parameters
        assert parameters["memory"].default is parameters["base"].default is None
