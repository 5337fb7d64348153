"""The place of a run in its schedule, for schedules that fall, rise, or do both."""

from itertools import pairwise

import pytest
from mmd_pack.mmd_core import NoiseModel, Schedule, Window
from mmd_pack.mmd_core.comparison.noise import Step
from mmd_pack.mmd_core.guidance.schedule import Course

EVERYWHERE = Window(1e9, 0.0)
FALLING = (14.0, 6.0, 6.0, 2.5, 1.0, 0.4, 0.0)
RESTART = (14.0, 4.0, 1.0, 8.0, 2.0, 0.5, 0.0)


def euler(sigmas):
    return list(sigmas[:-1])


def heun(sigmas):
    return [call for pair in pairwise(sigmas) for call in pair if call > 0]


def midpoint(sigmas):
    return [call for a, b in pairwise(sigmas) for call in ((a, (a * b) ** 0.5) if b else (a,))]


METHODS = pytest.mark.parametrize("method", [euler, heun, midpoint])


def followed(sigmas, calls):
    """The next noise level of each call at which guidance acts, and the progress of each call."""
    course, found, progress = Course(Schedule(sigmas, EVERYWHERE)), [], []
    for sigma in calls:
        course.reach(sigma)
        step = course.step(sigma)
        found.append(None if step is None else step.sigma_next)
        progress.append(course.progress(sigma))
    return found, progress


@METHODS
def test_where_noise_only_falls_a_call_depends_on_its_noise_level_alone(method):
    calls = method(FALLING)
    steps = [Step.find(sigma, FALLING, EVERYWHERE, NoiseModel()) for sigma in calls]
    assert followed(FALLING, calls)[0] == [step and step.sigma_next for step in steps]
    assert not Schedule(FALLING, EVERYWHERE).rises


@METHODS
def test_where_noise_rises_no_call_is_guided(method):
    rising = FALLING[::-1]
    found, progress = followed(rising, method(rising))
    assert found == [None] * len(found) and Schedule(rising, EVERYWHERE).rises
    assert progress == sorted(progress) and progress[0] == 0


@pytest.mark.parametrize(
    "method, expected",
    [
        (euler, [4.0, 1.0, None, 2.0, 0.5, None]),
        (heun, [4.0, 1.0, 1.0, None, None, 2.0, 2.0, 0.5, 0.5, None, None]),
        (midpoint, [4.0, 4.0, 1.0, 1.0, None, None, 2.0, 2.0, 0.5, 0.5, None]),
    ],
)
def test_after_a_restart_guidance_acts_again(method, expected):
    """The last step, to 0, is never guided; the step from 1 up to 8 is not."""
    assert followed(RESTART, method(RESTART))[0] == expected
