"""Images of a batch drawn in runs of their own: each uses what it uses in the whole batch."""

from collections.abc import Callable
from functools import cache

import comfy.conds
import comfy.hooks
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from mmd_pack.nodes.host.groups import Group, group_indices
from mmd_pack.nodes.host.micro_batch import micro_batched
from mmd_tests.support.conditionings import controlled, net, t2i_adapter, with_options
from mmd_tests.support.guided_runs import core_draw, guided_draw, make_references
from mmd_tests.support.tiny_models import (
    WIDTH,
    empty_latent,
    family_prompt,
    prompt,
    random,
    tiny_family,
    tiny_model,
)

pytestmark = pytest.mark.comfy

BATCH = 5
Kind = tuple[str, Callable[[ModelPatcher], tuple[list, list]]]
model_of = cache(lambda family: tiny_family(family) if family == "Flux" else tiny_model(family))


def draw(
    model: ModelPatcher, prompts: tuple[list, list], latent: dict, rows: list[int] | None = None
) -> torch.Tensor:
    """Core's KSampler, for the whole batch or for some of its images."""
    if rows is not None:
        model = Group(rows, len(latent["samples"]), "Node", "cure").of_model(model)
    return core_draw(model, latent, "euler", 2, *prompts)


def one_by_one(latent: dict) -> dict:
    return {**latent, "batch_index": list(range(len(latent["samples"])))}


def boxes(count: int) -> torch.Tensor:
    """A mask with another box for each image."""
    masks = torch.zeros(count, 8, 8)
    for i in range(count):
        masks[i, i % 3 : i % 3 + 4, i % 4 : i % 4 + 3] = 1
    return masks


def hooked(seed: int) -> list:
    """A prompt with a LoRA of its own whose strength changes."""
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
    hooks = comfy.hooks.create_hook_model_as_lora({}, {}, 1.0, 1.0)
    hooks.hooks[0].weights = {key: ("diff", (random(128, WIDTH),))}
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(1.0, 0.0))
    frames.add(comfy.hooks.HookKeyframe(0.2, 0.5))
    hooks.set_keyframes_on_hooks(frames)
    return with_options(prompt(seed, batch=2), hooks=hooks)


def two_nets(model: ModelPatcher) -> tuple[list, list]:
    return controlled(net(model), BATCH, controlled(t2i_adapter(), 2), seed=1)


def hints_in_an_area(model: ModelPatcher) -> tuple[list, list]:
    positive, negative = controlled(net(model), 3)
    return positive + with_options(positive, area=(4, 8, 2, 0)), negative


def to_edit(*counts: int) -> list:
    pictures = [random(n, 16, 4, 4, seed=n) * 3 for n in counts]
    return with_options(family_prompt("Flux", 1), reference_latents=pictures)


KINDS: dict[str, Kind] = {
    "hints in turn": ("SD15", lambda m: controlled(net(m), 3)),
    "a hint for each image, T2I": ("SD15", lambda m: controlled(t2i_adapter(), BATCH)),
    "hints of two nets": ("SD15", two_nets),
    "hints in an area": ("SD15", hints_in_an_area),
    "masks for each image": (
        "SD15",
        lambda m: (prompt(1) + with_options(prompt(3), mask=random(BATCH, 8, 8).abs()), prompt(2)),
    ),
    "bounds of all masks": (
        "SD15",
        lambda m: (
            prompt(1) + with_options(prompt(3), mask=boxes(BATCH), set_area_to_bounds=True),
            prompt(2),
        ),
    ),
    "prompts in turn": ("SD15", lambda m: (prompt(1, batch=3), prompt(2, batch=2))),
    "hooks": ("SD15", lambda m: (hooked(1) + prompt(3), prompt(2))),
    "latents to edit": ("Flux", lambda m: (to_edit(BATCH, 2), family_prompt("Flux", 2))),
    "pictures, stretched over the batch": (
        "SD15_instructpix2pix",
        lambda m: (with_options(prompt(1), concat_latent_image=random(2, 4, 8, 8)), prompt(2)),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_groups_draw_what_the_whole_batch_draws(kind: str) -> None:
    """The last group has one image, and comes first."""
    family, prompts = KINDS[kind]
    model = model_of(family)
    latent = one_by_one(empty_latent(BATCH, 16, 4) if family == "Flux" else empty_latent(BATCH))
    whole = draw(model, prompts(model), latent)
    for rows in group_indices(BATCH, 2)[::-1]:
        part = draw(model, prompts(model), latent, rows)
        torch.testing.assert_close(part, whole[rows], rtol=1e-4, atol=1e-4)
    plain = family_prompt("Flux", 1) if family == "Flux" else prompt(1)
    assert not torch.allclose(draw(model, (plain, plain), latent), whole, rtol=0.1)


def test_latents_masks_and_noise_of_the_batch() -> None:
    """Masks in turn, latents of which some are empty, and numbers of noise in any order."""
    latent = {
        "samples": random(BATCH, 4, 8, 8) * torch.tensor([1, 0, 1, 1, 0]).reshape(-1, 1, 1, 1),
        "noise_mask": random(3, 8, 8, seed=1).round().clamp(0, 1),
        "batch_index": [7, 0, 3, 3, 1],
    }
    prompts = prompt(1), prompt(2)
    whole = draw(model_of("SD15"), prompts, latent)
    for rows in ([1, 4], [2]):
        part = draw(model_of("SD15"), prompts, latent, rows)
        torch.testing.assert_close(part, whole[rows], rtol=1e-4, atol=1e-4)


def test_the_sampler_node_keeps_hints_in_groups_of_micro_batches() -> None:
    model, references = model_of("SD15"), make_references()
    positive, _ = controlled(net(model), 3)
    options = {"latent": empty_latent(BATCH), "steps": 2, "positive": positive, "strength": 1e-12}
    whole = guided_draw(model, references, **options)[0]
    parts = guided_draw(model, references, **options, group_size=3, micro_batch=2)[0]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


def test_frames_of_a_film_are_refused_in_words() -> None:
    model = model_of("SD15").clone()
    model.model_options["transformer_options"]["ad_params"] = {}
    with pytest.raises(ValueError, match="Node: .*frames of one video: cure"):
        draw(model, (prompt(1), prompt(2)), empty_latent(4), [0, 1])


def test_conditioning_that_cannot_be_divided_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of("SD15")
    given = model.model.extra_conds
    odd = {"odd": comfy.conds.CONDRegular({"a": torch.zeros(4)})}
    monkeypatch.setattr(model.model, "extra_conds", lambda **options: {**given(**options), **odd})
    prompts, latent = (prompt(1), prompt(2)), empty_latent(4)
    with pytest.raises(ValueError, match=r"Node: .*'odd' \(CONDRegular\) that cannot.*: cure"):
        draw(model, prompts, latent, [0, 1])
    with pytest.raises(ValueError, match="'odd' .*: set micro_batch to 0"):
        draw(micro_batched(model, 2), prompts, latent)


def test_a_batch_index_that_is_too_short_is_refused_in_words() -> None:
    latent = {**empty_latent(4), "batch_index": [5]}
    with pytest.raises(ValueError, match="latent_image has 4 images, but its batch_index only 1"):
        guided_draw(model_of("SD15"), make_references(), latent, group_size=2)
