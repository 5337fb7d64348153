"""Adapters against merged weights, and their files."""

import copy

import pytest
import torch
from mmd_pack.mmd_core.ddm import LoRA, layers
from mmd_tests.support.small_networks import (
    Transformer,
    adapted,
    filled,
    frozen,
    picture,
)
from torch import nn

F64 = torch.float64


class Single(nn.Module):
    """A network of one layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = frozen(layer)

    def forward(self, x):
        return self.layer(x)


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "linear of tokens": (lambda: nn.Linear(6, 4, bias=False), (3, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (2, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 8, 9)),
    "conv2d, same": (lambda: nn.Conv2d(3, 4, (3, 5), padding="same", dilation=2), (2, 3, 8, 9)),
    "conv2d, 1 by 1": (lambda: nn.Conv2d(3, 4, 1, bias=False), (2, 3, 8, 9)),
    "conv2d, uneven": (lambda: nn.Conv2d(3, 4, (1, 3), (2, 1), (0, 2)), (2, 3, 8, 9)),
    "conv2d, patches": (lambda: nn.Conv2d(3, 4, 2, stride=2), (2, 3, 8, 6)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 3, stride=(1, 2, 2), padding=1), (2, 3, 3, 6, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_is_the_merged_weight(name, rng):
    """W + alpha / r · up · down, and the gradients of up and down through it."""
    make, shape = LAYERS[name]
    network = Single(make())
    x = torch.randn(shape, generator=rng, dtype=F64)
    plain = network(x)
    lora = filled(LoRA(network, ["layer"], rank=2, alpha=3.0), rng)
    adapter = lora.adapters["layer"].double()
    merged = copy.deepcopy(network.layer)
    merged._forward_hooks.clear()
    down, up = (f.detach().clone().requires_grad_() for f in (adapter.down, adapter.up))
    weight = merged.weight + 1.5 * (up.flatten(1) @ down.flatten(1)).reshape(merged.weight.shape)
    expected = torch.func.functional_call(merged, {"weight": weight}, (x,))
    found = network(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert (found - plain).abs().max() > 0.1
    for one, other in zip(
        torch.autograd.grad(found.sin().sum(), (adapter.down, adapter.up)),
        torch.autograd.grad(expected.sin().sum(), (down, up)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_begins_as_the_network_and_can_be_switched_off(name, rng):
    make, shape = LAYERS[name]
    network = Single(make())
    x = torch.randn(shape, generator=rng, dtype=F64)
    plain = network(x)
    lora = LoRA(network, ["layer"], rank=2, alpha=2.0)
    assert torch.equal(network(x), plain)
    assert not lora.adapters["layer"].up.any() and lora.adapters["layer"].down.any()
    filled(lora, rng)
    assert not torch.equal(network(x), plain)
    with lora.set_active(False):
        assert torch.equal(network(x), plain)
        with lora.set_active(True):
            assert not torch.equal(network(x), plain)
        assert torch.equal(network(x), plain)
    with pytest.raises(KeyError), lora.set_active(False):
        raise KeyError
    assert lora.active
    lora.remove()
    assert torch.equal(network(x), plain) and not network.layer._forward_hooks


def test_works_in_the_precision_of_the_network(rng):
    network = Single(nn.Linear(6, 4)).bfloat16()
    filled(LoRA(network, ["layer"], rank=2, alpha=2.0), rng)
    assert network(torch.randn(3, 6, generator=rng).bfloat16()).dtype == torch.bfloat16


# ---- which layers


def test_targets():
    network = Transformer(depth=1)
    attention = ["attn.qkv", "attn.proj"]
    mlp = ["ff.0", "ff.2"]

    def named(parts):
        return {f"{block}.{part}" for block in ("blocks.0", "middle.0.0") for part in parts}

    assert set(layers(network, "attention")) == named(attention)
    assert set(layers(network, "attention+mlp")) == named(attention + mlp)
    assert set(layers(network, "all")) == named(attention + mlp) | {"embed", "final"}


@pytest.mark.parametrize(
    "name", ["b.0.attn1.to_q", "b.0.attn2.to_out.0", "j.x_block.attn.qkv",
             "double_blocks.1.img_attn.proj",
             "blocks.3.self_attn.k", "layers.0.attention.wq"],
)  # fmt: skip
def test_names_of_attention(name):
    assert layers(named(name), "attention") == [name]


@pytest.mark.parametrize(
    "name", ["b.0.ff.net.0.proj", "double_blocks.1.img_mlp.0", "blocks.3.ffn.2",
             "layers.0.feed_forward.w1"]
)  # fmt: skip
def test_names_of_mlps(name):
    assert layers(named(name, "attn"), "attention+mlp") == [name, "attn"]
    assert layers(named(name, "attn"), "attention") == ["attn"]


def named(*names):
    """A network with attention, MLP and other layers."""
    network = nn.Module()
    for name in (*names, "proj_in", "time_embed.0", "off", "diff.out"):
        part = network
        *path, last = name.split(".")
        for step in path:
            if not hasattr(part, step):
                part.add_module(step, nn.Module())
            part = getattr(part, step)
        part.add_module(last, nn.Linear(2, 2))
    return network


def test_what_has_no_adapter():
    network = nn.Module()
    network.parts = nn.ModuleList(
        [nn.Conv2d(4, 4, 3, groups=2), nn.Embedding(3, 4), nn.LayerNorm(4), nn.GroupNorm(2, 4),
         nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
         nn.Linear(4, 4)]
    )  # fmt: skip
    assert layers(network, "all") == ["parts.6"]


def test_no_layer_is_an_error():
    with pytest.raises(ValueError, match="no layer .* attention: set targets to all"):
        layers(nn.Sequential(nn.Linear(2, 2)), "attention")
    with pytest.raises(ValueError, match="unknown targets 'some': choose one of all, "):
        layers(nn.Linear(2, 2), "some")


# ---- files


def test_names_and_shapes_of_a_file(rng):
    network, lora = adapted(rng, depth=1)
    state = lora.state_dict()
    names = layers(network, "all")
    ends = ("lora_down.weight", "lora_up.weight", "alpha")
    assert set(state) == {f"net.{name}.{end}" for name in names for end in ends}
    assert state["net.embed.lora_down.weight"].shape == (2, 3, 2, 2)
    assert state["net.embed.lora_up.weight"].shape == (8, 2, 1, 1)
    assert state["net.blocks.0.attn.qkv.lora_down.weight"].shape == (2, 8)
    assert state["net.blocks.0.attn.qkv.lora_up.weight"].shape == (24, 2)
    assert state["net.final.alpha"].shape == () and state["net.final.alpha"] == 2.0
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in state.values())
    zeros = lora.state_dict([torch.zeros_like(v) for v in lora.values()])
    assert not zeros["net.final.lora_up.weight"].any() and state["net.final.lora_up.weight"].any()
    assert list(zeros) == list(state)


def test_copies_stay_what_they_were(rng):
    _, lora = adapted(rng, depth=1)
    values, state = lora.values(), lora.state_dict()
    before = [v.clone() for v in values], {name: t.clone() for name, t in state.items()}
    lora.put([v + 1 for v in values])
    assert all(map(torch.equal, values, before[0]))
    assert all(torch.equal(state[name], before[1][name]) for name in state)


def test_round_trip(rng):
    """The loaded rank and alpha replace those of the new adapters."""
    network, lora = adapted(rng)
    x = picture(rng)
    with torch.no_grad():
        lora.put([v.float().to(v) for v in lora.values()])  # what a file can hold
    again = Transformer()
    other = LoRA(again, layers(again, "all"), 7, 9.0, 5, lora.state_dict(), "net.")
    for adapter in other.adapters.values():
        adapter.double()
    assert (other.rank, other.alpha) == (2, 2.0)
    torch.testing.assert_close(again(x), network(x), rtol=1e-12, atol=1e-12)
    assert all(map(torch.equal, other.state_dict().values(), lora.state_dict().values()))


def test_a_file_with_an_alpha_of_its_own(rng):
    network = Single(nn.Linear(6, 4))
    lora = filled(LoRA(network, ["layer"], 4, 1.0), rng)
    state = lora.state_dict()
    x = torch.randn(3, 6, generator=rng, dtype=F64)
    found = network(x)
    lora.remove()
    again = LoRA(network, ["layer"], 2, 2.0, initial=state)
    assert (again.rank, again.alpha) == (4, 1.0)
    torch.testing.assert_close(network(x), found)
    again.remove()
    del state["layer.alpha"]  # then it is the rank
    assert LoRA(network, ["layer"], 2, 2.0, initial=state).alpha == 4.0


def test_flat_factors_of_convolutions_fit(rng):
    network = Single(nn.Conv2d(3, 4, 3))
    lora = filled(LoRA(network, ["layer"], 2, 2.0), rng)
    x, state = picture(rng), lora.state_dict()
    found = network(x)
    lora.remove()
    flat = {name: t.flatten(1) if t.ndim else t for name, t in state.items()}
    LoRA(network, ["layer"], 2, 2.0, initial=flat)
    torch.testing.assert_close(network(x), found)


def change(name):
    """Changes a file that fits so that it does not."""

    def less(state):
        del state["net.final.lora_down.weight"]

    def no_up(state):
        del state["net.final.lora_up.weight"]

    def more(state):
        state["net.other.lora_down.weight"] = torch.zeros(2, 8)

    def mixed_ranks(state):
        state["net.final.lora_down.weight"] = torch.zeros(3, 8)

    def mixed_alphas(state):
        state["net.final.alpha"] = torch.tensor(1.0)

    def width(state):
        state["net.final.lora_up.weight"] = torch.zeros(5, 2)

    def nothing(state):
        state.clear()

    return locals()[name]


@pytest.mark.parametrize(
    "name", ["less", "no_up", "more", "mixed_ranks", "mixed_alphas", "width", "nothing"]
)
def test_a_file_that_does_not_fit_is_an_error(name, rng):
    network, lora = adapted(rng, depth=1)
    state = lora.state_dict()
    change(name)(state)
    other = Transformer(depth=1)
    with pytest.raises(ValueError, match="the existing LoRA"):
        LoRA(other, layers(other, "all"), 2, 2.0, initial=state, prefix="net.")


def test_seeds(rng):
    one, same, other = (
        LoRA(Single(nn.Linear(6, 4)), ["layer"], 2, 2.0, seed).values()[0] for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
