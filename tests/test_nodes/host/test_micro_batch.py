"""A batch sent through the network in parts: the same pictures, by fewer images at a time."""

import copy
import gc
import weakref
from types import SimpleNamespace

import comfy.controlnet
import comfy.hooks
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfy import conds
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from mmd_pack.mmd_core import References
from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler
from mmd_pack.nodes.host import control_parts
from mmd_pack.nodes.host.conditioning_parts import cond_part
from mmd_pack.nodes.host.control_parts import ControlParts
from mmd_pack.nodes.host.groups import Group
from mmd_pack.nodes.host.micro_batch import is_film, separable
from mmd_tests.support.conditionings import controlled, net, own_control, t2i_adapter, with_options
from mmd_tests.support.guided_runs import core_draw, make_references, patched
from mmd_tests.support.tiny_models import WIDTH, empty_latent, prompt, random, tiny_model

pytestmark = pytest.mark.comfy

BATCH = 4
SIZES = (1, 2, 3, BATCH)  # 3 leaves a last part of 1


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def guided(model, **settings):
    """Through ApplyMMDGuidance."""
    return patched(model, make_references(), **settings)


def draw(model, positive=None, negative=None, latent=None, steps=2, **options):
    """Core's KSampler."""
    latent = latent or empty_latent(BATCH)
    return core_draw(model, latent, "euler", steps, positive, negative, **options)


def micro_batched(model, size):
    from mmd_pack.nodes.host.micro_batch import micro_batched

    return micro_batched(model, size)


def assert_same(drawn, expected, tolerance=1e-5):
    assert torch.isfinite(expected).all() and expected.std() > 0
    assert ((drawn - expected).norm() / expected.norm()).item() < tolerance


