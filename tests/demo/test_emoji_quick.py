"""The benchmark of guidance in the emoji world, on eight images: what it measures, and what it keeps."""

import math

import pytest
import torch
from mmd_demo.emoji import DENOISER_WEIGHTS
from mmd_tests.demo.emoji import JUDGE_WEIGHTS, measures
from mmd_tests.demo.emoji.pictures import to_float
from mmd_tests.studies.quality.emoji import easel, methods, store
from mmd_tests.studies.quality.emoji.options import make_parser
from mmd_tests.studies.quality.emoji.quick import STEPS, quick_names, quick_trial, read_set
from mmd_tests.studies.quality.emoji.report import write
from mmd_tests.studies.quality.emoji.results import Results
from mmd_tests.studies.quality.emoji.run import full, quick
from mmd_tests.studies.quality.emoji.targets import kinds_of, palette, proportions
from mmd_tests.studies.quality.emoji.tasks import Setup
from mmd_tests.studies.quality.emoji.world import load_world
from mmd_tests.studies.quality.methods import closest_batch

PATHS = DENOISER_WEIGHTS, JUDGE_WEIGHTS


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup(tmp_path_factory.mktemp("benchmark"), *PATHS, STEPS, "flow")


@pytest.fixture(scope="module")
def rows(setup):
    """Method → its row."""
    return {row.method: row for row in quick(setup)}


def test_all_figures_are_finite(rows):
    assert list(rows) == ["real", "decoded", "copies", "none", "keep-30"]
    for row in rows.values():
        assert all(map(math.isfinite, row.figures.values())), row
        assert row.features.isfinite().all()


def test_guidance_comes_closer_to_the_set(rows):
    none, guided = rows["none"].figures, rows["keep-30"].figures
    assert guided["MMD2 set"] < none["MMD2 set"]
    assert guided["nearest by fresh"] < none["nearest by fresh"]
    assert guided["style"] >= none["style"]


def test_copies_are_told(rows):
    copies = rows["copies"].figures
    assert copies["nearest by fresh"] == 0
    assert copies["style"] == 1
    assert copies["own name first"] < 0.3


def test_names_fit_real_pictures_better_than_noise():
    shown, trial = read_set(), quick_trial()
    world = load_world(*PATHS, quick_names(trial))
    own = torch.tensor([world.names.index(name) for name in shown.names])
    generator = torch.Generator().manual_seed(1)
    rivals = measures.draw_rivals(own, len(world.names), 50, generator)
    real = to_float(shown.pixels)
    noise = torch.randn(real.shape, generator=generator).clamp(-1, 1)
    ranks = []
    for pictures in (real, noise):
        with torch.no_grad():
            scores = world.judge.name_scores(world.judge.features(pictures), world.name_words)
        ranks.append(measures.name_ranks(scores, own, rivals).double().mean().item())
    assert ranks[0] < 0.7 * ranks[1]


def test_what_was_drawn_is_not_drawn_again(rows, setup, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("drawn again")

    monkeypatch.setattr(easel, "sample", refuse)
    for row in quick(setup):
        assert row.figures == rows[row.method].figures
    monkeypatch.setitem(methods.METHODS, "keep-30", methods.METHODS["10"])
    with pytest.raises(AssertionError, match="drawn again"):
        quick(setup)


def test_tables_and_json_are_written(rows, tmp_path):
    text = write(Results({"steps": "8"}, list(rows.values())), tmp_path).read_text("utf-8")
    assert "| no guidance |" in text and "| keep_prompt, strength 30 |" in text
    assert (tmp_path / "emoji.json").exists()


def test_unknown_cases_and_methods_are_refused():
    for option in ("--targets", "--methods"):
        with pytest.raises(SystemExit, match="choose among"):
            next(full(make_parser().parse_args([option, "nothing"]), Results({})))


# --- parts ----------------------------------------------------------------------------------------


def test_a_palette_is_the_share_of_the_colour():
    colours = {"blue": (-1, -1, 1), "violet": (0.2, -1, 1), "red": (1, -1, -1), "grey": (0.1, 0, 0)}
    pictures = torch.tensor([*colours.values()])[:, :, None, None].float().expand(-1, 3, 8, 8)
    assert palette(pictures).tolist() == pytest.approx([1, 1, 0, 0])
    half = torch.cat([pictures[:1, :, :4], pictures[2:3, :, :4]], 2)
    assert palette(half).item() == pytest.approx(0.5)


def test_kinds_are_told_by_their_names():
    names = ("cat face", "pouting cat", "guide dog", "hot dog", "cattle", "poodle")
    assert kinds_of(names).tolist() == [0, 0, 1, 2, 2, 1]
    scores = torch.eye(6)[[0, 1, 1, 2]]
    found = proportions(names, (0.75, 0.25, 0.0))(torch.zeros(4, 3, 8, 8), scores)
    assert found == {"cats": 0.75, "dogs": 0.25, "TV": 0.0}


def test_the_best_batch_has_one_image_of_each_prompt():
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(20, 5, generator=generator)
    near, far = (torch.randn(6, 5, generator=generator) + shift for shift in (0.0, 5.0))
    pool, prompts = torch.stack([far, near], 1).flatten(0, 1), torch.arange(6).repeat_interleave(2)
    chosen = closest_batch(pool, references, 6, prompts)
    assert sorted(chosen) == [1, 3, 5, 7, 9, 11]


def test_the_hash_of_code_ignores_what_is_said_of_it(tmp_path):
    texts = ('def f():\n    """Says."""\n    return 1\n', "def f():  # more\n\n    return 1\n")
    files = [tmp_path / f"{number}.py" for number in range(3)]
    for file, text in zip(files, (*texts, texts[0].replace("1", "2")), strict=True):
        file.write_text(text)
    same, other, changed = map(store.code_digest, files)
    assert same == other != changed
