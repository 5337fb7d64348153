"""The worlds of the quality benchmark are what they say, and no picture is on two sides."""

import numpy as np
import pytest
import torch
from mmd_demo.digits import CLASSES
from mmd_demo.drawing import HUES, draw, draw_random
from mmd_demo.judge import total_variation
from mmd_tests.studies.quality import digits_worlds, shapes_worlds
from mmd_tests.studies.quality.worlds import generator, get_case, registry

DIGITS = list(digits_worlds.DIGITS)
SHAPES = list(shapes_worlds.SHAPES)


def rows_of(samples) -> set[bytes]:
    return {row.numpy().tobytes() for row in samples}


def test_every_world_has_its_targets():
    assert list(registry()) == [
        "ring", "latents", "digits", "shapes", "prompt-digits", "prompt-shapes",
    ]  # fmt: skip
    assert sum(len(targets) for targets in registry().values()) == 19


@pytest.mark.parametrize("target", DIGITS)
def test_digits_are_split_in_proportion(target):
    case = get_case("digits", target)
    _, _, others, labels = digits_worlds.digit_data()
    trained = rows_of(digits_worlds.digit_data()[0])
    label_of = {row.numpy().tobytes(): int(c) for row, c in zip(others, labels, strict=True)}
    for seed in (0, 1):
        references = case.draw_references(seed).latents
        held_out, fresh = case.held_out(seed), case.fresh(128, seed)
        assert 30 <= len(references) <= 100 and len(held_out) >= 30 and len(fresh) >= 60
        for samples in (references, held_out):
            counts = np.bincount([label_of[k] for k in map(_key, samples)], minlength=CLASSES)
            assert total_variation(counts / len(samples), case.truth) < 0.03
        # scikit-learn's data holds no picture twice but for a few of the simplest
        assert len(rows_of(references) & rows_of(held_out)) <= 1
        assert rows_of(fresh) <= trained
    assert rows_of(references) != rows_of(case.draw_references(0).latents)


def _key(row) -> bytes:
    return row.numpy().tobytes()


def test_bold_and_thin_are_two_fifths_of_each_class():
    x, x_labels, y, y_labels = digits_worlds.digit_data()
    both, labels = torch.cat([x, y]), torch.cat([x_labels, y_labels])
    for style in (digits_worlds.bold, digits_worlds.thin):
        chosen = style(both, labels)
        for c in range(CLASSES):
            assert chosen[labels == c].float().mean().item() == pytest.approx(0.4, abs=0.02)
    assert not (digits_worlds.bold(both, labels) & digits_worlds.thin(both, labels)).any()
    case = get_case("digits", "bold")
    found = case.proportions(case.held_out(0))
    assert found["TV"] < 0.05 and found["style TV"] < 0.05


def test_prompted_digits_have_a_style_for_each_prompt():
    case = get_case("prompt-digits", "bold 3s, thin 8s")
    references = case.draw_references(0)
    half = len(references) // 2
    assert half >= 20 and references.captions == ("three",) * half + ("eight",) * half
    assert torch.equal(references.prompts[:1], case.features_of_caption("three")[None])
    inks = digits_worlds.ink(references.latents)
    assert inks[:half].mean() > case.style_inks[0] - 0.02
    assert inks[half:].mean() < case.style_inks[1] + 0.02
    ([[tokens, options]], _) = case.prompts(10)
    assert tokens.shape == (10, 1, CLASSES) and options["pooled_output"].shape == (10, CLASSES)
    assert tokens[:, 0].argmax(1).tolist() == [3] * 5 + [8] * 5
    assert not rows_of(case.held_out(0)) & rows_of(case.fresh(128, 0))


@pytest.mark.parametrize("target", SHAPES)
def test_shapes_are_drawn_in_proportion_and_judged_so(target):
    case = get_case("shapes", target)
    references, held_out = case.draw_references(0).latents, case.held_out(0)
    assert len(references) == 64 and len(held_out) == 256
    assert not rows_of(references) & rows_of(held_out)
    found = case.proportions(held_out)
    assert found["hue TV"] < 0.06 and found["kind TV"] < 0.06


def test_wide_outlines_are_wide():
    case = get_case("shapes", "wide outlines")
    usual, *_ = draw_random(256, generator("any"))
    wide, usual = (shapes_worlds.outline_share(x) for x in (case.held_out(0), usual))
    assert wide.nanmean() > 2 * usual.nanmean() and wide.nanquantile(0.1) > usual.nanmedian()


def test_outlines_leave_the_rest_of_a_drawing_as_it_is():
    kind, hue = torch.arange(12) % 3, torch.arange(12) / 2
    first, second = (generator("outline") for _ in range(2))
    plain, outlined = draw(kind, hue, first), draw(kind, hue, second, outline=(0.27, 0.3))
    assert torch.equal(first.get_state(), second.get_state())
    grounds = plain[:, :, 0, 0]
    assert torch.equal(grounds, outlined[:, :, 0, 0]) and not torch.equal(plain, outlined)


