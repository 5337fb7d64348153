"""MergeReferences and CompressReferences: inputs, reports, and errors in the user's words."""

import inspect
import logging

import comfy.model_management
import comfy.utils
import pytest
import torch
from mmd_pack.mmd_core import KernelConfig, References
from mmd_pack.mmd_core.references.compress import compress
from mmd_pack.nodes.references.compress_references import CompressReferences
from mmd_pack.nodes.references.merge_references import MergeReferences

pytestmark = pytest.mark.comfy


def merge_node():
    return MergeReferences


def compress_node():
    return CompressReferences


def references(rng, n, shape=(4, 3, 2), **fields):
    return References(torch.randn(n, *shape, generator=rng), **fields)


def clusters(rng, n, modes=6, **fields):
    """References about a few centres, with names that tell which."""
    centres, members = 3 * torch.randn(modes, 4, 3, 2, generator=rng), torch.arange(n) % modes
    latents = centres[members] + 0.3 * torch.randn(n, 4, 3, 2, generator=rng)
    names = tuple(f"{k}/{j}.png" for j, k in enumerate(members.tolist()))
    return References(latents, names=names, **fields)


@pytest.mark.parametrize("node, names", [
    (merge_node, [*(f"references_{k}" for k in "abcd"), *(f"share_{k}" for k in "abcd")]),
    (compress_node, ["references", "count", "kernel", "memory"]),
])  # fmt: skip
def test_parameters_are_the_inputs_and_every_one_is_explained(node, names):
    schema = node().GET_SCHEMA()
    assert [entry.id for entry in schema.inputs] == names
    assert list(inspect.signature(node().execute).parameters) == names
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])
    assert [entry.id for entry in schema.outputs] == ["references", "report"]


# MergeReferences


def test_two_sets_are_mixed_by_their_shares(rng):
    a, b = references(rng, 3), references(rng, 100)
    merged, report = merge_node().execute(a, b, share_a=70, share_b=30).args
    assert merged.weights[:3].sum() == pytest.approx(0.7)
    assert torch.equal(merged.latents, torch.cat([a.latents, b.latents]))
    for fact in ("103 references together, latents 4×3×2", "a: 3 references, 70.0%", "b: 100 references, 30.0%"):  # fmt: skip
        assert fact in report, report


def test_optional_sets_and_shares_of_0(rng):
    sets = {f"references_{k}": references(rng, 2) for k in "abd"}
    merged, report = merge_node().execute(**sets, share_b=0.0, share_c=5.0).args
    assert torch.equal(
        merged.latents, torch.cat([s.latents for k, s in sets.items() if k[-1] != "b"])
    )
    assert "d: 2 references, 50.0%" in report and "b is left out" in report


def test_what_sets_do_not_share_is_reported(rng, caplog):
    prompts = torch.ones(2, 5)
    a, b = references(rng, 2, prompts=prompts, vae="abc"), references(rng, 2, vae="def")
    with caplog.at_level(logging.WARNING):
        merged, report = merge_node().execute(a, b).args
    assert merged.vae == "" and merged.prompts is None
    assert (
        "Captions are not used: " in report and "Warning: the sets were encoded with diff" in report
    )
    assert "MergeReferences: the sets were encoded with different VAEs" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _, report = merge_node().execute(a, references(rng, 2, prompts=prompts)).args
    assert "Captions" not in report and "Warning" not in report and not caplog.text


def test_merging_errors_name_the_node_and_the_inputs_and_say_what_to_do(rng):
    a = references(rng, 2)
    with pytest.raises(
        ValueError, match=r"MergeReferences: .* of a .*\(4, 3, 2\).* of c \(4, 3, 3\)"
    ):
        merge_node().execute(a, a, references_c=references(rng, 2, (4, 3, 3)))
    with pytest.raises(ValueError, match="MergeReferences: all shares are 0: give at least one"):
        merge_node().execute(a, a, share_a=0.0, share_b=0.0)


# CompressReferences