def watched(model):
    """A clone of the model, and a list of what its network is asked: images, options."""
    asked = []

    def watch(executor, x, timesteps, *args, **kwargs):
        given = [*args, kwargs.get("transformer_options")]
        options = next(a for a in given if isinstance(a, dict) and "uuids" in a)
        asked.append(SimpleNamespace(images=len(x), options=options))
        return executor(x, timesteps, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    return model, asked


def regions():
    """Prompts for areas, for masks per image, for a mask whose bounds are an area, and for the rest."""
    half = torch.zeros(1, 8, 8)
    half[:, 2:6, :4] = 1
    return [
        *with_options(prompt(3), area=(4, 8, 0, 0), strength=0.7),
        *with_options(prompt(4, batch=BATCH), mask=random(BATCH, 8, 8).abs(), mask_strength=0.8),
        *with_options(prompt(5), mask=random(2, 16, 16).abs()),
        *with_options(prompt(6), mask=half, set_area_to_bounds=True),
        *with_options(prompt(7), default=True),
    ]


def hooked():
    """A prompt with a LoRA of its own, at a strength that changes."""
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
    hooks = comfy.hooks.create_hook_model_as_lora({}, {}, 1.0, 1.0)
    hooks.hooks[0].weights = {key: ("diff", (random(128, WIDTH),))}
    return with_options(prompt(1), hooks=hooks) + prompt(3, batch=BATCH)


CONDITIONINGS = {
    "one prompt": lambda: (prompt(1), prompt(2)),
    "a prompt per image": lambda: (prompt(1, batch=BATCH), prompt(2, batch=BATCH)),
    "two prompts in turn": lambda: (prompt(1, batch=2), prompt(2, batch=3)),
    "more prompts than images": lambda: (prompt(1, batch=7), prompt(2)),
    "combined": lambda: (prompt(1) + with_options(prompt(3, batch=2), strength=0.5), prompt(2)),
    "scheduled": lambda: (
        with_options(prompt(1), end_percent=0.5) + with_options(prompt(3), start_percent=0.5),
        prompt(2),
    ),
    "regions": lambda: (prompt(1) + regions(), prompt(2)),
    "hooks": lambda: (hooked(), prompt(2)),
}  # fmt: skip


def assert_parts_draw_the_same(model, *args, **options):
    """Whatever the size of the parts, which is all that the network sees of each prompt at a time."""
    expected = draw(model, *args, **options)
    for size in SIZES:
        watching, asked = watched(model)
        assert_same(draw(micro_batched(watching, size), *args, **options), expected)
        images = {a.images // len(a.options["cond_or_uncond"]) for a in asked}
        assert images == ({3, 1} if size == 3 else {size})
    return expected


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_parts_draw_what_the_whole_batch_draws(conditioning, model):
    positive, negative = CONDITIONINGS[conditioning]()
    expected = assert_parts_draw_the_same(model, positive, negative)
    if conditioning != "one prompt":
        assert not torch.allclose(draw(model), expected, rtol=0.1)


def test_without_a_negative_prompt(model):
    """At cfg 1 core leaves it out."""
    assert_parts_draw_the_same(model, prompt(1, batch=BATCH), cfg=1.0)


def test_noise_masks_and_partial_denoise(model):
    latent = {"samples": random(BATCH, 4, 8, 8), "noise_mask": random(BATCH, 8, 8, seed=1).round()}
    assert_parts_draw_the_same(model, latent=latent, denoise=0.6)


def test_sdxl_whose_prompts_carry_vectors():
    assert_parts_draw_the_same(tiny_model("SDXL"), prompt(1, batch=BATCH))


@pytest.mark.parametrize("kind", ["dual", "dual nested", "perp neg"])
def test_guiders_of_three_prompts(kind, model):
    def sample(candidate):
        conds = prompt(1, batch=BATCH), prompt(3, batch=2), prompt(2)
        if kind == "perp neg":
            guider = Guider_PerpNeg(candidate)
            guider.set_conds(*conds)
            guider.set_cfg(2.0, 0.7)
        else:
            guider = Guider_DualCFG(candidate)
            guider.set_conds(*conds)
            guider.set_cfg(2.0, 3.0, nested=kind == "dual nested")
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([9.0, 3.0, 0.0])
        noise = random(BATCH, 4, 8, 8)
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=0)

    expected = sample(model)
    for size in (1, 3):
        assert_same(sample(micro_batched(model, size)), expected)


# ---- guidance


def test_guidance_sees_the_whole_batch(model):
    positive = prompt(1, batch=2)
    expected = draw(guided(model), positive)
    assert not torch.allclose(draw(model, positive), expected, rtol=0.1)
    for size in SIZES:
        watching, asked = watched(model)
        assert_same(draw(guided(watching, micro_batch=size), positive), expected)
        assert max(a.images for a in asked) == 2 * size  # the positive and the negative prompt


def sampler_node(model, **options):
    references = References(random(6, 4, 8, 8, seed=1) * 5 + 2)
    return MMDGuidedKSampler.execute(
        model, references, 7, 2, 2.0, "euler_ancestral", "normal", prompt(1, batch=5), prompt(2),
        empty_latent(5), 1.0, 20.0, 0.0, 0.8, "flow", **options,
    ).result  # fmt: skip


@pytest.mark.parametrize("group_size", [0, 3])
def test_the_sampler_node_and_its_groups(group_size, model):
    watching, asked = watched(model)
    drawn, trace, _ = sampler_node(watching, group_size=group_size, micro_batch=2)
    expected, expected_trace, _ = sampler_node(model, group_size=group_size)
    assert_same(drawn["samples"], expected["samples"])
    assert [len(r.rows) for r in trace.runs] == [len(r.rows) for r in expected_trace.runs]
    assert {a.images for a in asked} == {4, 2}  # parts of 2 and 1, two prompts each


def test_strength_0_saves_memory_too_and_off_is_the_very_same_model(model):
    assert micro_batched(model, 0) is model
    watching, asked = watched(model)
    drawn = draw(guided(watching, strength=0.0, micro_batch=2))
    assert_same(drawn, draw(model))
    assert max(a.images for a in asked) == 4


def test_chained_nodes_take_the_smallest_part(model):
    prompts = controlled(net(model), BATCH)
    expected = draw(guided(guided(model)), *prompts)
    for first, second in ((3, 2), (2, 3)):
        watching, asked = watched(model)
        both = guided(guided(watching, micro_batch=first), micro_batch=second)
        assert_same(draw(both, *prompts), expected)
        assert max(a.images for a in asked) == 4


# ---- ControlNets


@pytest.mark.parametrize("hints", [1, 2, 3, BATCH, 6])
def test_each_image_keeps_its_hint(hints, model):
    expected = assert_parts_draw_the_same(model, *controlled(net(model), hints))
    assert not torch.allclose(draw(model), expected, rtol=0.1)


def test_prompts_of_one_hint_still_go_through_together(model):
    watching, asked = watched(micro_batched(model, 3))
    draw(watching, *controlled(net(model), BATCH), steps=1)
    assert [a.images for a in asked] == [6, 2]


@pytest.mark.parametrize("hints", [(1, BATCH), (BATCH, 1), (2, BATCH)])
def test_each_image_keeps_its_hints_of_two_nets(hints, model):
    first = controlled(net(model), hints[0])
    assert_parts_draw_the_same(model, *controlled(net(model), hints[1], first, seed=1))


def test_hints_in_an_area(model):
    """Where core prepares the hint for another size."""
    positive, negative = controlled(net(model), BATCH)
    positive = positive + with_options(positive, area=(4, 8, 2, 0))
    assert_parts_draw_the_same(model, positive, negative)


def test_a_hint_is_prepared_once_for_each_part(model, monkeypatch):
    positive, negative = controlled(net(model), BATCH)
    prepared, original = [], comfy.utils.common_upscale

    def counted(image, *args):
        prepared.append(len(image))
        return original(image, *args)

    monkeypatch.setattr(comfy.utils, "common_upscale", counted)
    draw(micro_batched(model, 3), positive, negative)
    assert prepared == [3, 1]


@pytest.mark.parametrize("hints", [1, 2, BATCH])
def test_adapters_keep_their_hints(hints, model):
    expected = assert_parts_draw_the_same(model, *controlled(t2i_adapter(), hints))
    assert not torch.allclose(draw(model), expected, rtol=0.1)


def test_masks_of_hints_follow_them():
    """An inpainting ControlNet has a mask per hint."""
    control = fake_control(torch.arange(3.0).reshape(3, 1, 1, 1))
    control.extra_concat_orig = [torch.arange(2.0).reshape(2, 1, 1, 1)]
    control.cond_hint = torch.ones(3, 1, 1, 1)  # left by a run that was interrupted
    part = ControlParts().part(control, range(2, 5), 5)
    assert part.cond_hint is None
    assert part.cond_hint_original.flatten().tolist() == [2, 0, 1]
    assert part.extra_concat_orig[0].flatten().tolist() == [0, 0, 1]  # of hints 2, 0, 1


def fake_control(hint):
    return comfy.controlnet.ControlBase().set_cond_hint(hint)


def told_control(hint):
    """A control object in the way of Advanced-ControlNet: it is told its images, and replaces methods."""
    control = fake_control(hint)
    control.sub_idxs, control.full_latent_length, control.context_length = None, 0, 0

    def hints(self):
        return [self.cond_hint_original.flatten().tolist()[i] for i in self.sub_idxs or ()]

    control.hints = hints.__get__(control)
    return control


def test_controls_that_accept_image_numbers_get_them():
    control = told_control(torch.arange(6.0).reshape(6, 1, 1, 1))
    parts = ControlParts()
    part = parts.part(control, range(2, 6), 6)
    assert part.hints() == [2, 3, 4, 5] and part.full_latent_length == 6
    assert parts.part(control, range(2, 6), 6) is part
    assert ControlParts().part(part, range(1, 3), 4).hints() == [3, 4]  # a part of a part
    assert control.hints() == [] and control.sub_idxs is None
    one = told_control(torch.ones(1, 1, 1, 1))
    assert ControlParts().part(one, range(2, 6), 6).hints() == [1, 1, 1, 1]


OWN_HINTS = {
    "a hint for each image": random(BATCH, 64, 8, 8),
    "hints in turn": random(3, 64, 8, 8),
    "a list": list(random(BATCH, 1, 64, 8, 8)),
    "within": {"pictures": {"pictures": random(BATCH, 64, 8, 8)}, "names": ["a", "b", "c", "d"]},
    "an object": SimpleNamespace(pictures=random(BATCH, 64, 8, 8)),
    "another control object": comfy.controlnet.ControlBase().set_cond_hint(random(3, 64, 8, 8)),
}


@pytest.mark.parametrize("kind", OWN_HINTS)
def test_hints_in_attributes_of_other_packs_are_kept(kind, model):
    def prompts():
        positive = with_options(prompt(1), control=own_control(OWN_HINTS[kind]))
        return with_options(positive, control_apply_to_uncond=True), prompt(2)

    latent = {**empty_latent(BATCH), "batch_index": list(range(BATCH))}
    expected = assert_parts_draw_the_same(model, *prompts(), latent=latent)
    group = Group([2, 3], BATCH, "Node", "cure").of_model(model)
    assert_same(draw(group, *prompts(), latent=latent), expected[2:], 1e-4)


def test_what_a_control_object_holds_for_other_ends_stays_whole():
    control = own_control(torch.ones(1, 64, 8, 8))
    control.weights, control.table = {"a": torch.ones(4, 4, 3, 3)}, torch.ones(77, 768)
    control.numbers, control.scale = [1.0] * BATCH, torch.ones(BATCH)
    assert ControlParts().part(control, range(2), BATCH) is control


def test_objects_that_hold_each_other_are_cut():
    control = own_control(comfy.controlnet.ControlBase().set_cond_hint(random(BATCH, 64, 8, 8)))
    control.own.owner = control
    control.table = {"self": control}
    control.table["table"] = control.table
    part = ControlParts().part(control, range(2), BATCH)
    assert len(part.own.cond_hint_original) == 2 and len(control.own.cond_hint_original) == BATCH


def test_controls_that_treat_all_images_alike_are_shared():
    for hint in (torch.ones(1, 3, 8, 8), None):
        control = fake_control(hint)
        assert ControlParts().part(control, range(2), 4) is control


# ---- what may not be taken apart


@pytest.mark.parametrize(
    "dimensions, shape, expected",
    [
        (2, (8, 4, 16, 16), True),
        (1, (8, 64, 100), True),  # sound
        (2, (8, 1, 4096), False),  # several latents in one
        (3, (8, 1, 4096), False),
        (3, (8, 16, 1, 16, 16), True),  # images of a model of video
        (3, (8, 16, 5, 16, 16), False),
    ],
)
def test_films_and_packed_latents_are_sent_whole(dimensions, shape, expected):
    inner = SimpleNamespace(
        latent_format=SimpleNamespace(latent_dimensions=dimensions),
        model_config=SimpleNamespace(unet_config={}),
    )
    assert separable(inner, shape) is expected
    inner.model_config.unet_config = {"use_temporal_attention": True}
    assert separable(inner, shape) is False


def test_conditioning_for_the_whole_batch():
    image = [None, [{"model_conds": {"c_crossattn": 1}}], []]
    assert not is_film(image, {"uuids": []})
    assert is_film(image, {"ad_params": {}})
    assert is_film([*image, [{"model_conds": {"num_video_frames": 1}}]], {})


@pytest.mark.parametrize("kind", ["AnimateDiff", "SVD"])
def test_the_frames_of_one_film_are_sent_whole(kind, model, monkeypatch):
    watching, asked = watched(micro_batched(model, 2))
    if kind == "SVD":
        config = model.model.model_config.unet_config
        monkeypatch.setitem(config, "use_temporal_attention", True)
    else:
        watching.model_options["transformer_options"]["ad_params"] = {}
    assert torch.equal(draw(watching, steps=1), draw(model, steps=1))
    assert [a.images for a in asked] == [2 * BATCH]


def test_every_kind_of_conditioning_gives_each_image_what_the_whole_batch_gives_it():
    area = (2, 4, 1, 0)
    kinds = [
        conds.CONDNoiseShape(random(BATCH, 3, 8, 8)),
        conds.CONDNoiseShape(random(3, 3, 8, 8)),
        conds.CONDRegular(random(7, 5)),
        conds.CONDCrossAttn(random(1, 7, 5)),
        conds.CONDList([random(1, 5), random(2, 5), random(BATCH, 5)]),
        conds.CONDConstant(random(BATCH, 5)),
        conds.CONDConstant(3),
    ]
    for cond in kinds:
        whole = cond.process_cond(batch_size=BATCH, area=area).cond
        for rows in (range(0, 3), range(3, 4)):
            part = cond_part("c_concat", cond, rows)
            assert type(part) is type(cond)
            given = part.process_cond(batch_size=len(rows), area=area).cond
            if isinstance(cond, conds.CONDConstant):
                assert given is whole
            else:
                pairs = (
                    [(given, whole)] if torch.is_tensor(whole) else zip(given, whole, strict=True)
                )
                assert all(torch.equal(g, w[rows.start : rows.stop]) for g, w in pairs)


# ---- good behaviour


def test_caches_that_go_by_the_prompt_keep_parts_apart(model):
    """Core's EasyCache, made to skip whenever it can: by prompt and part, it skips the same steps."""
    cached = EasyCacheNode.execute(model, 1e9, 0.1, 0.9, False).result[0]
    expected = draw(cached, steps=8)
    assert_same(draw(micro_batched(cached, 2), steps=8), expected)
    assert not torch.allclose(draw(model, steps=8), expected, rtol=0.01)  # it did skip


def test_core_is_asked_for_the_memory_of_a_part(model, monkeypatch):
    """Or it would take weights off a small card to make room for a batch that never comes."""
    estimated, original = [], comfy.sampler_helpers.estimate_memory

    def spy(model, noise_shape, *args):
        estimated.append(list(noise_shape))
        return original(model, noise_shape, *args)

    monkeypatch.setattr(comfy.sampler_helpers, "estimate_memory", spy)
    for size in (0, 2, 100):
        draw(guided(model, micro_batch=size))
    assert estimated == [[BATCH, 4, 8, 8], [2, 4, 8, 8], [BATCH, 4, 8, 8]]


def test_inputs_stay_as_they_are(model):
    given = controlled(net(model), BATCH, (prompt(1, batch=2) + regions(), prompt(2)))
    before = draw(model, *given)
    options, wrappers = repr(model.model_options), repr(model.wrappers)
    seen = copy.deepcopy([[t, {k: v for k, v in o.items() if k != "control"}] for t, o in given[0]])
    controls = [dict(vars(o["control"])) for _, o in given[0]]
    draw(guided(model, micro_batch=3), *given)
    assert (repr(model.model_options), repr(model.wrappers)) == (options, wrappers)
    for (tokens, now), (tokens_then, then), control in zip(given[0], seen, controls, strict=True):
        assert torch.equal(tokens, tokens_then) and now.keys() - {"control"} == then.keys()
        for name, value in then.items():
            assert torch.equal(now[name], value) if torch.is_tensor(value) else now[name] == value
        assert all(vars(now["control"])[name] is value for name, value in control.items())
    assert torch.equal(draw(model, *given), before)


def test_no_part_outlives_a_run(model, monkeypatch):
    made, alive, original = [], weakref.WeakSet(), control_parts.control_part

    def counted(*args):
        part = original(*args)
        made.append(1)
        alive.add(part)
        return part

    monkeypatch.setattr(control_parts, "control_part", counted)
    candidate = micro_batched(model, 3)
    draw(candidate, *controlled(net(model), BATCH), steps=1)
    gc.collect()
    assert len(made) == 2 and len(alive) == 0


def test_an_interrupt_between_parts_stops_the_run_and_leaves_nothing_behind(model):
    expected, calls = draw(guided(model, micro_batch=1)), []

    def interrupt(executor, *args, **kwargs):
        calls.append(1)
        result = executor(*args, **kwargs)
        if len(calls) == 6:  # the second part of the second step
            comfy.model_management.interrupt_current_processing()
        return result

    stopped = model.clone()
    stopped.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "interrupt", interrupt)
    stopped = guided(stopped, micro_batch=1)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        draw(stopped)
    assert len(calls) == 6
    calls.clear()
    calls.extend([0] * 10)
    assert torch.equal(draw(stopped), expected)