def test_prompted_shapes_follow_their_prompts():
    case = get_case("prompt-shapes", "blue triangles, red discs")
    labels = case.labels(case.held_out(0))
    half = len(labels) // 2
    blue_triangle, red_disc = 2 * len(HUES) + 4, 0
    assert (labels[:half] == blue_triangle).mean() > 0.9
    assert (labels[half:] == red_disc).mean() > 0.9


def test_true_samples_have_the_right_variance():
    for name, target in (("digits", "bold"), ("shapes", "blue triangles")):
        case = get_case(name, target)
        found = case.variances(case.fresh(128, 0), case.held_out(0))
        assert all(0.75 < value < 1.3 for value in found.values()), found


@pytest.mark.comfy
@pytest.mark.parametrize("target", ["16384 D, 5% apart", "16384 D, 30% apart"])
def test_latents_of_the_truth_are_right(target):
    case = get_case("latents", target)
    references = case.draw_references(0)
    assert references.latents.shape == (64, 4, 64, 64)
    samples = case.samples(references.latents)
    assert torch.bincount(case.modes(samples), minlength=6).tolist() == [32, 19, 13, 0, 0, 0]
    assert case.fidelity(samples) == 1.0
    assert all(0.9 < v < 1.1 for v in case.variances(samples, samples).values())
    assert torch.allclose(case.latents(samples), references.latents, atol=1e-4)
    # As latents of the model's own space they have variance 1.
    assert case.model.model.process_latent_in(references.latents).std() == pytest.approx(1, rel=0.1)
    assert case.features(samples).std(0)[5:].max() < 1.5


@pytest.mark.comfy
def test_comfyuis_sampler_draws_an_exact_model_as_it_is():
    from mmd_tests.studies.quality.comfyui import start
    from mmd_tests.studies.quality.methods import draw

    start(torch.get_num_threads())
    case = get_case("ring", "8 modes, skewed")
    drawn = draw(
        case, case.draw_references(0), 0, batch=1000, steps=100, config={"strength": 0.0}
    )  # fmt: skip
    counts = torch.bincount(case.modes(drawn.samples), minlength=8) / 1000
    assert total_variation(counts.numpy(), np.full(8, 1 / 8)) < 0.06
    assert case.fidelity(drawn.samples) > 0.98
    assert drawn.calls == 100


@pytest.mark.comfy
@pytest.mark.parametrize("method", ["guided", "official", "paper", "best-of-4", "universal"])
def test_every_method_comes_closer_to_the_ring(method):
    from mmd_tests.studies.quality.comfyui import start
    from mmd_tests.studies.quality.evaluate import evaluate, truth_of
    from mmd_tests.studies.quality.methods import METHODS

    start(torch.get_num_threads())
    truth = truth_of("ring", "8 modes, some modes", 0)
    none, found = (
        evaluate(truth, METHODS[name].draw(truth.case, truth.given, 0, **METHODS[name].usual))
        for name in ("none", method)
    )
    assert found["MMD2"] < none["MMD2"] / 2 and found["TV"] < none["TV"]
    calls = {"best-of-4": 4 * none["calls"]}.get(method, none["calls"])
    assert found["calls"] == calls


def test_shapes_in_the_corner_are_there_and_others_anywhere():
    case = get_case("corner", "in the corner")
    anywhere = shapes_worlds.places(draw_random(256, generator("any"))[0])
    corner = shapes_worlds.places(case.held_out(0))
    anywhere, corner = (x[x.isfinite().all(1)] for x in (anywhere, corner))
    assert len(anywhere) > 230 and len(corner) > 230
    assert (corner < 0).all(1).float().mean() > 0.98 and corner.mean() < -0.7
    assert (anywhere < 0).all(1).float().mean().item() == pytest.approx(0.25, abs=0.08)
    assert anywhere.std(0).mean().item() == pytest.approx(3**-0.5, abs=0.06)  # uniform
    found = case.proportions(case.held_out(0))
    assert found["hue TV"] < 0.06 and found["kind TV"] < 0.06


def test_places_are_where_shapes_were_drawn():
    """Squares of 4 pixels on dark and on light ground, and none."""
    x = torch.stack([torch.full((3, 32, 32), ground) for ground in (-0.9, 0.8, 0.0)])
    x[0, 0, 4:8, 20:24] = 1
    x[1, :, 30:32, 0:4] = -1
    found = shapes_worlds.places(x)
    expected = torch.tensor([[(22 - 16) / 13, (6 - 16) / 13], [-1, 1]])  # 13 pixels of room
    torch.testing.assert_close(found[:2], expected)
    assert found[2].isnan().all()
