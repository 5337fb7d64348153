"""MMD-DDM on a ring of Gaussians, a short training; the whole study is `python tests/studies/finetuning/run.py`."""

import pytest
import torch
from mmd_pack.mmd_core import KernelConfig
from mmd_pack.mmd_core.kernels.mmd import mmd2
from mmd_tests.studies.finetuning import ring, tables
from mmd_tests.studies.finetuning.study import Recipe, train

SEED = 7050


@pytest.fixture(scope="module")
def base():
    return ring.base("brief")


@pytest.fixture(scope="module")
def trained():
    return train(Recipe(options=(("iterations", 150),)), SEED).network


@pytest.fixture(scope="module")
def few():
    options = (("iterations", 100), ("keep", "best"), ("validate_every", 10))
    return train(Recipe(references=64, validation=1000, options=options), SEED)


def drawn(network, steps):
    return ring.samples(network, ring.chain(steps), ring.HELD_OUT, SEED)


def mmd2_at(network, steps):
    return ring.mmd2(drawn(network, steps))


def test_exact_distance_is_what_many_points_tell(base):
    x = drawn(base, 5)
    y = ring.points(4000, torch.Generator().manual_seed(SEED))
    kernel = KernelConfig(bandwidth="fixed", bandwidth_value=ring.MEDIAN, multipliers=ring.WIDTHS)
    estimate = mmd2(x, y, kernel.resolve(y @ y.T, 2), unbiased=True).item()
    assert ring.mmd2(x) == pytest.approx(estimate, rel=0.1)
    assert abs(ring.mmd2(y)) < 5e-4


def test_fewer_steps_are_worse_without_training(base):
    five, ten, fifty = (mmd2_at(base, steps) for steps in (5, 10, 50))
    assert five > 3 * ten > 3 * fifty > 0


def test_five_steps_become_as_good_as_fifty(base, trained):
    before, after = (ring.nearness(drawn(net, 5), SEED) for net in (base, trained))
    assert after.exact <= before.exact / tables.FALLS
    assert after.exact <= tables.ENDS * mmd2_at(base, 50)
    assert after.inliers >= before.inliers + tables.RISES
    # and by what was not trained for
    assert after.energy < before.energy / 4
    assert after.frechet < before.frechet / 4
    assert after.sliced < before.sliced / 2


def test_it_is_bound_to_its_number_of_steps(base, trained):
    assert mmd2_at(trained, 50) > 2 * mmd2_at(base, 50)


def test_held_out_points_are_farther_than_few_references(base, few):
    own, true, _ = tables.nearness_of_both(few, SEED)
    assert true > own + 0.002
    assert true < mmd2_at(base, 5)


def test_validation_picks_nothing_worse_than_the_last(few):
    validated = dict(few.training.validated)
    assert validated[few.training.best] <= validated[100]
    picked, values = mmd2_at(few.network, 5), few.adapter.values()
    few.adapter.put(few.last)
    last = mmd2_at(few.network, 5)
    few.adapter.put(values)
    assert picked <= last


def test_all_weights_can_be_trained_likewise(base):
    options = (tables.FULL, ("iterations", 50))
    tuned = train(Recipe(full=True, options=options), SEED)
    assert mmd2_at(tuned.network, 5) < mmd2_at(base, 5) / 5
    for name, weight in ring.base("brief").named_parameters():
        assert not torch.equal(dict(tuned.network.named_parameters())[name], weight), name


def test_report_names_the_bars_that_are_met():
    good = ring.nearness(ring.points(4000, torch.Generator().manual_seed(SEED)), SEED)
    bad = good._replace(exact=0.01, inliers=0.7)
    found = {"base, 5 steps": [bad] * 2, "base, 50 steps": [good._replace(exact=1e-3)] * 2}
    met = list(tables.bars(found | {"ours": [good._replace(exact=1e-3)] * 2}, "ours"))
    assert len(met) == 3 and not any("not met" in line for line in met)
    missed = list(tables.bars(found | {"ours": [bad._replace(exact=3e-3)] * 2}, "ours"))
    assert all("**not met**" in line for line in missed)
