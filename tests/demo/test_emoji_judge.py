"""The emoji world's measures do as they say, and its judge knows pictures it never saw."""

import hashlib

import numpy as np
import pytest
import torch
from mmd_demo.emoji import VAE_WEIGHTS
from mmd_tests.demo.emoji import JUDGE_WEIGHTS, measures
from mmd_tests.demo.emoji.held_out import Sheet, read_sheet
from mmd_tests.demo.emoji.judge import CATEGORIES, JUDGED_STYLES, Judge, encode_names, load_judge
from mmd_tests.demo.emoji.latents import load_vae
from mmd_tests.demo.emoji.measure import judge_bars
from mmd_tests.demo.emoji.train_judge import drop_words, training_rows, vary


@pytest.fixture
def pictures(rng) -> torch.Tensor:
    """Six pictures of noise (6, 3, 16, 16)."""
    return torch.randn(6, 3, 16, 16, generator=rng)


def test_shares_count_the_highest_scores():
    scores = torch.tensor([[0.1, 0.9, 0.0], [3.0, -1.0, 2.0], [0.0, 5.0, 4.0], [0.0, 0.1, 0.0]])
    assert measures.shares(scores) == [0.25, 0.75, 0.0]


def test_rivals_are_different_names_and_never_the_own(rng):
    own = torch.arange(20)
    rivals = measures.draw_rivals(own, 20, 19, rng)
    everybody = torch.cat([own[:, None], rivals], 1).sort(1)[0]
    assert torch.equal(everybody, torch.arange(20).expand(20, 20))
    seen = measures.draw_rivals(own.repeat(200), 20, 3, rng).flatten().bincount(minlength=20)
    assert seen.min() > 0.8 * seen.max()


def test_name_ranks_count_the_rivals_that_fit_at_least_as_well(rng):
    scores = torch.randn(30, 50, generator=rng)
    own = torch.randint(50, (30,), generator=rng)
    rivals = measures.draw_rivals(own, 50, 9, rng)
    expected = [
        1 + sum(float(line[rival]) >= float(line[name]) for rival in few)
        for line, name, few in zip(scores, own, rivals, strict=True)
    ]
    assert measures.name_ranks(scores, own, rivals).tolist() == expected
    assert measures.name_ranks(torch.zeros(30, 50), own, rivals).tolist() == [10] * 30
    found = measures.adherence(torch.tensor([1, 3, 1, 7]))
    assert found == {"own name first": 0.5, "own name in 5": 0.75, "mean rank": 3.0}


def test_mmd2_is_about_nothing_for_one_distribution_and_grows_with_the_distance(rng):
    real = torch.randn(150, 8, generator=rng)
    same, near, far = (torch.randn(150, 8, generator=rng) + shift for shift in (0, 0.5, 2))
    values = [measures.mmd2(samples, real) for samples in (same, near, far)]
    assert abs(values[0]) < 0.01 < values[1] < values[2]
    turn = torch.linalg.qr(torch.randn(8, 8, generator=rng))[0]
    assert measures.mmd2(far @ turn * 3, real @ turn * 3) == pytest.approx(values[2], rel=1e-4)


def test_frechet_distance_is_that_of_the_main_axes(rng):
    spread = torch.tensor([5.0, 3.0, 2.0, 0.1, 0.1, 0.1])
    turn = torch.linalg.qr(torch.randn(6, 6, generator=rng))[0]
    real = torch.randn(4000, 6, generator=rng) * spread
    moved = real * torch.tensor([1.2, 1.0, 1.0, 9.0, 9.0, 9.0]) + torch.tensor([0, 2.0, 0, 1, 1, 1])
    main, mean = real[:, :3].double().numpy(), moved[:, :3].double().numpy()
    expected = ((main.mean(0) - mean.mean(0)) ** 2).sum() + (0.2 * main[:, 0].std()) ** 2
    found = measures.main_frechet_distance(moved @ turn, real @ turn, axes=3)
    assert found == pytest.approx(expected, rel=0.01)
    assert measures.main_frechet_distance(real, real, axes=3) == pytest.approx(0, abs=1e-6)


def test_copies_are_nearer_than_fresh_pictures(pictures, rng):
    fresh = torch.randn(6, 3, 16, 16, generator=rng)
    assert measures.nearest_by_fresh(pictures.flip(0), pictures, fresh) == 0
    assert measures.nearest_by_fresh(fresh, pictures, fresh) == 1
    between = pictures.lerp(fresh, 0.5)
    assert 0.3 < measures.nearest_by_fresh(between, pictures, fresh) < 0.7


def test_bands_share_out_the_variance_of_the_pixels(pictures):
    bands = measures.band_variances(pictures)
    expected = np.var(pictures.double().numpy(), axis=0).mean()
    assert sum(bands) == pytest.approx(expected, rel=1e-9)
    assert measures.band_variances(pictures + pictures[:1]) == pytest.approx(bands)


@pytest.mark.parametrize(("cycles", "band"), [(1, 0), (6, 1), (24, 2)])
def test_a_wave_lies_in_the_band_of_its_frequency(cycles, band):
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(64) / 64)
    pictures = torch.stack([wave, -wave])[:, None, None].expand(2, 3, 64, 64)
    bands = measures.band_variances(pictures)
    assert bands[band] == pytest.approx(0.5, rel=1e-5)
    assert sum(bands) - bands[band] < 1e-9


