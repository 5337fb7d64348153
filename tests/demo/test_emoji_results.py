"""Rows of the benchmark of the emoji world: kept over runs, chosen among, compared, and drawn."""

import numpy as np
import pytest
import torch
from mmd_tests.studies.quality.emoji import sweeps, tuning
from mmd_tests.studies.quality.emoji.beside_energy import comparison
from mmd_tests.studies.quality.emoji.cases import SET, Atlas, varied
from mmd_tests.studies.quality.emoji.report import markdown
from mmd_tests.studies.quality.emoji.results import Results, Row
from mmd_tests.studies.quality.emoji.sweep_plot import lines, plot
from mmd_tests.studies.quality.emoji.sweeps import SWEEPS, Setting, larger_set, more_prompts

ABOUT = {"denoiser": "a", "judge": "b"}


def row(case, seed, method, value=0.5, **figures):
    """A row whose images have random features."""
    features = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(seed))
    figures = {"FD": value, "MMD2": value, "MMD2 set": value, "time": 2.0} | figures
    return Row(case, seed, method, figures, *features)


# --- results --------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    """A file of two cases, both with two seeds."""
    rows = [row(case, seed, "none", 0.25) for case in ("a fluent", "c smileys") for seed in (0, 1)]
    results = Results(ABOUT, rows)
    for case in ("a fluent", "c smileys"):
        results.together(results.of(case))
    results.save(tmp_path / "emoji.json")
    return tmp_path / "emoji.json"


def test_a_later_run_keeps_what_it_does_not_draw_again(file):
    results = Results.read(file, ABOUT)
    before = Results.read(file, ABOUT).together(results.of("c smileys"))
    results.add([row("a fluent", 0, "none", 0.75), row("a fluent", 0, "10", 0.5)])
    found = {(r.case, r.seed, r.method): r.figures["FD"] for r in results.rows}
    assert found == {
        ("a fluent", 0, "none"): 0.75,
        ("a fluent", 1, "none"): 0.25,
        ("c smileys", 0, "none"): 0.25,
        ("c smileys", 1, "none"): 0.25,
        ("a fluent", 0, "10"): 0.5,
    }
    assert before is not None
    assert results.together(results.of("c smileys")) == before
    own = [each for each in results.of("a fluent") if each.method == "none"]
    assert results.together(own) is None  # of one image more there is no feature


def test_the_distance_of_all_seeds_is_that_of_their_rows(file):
    results = Results.read(file, ABOUT)
    known = results.together(results.of("a fluent"))
    assert results.together(results.of("a fluent")[:1]) is None
    results.add([row("a fluent", seed, "none", 0.25) for seed in (0, 1)])
    assert results.together(results.of("a fluent")) == pytest.approx(known)
    results.add([row("a fluent", 2, "none", 0.25)])
    assert results.together(results.of("a fluent")) not in (None, pytest.approx(known))


def test_rows_of_other_weights_are_dropped(file, tmp_path):
    assert Results.read(file, ABOUT | {"judge": "c"}).rows == []
    assert Results.read(tmp_path / "nothing.json", ABOUT).rows == []


# --- tables ---------------------------------------------------------------------------------------


def tuned(best="energy-0.3"):
    """Rows of all strengths at the seeds for choosing; at others the best one is worst."""
    for case, seed in tuning.TRIALS:
        for names in tuning.FAMILIES.values():
            for number, name in enumerate(names):
                yield row(case, seed, name, 0.1 if name == best else 1.0 + number)
                yield row(case, 0, name, 9.0 if name == best else 1.0)


def test_the_strength_is_chosen_at_seeds_of_its_own():
    rows = list(tuned())
    choice = tuning.chosen(rows)
    assert choice["energy"] == "energy-0.3"
    assert choice["paper"] == tuning.FAMILIES["paper"][0]
    hidden = tuning.hidden(rows)
    assert "energy-1" in hidden and not hidden & {"energy-0.3", "keep-30", "10"}
    some = [each for each in rows if each.method != "energy-0.1"]
    assert "energy" not in tuning.chosen(some)
    assert "energy-1" not in tuning.hidden(some)


