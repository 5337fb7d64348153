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
from comfy.k_diffusion.sampling import sample_euler
from comfy_execution.utils import CurrentNodeContext
from mmd_pack.mmd_core import Guidance, GuidanceConfig, KernelConfig, RunTrace, TraceRow
from mmd_pack.nodes.guidance.run.hook import apply_guidance
from mmd_pack.nodes.guidance.run.report import ending, remarks, run_report
from mmd_pack.nodes.guidance.run.request import Request
from mmd_pack.nodes.guidance.run.trace import Trace
from mmd_pack.nodes.host.fingerprint import vae_fingerprint
from mmd_pack.nodes.host.progress import show_text, tiled
from mmd_tests.support.guided_runs import apply, core_draw, guided_draw, make_references, patched
from mmd_tests.support.tiny_encoders import tiny_vae
from mmd_tests.support.tiny_models import empty_latent, prompt, random, tiny_model

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
            self.sent, self.client_id = [], "who queued it"

        def send_progress_text(self, text, node_id, client):
            assert client == "who queued it"
            self.sent.append((text, node_id))

    module = types.ModuleType("server")
    module.PromptServer = types.SimpleNamespace(instance=Server())
    monkeypatch.setitem(sys.modules, "server", module)
    return module.PromptServer.instance


def test_what_is_shown_is_short_no_html_and_for_one_client(server):
    """`server` takes no text for others."""
    show_text("<img src=x onerror=alert(1)> &lt; " + "\u7d75" * 5000, "7")
    ((text, node),) = server.sent
    assert len(text) == 1000 and node == "7" and text.endswith("\u7d75")
    assert not {"<", ">", "&"} & {*text} and "img src=x onerror=alert(1)" in text
    server.client_id = None  # nobody's page: a workflow sent by a script
    show_text("a", "7")
    assert len(server.sent) == 1


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


# --- guidance and the prompt ----------------------------------------------------------------------


def watched_draw(model, sampler="euler", cfg=2.0, **options):
    """The rows of a guided run, and the same figures from what core hands to others.

    The callback of the sampler gets x̂0 as the sampler uses it, after guidance and mask.
    """
    calls, after = [], []

    def follow_cfg(call):
        calls.append((call["uncond_denoised"], call["denoised"]))
        return call["denoised"]

    watched = model.clone()
    watched.set_model_sampler_post_cfg_function(follow_cfg)
    references = make_references()
    guided, trace = apply(watched, references, **options.pop("settings", {}))
    latent = options.pop("latent", empty_latent())["samples"]
    mask = options.pop("mask", None)
    noise = comfy.sample.prepare_noise(latent, 1)
    sigmas = comfy.samplers.calculate_sigmas(guided.get_model_object("model_sampling"), "normal", 4)
    drawn = comfy.sample.sample_custom(
        guided, noise, cfg, comfy.samplers.sampler_object(sampler), sigmas, prompt(1), prompt(2),
        latent, noise_mask=mask, callback=lambda step, x0, x, total: after.append(x0), seed=1,
    )  # fmt: skip
    whole = torch.ones_like(latent) if mask is None else mask.expand_as(latent)
    expected = []
    for (without, x0), final in zip(calls, after, strict=True):
        kept = final * 0 if mask is None else guided.model.process_latent_in(latent) * (1 - whole)
        d = (final - kept - x0 * whole).flatten(1)
        p = ((x0 - without) * whole).flatten(1)
        size = d.norm(dim=1).sum() / p.norm(dim=1).sum()
        expected.append((size.item(), ((d * p).sum() / p.square().sum()).item()))
    return trace.rows, expected, drawn


def mask_of_the_upper_half():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :] = 1
    return mask


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"sampler": "euler_ancestral"},
        {"sampler": "euler_cfg_pp"},
        {"sampler": "euler_cfg_pp", "cfg": 1.0},  # core makes both estimates for it
        {"latent": {"samples": torch.ones(8, 4, 8, 8)}, "mask": mask_of_the_upper_half()},
        {"settings": {"micro_batch": 3}},
        {"latent": empty_latent(4)},
    ],
    ids=["euler", "ancestral", "cfg++", "cfg++ at 1", "mask", "micro-batch", "few images"],
)
def test_guidance_by_the_prompt(case, model):
    rows, expected, _ = watched_draw(model, **case)
    assert [row.by_prompt is None for row in rows] == [False] * 3 + [True]  # the window ends
    for row, (size, along) in zip(rows[:3], expected[:3], strict=True):
        assert row.by_prompt == pytest.approx(size, rel=1e-3)
        assert row.along_prompt == pytest.approx(along, rel=1e-2, abs=1e-4)


