"""The rewards of TRI-TSMC: what they measure, what they need, and what they refuse."""

import colorsys
import json
import math
from types import SimpleNamespace

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_management as management
import numpy as np
import pytest
import torch
from mmd_pack.mmd_core import KernelConfig, References
from mmd_pack.nodes.tsmc.reward_clip_vision import TSMCRewardCLIPVision, embeddings
from mmd_pack.nodes.tsmc.reward_image_stats import TSMCRewardImageStats
from mmd_pack.nodes.tsmc.reward_reference import NODE, TSMCRewardReference
from mmd_pack.nodes.tsmc.rewards.decode import decoded
from mmd_pack.nodes.tsmc.rewards.reward import GROUP, fix_by_latents, score_latents
from mmd_pack.nodes.tsmc.run.plan import ModelInfo
from mmd_pack.nodes.tsmc.score_images import TSMCScoreImages
from mmd_tests.support.pretended_device import PretendedDevice
from mmd_tests.support.tiny_encoders import tiny_vae
from mmd_tests.support.tiny_models import random
from mmd_tests.support.tsmc_runs import LinearReward

pytestmark = pytest.mark.comfy

MULTIPLES = (0.5, 1.0, 2.0)  # of the median distance: the bandwidths of the default kernel


def pictures(*shape, seed=0):
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


def tiny_clip_vision(folder, kind="clip_vision_model"):
    """A CLIP vision object of ComfyUI around two small layers of random weights."""
    config = {
        "model_type": kind, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_channels": 3, "patch_size": 8, "image_size": 32,
        "hidden_act": "quick_gelu", **({"projection_dim": 16} if "clip" in kind else {}),
    }  # fmt: skip
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(config), "utf-8")
    clip_vision = comfy.clip_vision.ClipVisionModel(str(path))
    torch.manual_seed(0)
    for weight in clip_vision.model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return clip_vision


@pytest.fixture(scope="module")
def clip_vision(tmp_path_factory):
    return tiny_clip_vision(tmp_path_factory.mktemp("clip"))


def latent_format(name="SD15"):
    return getattr(comfy.latent_formats, name)()


def references(n=6, shape=(4, 8, 8), **options):
    return References(random(n, *shape, seed=1) * 5 + 2, **options)


def reference_reward(given=None, kernel=None, base=None):
    base = None if base is None else {"samples": base}
    return TSMCRewardReference.execute(given or references(), kernel, base).result[0]


def clip_reward(clip_vision, vae, reference, mode="mean cosine", base=None):
    """As ComfyUI calls a node that takes lists."""
    node = TSMCRewardCLIPVision.execute([clip_vision], [vae], reference, [mode], base)
    return node.result[0]


def stats_reward(vae, statistic="brightness", direction="more"):
    return TSMCRewardImageStats.execute(vae, statistic, direction).result[0]


def score_images(images, reward):
    return TSMCScoreImages.execute(images, [reward]).result