def test_tables_show_the_chosen_strength_of_other_guidance():
    text = markdown(Results(ABOUT, [*tuned(), row("a fluent", 0, "none")]))
    before, after = text.split("## Strengths")
    assert "| energy guidance, 0.3 |" in before and "energy guidance, 1 |" not in before
    assert "| flow, strength 100 |" in before and "| keep_prompt, strength 30 |" in before
    assert "**energy guidance, 0.3: 100.0**" in after
    assert "Seeds 0." in before


def test_the_bar_beside_energy_guidance():
    results = Results(ABOUT, tuned())
    assert comparison(results) == ""  # no images without guidance to compare with
    for seed in (0, 1):
        for name, value in (("none", 1.0), ("energy-0.3", 0.5), ("keep-30", 0.6)):
            results.add([row("b openmoji", seed, name, value)])
    plain, energy, ours = comparison(results).splitlines()[-3:]  # FD is the same for all
    assert plain.startswith("| no guidance |") and plain.endswith("| – |")
    assert "(-50%)" in energy and energy.endswith("| met |")
    assert "(-40%)" in ours and ours.endswith("| **not met** |")


# --- sweeps ---------------------------------------------------------------------------------------

SPLITS = ("val_name",) * 70 + ("val_pair",) * 48 + ("train",) * 100


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """Small pictures of as many names; each has another brightness."""
    count, folder = len(SPLITS), tmp_path_factory.mktemp("emoji")
    texts = {"category": "Objects", "style": sweeps.STYLE}
    columns = {name: np.full(count, text) for name, text in texts.items()}
    columns |= {"name": np.array([f"thing {i}" for i in range(count)]), "split": np.array(SPLITS)}
    pictures = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    np.savez(folder / "emoji.npz", toned=np.zeros(count, bool), pictures=pictures, **columns)
    return Atlas(folder)


def test_larger_sets_hold_smaller_ones_and_no_prompt(atlas):
    trial = varied(atlas, sweeps.STYLE, 0)
    sets = {count: larger_set(atlas, trial, count) for count in (8, SET, 110)}
    assert sets[SET].names == trial.given.names
    for count, shown in sets.items():
        assert len(shown) == count and shown.names == sets[110].names[:count]
        assert len(set(shown.names)) == count and not set(shown.names) & set(trial.prompts)
    splits = [SPLITS[int(name.split()[1])] for name in sets[110].names]
    assert splits == sorted(splits, key=SPLITS.index)  # unseen ones come first


def test_further_prompts_are_not_those_of_the_set(atlas):
    trial = varied(atlas, sweeps.STYLE, 0)
    prompts = more_prompts(atlas, trial, 64)
    assert prompts[:16] == trial.prompts and len(set(prompts)) == 64
    assert not set(prompts) & set(trial.given.names)
    assert more_prompts(atlas, trial, 4) == trial.prompts


@pytest.mark.parametrize("name", SWEEPS)
def test_one_setting_changes_in_a_sweep(name):
    usual = Setting()
    for line, value, setting in SWEEPS[name].settings:
        changed = {key for key in vars(usual) if getattr(setting, key) != getattr(usual, key)}
        if line == sweeps.UNGUIDED:
            assert setting.config is None
        else:
            assert changed - set(SWEEPS[name].lines[line]) <= set(SWEEPS[name].points[value])
            assert setting.config.strength == setting.strength


def test_lines_are_means_over_seeds(tmp_path):
    results = Results(ABOUT)
    figures = {"style": 0.5, "own name first": 0.25, "sharpness": 1.5, "nearest by fresh": 0.9}
    for line, value, _ in SWEEPS["strength"].settings:
        for seed, style in ((0, 0.25), (1, 0.5)):
            name = sweeps.row_name(line, value)
            results.add([row("strength", seed, name, **figures | {"style": style})])
    level, guided, _ = lines(results, "strength", "style")
    assert level.points == [(0.0, 0.375), (1.0, 0.375)]
    assert [y for _, y in guided.points] == [0.375] * len(SWEEPS["strength"].points)
    assert 0 < guided.points[0][0] < guided.points[-1][0] < 1
    picture = plot(results)
    assert picture.width > picture.height > 200 and len(picture.getcolors(100_000)) > 20
