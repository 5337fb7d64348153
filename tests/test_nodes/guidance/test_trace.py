"""What a run reports: trace, log, text on the node, preview of all images, problems with fixes."""

import gc
import logging
import sys
import types
import weakref
from dataclasses import replace

import comfy.cli_args
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from mmd_pack.mmd_core import Guidance, GuidanceConfig, KernelConfig, RunTrace, TraceRow
from mmd_pack.nodes.guidance.run.report import ending, remarks, run_report
from mmd_pack.nodes.guidance.run.trace import Trace
from mmd_pack.nodes.host.fingerprint import vae_fingerprint
from mmd_pack.nodes.host.progress import tiled
from mmd_tests.support.guided_runs import apply, core_draw, guided_draw, make_references, patched
from mmd_tests.support.tiny_encoders import tiny_vae
from mmd_tests.support.tiny_models import empty_latent, prompt, tiny_model

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def references():
    return make_references(names=[f"{j}.png" for j in range(6)])


@pytest.fixture
def server(monkeypatch):
    """A server in place of ComfyUI's that keeps what is sent to it: (text, node)."""

    class Server:
        def __init__(self):
            self.sent = []

        def send_progress_text(self, text, node_id):
            self.sent.append((text, node_id))

    module = types.ModuleType("server")
    module.PromptServer = types.SimpleNamespace(instance=Server())
    monkeypatch.setitem(sys.modules, "server", module)
    return module.PromptServer.instance


def as_node(node_id, prompt_id="p"):
    return CurrentNodeContext(prompt_id=prompt_id, node_id=node_id)


def test_every_model_call_has_a_row(model, references):
    samples, trace, _ = guided_draw(model, references, steps=6)
    (run,) = trace.runs
    assert [round(row.progress, 3) for row in run.rows] == [round(i / 6, 3) for i in range(6)]
    assert [bool(row.substeps) for row in run.rows] == [True] * 4 + [False] * 2
    assert run.batch == len(samples) == len(run.distances) == len(run.nearest)
    assert trace.config.strength == 20 and trace.names[0] == "0.png"


def test_the_patch_records_what_the_sampler_node_does(model, references):
    """And the runs of an earlier workflow are forgotten, those of one workflow are kept."""
    guided, trace = apply(model, references)
    assert trace.runs == []
    with as_node("5"):
        core_draw(guided)
        core_draw(guided)
    assert len(trace.runs) == 2
    assert trace.runs[0].rows == guided_draw(model, references)[1].runs[0].rows
    with as_node("5", "another run"):
        core_draw(guided)
    assert len(trace.runs) == 1


def test_a_trace_holds_numbers_and_no_latents(model, references, monkeypatch):
    """It stays in ComfyUI's cache: neither references nor samples may stay with it."""
    alive = weakref.WeakSet()
    original = Guidance.__init__

    def counted(self, *args, **options):
        alive.add(self)
        original(self, *args, **options)

    monkeypatch.setattr(Guidance, "__init__", counted)
    _, trace, _ = guided_draw(model, references)
    gc.collect()
    assert trace.runs and not alive
    held = [*trace.runs[0], *trace.runs[0].rows[0]]
    assert not any(isinstance(value, torch.Tensor) for value in held)


def test_one_line_in_the_log_for_each_run(model, references, caplog):
    with caplog.at_level(logging.INFO, "mmd_guidance"):
        guided_draw(model, references, empty_latent(16), group_size=8)
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert len(lines) == 2
    assert all("8 images, 6 references, mode flow, strength 20" in line for line in lines)
    assert all("guided at 3 of 4 model calls" in line and "nearest" in line for line in lines)


def test_the_node_shows_each_call_and_the_end(model, references, server):
    with as_node("12"):
        guided_draw(model, references, empty_latent(8))
    assert {node for _, node in server.sent} == {"12"}
    texts = [text for text, _ in server.sent]
    assert len(texts) == 5  # one for each call, and the end
    assert texts[0].startswith("MMD² ") and texts[0].endswith("% of the step")
    assert "not guided here" in texts[3]
    assert max(map(len, texts)) < 60 and not any("\n" in text for text in texts)  # a node is narrow


def test_the_patch_shows_its_text_on_its_own_node(model, references, server):
    with as_node("7"):
        guided, _ = apply(model, references)
    with as_node("8"):
        core_draw(guided)
    assert {node for _, node in server.sent} == {"7"}


def test_without_a_workflow_nothing_is_sent(model, references, server):
    guided_draw(model, references)
    assert not server.sent


@pytest.mark.parametrize(
    ("batch", "shape", "size"),
    [(16, (8, 8), (32, 32)), (5, (8, 8), (24, 16)), (3, (8, 24), (24, 24)), (1, (8, 8), (8, 8))],
)
def test_a_batch_as_one_picture(batch, shape, size):
    """Every image is there, in order, and the rest is 0."""
    x0 = torch.arange(1.0, batch + 1)[:, None, None, None].expand(batch, 4, *shape)
    (whole,) = tiled(x0)
    assert whole.shape == (4, *size)
    h, w = shape
    cells = whole[0].unfold(0, h, h).unfold(1, w, w).reshape(-1, h * w)
    assert (cells == cells[:, :1]).all()
    expected = [*range(1, batch + 1), *[0] * (len(cells) - batch)]
    assert cells[:, 0].tolist() == expected


def test_film_frames_can_be_tiled():
    assert tiled(torch.zeros(4, 16, 1, 8, 6)).shape == (1, 16, 1, 16, 12)


