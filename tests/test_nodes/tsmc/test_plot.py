"""TSMCPlot: a run of TRI-TSMC at a glance, of any number of batches."""

import math

import numpy as np
import pytest
import torch
from mmd_pack.mmd_core.tsmc import Learning, TSMCConfig
from mmd_pack.nodes.pictures.chart import NEUTRAL, STEPS, Axis, Line, chart, labels, ticks
from mmd_pack.nodes.tsmc.run.state import Planned
from mmd_pack.nodes.tsmc.tsmc_plot import ALL, BEST, OWN, TSMCPlot, unsteered_mean, value_range
from mmd_tests.support.tsmc_runs import learned_state

pytestmark = pytest.mark.comfy

STRENGTH = 1.2  # of the one feature: H = STRENGTH²
PANEL, EDGE = 408, 14  # the width of a chart, and what lies between


def finished(batches, n=16, pilot=True, missing=(), steered=True, offset=0.0, scale=2.0):
    """A run on normal numbers whose model draws rewards of mean `offset`."""
    rng = torch.Generator().manual_seed(0)
    most = math.log(n)
    config = TSMCConfig(n, batches - 1, min(1.0, most / 2), reward_scale=scale, standardize=pilot)
    learning = Learning.start(config, int(steered))
    for i in range(batches):
        theta = learning.theta if i or not pilot else torch.zeros(int(steered))
        noise = torch.randn(n, generator=rng, dtype=torch.float64)
        drift = STRENGTH * float(theta.sum())
        h = (STRENGTH * (noise + drift))[:, None][:, : int(steered)]
        H = torch.full((n, int(steered), int(steered)), STRENGTH**2, dtype=torch.float64)
        rewards = offset + noise + drift
        for place, value in missing:
            rewards[place] = value
        if pilot and not i:
            learning = Learning.piloted(config, h, H, rewards)
        else:
            learning = learning.learned(h, H, rewards)
    return learned_state(learning)


def plot(*args):
    (image,) = TSMCPlot.execute(*args).result
    assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3
    assert image.min() >= 0 and image.max() <= 1
    return (image[0] * 255).round().byte().numpy()


def panels(picture):
    """The three charts, without titles and names."""
    lefts = [EDGE + i * (PANEL + EDGE) for i in range(3)]
    return [picture[-357:-EDGE, left : left + PANEL] for left in lefts]


def pixels(picture, color):
    """How many have a color, or nearly: of a line hundreds."""
    return (np.abs(picture.astype(int) - np.array(color)).max(2) < 12).sum()


def test_each_chart_has_its_lines():
    effective, way, rewards = panels(plot(finished(4)))
    found = [
        [pixels(each, color) > 200 for color in (OWN, ALL, BEST, NEUTRAL)]
        for each in (effective, way, rewards)
    ]
    assert found == [
        [True, True, False, False],
        [True, False, False, False],
        [True, False, True, True],
    ]


def test_an_update_that_there_was_not_has_no_point():
    """A first batch that fixes the scale of the reward is not learned from."""

    def points(batches, **options):
        return pixels(panels(plot(finished(batches, **options)))[1], OWN)

    assert points(1) == 0 < points(2) < points(3)
    assert points(1, pilot=False) > 0


@pytest.mark.parametrize("batches", [1, 2, 3, 12, 40])
def test_any_number_of_batches_has_room(batches):
    assert plot(finished(batches, n=4)).shape == plot(finished(2)).shape


def test_pictures_stand_above():
    plain, colored = plot(finished(2)), plot(finished(2), torch.ones(3, 16, 16, 3))
    rows = np.flatnonzero((colored == 255).all(2).sum(1) > 500)
    assert colored.shape[0] > plain.shape[0] and colored.shape[1] == plain.shape[1]
    assert 0 < len(rows) < 300 and rows.max() < colored.shape[0] - 414  # above the charts


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_left_out(value):
    run = finished(3, missing=[(3, value), (5, value)])
    assert np.isfinite(plot(run)).all()


def test_the_gray_line_is_what_the_model_draws_by_itself():
    plain = finished(3, steered=False, missing=[(0, math.nan)]).learning
    usable = plain.rewards[torch.isfinite(plain.rewards)]
    assert unsteered_mean(plain) == pytest.approx(usable.mean().item())
    for pilot in (True, False):  # steered far off, and weighted back
        steered = finished(3, n=4000, pilot=pilot, offset=5.0, scale=1.0).learning
        assert steered.summaries[-1].reward > 5.5
        assert unsteered_mean(steered) == pytest.approx(5.0, abs=0.1)


def test_a_plot_before_anything_was_scored_says_what_to_connect():
    with pytest.raises(ValueError, match="TSMCPlot: nothing was scored yet: connect state of TSMC"):
        plot(Planned(plan=None))


def test_rewards_all_alike_have_an_axis_too():
    for value in (0.0, -3.0, 1e-9, 4e5):
        low, high = value_range([Line([(0.5, value), (0.7, math.nan)], (0, 0, 0))])
        assert low < value < high and len(ticks(low, high, False)) >= 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.25, 0.5], ["0", "0.25", "0.5"]),
        ([0.9905, 0.991, 0.9915], ["0.9905", "0.991", "0.9915"]),
        ([-1000, -998, -996], ["-1000", "-998", "-996"]),
        ([12000, 12500], ["12000", "12500"]),
        ([-2e-5, 0, 2e-5], ["-0.00002", "0", "0.00002"]),
    ],
)
def test_marks_are_short_and_differ(values, expected):
    assert labels(values) == expected


def test_the_x_axis_has_the_ticks_that_are_given():
    lines = [Line([(0.2, 1.0), (0.8, 2.0)], (255, 0, 0))]
    steps, batches = (chart("t", lines, (400, 300), axis=axis) for axis in (STEPS, Axis([], "")))
    one, other = (np.asarray(each, int) for each in (steps, batches))
    rows = np.flatnonzero((one != other).any(2).any(1))
    assert rows.min() > 300 - 56, "the lines are the same"
    assert len(rows) > 20, "what is written below is not"
