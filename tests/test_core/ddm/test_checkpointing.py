"""Gradients with checkpointed blocks, against those without."""

import weakref

import pytest
import torch
from mmd_pack.mmd_core.ddm import checkpointed
from mmd_tests.support.small_networks import Block, adapted, picture


def gradients(network, lora, x, before_backward=lambda: None, **options):
    """The output, and the gradients of the input and all factors."""
    x = x.clone().requires_grad_()
    output = network(x, **options)
    before_backward()
    found = torch.autograd.grad(
        output.sin().sum(), [x, *lora.parameters], allow_unused=True, materialize_grads=True
    )
    return [output.detach(), *found]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other) or (one - other).norm() < 1e-12 * other.norm()


def test_computed_again_is_the_same(rng):
    network, lora = adapted(rng)
    x = picture(rng)
    expected = gradients(network, lora, x)
    with checkpointed(network, lora) as count:
        assert count == 5
        assert_same(gradients(network, lora, x), expected)
        with torch.no_grad():
            assert torch.equal(network(x), expected[0])
    assert all(g.norm() > 0 for g in expected)


def test_adds_up_in_grad(rng):
    """Called as in `adjoint.py`."""
    network, lora = adapted(rng)
    x = picture(rng)
    expected = gradients(network, lora, x)[2:]
    with checkpointed(network, lora):
        for _ in range(2):
            output = network(x)
            torch.autograd.backward(output, output.detach().cos(), inputs=lora.parameters)
    assert_same([p.grad for p in lora.parameters], [2 * e for e in expected])


@pytest.mark.parametrize("within", [False, True])
def test_adapters_are_as_they_were_in_the_forward_pass(within, rng):
    """Switched on or off in between, for the features of the untrained network."""
    network, lora = adapted(rng)
    x = picture(rng)
    with lora.set_active(within):
        expected = gradients(network, lora, x)
    switch = lora.set_active(within)
    with checkpointed(network, lora):
        with switch:
            copied = x.clone().requires_grad_()
            output = network(copied)
        lora.active = not within
        found = torch.autograd.grad(
            output.sin().sum(),
            [copied, *lora.parameters],
            allow_unused=True,
            materialize_grads=True,
        )
        assert lora.active is not within  # also after the second computation
    assert_same([output.detach(), *found], expected)
    assert any(g.any() for g in found[1:]) == within


def test_blocks_that_write_into_dictionaries(rng):
    """Also nested dictionaries: the second computation starts from the same content."""
    network, lora = adapted(rng)
    x = picture(rng)

    def options():
        return {"within": {"seen": 3}}

    expected = gradients(network, lora, x, options=options)
    assert (expected[0] - gradients(network, lora, x)[0]).norm() > 0.1
    with checkpointed(network, lora):
        assert_same(gradients(network, lora, x, options=options), expected)


class Careless(Block):
    """The same block, which overwrites its input."""

    def forward(self, x, options=None, *, extra=None):
        q, k, v = self.attn["qkv"](self.norm(x)).chunk(3, -1)
        x += self.attn["proj"]((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)
        x += self.ff(self.norm(x))
        return x


def test_blocks_that_write_into_what_they_are_given(rng):
    """Like blocks of Flux; without checkpointing, autograd raises an error."""
    network, lora = adapted(rng)
    x = picture(rng)
    expected = gradients(network, lora, x)
    for block in network.blocks:
        block.__class__ = Careless
    with pytest.raises(RuntimeError, match="inplace"):
        gradients(network, lora, x)
    with checkpointed(network, lora):
        assert_same(gradients(network, lora, x), expected)


def test_forward_is_given_back(rng):
    network, lora = adapted(rng)
    own = lambda x, *_, **__: 2 * x  # noqa: E731
    network.blocks[1].forward = own
    with pytest.raises(KeyError), checkpointed(network, lora):
        assert "forward" in network.blocks[0].__dict__
        raise KeyError
    assert "forward" not in network.blocks[0].__dict__
    assert network.blocks[1].forward is own
    assert "forward" not in network.middle[0][0].__dict__
    expected = gradients(network, lora, picture(rng))
    assert all(map(torch.isfinite, (g.sum() for g in expected)))


class Kept:
    """The number of bytes of activations in graphs."""

    def __init__(self, known):
        self.bytes, self.known = 0, {p.untyped_storage().data_ptr() for p in known}

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)

    def _pack(self, tensor):
        if tensor.untyped_storage().data_ptr() not in self.known:
            self.bytes += tensor.numel() * tensor.element_size()
        return tensor


def test_keeps_only_what_blocks_are_given(rng):
    network, lora = adapted(rng, depth=6)
    known = [*network.parameters(), *lora.parameters]
    x = picture(rng)
    with Kept(known) as plain:
        network(x.clone().requires_grad_())
    with checkpointed(network, lora), Kept(known) as again:
        network(x.clone().requires_grad_())
    given = 7 * 2 * 16 * 8 * 8  # seven blocks, of 2 samples with 16 tokens of 8 numbers of 8 bytes
    assert again.bytes + given < 0.1 * plain.bytes


def test_what_was_computed_within_is_gone(rng):
    """Between the passes, and after them."""
    network, lora = adapted(rng)
    seen = []
    network.blocks[0].ff[1].register_forward_hook(lambda *a: seen.append(weakref.ref(a[2])))
    with checkpointed(network, lora):
        output = network(picture(rng))
        assert len(seen) == 1 and seen[0]() is None
        output.sum().backward()
        assert len(seen) == 2 and seen[1]() is None
    network(picture(rng)).sum()
