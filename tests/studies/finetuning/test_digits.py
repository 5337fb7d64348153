"""Finetuning on digits in a real ComfyUI, once and briefly; the whole study is `python tests/studies/finetuning/digits.py`."""

import folder_paths
import pytest
import torch
from mmd_tests.studies.finetuning.digits_nodes import DigitsGraph
from mmd_tests.studies.finetuning.digits_report import ALONE, bars, closed, table
from mmd_tests.studies.finetuning.digits_truths import few_classes, judged, real_digits

pytestmark = pytest.mark.comfy

SEED, UPDATES = 7990, 20


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_paths, "output_directory", folder_paths.output_directory)
        folders, kinds = folder_paths.folder_names_and_paths["loras"]
        patch.setitem(folder_paths.folder_names_and_paths, "loras", (list(folders), kinds))
        with torch.inference_mode():
            yield DigitsGraph(tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="module")
def fast(graph):
    """The MODEL with a LoRA for 5 steps."""
    return graph.trained("fast", graph.references(SEED, count=300), SEED, UPDATES)[0]


def test_five_steps_come_close_to_fifty(graph, fast):
    truth = real_digits(SEED)
    base, trained, many = (
        judged(truth, graph.drawn(truth.case, model, SEED, steps))
        for model, steps in ((graph.model, 5), (fast, 5), (graph.model, 50))
    )
    assert [figures["calls"] for figures in (base, trained, many)] == [5, 5, 50]
    for figure in ("MMD2", "FD"):
        gap = base[figure] - many[figure]
        assert gap > 0.5 * base[figure]  # there is something to gain
        assert base[figure] - trained[figure] > 0.7 * gap, (figure, base, trained, many)
    assert trained["confidence"] >= base["confidence"]
    assert trained["coverage"] > base["coverage"]


def test_the_model_itself_is_left_as_it_was(graph, fast):
    case = real_digits(SEED).case
    first = graph.drawn(case, graph.model, SEED, 5).samples
    trained = graph.drawn(case, fast, SEED, 5).samples
    again = graph.drawn(case, graph.model, SEED, 5).samples
    assert torch.equal(first, again)
    assert (first - trained).abs().mean() > 0.02


def test_a_few_real_digits_make_it_fast_and_different(graph):
    truth = few_classes(SEED)
    model, _ = graph.trained("subset", truth.given, SEED, UPDATES)
    before, after = (
        judged(truth, graph.drawn(truth.case, m, SEED, 5)) for m in (graph.model, model)
    )
    assert after["TV"] < 0.8 * before["TV"]
    for figure in ("MMD2", "FD"):
        assert after[figure] < 0.6 * before[figure]
    assert after["confidence"] >= before["confidence"]


def test_with_prompts_images_stay_what_they_are_asked_for(graph):
    truth, ten = real_digits(SEED), graph.prompts()
    references = graph.references(SEED, ten, count=200)
    model, _ = graph.trained("prompts", references, SEED, 15, positive=ten)
    before, after = (
        judged(truth, graph.drawn(truth.case, m, SEED, 5, ten), prompted=True)
        for m in (graph.model, model)
    )
    assert after["agreement"] > 0.9  # with 50 steps it is .97
    assert after["MMD2"] < 0.8 * before["MMD2"] and after["FD"] < 0.8 * before["FD"]


def rows(after: float, sure: float) -> list[dict]:
    drawn = [(ALONE, 5, 10.0, 0.9), (ALONE, 50, 2.0, 0.97), ("LoRA, latent", 5, after, sure)]
    return [
        {"study": "euler", "against": "real", "seed": seed, "model": model, "steps": steps, "MMD2": seed * figure,
         "FD": 7 * figure, "confidence": confidence}
        for seed in (1, 2)
        for model, steps, figure, confidence in drawn
    ]  # fmt: skip


def test_report_names_the_bars_that_are_met():
    assert closed(rows(4.0, 0.9), "LoRA, latent", "MMD2") == pytest.approx([0.75, 0.75])
    assert bars(rows(4.0, 0.9)).endswith(
        "| 0.75 ± 0.00 | 0.75 ± 0.00 | 0.900 ± 0.000 | 0.900 ± 0.000 | met |"
    )
    assert bars(rows(5.0, 0.9)).endswith("**not met**: MMD², FD |")
    assert bars(rows(4.0, 0.8)).endswith("**not met**: confidence |")
    assert "| LoRA, latent, 5 steps | 6000.0 ± 2828.4 | 28.0 ± 0.0 |" in table(rows(4.0, 0.9))