@pytest.mark.parametrize("method", ["none", "latent2rgb"])
def test_the_preview_of_the_whole_batch(method, model, references, monkeypatch):
    """Also where previews are off; the sampler's own callback gets what it always got."""
    previews, seen = [], []
    monkeypatch.setattr(
        comfy.cli_args.args,
        "preview_method",
        comfy.cli_args.LatentPreviewMethod.from_string(method),
    )
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id=None: previews.append((value, total, preview)),
    )
    guided, _ = apply(model, references, preview_batch=True)
    latent = empty_latent(16)["samples"]
    sigmas = comfy.samplers.calculate_sigmas(guided.get_model_object("model_sampling"), "normal", 4)
    comfy.sample.sample_custom(
        guided, comfy.sample.prepare_noise(latent, 1), 1.0, comfy.samplers.sampler_object("euler"),
        sigmas, prompt(1), prompt(2), latent,
        callback=lambda step, x0, x, total: seen.append((step, tuple(x0.shape))),
    )  # fmt: skip
    assert seen == [(i, (16, 4, 8, 8)) for i in range(4)]
    pictures = [(value, preview[1].size) for value, _, preview in previews if preview]
    assert pictures == [(i, (32, 32)) for i in range(1, 5)]


def test_the_preview_changes_no_image(model, references):
    plain = guided_draw(model, references)[0]
    assert torch.equal(guided_draw(model, references, preview_batch=True)[0], plain)


# --- problems: one sentence with its fix ----------------------------------------------------------


def trace_of(**changes):
    """A run in which all is well, but for the changes."""
    row = TraceRow(5.0, 0.1, 0.1, 0.05, 0.2, 8, 0.1, 0.0, 1.2)
    row = row._replace(**{k: v for k, v in changes.items() if k in row._fields})
    config = changes.get("config", GuidanceConfig())
    run = RunTrace(config, 8, 20, (row,) * 5, 0.02, tuple(range(8)), (0.9,) * 8)
    run = run._replace(**{k: v for k, v in changes.items() if k in ("distances",)})
    return Trace(config, tuple(f"{j}.png" for j in range(20)), runs=[run])


@pytest.mark.parametrize(
    ("changes", "says", "fix"),
    [
        ({}, "", ""),
        ({"saturated": 0.95}, "cannot tell which way", "multipliers"),
        ({"relative": 1e-3}, "nothing one can see", "Raise strength"),
        ({"substeps": 0}, "never acted", "end_percent"),
        ({"distances": (0.9,) * 7 + (0.1,)}, "may be a copy", "Lower strength"),
    ],
)
def test_every_problem_is_reported_with_its_fix(changes, says, fix):
    trace = trace_of(**changes)
    said = remarks(trace)
    if not says:
        assert said == [] and ending(trace) == "MMD² 0.1 → 0.05 · nearest 0.90"
        return
    ((short, sentence),) = said
    assert f"⚠ {short}" in ending(trace)
    assert says in sentence and fix in sentence and sentence in run_report(trace, 20)
    if "distances" in changes:
        assert "1 of 8 images" in sentence and "7.png" in sentence and "0.10" in sentence


def test_nothing_is_advised_where_guidance_is_off():
    trace = trace_of(config=GuidanceConfig(strength=0.0), substeps=0, distances=(0.0,) * 8)
    assert remarks(trace) == []


def test_strength_next_to_nothing_is_reported(model, references, caplog):
    with caplog.at_level(logging.WARNING):
        _, _, report = guided_draw(model, references, empty_latent(8), strength=1e-4)
    assert "Raise strength" in report and "Raise strength" in caplog.text


def test_copies_are_reported(model):
    """A single kind of picture, far from all the model draws, followed to the end."""
    references = make_references(3, names=["a", "b", "c"])
    kernel = KernelConfig("energy")
    _, _, report = guided_draw(
        model, references, empty_latent(8), steps=30, strength=300.0, kernel=kernel,
        end_percent=1.0, preserve=0.0,
    )  # fmt: skip
    assert "may be copies" in report


def test_references_of_another_vae_are_reported(model, references, caplog):
    vae, other = tiny_vae(1), tiny_vae(2)
    mine = replace(references, vae=vae_fingerprint(vae))
    with caplog.at_level(logging.WARNING):
        _, _, fits = guided_draw(model, mine, empty_latent(8), vae=vae)
        _, _, unknown = guided_draw(model, references, empty_latent(8), vae=other)
        assert "another VAE" not in fits + unknown + caplog.text
        _, _, differs = guided_draw(model, mine, empty_latent(8), vae=other)
    assert "another VAE" in differs and "EncodeReferenceLatents" in differs
    assert "another VAE" in caplog.text


def test_references_that_do_not_fit_are_accepted_at_strength_0(model):
    other = make_references(shape=(4, 16, 16))
    drawn, trace, report = guided_draw(model, other, strength=0.0)
    assert torch.equal(drawn, core_draw(model)) and not trace.runs and "Strength is 0" in report
    assert torch.equal(core_draw(patched(model, other, strength=0.0)), drawn)


def test_what_cannot_be_compared_is_reported():
    """Latents of several kinds at once leave no run behind."""
    trace = trace_of()
    trace.runs.clear()
    assert run_report(trace, 20).startswith("Drawn without guidance: latents of several kinds")


def test_the_log_names_the_strength_that_was_set(model, references, caplog):
    """Few images are guided by less; what the user typed is what is told."""
    with caplog.at_level(logging.INFO, "mmd_guidance"):
        guided_draw(model, references, empty_latent(4))
    assert "4 images, 6 references, mode flow, strength 20:" in caplog.text
