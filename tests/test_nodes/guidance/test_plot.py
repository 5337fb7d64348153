"""MMDPlot and MMDStrengths: what compares settings at a glance."""

import math

import numpy as np
import pytest
import torch
from mmd_pack.mmd_core import GuidanceConfig, KernelConfig
from mmd_pack.nodes.guidance.mmd_plot import MMDPlot, names
from mmd_pack.nodes.guidance.mmd_strengths import MMDStrengths
from mmd_pack.nodes.guidance.run.trace import Trace
from mmd_pack.nodes.pictures.chart import NEUTRAL, Line, bounds, color_of, label, ticks
from mmd_pack.nodes.pictures.lettering import font, length, shortened, wrapped, write
from mmd_tests.support.guided_runs import guided_draw, make_references
from mmd_tests.support.tiny_models import empty_latent, tiny_model
from PIL import Image, ImageDraw

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def drawn():
    """Traces and pictures of three strengths."""
    model, references = tiny_model(), make_references()
    runs = [guided_draw(model, references, empty_latent(9), strength=s) for s in (0.0, 10.0, 100.0)]
    pictures = [torch.rand(9, 16, 16, 3) for _ in runs]
    return [trace for _, trace, _ in runs], pictures


def plot(*args, **options):
    (image,) = MMDPlot.execute(*args, **options).result
    assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3
    assert image.min() >= 0 and image.max() <= 1
    return (image[0] * 255).round().byte().numpy()


def has(picture, color):
    """Whether a line has that color; text in others has a few such pixels at its edges."""
    return (np.abs(picture.astype(int) - np.array(color)).max(2) < 3).sum() > 150


def test_a_list_of_traces_becomes_lines_of_different_colors(drawn):
    traces, _ = drawn
    picture = plot(traces)
    assert has(picture, NEUTRAL), "without guidance"
    assert has(picture, color_of(1)) and has(picture, color_of(2))
    assert not has(plot(traces[1:2]), NEUTRAL)


def test_pictures_stand_in_rows_above(drawn):
    traces, pictures = drawn
    pictures = [p * 0 + torch.tensor(c) for p, c in zip(pictures, np.eye(3), strict=True)]
    shown, plain = plot(traces, pictures), plot(traces)
    assert shown.shape[0] > plain.shape[0] and shown.shape[1] == plain.shape[1]
    rows = [np.flatnonzero((shown == 255 * c).all(2).any(1)) for c in np.eye(3, dtype=int)]
    assert rows[0].max() < rows[1].min() < rows[1].max() < rows[2].min(), (
        "in the order of the traces"
    )


def test_single_traces_of_several_samplers(drawn):
    """Their pictures belong to them; an input without any trace is skipped."""
    traces, pictures = drawn
    together = plot(traces, pictures)
    apart = plot(
        traces[:1], pictures[:1], trace_2=traces[1:2], images_2=pictures[1:2],
        trace_4=traces[2:], images_4=pictures[2:],
    )  # fmt: skip
    assert np.array_equal(together, apart)
    some = plot(traces[:1], pictures[:1], trace_2=traces[1:2])
    assert some.shape[0] < together.shape[0]


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (20, 64, 24, 3), (3, 24, 640, 4), (2, 2000, 8, 3)])
def test_pictures_of_any_shape_and_number(shape, drawn):
    traces, _ = drawn
    assert plot(traces[:1], [torch.rand(shape)]).shape[0] < 2000


def test_traces_are_named_by_what_differs(drawn):
    def named(*configs):
        return names([Trace(config) for config in configs])

    plain = GuidanceConfig()
    assert named(plain) == ["strength 100"]
    assert named(GuidanceConfig(0.0), plain) == ["without guidance", "strength 100"]
    assert named(plain, GuidanceConfig(30.0)) == ["strength 100", "strength 30"]
    assert named(plain, GuidanceConfig(end_percent=0.5)) == ["0% to 75%", "0% to 50%"]
    assert named(plain, plain) == ["1: strength 100", "2: strength 100"]
    energy = GuidanceConfig(30.0, kernel=KernelConfig("energy"))
    assert named(plain, energy) == ["strength 100, kernel rbf", "strength 30, kernel energy"]


def test_traces_and_images_must_belong_together(drawn):
    traces, pictures = drawn
    with pytest.raises(ValueError, match="3 traces came with 2 batches of images"):
        plot(traces, pictures[:2])


