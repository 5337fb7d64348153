"""Merged references are the mixture of the sets."""

import pytest
import torch
from mmd_pack.mmd_core.kernels.config import KernelConfig
from mmd_pack.mmd_core.kernels.mmd import mmd2, mmd2_grad
from mmd_pack.mmd_core.references.merge import merge
from mmd_pack.mmd_core.references.references import References

SHAPE = (4, 3, 2)


def references(rng, n, shape=SHAPE, weighted=True, **fields):
    """n references about a mean of their own, with weights that differ."""
    latents = torch.randn(n, *shape, generator=rng) + torch.randn(1, *shape, generator=rng)
    weights = torch.rand(n, generator=rng) + 0.1 if weighted else None
    return References(latents, weights, **fields)


def kernel_of(sets, name):
    rows = torch.cat([part.latents for part in sets]).flatten(1)
    rows = rows - rows.mean(0)
    return KernelConfig(name).resolve(rows @ rows.T, rows.shape[1])


@pytest.mark.parametrize("name", ["rbf", "energy", "polynomial"])
@pytest.mark.parametrize("shares", [(70, 30), (0.2, 0.5, 0.3)])
def test_the_gradient_is_the_mixture_of_the_gradients(name, shares, rng):
    """∇MMD²(x, Σ s_k P_k) = Σ s_k ∇MMD²(x, P_k), as shares sum to 1."""
    sets = [references(rng, n) for n in (5, 9, 3)[: len(shares)]]
    x, kernel = torch.randn(6, *SHAPE, generator=rng), kernel_of(sets, name)
    merged = merge(sets, shares)
    expected = sum(
        share / sum(shares) * mmd2_grad(x, part.latents, kernel, part.weights)
        for share, part in zip(shares, sets, strict=True)
    )
    got = mmd2_grad(x, merged.latents, kernel, merged.weights)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["rbf", "laplacian", "linear"])
def test_mmd2_is_that_of_the_mixture(name, rng):
    """MMD²(x, Σ s_k P_k) = Σ s_k MMD²(x, P_k) − Σ_{k<l} s_k s_l MMD²(P_k, P_l)."""
    sets = [references(rng, n, weighted=False) for n in (5, 9)]
    x, kernel = torch.randn(6, *SHAPE, generator=rng), kernel_of(sets, name)
    merged = merge(sets, [7, 3])
    apart = [mmd2(x, part.latents, kernel) for part in sets]
    between = mmd2(sets[0].latents, sets[1].latents, kernel)
    expected = 0.7 * apart[0] + 0.3 * apart[1] - 0.21 * between
    got = mmd2(x, merged.latents, kernel, merged.weights)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_a_set_counts_as_a_whole_and_keeps_its_proportions(rng):
    a, b = references(rng, 3), references(rng, 100)
    merged = merge([a, b], [70, 30])
    torch.testing.assert_close(merged.weights[:3], 0.7 * a.weights)
    torch.testing.assert_close(merged.weights[3:], 0.3 * b.weights)
    assert torch.equal(merged.latents, torch.cat([a.latents, b.latents]))
    torch.testing.assert_close(merge([a, b], [0.7, 0.3]).weights, merged.weights)


def test_merging_in_two_steps_is_the_same(rng):
    a, b, c = (references(rng, n) for n in (3, 4, 5))
    at_once, stepwise = merge([a, b, c], [1, 2, 3]), merge([merge([a, b], [1, 2]), c], [1, 1])
    assert torch.equal(at_once.latents, stepwise.latents)
    torch.testing.assert_close(at_once.weights, stepwise.weights)


def test_a_set_of_share_0_is_not_even_looked_at(rng):
    a, b = references(rng, 3, prompts=torch.ones(3, 2)), references(rng, 4, (9,))
    assert merge([a, b], [1, 0]) is a
    c = references(rng, 2, prompts=torch.ones(2, 2))
    merged = merge([a, b, c], [1, 0, 1])
    assert len(merged) == 5 and merged.prompts is not None


def test_latents_are_put_where_they_stay(rng):
    """No second copy, which a large set would not have room for."""
    made = []

    def allocate(shape):
        made.append(torch.empty(shape))
        return made[-1]

    merged = merge([references(rng, 3), references(rng, 4)], [1, 1], allocate=allocate)
    assert len(made) == 1 and merged.latents.data_ptr() == made[0].data_ptr()


def test_what_belongs_to_references_stays_with_them(rng):
    a = references(rng, 2, names=("x", "y"), captions=("cat", ""), sizes=((8, 9), (7, 6)))
    b = references(rng, 1, names=("z",), captions=("dog",))
    merged = merge([a, b], [1, 1])
    assert merged.names == ("x", "y", "z")
    assert merged.captions == ("cat", "", "dog")
    assert merged.sizes == ((8, 9), (7, 6), (0, 0))


def test_names_get_the_name_of_the_set_only_where_they_repeat(rng):
    a, b = references(rng, 2, names=("x", "y")), references(rng, 1, names=("y",))
    assert merge([a, b], [1, 1]).names == ("a: x", "a: y", "b: y")
    assert merge([a, b], [1, 1], ["red", "blue"]).names == ("red: x", "red: y", "blue: y")


@pytest.mark.parametrize("field, shape", [("prompts", (5,)), ("thumbnails", (3, 3, 2))])
def test_prompts_and_thumbnails_are_kept_if_all_have_alike_ones(field, shape, rng):
    def having(n, shape):
        value = None if shape is None else torch.rand(n, *shape, generator=rng)
        return references(rng, n, **{field: value})

    a, b = having(2, shape), having(3, shape)
    both = getattr(merge([a, b], [1, 1]), field)
    assert torch.equal(both, torch.cat([getattr(a, field), getattr(b, field)]))
    for other in (having(3, None), having(3, (shape[0] + 1, *shape[1:]))):
        assert getattr(merge([a, other], [1, 1]), field) is None
        assert getattr(merge([other, a], [1, 1]), field) is None


@pytest.mark.parametrize("field, one, other, unknown", [
    ("vae", "abc", "def", ""), ("size", (512, 512), (768, 512), (0, 0)),
])  # fmt: skip
def test_vae_and_size_are_kept_if_all_agree(field, one, other, unknown, rng):
    def merged(*values):
        return getattr(
            merge([references(rng, 2, **{field: value}) for value in values], [1] * len(values)),
            field,
        )

    assert merged(one, one) == one
    assert merged(one, other) == merged(one, unknown) == merged(unknown, one) == unknown


def test_latents_of_different_shapes_are_refused(rng):
    with pytest.raises(
        ValueError, match=r"a have the shape \(4, 3, 2\), those of c \(9,\): encode"
    ):
        merge([references(rng, 2), references(rng, 2), references(rng, 2, (9,))], [1, 1, 1])


@pytest.mark.parametrize("shares, trouble", [
    ((0, 0), "all shares are 0"), ((1, -1), "share_b must be"), ((float("nan"), 1), "share_a must be"),
    ((1, float("inf")), "share_b must be"),
])  # fmt: skip
def test_shares_have_to_make_sense(shares, trouble, rng):
    with pytest.raises(ValueError, match=trouble):
        merge([references(rng, 2), references(rng, 2)], shares)