def close(found, expected):
    """Equal but for the rounding of float32, which differs with the size of a batch."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def kernel_of(y):
    """The default kernel once more: rbf at multiples of the median distance of rows `y`."""
    distances = torch.cdist(y.double(), y.double())
    i, j = torch.triu_indices(len(y), len(y), 1)
    h = distances[i, j].median()

    def kernel(a, b):
        d2 = torch.cdist(a.double(), b.double()).square()
        return sum((-d2 / (2 * (h * m) ** 2)).exp() for m in MULTIPLES) / len(MULTIPLES)

    return kernel


# --- image statistics -----------------------------------------------------------------------------


def test_statistics_are_those_of_other_code(vae):
    images = pictures(3, 6, 5)
    images[1, :2] = 0  # black has no saturation
    images[2] = images[2, :1, :1]
    for statistic, direction, expected in (
        ("brightness", "more", [np.dot(i.numpy(), (0.2126, 0.7152, 0.0722)).mean() for i in images]),
        (
            "saturation",
            "more",
            [np.mean([colorsys.rgb_to_hsv(*p)[1] for p in i.reshape(-1, 3).tolist()]) for i in images],
        ),
        ("sharpness", "less", [-sharpness(i.numpy().astype(float)) for i in images]),
    ):  # fmt: skip
        reward = stats_reward(vae, statistic, direction)
        assert reward.name == f"{direction} {statistic}" and reward.vae is vae
        assert reward.value(images).tolist() == pytest.approx(expected, rel=1e-4)
        scores, same = reward.fixed_by(images)
        assert torch.equal(scores, reward.value(images)) and same is reward


def sharpness(image):
    """log(mean squared Laplacian + 1e-6) of the luma, pixel by pixel."""
    y = image @ np.array([0.2126, 0.7152, 0.0722])
    rows, columns = y.shape
    total = 0.0
    for r in range(rows):
        for c in range(columns):
            near = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
            inside = [y[min(max(a, 0), rows - 1), min(max(b, 0), columns - 1)] for a, b in near]
            total += (sum(inside) - 4 * y[r, c]) ** 2
    return math.log(total / y.size + 1e-6)


def test_blur_is_less_sharp_gray_is_not_saturated_and_alpha_does_not_count(vae):
    images = pictures(2, 16, 16)
    blurred = torch.nn.functional.avg_pool2d(images.movedim(-1, 1), 3, 1, 1).movedim(1, -1)
    sharp = stats_reward(vae, "sharpness")
    assert (sharp.value(images) > sharp.value(blurred) + 1).all()
    assert sharp.value(torch.full((1, 1, 1, 3), 0.5)).item() == pytest.approx(math.log(1e-6))
    gray = images.mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    assert stats_reward(vae, "saturation").value(gray).tolist() == [0, 0]
    with_alpha = torch.cat([images, torch.zeros(2, 16, 16, 1)], -1)
    close(sharp.value(with_alpha), sharp.value(images))


def test_a_damaged_picture_has_no_score(vae, clip_vision):
    images = pictures(2, 8, 8)
    images[0, 2, 3] = torch.nan
    rewards = [stats_reward(vae, s) for s in ("brightness", "saturation", "sharpness")]
    rewards += [clip_reward(clip_vision, vae, [pictures(1, 8, 8)], m) for m in ("mean cosine", "max cosine")]  # fmt: skip
    for reward in rewards:
        assert torch.isfinite(reward.value(images)).tolist() == [False, True], reward.name


# --- the witness against references ---------------------------------------------------------------


def test_the_witness_is_its_formula_in_the_space_of_the_model():
    weights = torch.tensor([1.0, 4, 1, 1, 2, 1])
    given, base, x = references(weights=weights), random(5, 4, 8, 8, seed=2), random(3, 4, 8, 8)
    with torch.inference_mode():  # as ComfyUI runs nodes
        reward = reference_reward(given, base=base)
        assert reward.fixed and reward.space == "latent" and reward.vae is None
        placed = reward.for_model(latent_format(), torch.device("cpu"))
        found = placed.value(x)
        slope = placed.gradient(x)
    y, drawn = given.latents.flatten(1) * 0.18215, base.flatten(1) * 0.18215
    kernel, share = kernel_of(y), given.weights.double()

    def witness(rows):
        return kernel(rows, y) @ share - kernel(rows, drawn).mean(1)

    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(witness(x.flatten(1)).tolist(), abs=1e-6)
    rows = x.flatten(1).double().requires_grad_()
    witness(rows).sum().backward()
    assert torch.allclose(slope.double().flatten(1), rows.grad, atol=1e-7, rtol=1e-4)
    assert slope.abs().max() > 1e-5


def test_without_base_the_first_samples_become_it_each_scored_without_itself():
    given, batch, x = references(), random(5, 4, 8, 8, seed=2), random(3, 4, 8, 8, seed=3)
    with torch.inference_mode():
        open_ended = reference_reward(given).for_model(latent_format(), torch.device("cpu"))
        assert not open_ended.fixed and open_ended.gradient is None
        scores, reward = open_ended.fixed_by(batch)
    assert reward.fixed and not open_ended.fixed, "rewards never change"
    y, rows = given.latents.flatten(1) * 0.18215, batch.flatten(1)
    kernel = kernel_of(y)
    among = kernel(rows, rows)
    others = (among.sum(1) - among.diagonal()) / 4
    assert scores.tolist() == pytest.approx((kernel(rows, y).mean(1) - others).tolist(), abs=1e-6)
    expected = kernel(x.flatten(1), y).mean(1) - kernel(x.flatten(1), rows).mean(1)
    assert reward.value(x).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert reward.gradient(x).shape == x.shape
    again, same = reward.fixed_by(x)
    assert same is reward and torch.equal(again, reward.value(x)), "it is fixed once"
    moved = reward.for_model(latent_format(), torch.device("cpu"))
    assert torch.equal(moved.value(x), reward.value(x)), "and stays so in a later pass"


def test_samples_that_are_not_finite_change_no_other_score():
    placed = reference_reward().for_model(latent_format(), torch.device("cpu"))
    batch = random(5, 4, 8, 8, seed=2)
    clean, expected = placed.fixed_by(batch[1:])
    batch[0, 0, 0, 0] = torch.inf
    scores, reward = placed.fixed_by(batch)
    assert scores[0].isnan()
    close(scores[1:], clean)
    assert not reward.value(batch)[0].isfinite()
    close(reward.value(batch)[1:], expected.value(batch[1:]))
    with pytest.raises(ValueError, match=f"{NODE}: all images that the model drew are NaN"):
        placed.fixed_by(batch * torch.nan)


def test_one_reference_is_enough_to_rank_samples():
    batch = random(6, 4, 8, 8, seed=2)
    given = References(batch[:1] / 0.18215 + 0.1)
    scores, reward = (
        reference_reward(given).for_model(latent_format(), torch.device("cpu")).fixed_by(batch)
    )
    assert scores.argmax() == 0 and scores[1:].std() > 1e-3
    assert reward.name == "MMD witness of 1 reference (rbf)"


def test_models_of_video_take_references_as_one_frame():
    given, wan = references(shape=(16, 4, 4)), latent_format("Wan21")
    for base in (random(3, 16, 4, 4), random(3, 16, 1, 4, 4)):
        reward = reference_reward(given, base=base).for_model(wan, torch.device("cpu"))
        assert reward.y.shape == (6, 16, 1, 4, 4)
        assert torch.equal(reward.y[:, :, 0], wan.process_in(given.latents[:, :, None])[:, :, 0])
        assert reward.value(random(2, 16, 1, 4, 4)).shape == (2,)
    with pytest.raises(ValueError, match="references are single images, so draw one frame"):
        reward.value(random(2, 16, 5, 4, 4))


def test_kernels_and_what_is_left_out():
    batch = random(4, 4, 8, 8)
    names = {}
    for kernel in (
        KernelConfig("energy"),
        KernelConfig("polynomial"),
        KernelConfig(feature_space="channel_stats"),
        KernelConfig(feature_space="low_pass", pool=2),
        KernelConfig(prompt_kernel="cosine"),
    ):
        reward = reference_reward(kernel=kernel)
        scores, settled = reward.for_model(latent_format(), torch.device("cpu")).fixed_by(batch)
        names[reward.name] = scores
        step = settled.gradient(batch)
        step = step / step.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) / 10
        assert (settled.value(batch + step) > settled.value(batch)).all(), reward.name
    assert len({tuple(scores.tolist()) for scores in names.values()}) == len(names)
    assert "MMD witness of 6 references (rbf, by channel_stats)" in names
    assert "MMD witness of 6 references (rbf, the prompt kernel is not used)" in names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": KernelConfig(feature_space="patches")}, "set feature_space of MMDKernel"),
        ({"base": torch.zeros(2, 4, 8, 16)}, r"latents of base have shape \(4, 8, 16\)"),
        ({"base": torch.full((2, 4, 8, 8), torch.nan)}, "base contains NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_the_node(options, message):
    with pytest.raises(ValueError, match=f"TSMCRewardReference: .*{message}"):
        reference_reward(**options)


def test_what_does_not_fit_the_model_is_refused_before_it_draws():
    with pytest.raises(ValueError, match="TSMCRewardReference: .* 4 latent channels, but the model expects 16"):  # fmt: skip
        reference_reward().for_model(latent_format("Flux"), torch.device("cpu"))
    placed = reference_reward().for_model(latent_format(), torch.device("cpu"))
    with pytest.raises(ValueError, match="TSMCRewardReference: .* 8×8, those being drawn 16×8.*target"):  # fmt: skip
        placed.fixed_by(torch.zeros(2, 4, 8, 16))


# --- CLIP vision ----------------------------------------------------------------------------------


def colored(n, *size, seed=0):
    """Pictures of one color each, with noise: even a tiny model tells them apart."""
    return pictures(n, 1, 1, seed=seed) * 0.8 + pictures(n, *size, seed=seed + 100) * 0.2


def seen(clip_vision, image):
    features = clip_vision.encode_image(image[None])["image_embeds"].double()[0]
    return features / features.norm()


def test_likeness_is_the_cosine_of_what_clip_sees(clip_vision, vae):
    sizes = [colored(2, 40, 32, seed=1), colored(1, 24, 48, seed=2)]
    images = colored(4, 32, 32, seed=3)
    y = torch.stack([seen(clip_vision, i) for i in (*sizes[0], *sizes[1])])
    x = torch.stack([seen(clip_vision, i) for i in images])
    with torch.inference_mode():
        mean = clip_reward(clip_vision, vae, sizes)
        most = clip_reward(clip_vision, vae, sizes, "max cosine")
        found = mean.value(images), most.value(images)
    assert found[0].tolist() == pytest.approx((x @ y.T).mean(1).tolist(), abs=1e-5)
    assert found[1].tolist() == pytest.approx((x @ y.T).amax(1).tolist(), abs=1e-5)
    assert (x @ y.T).std() > 0.01, "the tiny model tells pictures apart"
    assert mean.fixed and mean.gradient is None and mean.space == "image" and mean.vae is vae
    assert mean.name == "mean CLIP similarity to 3 pictures"
    alone, together = (embeddings(clip_vision, i) for i in (images[1:2], images))
    assert torch.equal(alone, together[1:2]), "whatever is beside a picture"
    assert clip_reward(clip_vision, vae, [images[:1]]).value(images[:1]).item() == pytest.approx(1)


def test_the_witness_in_the_space_of_clip(clip_vision, vae):
    reference, base, images = (colored(n, 32, 32, seed=n) for n in (4, 5, 3))
    y, b, x = (
        torch.stack([seen(clip_vision, i) for i in batch]) for batch in (reference, base, images)
    )
    kernel = kernel_of(y)
    expected = kernel(x, y).mean(1) - kernel(x, b).mean(1)
    ready = clip_reward(clip_vision, vae, [reference], "MMD witness", [base[:3], base[3:]])
    assert ready.fixed and ready.value(images).tolist() == pytest.approx(
        expected.tolist(), abs=1e-4
    )
    open_ended = clip_reward(clip_vision, vae, [reference], "MMD witness")
    assert not open_ended.fixed
    scores, settled = open_ended.fixed_by(base)
    among = kernel(b, b)
    others = (among.sum(1) - among.diagonal()) / 4
    assert scores.tolist() == pytest.approx((kernel(b, y).mean(1) - others).tolist(), abs=1e-4)
    close(settled.value(images), ready.value(images))
    assert ready.name == "MMD witness of 4 pictures, by CLIP"


def test_siglip_gives_the_mean_of_many_embeddings(tmp_path, vae):
    siglip = tiny_clip_vision(tmp_path, "siglip_vision_model")
    image = pictures(1, 32, 32)
    places = siglip.encode_image(image)["image_embeds"]
    assert places.ndim == 3, "else this test is of no use"
    reward = clip_reward(siglip, vae, [image])
    assert reward.references.shape == (1, places.shape[2])
    assert reward.value(image).item() == pytest.approx(1)


def test_damaged_references_are_refused(clip_vision, vae):
    with pytest.raises(ValueError, match="TSMCRewardCLIPVision: clip_vision gives NaN"):
        clip_reward(clip_vision, vae, [pictures(1, 8, 8) * torch.nan])


# --- decoding -------------------------------------------------------------------------------------


class Film:
    """A VAE of video: five frames for one of the latent, the first one told by the latent.

    Some give them as a batch, some with alpha.
    """

    latent_channels = 3  # it counts in its own way

    def __init__(self, batch=False):
        self.seen, self.batch = [], batch

    def decode(self, samples):
        self.seen.append(tuple(samples.shape))
        first = samples[:, :3].movedim(1, -1)
        frames = torch.cat([first, torch.zeros_like(first).expand(-1, 4, -1, -1, -1)], 1)
        return torch.cat([frames[0], frames[0, ..., :1]], -1) if self.batch else frames


def test_samples_are_decoded_one_by_one(vae):
    samples = random(3, 4, 8, 8)
    images = decoded(vae, samples)
    assert images.shape == (3, 64, 64, 3) and images.min() >= 0 and images.max() <= 1
    assert torch.allclose(images, vae.decode(samples), atol=1e-5) and images.std() > 1e-3
    clip = torch.rand(2, 16, 1, 4, 4)
    for film in (Film(), Film(batch=True)):
        assert torch.equal(decoded(film, clip), clip[:, :3, 0].movedim(1, -1))
        assert film.seen == [(1, 16, 1, 4, 4)] * 2


def test_decoding_and_looking_can_be_interrupted():
    film = Film()
    looks = SimpleNamespace(encode_image=film.seen.append)
    for work in (
        lambda: decoded(film, torch.zeros(1, 16, 1, 4, 4)),
        lambda: clip_reward(looks, None, [pictures(1, 8, 8)]),
    ):
        management.interrupt_current_processing(True)
        with pytest.raises(management.InterruptProcessingException):
            work()
    assert not film.seen


def test_a_vae_of_other_latents_is_refused_before_the_model_draws(vae, clip_vision):
    rewards = stats_reward(vae), clip_reward(clip_vision, vae, [pictures(1, 8, 8)])
    for reward, node in zip(rewards, ("TSMCRewardImageStats", "TSMCRewardCLIPVision"), strict=True):
        assert reward.for_model(latent_format(), torch.device("cpu")) is reward
        with pytest.raises(ValueError, match=f"{node}: vae decodes latents of 4 channels, but the model draws 16"):  # fmt: skip
            reward.for_model(latent_format("Flux"), torch.device("cpu"))
    film = stats_reward(Film())
    assert film.for_model(latent_format("Wan21"), torch.device("cpu")) is film, "it decodes them"
    assert film.vae.seen


def test_scores_of_latents_are_those_of_what_they_become(vae):
    samples, sd15 = random(GROUP + 2, 4, 2, 2), latent_format()
    model = ModelInfo((), sd15, torch.device("cpu"))
    bright = stats_reward(vae)
    expected = bright.value(decoded(vae, samples))
    close(score_latents(bright, samples, model), expected)
    assert expected.std() > 0
    scores, same = fix_by_latents(bright, samples, model)
    close(scores, expected)
    assert same is bright
    placed = reference_reward(references(shape=(4, 2, 2))).for_model(sd15, torch.device("cpu"))
    scores, settled = fix_by_latents(placed, samples, model)
    close(scores, placed.fixed_by(samples * 0.18215)[0])
    found = score_latents(settled, samples, model)
    close(found, settled.value(samples * 0.18215))
    assert not torch.allclose(found, scores, atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearReward(torch.ones(1, 4, 2, 2)),
        lambda: reference_reward(references(shape=(4, 2, 2))),
    ],
)
def test_rewards_of_latents_get_them_on_the_device_of_the_model(make):
    """As from samples of a LATENT, which lie on the CPU; a reward need not move them."""
    samples, sd15 = random(5, 4, 2, 2), latent_format()
    reward, found = make(), {}
    for device in ("cpu", "cuda"):
        with PretendedDevice(tf32=False):
            model = ModelInfo((), sd15, torch.device(device))
            placed = reward.for_model(sd15, model.device)
            scores, fixed = fix_by_latents(placed, samples, model)
            found[device] = scores, score_latents(fixed, samples, model)
    for one, other in zip(*found.values(), strict=True):
        close(one, other)
        assert one.device == other.device == torch.device("cpu")


# --- TSMCScoreImages ------------------------------------------------------------------------------


def test_images_of_all_sizes_are_scored_in_their_order(vae):
    images = [pictures(2, 8, 8), pictures(1, 16, 4, seed=1) * 0.1, torch.full((1, 2, 2, 3), 1.0)]
    images[0][1, 0, 0] = torch.nan
    scores, report = score_images(images, stats_reward(vae))
    assert scores[0] == pytest.approx(stats_reward(vae).value(images[0])[0].item())
    assert math.isnan(scores[1]) and scores[2] < 0.1 and scores[3] == pytest.approx(1)
    assert all(type(score) is float for score in scores)
    lines = report.splitlines()
    assert lines[0] == "4 images scored by more brightness."
    assert "largest 1 (image 4)" in lines[1] and "1 score is NaN" in lines[2]
    assert lines[-1] == "4: 1" and lines[-3] == "2: nan"
    assert score_images([torch.rand(70, 2, 2, 3)], stats_reward(vae))[1].endswith("and 6 more")


def test_rewards_that_cannot_score_images_are_refused(vae, clip_vision):
    image = pictures(1, 32, 32)
    with pytest.raises(ValueError, match="TSMCScoreImages: .* scores latents, not images"):
        score_images([image], reference_reward(base=random(2, 4, 8, 8)))
    witness = clip_reward(clip_vision, vae, [image], "MMD witness")
    with pytest.raises(ValueError, match="TSMCScoreImages: .*connect such images to base of TSMCRewardCLIPVision"):  # fmt: skip
        score_images([image], witness)
    bright = stats_reward(vae)
    with pytest.raises(ValueError, match="TSMCScoreImages: reward is a list of 2"):
        TSMCScoreImages.execute([image], [bright, bright])