def test_a_plot_before_anything_was_drawn_says_what_to_do():
    with pytest.raises(ValueError, match="MMDPlot: nothing was drawn yet. Connect the images"):
        plot([Trace(GuidanceConfig())])


def test_figures_that_are_not_finite_are_left_out(drawn):
    """Of patches the distance to references is unknown, and MMD² may be 0 to rounding."""
    traces, _ = drawn
    run = traces[1].runs[0]
    odd = [
        row._replace(mmd2_after=v)
        for row, v in zip(run.rows, (-1e-9, math.nan, 0.0, 1.0), strict=True)
    ]
    for rows in (odd, [odd[0]] * 4, [], run.rows):
        trace = type(traces[1])(traces[1].config)
        trace.runs.append(run._replace(rows=tuple(rows), distances=(math.nan,) * 9))
        plot([trace])


@pytest.mark.parametrize(
    ("low", "high", "logarithmic", "expected"),
    [
        (0.0, 1.0, False, [0, 0.25, 0.5, 0.75, 1]),
        (0.0, 0.66, False, [0, 0.2, 0.4, 0.6]),
        (0.01, 1.2, True, [0.01, 0.1, 1]),
        (0.003, 0.1, True, [0.003, 0.01, 0.03, 0.1]),
    ],
)
def test_ticks_are_round(low, high, logarithmic, expected):
    assert ticks(low, high, logarithmic) == pytest.approx(expected)


@pytest.mark.parametrize("value", [1e-9, 3e-5, 0.004, 0.7, 12.0, 3e6])
@pytest.mark.parametrize("factor", [1.001, 2.0, 30.0, 1e4])
def test_there_are_ticks_for_any_numbers(value, factor):
    for logarithmic in (False, True):
        low, high = bounds([Line([(0, value), (1, value * factor)], (0, 0, 0))], logarithmic)
        found = ticks(low, high, logarithmic)
        assert 2 <= len(found) <= 12
        assert len({label(t) for t in found}) == len(found)
        assert all(low * 0.99 <= t <= high * 1.01 for t in found)


def test_text_is_cut_to_its_place():
    text = "a watercolor of a harbor at dawn, MMD² and all, with many boats"
    assert shortened(text, 14, 1000) == text
    short = shortened(text, 14, 90)
    assert short.endswith("…") and length(short, 14) <= 90
    lines = wrapped(text, 14, 120, 2)
    assert len(lines) == 2 and all(length(line, 14) <= 120 for line in lines)
    assert lines[0].startswith("a watercolor") and lines[1].endswith("…")
    assert wrapped("", 14, 100, 2) == [] and wrapped("one", 14, 100, 2) == ["one"]
    assert all(length(line, 14) <= 60 for line in wrapped("Donaudampfschifffahrt " * 3, 14, 60, 2))


@pytest.mark.parametrize("size", [12, 16, 30])
def test_raised_figures_are_written_without_a_glyph_of_their_own(size):
    """The font has none: the same ink as MMD, and some more above on the right."""
    pictures = []
    for text in ("MMD", "MMD²"):
        image = Image.new("L", (200, 60))
        write(ImageDraw.Draw(image), (10, 10), text, size, 255)
        pictures.append(np.asarray(image).astype(int))
    plain, raised = pictures
    right = 10 + math.ceil(font(size).getlength("MMD"))
    assert np.array_equal(plain[:, : right - 1], raised[:, : right - 1])
    rows = np.flatnonzero(raised[:, right:].any(1))
    assert len(rows) and rows.max() < np.flatnonzero(plain.any(1)).max()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0, 10, 30", [0, 10, 30]), ("100 300;2.5", [100, 300, 2.5]), ("  7 ", [7]), ("1e2,", [100])],
)
def test_strengths_are_read_as_people_write_them(text, expected):
    assert MMDStrengths.validate_inputs(text) is True
    assert MMDStrengths.execute(text).result == (expected,)


@pytest.mark.parametrize("text", ["", " , ", "ten", "10, -1", "20000", "nan", "inf", "1 2 x"])
def test_what_is_no_strength_is_refused_before_anything_is_drawn(text):
    assert "write for example 0, 30, 100" in MMDStrengths.validate_inputs(text)
    with pytest.raises(ValueError, match="MMDStrengths: strengths"):
        MMDStrengths.execute(text)