def test_sharpness_is_the_difference_of_neighbours():
    board = torch.arange(16)[:, None] + torch.arange(16)
    board = (board % 2).float().expand(2, 3, 16, 16)
    assert measures.sharpness(board) == pytest.approx(1.0)
    stripes = (torch.arange(16) % 2).float().expand(2, 3, 16, 16)
    assert measures.sharpness(3 * stripes) == pytest.approx(3 * 0.5**0.5)
    assert measures.sharpness(torch.full((2, 3, 16, 16), 0.7)) == 0


class Oracle(torch.nn.Module):
    """Knows the picture where it is told a word, and nothing otherwise."""

    def __init__(self, latents: torch.Tensor):
        super().__init__()
        self.latents = latents

    def forward(self, x: torch.Tensor, time: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        time = time[:, None, None, None]
        noise = (x - (1 - time) * self.latents) / time
        return (noise - self.latents) * words.any(1)[:, None, None, None]


def test_prompt_gain_is_the_error_that_the_words_take_away(rng):
    latents = torch.full((64, 4, 16, 16), 2.0)
    words = torch.tensor([[3, 0]] * 32 + [[0, 0]] * 32)
    gain = measures.prompt_gain(Oracle(latents), latents, words, rng)
    assert gain[:32].mean() == pytest.approx(100 * (2.0**2 + 1), rel=0.02)
    assert gain[32:].abs().max() == 0


def test_bars_compare_with_real_pictures():
    real = {"own name first": 0.8, "FD": 2.0}
    assert [bar[2] for bar in judge_bars(real, {"own name first": 0.6, "FD": 5.0}).values()] == [
        True,
        True,
    ]
    assert [bar[2] for bar in judge_bars(real, {"own name first": 0.5, "FD": 7.0}).values()] == [
        False,
        False,
    ]


@pytest.fixture(scope="module")
def sheet() -> Sheet:
    """Twelve real pictures."""
    return read_sheet()


@pytest.fixture(scope="module")
def judge() -> tuple[Judge, list[str]]:
    """The learned judge and its vocabulary."""
    return load_judge(JUDGE_WEIGHTS)


def test_no_picture_of_the_sheet_was_learned(sheet):
    digests = [hashlib.sha256(name.encode()).digest() for name in sheet.names]
    assert len(set(sheet.names)) == len(sheet.pictures) == 12
    assert all(int.from_bytes(digest[:4], "big") < 0.06 * 2**32 for digest in digests)


@pytest.mark.parametrize("decoded", [False, True])
@torch.no_grad()
def test_judge_knows_pictures_it_never_saw(sheet, judge, decoded):
    network, vocabulary = judge
    pictures = sheet.pictures
    if decoded:
        vae = load_vae(VAE_WEIGHTS)
        pictures = vae.decode(vae.encode(pictures))
    features = network.features(pictures)
    styles = [JUDGED_STYLES[number] for number in network.style(features).argmax(1)]
    categories = [CATEGORIES[number] for number in network.category(features).argmax(1)]
    assert sum(map(str.__eq__, styles, sheet.styles)) >= 10
    assert sum(map(str.__eq__, categories, sheet.categories)) >= 6
    scores = network.name_scores(features, encode_names(sheet.names, vocabulary))
    others = torch.arange(12).expand(12, 12)[~torch.eye(12, dtype=torch.bool)].view(12, 11)
    assert measures.name_ranks(scores, torch.arange(12), others).double().mean() < 4


@torch.no_grad()
def test_order_of_words_and_gaps_do_not_matter(judge):
    network, vocabulary = judge
    words = encode_names(["red heart", "heart red", "red red unheardofword heart"], vocabulary)
    gaps = torch.zeros(1, 6, dtype=torch.long)
    gaps[0, [1, 4]] = words[0, :2]
    first, *others = [*network.names(words), *network.names(gaps)]
    assert all(torch.allclose(first, other, atol=1e-6) for other in others)
    assert first.norm() == pytest.approx(1)


def test_words_are_dropped_but_never_all(rng):
    names = torch.randint(1, 9, (500, 2), generator=rng)
    descriptions = torch.cat([names, torch.randint(9, 99, (500, 6), generator=rng)], 1)
    names = torch.nn.functional.pad(names, (0, 6))
    kept = drop_words(names, descriptions)
    assert kept.any(1).all()
    assert ((kept == descriptions) | (kept == 0)).all()
    assert 0.3 < (kept[:, 2:] > 0).any(1).double().mean() < 0.6


def test_no_held_out_name_is_learned_in_any_style():
    rows = [
        ("cat", "noto", "train"),
        ("cat", "fluent", "val_pair"),
        ("cat", "openmoji", "style_never_seen"),
        ("dog", "noto", "val_name"),
        ("dog", "openmoji", "style_never_seen"),
    ]
    names, styles, splits = map(np.array, zip(*rows, strict=True))
    table = {"name": names, "style": styles, "split": splits, "toned": np.zeros(5, bool)}
    assert training_rows(table).tolist() == [0, 2]


def test_only_what_may_be_mirrored_is(sheet):
    pixels = (sheet.pictures[:1] + 1).mul(127.5).round().byte().repeat(64, 1, 1, 1)
    pixels[..., :32] = 0  # dark on the left, whatever is shifted or blurred
    varied = vary(pixels, torch.arange(64) % 2 == 0).mean(1)
    left = varied[..., :28].mean((1, 2)) < varied[..., 36:].mean((1, 2))
    assert left[1::2].all()
    assert 0 < left[::2].sum() < 32
