"""Patches with which an image depends on the others of its batch: recognized, and not split."""

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache

import comfy.model_management
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel
from mmd_pack.nodes.host.coupled_images import kept_between_calls, may_keep
from mmd_pack.nodes.host.groups import Group
from mmd_pack.nodes.host.micro_batch import micro_batched
from mmd_pack.nodes.host.trial import Trial, modules_tried
from mmd_tests.support.guided_runs import core_draw, guided_draw, make_references
from mmd_tests.support.tiny_models import (
    empty_latent,
    family_latent,
    family_prompt,
    prompt,
    tiny_family,
    tiny_model,
)

pytestmark = pytest.mark.comfy

BATCH, SIDE = 4, 12
Attention = Callable[..., tuple[torch.Tensor, ...]]
model_of = cache(tiny_model)


def draw(model: ModelPatcher) -> torch.Tensor:
    return core_draw(model, empty_latent(BATCH, side=SIDE), "euler", 3, prompt(1), prompt(2))


def images(tensor: torch.Tensor, options: dict) -> torch.Tensor:
    """A row for each image of each prompt."""
    return tensor.unflatten(0, (len(options["cond_or_uncond"]), -1))


def to_the_first(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> tuple:
    """As StyleAligned: each image also attends to the first one."""
    first = [images(t, options)[:, :1].expand_as(images(t, options)).flatten(0, 1) for t in (k, v)]
    return q, torch.cat([k, 2 * first[0]], 1), torch.cat([v, first[1]], 1)


def to_all(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> torch.Tensor:
    """In place of attention: each image attends to all of them."""
    each = images(k, options).shape[1]
    k, v = (images(t, options).flatten(1, 2).repeat_interleave(each, 0) for t in (2 * k, 3 * v))
    return optimized_attention(q, k, v, heads=options["n_heads"])


def later(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> tuple:
    """From the second step on."""
    return (q, k, v) if options["sigmas"][0] > 10 else to_the_first(q, k, v, options)


def by_itself(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> tuple:
    """With random numbers, and sharper attention: no image sees another one."""
    return q * (1 + torch.rand(())), k, v.flip(1)


def patched(attention: Attention) -> ModelPatcher:
    model = model_of().clone()
    if attention is to_all:
        for block in ("input", "middle", "output"):
            for number in range(6):
                model.set_model_attn1_replace(attention, block, number)
    else:
        model.set_model_attn1_patch(attention)
    return model


def pictures(model: ModelPatcher) -> ModelPatcher:
    """As IP-Adapter: a picture for each image, in place of attention to the prompt."""

    class Adapter:
        def __init__(self) -> None:
            generator = torch.Generator().manual_seed(0)
            pictures = torch.randn(BATCH, 1, 1, generator=generator) * 5
            self.kwargs = [{"ipadapter": object(), "cond": pictures, "unfold_batch": True}]

        def __call__(
            self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict
        ) -> torch.Tensor:
            cond = self.kwargs[0]["cond"][: images(q, options).shape[1]]
            out = optimized_attention(q, k, v, heads=options["n_heads"])
            return (images(out, options) + cond.to(out)).flatten(0, 1)

    model, adapter = model.clone(), Adapter()
    model.set_model_attn2_replace(adapter, "middle", 0)
    return model


def masks(model: ModelPatcher) -> ModelPatcher:
    """Attention to the prompt with a mask for each image, which the patch knows from outside."""
    generator = torch.Generator().manual_seed(0)
    held = {"masks": [torch.rand(BATCH, 1, 1, generator=generator) * 4]}

    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> torch.Tensor:
        out = images(optimized_attention(q, k, v, heads=options["n_heads"]), options)
        return (out * held["masks"][0][: out.shape[1]]).flatten(0, 1)

    model = model.clone()
    model.set_model_attn2_replace(masked, "middle", 0)
    return model


COUPLED = {
    "the first image": lambda: patched(to_the_first),
    "all images": lambda: patched(to_all),
    "later": lambda: patched(later),
    "a picture for each image": lambda: pictures(model_of()),
    "a mask for each image": lambda: masks(model_of()),
    "Self-Attention Guidance": lambda: SelfAttentionGuidance.execute(model_of(), 0.8, 2.0)[0],
}


@pytest.mark.parametrize("kind", COUPLED)
def test_coupled_images_are_not_split(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """They are drawn as without micro_batch, and the user is told why, once."""
    model = COUPLED[kind]()
    whole = draw(model)
    assert (whole - draw(model_of())).abs().max() > 1e-4
    told = []
    with caplog.at_level(logging.WARNING):
        for size in (1, 3):
            told.clear()
            torch.testing.assert_close(draw(micro_batched(model, size, told.append)), whole)
            assert len(told) == 1 and "micro_batch has no effect, because " in told[0]
    assert told[0] in caplog.text


@pytest.mark.parametrize("kind", [name for name in COUPLED if name != "Self-Attention Guidance"])
def test_coupled_images_are_not_drawn_in_groups(kind: str) -> None:
    """Self-Attention Guidance keeps what it needs within each run."""
    group = Group([0, 1], BATCH, "Node", "cure")
    with pytest.raises(ValueError, match="Node: this batch cannot be drawn in parts, .*: cure"):
        draw(group.of_model(COUPLED[kind]()))


def test_patches_that_couple_nothing_are_split_and_tried_without_a_trace() -> None:
    """Also random numbers go on as if nothing had been tried."""
    state = []

    def ending(model: ModelPatcher) -> torch.Tensor:
        drawn = draw(model)
        state.append(torch.random.get_rng_state())
        return drawn

    told = []
    random_numbers = micro_batched(patched(by_itself), 2, told.append)
    first = ending(random_numbers)
    original, Trial.couples = Trial.couples, lambda self, *args, **kwargs: False
    try:
        assert torch.equal(ending(random_numbers), first)
    finally:
        Trial.couples = original
    assert not told and torch.equal(*state)
    merged = TomePatchModel.execute(model_of(), 0.5)[0]
    draw(micro_batched(merged, 2, told.append))  # keeps something, but within a call
    assert not told


def test_a_patch_that_does_not_work_on_two_images_still_draws() -> None:
    def only_whole(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> tuple:
        if images(q, options).shape[1] != 4:
            raise RuntimeError("another batch")
        return q, k, v

    told = []
    model = micro_batched(patched(only_whole), 4, told.append)
    latent = empty_latent(8, side=SIDE)
    assert core_draw(model, latent, "euler", 1, prompt(1), prompt(2)).isfinite().all()
    assert not told


def test_the_report_names_what_was_not_split() -> None:
    references = make_references(shape=(4, SIDE, SIDE))
    _, _, report = guided_draw(
        patched(to_the_first), references, empty_latent(8, side=SIDE), steps=2, micro_batch=2
    )
    assert (
        "micro_batch has no effect, because the images of a batch share their attention" in report
    )


# ---- whole blocks of transformers


def draw_family(family: str, model: ModelPatcher) -> torch.Tensor:
    prompts = family_prompt(family, 1), family_prompt(family, 2)
    return core_draw(model, family_latent(family, BATCH), "euler", 3, *prompts)


def with_block(family: str, change: Callable[[torch.Tensor], torch.Tensor]) -> ModelPatcher:
    """The model, whose first blocks work on changed images."""

    def block(given: dict, extra: dict) -> dict:
        return extra["original_block"]({**given, "img": change(given["img"])})

    model = tiny_family(family).clone()
    for kind in ("double_block", "single_block"):
        model.set_model_patch_replace(block, "dit", kind, 0)
    return model


def with_mean(images: torch.Tensor) -> torch.Tensor:
    return images + 3 * images.mean(0, keepdim=True)


@pytest.mark.parametrize("family", ["Flux", "SD3", "WAN21_T2V"])
def test_blocks_that_couple_images_are_recognized(family: str) -> None:
    """As Block Patcher's shared keys and values; blocks that do not are split."""
    model, told = with_block(family, with_mean), []
    whole = draw_family(family, model)
    torch.testing.assert_close(draw_family(family, micro_batched(model, 1, told.append)), whole)
    assert len(told) == 1 and "share their attention" in told[0]
    with pytest.raises(ValueError, match="cannot be drawn in parts"):
        draw_family(family, Group([0, 1], BATCH, "Node", "cure").of_model(model))
    model, told = with_block(family, lambda images: 2 * images), []
    parts = draw_family(family, micro_batched(model, 1, told.append))
    torch.testing.assert_close(parts, draw_family(family, model), rtol=1e-3, atol=1e-3)
    assert not told


# ---- modules whose `forward` is replaced


@pytest.fixture
def norms() -> Iterator[list[torch.nn.Module]]:
    """The first norm of each block of the network; what a test does to them is undone."""
    blocks = [m for m in model_of().model.diffusion_model.modules() if hasattr(m, "norm1")]
    changed = [m.norm1 for m in blocks]
    yield changed
    for module in changed:
        vars(module).pop("forward", None)


def shared_norm(module: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """As StyleAligned shares norms: all images of a prompt are normalized together."""
    forward = module.forward

    def shared(x: torch.Tensor) -> torch.Tensor:
        prompts = x.unflatten(0, (2, -1))  # with and without the prompt
        return forward((prompts + prompts.mean(1, keepdim=True)).flatten(0, 1))

    return shared


def test_modules_that_couple_images_are_recognized(norms: list[torch.nn.Module]) -> None:
    plain = draw(model_of())
    for module in norms:
        module.forward = shared_norm(module)
    told, whole = [], draw(model_of())
    assert (whole - plain).abs().max() > 1e-4
    torch.testing.assert_close(draw(micro_batched(model_of(), 1, told.append)), whole)
    assert len(told) == 1 and "share their attention" in told[0]
    with pytest.raises(ValueError, match="cannot be drawn in parts"):
        draw(Group([0, 1], BATCH, "Node", "cure").of_model(model_of()))


class Norm(torch.nn.Module):
    """A module that a pack puts in place of one of the network."""

    def __init__(self, inner: torch.nn.Module, share: float) -> None:
        super().__init__()
        self.inner, self.share = inner, share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        prompts = x.unflatten(0, (2, -1))
        return self.inner((prompts + self.share * prompts.mean(1, keepdim=True)).flatten(0, 1))


class NormOfItsOwn(Norm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inner(x)


def with_norms(make: Callable[[torch.nn.Module], torch.nn.Module]) -> ModelPatcher:
    comfy.model_management.unload_all_models()  # takes the modules of other tests away
    model = model_of().clone()
    for name, module in model.model.named_modules():
        if hasattr(module, "norm1"):
            model.add_object_patch(f"{name}.norm1", make(module.norm1))
    return model


def test_modules_of_other_classes_that_couple_images_are_recognized() -> None:
    model, told = with_norms(lambda norm: Norm(norm, 1.0)), []
    whole = draw(model)
    torch.testing.assert_close(draw(micro_batched(model, 1, told.append)), whole)
    assert len(told) == 1 and "share their attention" in told[0]
    with pytest.raises(ValueError, match="cannot be drawn in parts"):
        draw(Group([0, 1], BATCH, "Node", "cure").of_model(model))


def test_modules_of_other_classes_that_couple_nothing_are_split() -> None:
    model, told = with_norms(lambda norm: NormOfItsOwn(norm, 0.0)), []
    parts = draw(micro_batched(model, 1, told.append))
    torch.testing.assert_close(parts, draw(model), rtol=1e-3, atol=1e-3)
    assert not told


def test_layers_of_other_formats_are_not_tried() -> None:
    class Quantized(torch.nn.Linear):
        pass

    class Shared(torch.nn.Module):
        pass

    layer, other, modules = Quantized(2, 2), Shared(), torch.nn.Sequential
    with modules_tried(modules(layer, modules(other)), []):
        assert not layer._forward_pre_hooks and other._forward_pre_hooks
    assert not other._forward_pre_hooks


def test_compiled_modules_are_not_tried() -> None:
    """They would be compiled anew, for two images."""
    compiled = torch.compile(torch.nn.Linear(2, 2), backend="eager")
    with modules_tried(torch.nn.Sequential(compiled), []):
        assert not compiled._forward_pre_hooks


def test_modules_that_are_changed_image_by_image_are_split(norms: list[torch.nn.Module]) -> None:
    for module in norms:
        module.forward = lambda x, forward=module.forward: 2 * forward(x)
    told, whole = [], draw(model_of())
    parts = draw(micro_batched(model_of(), 1, told.append))
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3)
    assert not told
    assert not any(module._forward_pre_hooks for module in norms)


# ---- functions around the model that keep something from call to call


class Residual:
    """As a cache: each second call repeats what the call before it added."""

    def __init__(self) -> None:
        self.calls, self.added, self.noise = 0, None, 0.0

    def __call__(self, call: Callable[..., torch.Tensor], given: dict) -> torch.Tensor:
        x, level = given["input"], given["timestep"]
        if level[0] > self.noise:
            self.calls = 0
        self.noise, self.calls = float(level[0]), self.calls + 1
        if self.calls % 2:
            self.added = call(x, level, **given["c"]) - x
        return x + self.added


def nonlocal_residual() -> Callable[..., torch.Tensor]:
    state = Residual()

    def around(call: Callable[..., torch.Tensor], given: dict) -> torch.Tensor:
        return state(call, given)

    return around


def counting() -> Callable[..., torch.Tensor]:
    calls = 0

    def around(call: Callable[..., torch.Tensor], given: dict) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return call(given["input"], given["timestep"], **given["c"]) * (1 + 0.1 * calls)

    return around


def within() -> Callable[..., torch.Tensor]:
    def around(call: Callable[..., torch.Tensor], given: dict) -> torch.Tensor:
        with nullcontext():  # changes of the network
            return call(given["input"], given["timestep"], **given["c"])

    return around


def plainly(call: Callable[..., torch.Tensor], given: dict) -> torch.Tensor:
    return 0.9 * call(given["input"], given["timestep"], **given["c"])


@pytest.mark.parametrize("make", [Residual, nonlocal_residual, counting, within])
def test_what_may_be_kept_from_call_to_call_is_not_mixed(make: Callable) -> None:
    """As TeaCache, DeepCache and WaveSpeed: the next call would be for other images."""

    def wrapped() -> ModelPatcher:
        model = model_of().clone()
        model.set_model_unet_function_wrapper(make())
        return model

    told = []
    torch.testing.assert_close(draw(micro_batched(wrapped(), 1, told.append)), draw(wrapped()))
    assert len(told) == 1 and "from one call to the next" in told[0]


def test_functions_of_comfyui_around_the_model_take_care() -> None:
    """As torch.compile, which puts compiled modules in place of the network's for each call."""
    model = model_of().clone()
    set_torch_compile_wrapper(model, backend="eager")
    cached = EasyCacheNode.execute(model, 0.1, 0.1, 0.9, False)[0]
    assert kept_between_calls(cached, cached.model_options) is None
    cached.set_model_unet_function_wrapper(Residual())
    assert kept_between_calls(cached, cached.model_options) is not None


def test_functions_that_know_themselves_or_nothing_yet_are_read() -> None:
    def first(n: int) -> int:
        return second(n - 1) if n else later

    def second(n: int) -> int:
        return first(n - 1) if n else 0

    assert not may_keep(first)
    later = 1
    assert first(0) == later


def test_a_function_around_the_model_that_keeps_nothing_is_split() -> None:
    sizes, told = [], []

    def watch(executor: Callable, x: torch.Tensor, *args: object, **options: object) -> object:
        sizes.append(len(x))
        return executor(x, *args, **options)

    model = model_of().clone()
    model.set_model_unet_function_wrapper(plainly)
    whole = draw(model)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    parts = draw(micro_batched(model, 1, told.append))
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3)
    assert max(sizes) == 2 and not told  # one image, with and without the prompt