def test_chosen_references_keep_what_belongs_to_them(rng):
    n = 300
    given = clusters(
        rng, n, captions=tuple(map(str, range(n))), prompts=torch.arange(2.0 * n).view(n, 2),
        thumbnails=torch.rand(n, 3, 3, 2, generator=rng), vae="abc", size=(24, 16),
        sizes=tuple((j, 1) for j in range(n)),
    )  # fmt: skip
    few, report = compress_node().execute(given, 30).args
    rows = [int(caption) for caption in few.captions]
    assert rows == sorted(rows) and len(rows) <= 30
    for field in ("latents", "prompts", "thumbnails"):
        assert torch.equal(getattr(few, field), getattr(given, field)[rows])
    for field in ("names", "sizes"):
        assert getattr(few, field) == tuple(getattr(given, field)[j] for j in rows)
    assert (few.vae, few.size) == ("abc", (24, 16))
    shares = [sum(w for w, name in zip(few.weights, few.names, strict=True) if name[0] == k) for k in "012345"]  # fmt: skip
    assert shares == pytest.approx([1 / 6] * 6, abs=0.02)
    assert f"{len(rows)} of 300 references" in report and "drawn at random" in report


def test_the_report_shows_mmd2_of_both(rng):
    given = clusters(rng, 300)
    done = compress(given.latents, given.weights, 30, KernelConfig("energy"))
    _, report = compress_node().execute(given, 30, KernelConfig("energy")).args
    times = done.mmd2_random / done.mmd2
    for fact in (f"{done.mmd2:.3g} (kernel energy)", f"{done.mmd2_random:.3g}, {times:.1f} times"):
        assert fact in report, report
    assert "about" not in report and "Raise count" not in report


def test_the_report_is_honest(rng):
    """About noise, in which no reference stands for others, and about a bandwidth of unknown units."""
    config = KernelConfig(bandwidth="fixed", bandwidth_value=30.0)
    given = References(torch.randn(120, 4000, generator=rng))
    report = compress_node().execute(given, 60, config).args[1]
    assert "Raise count" in report and "bandwidth_value" in report


@pytest.mark.parametrize("count", [5, 6])
def test_sets_that_are_small_enough_come_back_as_they_are(count, rng):
    given = references(rng, 5)
    few, report = compress_node().execute(given, count).args
    assert few is given and "All references are kept (5)" in report


def test_references_of_weight_0_go_first(rng):
    given = references(rng, 4, weights=torch.tensor([1.0, 0, 2, 0]))
    few, report = compress_node().execute(given, 3).args
    assert few.names == ("reference 1", "reference 3") and "weight 0" in report
    torch.testing.assert_close(few.weights, torch.tensor([1 / 3, 2 / 3]))


def test_a_prompt_kernel_needs_captions(rng):
    config = KernelConfig(prompt_kernel="cosine")
    with pytest.raises(ValueError, match="CompressReferences: .*carry no captions. Connect"):
        compress_node().execute(references(rng, 9), 3, config)
    prompts = torch.eye(3).repeat(30, 1)
    given = References(torch.randn(90, 4, generator=rng), prompts=prompts)
    few = compress_node().execute(given, 12, config).args[0]
    torch.testing.assert_close(
        few.weights @ few.prompts, torch.full((3,), 1 / 3), atol=0.02, rtol=0
    )


def test_more_than_memory_allows_is_refused_in_words(rng):
    given = References(torch.zeros(3000, 1))
    with pytest.raises(
        ValueError, match="CompressReferences: count 2900 needs .* GB: raise memory"
    ):
        compress_node().execute(given, 2900, memory=0.1)


def test_the_progress_bar_fills_and_an_interrupt_stops(rng, monkeypatch):
    told = []

    def hook(value, total, preview=None, **_):
        told.append(value / total)

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    given = clusters(rng, 300)
    compress_node().execute(given, 30)
    assert told == sorted(set(told)) and told[-1] == 1
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        compress_node().execute(given, 30)


def test_under_inference_mode_as_comfyui_runs_it(rng):
    given = clusters(rng, 100)
    with torch.inference_mode():
        inside = compress_node().execute(given, 10).args[0]
    outside = compress_node().execute(given, 10).args[0]
    assert torch.equal(inside.latents, outside.latents)
    assert torch.equal(inside.weights, outside.weights)