def test_cfg_1_has_nothing_to_compare_and_costs_no_model_call(model, references):
    batches = []

    def counted(apply_model, call):
        batches.append(len(call["input"]))
        return apply_model(call["input"], call["timestep"], **call["c"])

    watched = model.clone()
    watched.set_model_unet_function_wrapper(counted)
    guided, trace = apply(watched, references)
    core_draw(guided, cfg=1.0)
    assert batches == [8] * 4
    assert trace.acted and {row.by_prompt for row in trace.rows} == {None}
    report = run_report(trace, 6)
    assert "the prompt" not in report and "of the sampler's steps" in report


def test_comparing_with_the_prompt_changes_no_image(model, references):
    """Without a trace nothing is compared."""
    config = GuidanceConfig(20.0, 0.0, 0.8)
    for sampler in ("euler", "dpmpp_2m_cfg_pp"):
        plain = core_draw(
            apply_guidance(model, Request("test", references, config)), sampler=sampler
        )
        guided, trace = apply(model, references)
        assert torch.equal(core_draw(guided, sampler=sampler), plain)
        assert all(row.by_prompt for row in trace.acted)


def test_a_call_in_parts_by_another_node_has_nothing_to_compare(model, references):
    """Where each part passes through cfg by itself, no estimate is that of the whole batch."""

    def halves(executor, x, timestep, model_options, seed):
        return torch.cat([executor(x[i::2], timestep[i::2], model_options, seed) for i in range(2)])

    guided, trace = apply(model, references)
    guided.add_wrapper_with_key("predict_noise", "halves", halves)
    core_draw(guided)
    assert trace.acted and {row.by_prompt for row in trace.rows} == {None}


def test_the_report_compares_guidance_with_the_prompt(model, references):
    report = guided_draw(model, references)[2]
    (line,) = [line for line in report.splitlines() if "as far as the prompt did" in line]
    assert "took back" in line or "added" in line
    assert "added 20% to what" in run_report(trace_of(by_prompt=0.5, along_prompt=0.2), 20)


def test_no_strength_is_named_that_would_move_nothing():
    trace = trace_of(by_prompt=40.0, along_prompt=-25.0)
    (remark,) = remarks(trace)
    assert "took back all of what" in remark.text and "strength" not in remark.text


def test_calls_at_which_only_the_prompt_acts_count_for_the_prompt():
    trace = trace_of(by_prompt=2.0, along_prompt=-0.6)
    assert "took back 60%" in run_report(trace, 20) and len(remarks(trace)) == 1
    run = trace.runs[0]
    idle = run.rows[0]._replace(substeps=0, by_prompt=None, along_prompt=None)
    trace.runs[0] = run._replace(rows=run.rows + (idle,) * 5)
    report = run_report(trace, 20)
    assert "1 times as far" in report and "took back 30%" in report and remarks(trace) == []


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
        (
            {"by_prompt": 2.0, "along_prompt": -0.72},
            "took back 72% of what",
            "strength to about 10",
        ),
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


def test_the_log_names_the_strength_that_was_set(model, references, caplog):
    """Few images are guided by less; what the user typed is what is told."""
    with caplog.at_level(logging.INFO, "mmd_guidance"):
        guided_draw(model, references, empty_latent(4))
    assert "4 images, 6 references, mode flow, strength 20:" in caplog.text


def test_a_sampler_that_asks_image_by_image_is_told(model, references, caplog):
    """Guidance of a batch of one would pull each image into the middle of the set."""

    def one_by_one(model_k, x, sigmas, extra_args=None, callback=None, disable=None):
        def ask(x, sigma, **options):
            each = [model_k(x[i : i + 1], sigma[i : i + 1], **options) for i in range(len(x))]
            return torch.cat(each)

        return sample_euler(ask, x, sigmas, extra_args, callback, disable)

    def drawn(model):
        sigmas = comfy.samplers.calculate_sigmas(model.model.model_sampling, "normal", 2)
        noise, sampler = random(8, 4, 8, 8), comfy.samplers.KSAMPLER(one_by_one)
        return comfy.sample.sample_custom(
            model, noise, 2.0, sampler, sigmas, prompt(1), prompt(2), torch.zeros_like(noise)
        )

    guided, trace = apply(model, references)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(drawn(guided), drawn(model))
    (remark,) = remarks(trace)
    assert "asks for 1 image at a time, but guidance needs all 8" in remark.text
    assert caplog.text.count(remark.text) == 1
