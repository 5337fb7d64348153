"""Methods for more varied batches, next to formulas written out and to gradients by autograd."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_pack.mmd_core import GuidanceConfig, KernelConfig
from mmd_tests.studies.quality.emoji.diversity.cads import Annealing, annealed, share_of_prompt
from mmd_tests.studies.quality.emoji.diversity.figures import mean_distance, ranks
from mmd_tests.studies.quality.emoji.diversity.particle import bandwidth, by_particles, repelled
from mmd_tests.studies.quality.emoji.diversity.run import shown, table
from mmd_tests.studies.quality.emoji.diversity.scenes import Scene
from mmd_tests.studies.quality.emoji.diversity.sparke import by_entropy, gaussian, gradient
from mmd_tests.studies.quality.emoji.diversity.tuning import best
from mmd_tests.studies.quality.emoji.diversity.ways import FAMILIES, Studio, Way
from mmd_tests.studies.quality.emoji.sampling import Estimates, Run, sample
from mmd_tests.support.guidance_runs import guidance

IMAGES, STEPS = 8, 5
RUN = Run(steps=STEPS, cfg=4.0, fast=False)
F64 = torch.float64


@pytest.fixture
def latents(rng):
    return torch.randn(IMAGES, 4, 4, 4, generator=rng, dtype=F64)


def slope(loss, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x), x)[0]


def pairs(rows):
    """Squared distances (n, n), as differences."""
    return (rows[:, None] - rows).square().sum(2)


# --- CADS -----------------------------------------------------------------------------------------


def test_the_prompt_comes_back_between_two_times():
    times = (1.0, 0.9, 0.75, 0.6, 0.3, 0.0)
    assert [share_of_prompt(time) for time in times] == pytest.approx([0, 0, 0.5, 1, 1, 1])


def test_noise_on_words_is_that_of_the_paper(rng):
    words = torch.tensor([[3, 1, 0, 0], [2, 5, 4, 0]])
    kept = (words != 0)[:, :, None].double()
    y = torch.randn(2, 4, 6, generator=rng, dtype=F64) * kept + 0.3 * kept
    noise = torch.randn(y.shape, generator=rng, dtype=F64)
    for share, scale, psi in ((0.0, 0.2, 1.0), (0.4, 0.7, 0.6), (0.7, 2.0, 0.0), (1.0, 1.0, 1.0)):
        found = annealed(y, kept, share, scale, noise, psi)
        assert not found[kept.expand_as(found) == 0].any()
        for row, count in enumerate((2, 3)):
            own, some = y[row, :count], noise[row, :count]
            mixed = math.sqrt(share) * own + scale * math.sqrt(1 - share) * some
            unit = (mixed - mixed.mean()) / mixed.std(unbiased=False)
            again = unit * own.std(unbiased=False) + own.mean()
            expected = psi * again + (1 - psi) * mixed
            assert torch.allclose(found[row, :count], expected, atol=1e-12)


def tiny_model(rng):
    """A network with random weights."""
    sizes = {"channels": 8, "convolutions": 1, "width": 64, "depth": 1}
    model = EmojiModel(5, **sizes)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3 / math.sqrt(max(1, weight[0].numel())), generator=rng)
    with torch.no_grad():
        model.words.weight[0] = 0
    return model.eval().requires_grad_(False)


def test_only_prompts_are_noised_and_only_early(rng):
    model, x = tiny_model(rng), torch.randn(4, 4, 4, 4, generator=rng)
    words = torch.tensor([[1, 2], [3, 0], [0, 0], [0, 0]])
    changed = Annealing(model, 0.5, torch.Generator().manual_seed(0))
    for time, told in ((1.0, True), (0.7, True), (0.6, False), (0.1, False)):
        times = torch.full((4,), time)
        plain, found = model(x, times, words), changed(x, times, words)
        differs = (found - plain).flatten(1).abs().amax(1)
        assert differs[2:].max() < 1e-6  # no prompt
        assert (differs[:2] > 1e-5).tolist() == [told, told]


# --- particle guidance ----------------------------------------------------------------------------


def test_particles_follow_the_gradient_of_their_potential(latents):
    distances = [(a - b).norm() for i, a in enumerate(latents) for b in latents[:i]]
    h = sorted(distances)[(len(distances) - 1) // 2] ** 2 / math.log(IMAGES)
    assert bandwidth(latents) == pytest.approx(h.item())

    def log_potential(x):
        values = (-pairs(x.flatten(1)) / h).exp()
        return -0.5 * (values.sum() - values.diagonal().sum())

    expected = h / 2 * slope(log_potential, latents)
    assert torch.allclose(repelled(latents, h.item()), expected, atol=1e-10)
    assert expected.norm() > 0.1


@pytest.mark.parametrize("sigma, hidden", [(1.0, 1.0), (0.75, 0.9), (0.5, 0.5), (0.45, 0.0)])
def test_particles_move_by_what_noise_hides(latents, sigma, hidden):
    rule = by_particles(RUN, 0.7)
    found = rule(lambda x: Estimates(latents, None), torch.zeros_like(latents), sigma)
    expected = latents + 0.7 * hidden * repelled(latents, bandwidth(latents))
    assert torch.allclose(found, expected)


# --- SPARKE ---------------------------------------------------------------------------------------


def inverse_score(latents, by_prompt, scale, lengths=True):
    """1/n² ‖K_Z ∘ K_Y‖², Frobenius norm."""
    rows = latents.flatten(1)
    rows = rows / rows.norm(dim=1, keepdim=True) if lengths else rows
    kernel = (-pairs(rows) / (2 * scale**2)).exp() * by_prompt
    return torch.linalg.matrix_norm(kernel).square() / len(rows) ** 2


def test_the_gradient_of_the_entropy_is_that_of_autograd(latents, rng):
    by_prompt = gaussian(torch.randn(IMAGES, 5, generator=rng, dtype=F64), 0.8)
    expected = slope(lambda x: inverse_score(x, by_prompt, 0.8), latents)
    assert torch.allclose(gradient(latents, by_prompt), expected, atol=1e-12)
    assert expected.norm() > 1e-4


def test_an_euler_step_ends_lower_on_the_inverse_score(latents, rng):
    levels = RUN.rules.levels(STEPS).tolist()
    prompts = torch.randn(IMAGES, 5, generator=rng, dtype=F64)
    x = torch.randn(latents.shape, generator=rng, dtype=F64)
    for step, (sigma, after) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        rule = by_entropy(RUN, 0.3, prompts)
        moved = rule(lambda _: Estimates(latents, None), x, sigma)
        plain, found = (clean + (x - clean) * (after / sigma) for clean in (latents, moved))
        loss = slope(lambda z: inverse_score(z, gaussian(prompts, 0.3), 0.8), plain)
        eta = 0.3 * IMAGES**2 / 4 * plain.flatten(1).square().sum(1)
        assert torch.allclose(found, plain - eta.view(-1, 1, 1, 1) * loss, atol=1e-10), step
    assert (
        by_entropy(Run(steps=25), 0.3, prompts)(
            lambda _: Estimates(latents, None), x, Run(steps=25).rules.levels(25).tolist()[1]
        )
        is latents
    )  # five times in a run


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_our_repulsion_with_prompt_weights_is_this_method(mode, latents, rng):
    """References whose captions have nothing to do with the prompts do not attract.

    Mode paper then takes the method's own step at this latent; mode official takes a step of a
    chosen length in its direction, at the latent that the sampler reaches.
    """
    of_latents, of_prompts, strength = 9.0, 1.3, 0.7
    prompts = torch.randn(IMAGES, 5, generator=rng, dtype=F64)
    references = torch.randn(6, 4, 4, 4, generator=rng, dtype=F64)
    kernel = KernelConfig(
        bandwidth="fixed",
        bandwidth_value=of_latents / math.sqrt(2),
        multipliers=(1.0,),
        prompt_kernel="rbf",
        prompt_bandwidth=of_prompts / math.sqrt(2),
    )
    config = GuidanceConfig(strength, mode=mode, kernel=kernel)
    captions = prompts.mean(0).expand(6, -1) + 100.0
    x, sigma, after = 3.0 * latents, 2.5, 1.0
    found = guidance(config, references, captions=captions)(latents, x, sigma, prompts)
    z = x / math.hypot(1, sigma)
    if mode == "official":
        z = (latents + (x - latents) * (after / sigma)) / math.hypot(1, after)
    by_prompt = (-pairs(prompts) / (2 * of_prompts**2)).exp()
    step = slope(lambda z: inverse_score(z, by_prompt, of_latents, lengths=False), z)
    assert step.norm() > 1e-4
    if mode == "official":
        lengths = z.flatten(1).norm(dim=1) / (step.flatten(1).norm(dim=1) + 1e-5)
        step = step * lengths.view(-1, 1, 1, 1)
    carried = (1 - after / sigma) / math.hypot(1, after)  # of x̂0 into z
    assert torch.allclose((found - latents) * carried, -strength * step, atol=1e-10)


# --- the study ------------------------------------------------------------------------------------


def test_places_count_only_wrong_names():
    scores = torch.tensor([[0.9, 0.5, 0.7, 0.6], [0.1, 0.5, 0.5, 0.9]])
    found = ranks(scores, [[1, 3], [2]], torch.Generator().manual_seed(0))
    assert found.tolist() == [3, 3]
    assert mean_distance(torch.tensor([[0.0], [3.0], [9.0]])) == pytest.approx(6)


def test_the_most_varied_way_that_keeps_the_prompt_is_chosen():
    few, much, wild = (Way("particle", strength) for strength in FAMILIES["particle"].tried)
    weak, strong = (Way("sparke", strength) for strength in FAMILIES["sparke"].tried)
    figures = {
        Way("none"): {"own name first": 0.8, "Vendi": 4.0},
        few: {"own name first": 0.8, "Vendi": 5.0},
        much: {"own name first": 0.73, "Vendi": 6.0},
        wild: {"own name first": 0.1, "Vendi": 9.0},
        weak: {"own name first": 0.6, "Vendi": 6.0},
        strong: {"own name first": 0.5, "Vendi": 7.0},
    }
    assert best(figures) == {"particle": much, "sparke": weak}


@pytest.fixture
def world(rng):
    """A tiny model without words of its own, and an encoder that only makes pictures small."""
    model = tiny_model(rng)
    return SimpleNamespace(
        model=model,
        drawing="tiny",
        words=lambda prompts: torch.tensor([[len(text) % 5 + 1, 0] for text in prompts]),
        prompt_features=lambda prompts: torch.tensor([[float(len(text)), 1.0] for text in prompts]),
        encode=lambda pixels: pixels.float()[:, :, ::4, ::4].div(127.5).sub(1),
    )


def test_every_way_draws_a_batch_of_its_own(world, tmp_path, rng):
    pixels = torch.randint(256, (12, 4, 64, 64), generator=rng, dtype=torch.uint8)
    folder = SimpleNamespace(pixels=pixels, digest="random")
    scene = Scene(
        "one prompt", 0, ("a",) * IMAGES, (), ("ab", "abc", "abcd", "abcde"), folder, None
    )
    studio, found = Studio(world, tmp_path, 2), {}
    chosen = {family: Way(family, 2.0) for family, about in FAMILIES.items() if about.tried}
    for way in shown(chosen, scene):
        found[way] = studio.draw(way, scene)
        assert found[way].shape == (IMAGES, 4, 16, 16) and found[way].isfinite().all(), way
        assert torch.equal(studio.draw(way, scene), found[way])
    assert {way.family for way in found} == set(FAMILIES)
    plain = found.pop(Way("none"))
    words, start = world.words(scene.prompts), torch.Generator().manual_seed(0)
    noise = torch.randn(plain.shape, generator=start)
    assert torch.allclose(plain, sample(Run(2, 4.0), world.model, words, noise))
    for way, latents in found.items():
        assert not torch.equal(plain, latents), way
    sets = 2  # of references: what was drawn to the variations, and the folder
    assert len(list(tmp_path.iterdir())) == len(found) + sets


def test_a_table_has_means_and_their_spread():
    figures = {"Vendi": 4.0, "distance": 0.5, "sharpness": 1.0}
    text = table({"(real)": [figures, {**figures, "Vendi": 6.0}]}, "one prompt")
    assert "| (real) | 5.0 ± 1.4 | 0.50 ± 0.00 | – | – | – | – | 1.00 ± 0.00 |" in text
