"""LoRA files of MMDSaveLoRA: ComfyUI loads them, they hold metadata, bad files give errors."""

import json
import math
import os
import tracemalloc

import folder_paths
import pytest
import torch
from comfy_extras.nodes_train import LossGraphNode, SaveLoRA
from mmd_pack.nodes.ddm import mmd_lora_info
from mmd_pack.nodes.ddm.mmd_lora_info import MMDLoRAInfo
from mmd_pack.nodes.ddm.mmd_save_lora import MMDSaveLoRA
from mmd_pack.nodes.ddm.training import trained_lora
from mmd_pack.nodes.ddm.training.trained_lora import Autosave, TrainedLoRA, read_metadata
from mmd_tests.support.at_once import ROUNDS, at_once
from mmd_tests.support.crashes import deaths, errors
from mmd_tests.support.ddm_runs import (
    LORA,
    LOSSES,
    QUICK,
    REPORT,
    denoised,
    estimates,
    gradients_of,
    output_folder,  # noqa: F401  (a fixture)
    own,
    own_family,
    trained,
    usual,
    with_lora,
)
from mmd_tests.support.tiny_models import FAMILIES, family_latent
from safetensors import safe_open
from safetensors.torch import load_file

import nodes

pytestmark = [pytest.mark.comfy, pytest.mark.usefixtures("output_folder")]
posix = pytest.mark.skipif(os.name == "nt", reason="needs forks of POSIX")


def saved(lora, prefix: str = "loras/made", dtype: str = "float32", **options) -> str:
    """The name of the file, as LoRA nodes list it."""
    with torch.inference_mode():
        return MMDSaveLoRA.execute(lora, prefix, dtype, **options).result[0]


def loaded(name: str, family: str = QUICK, strength: float = 1.0, model=None):
    """A new model with the LoRA of the file, by ComfyUI's Load LoRA (Model)."""
    model = own_family(family) if model is None else model
    with torch.inference_mode():
        return nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0]


def stronger(lora, scale: float = 10.0):
    """The LoRA as if it had been trained for longer."""
    factors = {
        name: tensor * scale if ".lora_up" in name else tensor for name, tensor in lora.items()
    }
    return TrainedLoRA(factors, lora.metadata)


def noise(family: str = QUICK) -> torch.Tensor:
    shape = family_latent(family, 3)["samples"].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(7150))


# ---- drawing with the file in ComfyUI


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "SD20"])
def test_core_draws_with_the_file_what_training_drew(family, output_folder):  # noqa: F811
    lora = stronger(trained(family=gradients_of(family), iterations=1, batch_size=2)[LORA])
    assert all(factor.any() for name, factor in lora.items() if ".lora_up" in name)
    name, x = saved(lora), noise(family)
    (expected,) = estimates(x, [[0] * 3], family=family, existing_lora=lora)
    found, base = denoised(loaded(name, family), x, family), denoised(own(family), x, family)
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * scale
    assert (base - expected).abs().max() > 0.1 * scale


@pytest.mark.parametrize("family", ["SD3", "WAN21_T2V"])
def test_in_bf16_it_differs_by_the_rounding_of_bf16(family):
    """A merged weight W + BA is rounded to 8 bits; in training, BAx is added to Wx.

    The difference is about the precision of bf16, and not above the difference of bf16 and fp32.
    """
    lora = stronger(trained(family=gradients_of(family), iterations=1, batch_size=2)[LORA])
    x = noise(family)
    exact, rounded = (
        estimates(x, [[0] * 3], family=family, dtype=dtype)[0] for dtype in ("fp32", "bf16")
    )
    (expected,) = estimates(x, [[0] * 3], family=family, dtype="bf16", existing_lora=lora)
    model = with_lora(own_family(family), lora)
    model.set_model_compute_dtype(torch.bfloat16)
    error = (denoised(model, x, family) - expected).abs().max()
    assert error < 0.01 * expected.abs().max() and error < 1.5 * (rounded - exact).abs().max()


def test_without_strength_or_training_the_model_is_as_it_was():
    x = noise()
    base, lora = denoised(own(QUICK), x), stronger(usual()[LORA])
    assert torch.equal(denoised(loaded(saved(lora), strength=0.0), x), base)
    untrained = stronger(lora, 0.0)
    assert torch.equal(denoised(loaded(saved(untrained)), x), base)
    (without,) = estimates(x, [[0] * 3])
    (zero,) = estimates(x, [[0] * 3], existing_lora=untrained)
    assert torch.equal(zero, without)
    half = denoised(loaded(saved(lora), strength=0.5), x)
    assert 0.2 < (half - base).norm() / (denoised(loaded(saved(lora)), x) - base).norm() < 0.8


def test_core_takes_the_sockets(output_folder, monkeypatch):  # noqa: F811
    x, lora = noise(), stronger(usual()[LORA])
    expected = denoised(loaded(saved(lora)), x)
    torch.testing.assert_close(denoised(with_lora(own_family(QUICK), lora), x), expected)
    SaveLoRA.execute(lora, "loras/by_core", 2)
    (file,) = output_folder.rglob("by_core*")
    torch.testing.assert_close(denoised(loaded(file.name), x), expected)
    monkeypatch.setattr(folder_paths, "temp_directory", str(output_folder / "temp"))
    monkeypatch.setattr(LossGraphNode, "hidden", None, raising=False)
    shown = LossGraphNode.execute(usual()[LOSSES], "losses")
    assert shown.ui is not None and list(output_folder.glob("temp/*.png"))


# ---- the file


def test_the_file_records_how_it_was_made(output_folder):  # noqa: F811
    lora = usual()[LORA]
    name = saved(lora, "loras/sub/made", report=usual()[REPORT])
    assert name == "sub/made_00001_.safetensors"
    file = output_folder / "loras" / name
    assert read_metadata(file) == {**lora.metadata, "report": usual()[REPORT]}
    for key, value in {
        "steps": 2, "sampler_name": "euler", "scheduler": "simple", "cfg": 1.0, "shift": 3.0,
        "model": "SD3", "latent": [16, 4, 4], "features": "latent", "kernel": "rbf",
        "references": 6, "held_out": 0, "rank": 2, "iterations": 2, "batch_size": 4,
        "prompts": 1, "targets": "all",
    }.items():  # fmt: skip
        assert lora.metadata[key] == value
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["modelspec.title"] == "made_00001_"
    kept = load_file(file)
    assert kept.keys() == lora.keys() and all(torch.equal(kept[key], lora[key]) for key in lora)
    assert saved(lora, "loras/sub/made") == "sub/made_00002_.safetensors"
    assert saved(dict(lora), "elsewhere") == "elsewhere_00001_.safetensors"
    assert read_metadata(output_folder / "elsewhere_00001_.safetensors") is None


@pytest.mark.parametrize("dtype, error", [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_half_the_size(dtype, error, output_folder):  # noqa: F811
    lora = usual()[LORA]
    whole, half = (output_folder / "loras" / saved(lora, dtype=kind) for kind in ("float32", dtype))
    numbers = 2 * sum(factor.numel() for factor in lora.values())
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(numbers, rel=0.02)
    for name, factor in load_file(half).items():
        torch.testing.assert_close(factor.float(), lora[name], rtol=error, atol=1e-7)
        assert factor.dtype == getattr(torch, dtype) or name.endswith("alpha")


def test_training_continues_from_a_lora():
    lora = stronger(trained(rank=3, alpha=6.0, iterations=1)[LORA])
    settings = {"existing_lora": lora, "iterations": 1, "ema": 0.0}
    same, further = (trained(learning_rate=rate, **settings) for rate in (1e-7, 1e-2))
    for name, factor in same[LORA].items():
        torch.testing.assert_close(factor, lora[name], rtol=1e-5, atol=2e-7)
    assert same[LOSSES] == further[LOSSES] and same[LOSSES]["loss"][0] != usual()[LOSSES]["loss"][0]
    moved = [(factor - lora[name]).abs().max() for name, factor in further[LORA].items()]
    assert max(moved) == pytest.approx(1e-2, rel=0.01)


@pytest.mark.parametrize("prefix", ["../made", "loras/../../made", "/tmp/made"])
def test_nothing_is_written_outside_of_the_output_folder(prefix, output_folder):  # noqa: F811
    before = set(output_folder.parent.rglob("*"))
    with pytest.raises(
        ValueError, match="^MMDSaveLoRA: .*leads out of the output folder: set prefix to"
    ):
        saved(usual()[LORA], prefix)
    assert set(output_folder.parent.rglob("*")) == before


def test_what_cannot_be_written_is_reported(output_folder, monkeypatch):  # noqa: F811
    with pytest.raises(
        ValueError, match="^MMDSaveLoRA: unknown dtype 'int8': choose one of float32"
    ):
        saved(usual()[LORA], dtype="int8")
    (output_folder / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"^MMDSaveLoRA: the file cannot be written \(.+\): choose another"
    ):
        saved(usual()[LORA], "file/made")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trained_lora, "write_new", full)
    with pytest.raises(ValueError, match=r"^MMDSaveLoRA: .*\(No space left on device\)"):
        saved(usual()[LORA])
    assert not list(output_folder.rglob("*.safetensors"))


# ---- several writers


def about(number: int) -> dict:
    return {**usual()[LORA].metadata, "rank": number}


def rank_of(path) -> int:
    return read_metadata(path)["rank"]


FACTOR = {"a.lora_up.weight": torch.ones(2, 2)}


@posix
@pytest.mark.parametrize("rounds", ROUNDS)
def test_of_loras_saved_at_once_under_one_prefix_none_is_lost(rounds, output_folder):  # noqa: F811
    metadata = [about(process) for process in range(4)]

    def work(process, turn):
        return trained_lora.save_lora(f"loras/{turn}", FACTOR, metadata[process])

    found = at_once(work, rounds)
    assert len(found) == 4 * rounds == len(list(output_folder.rglob("*.*")))
    assert all(rank_of(path) == process for process, _, path in found)


@posix
@pytest.mark.parametrize("rounds", ROUNDS)
def test_autosaves_of_trainings_at_once_are_their_own(rounds, output_folder):  # noqa: F811
    """Each of four trainings saves twice and ends; one in four is interrupted, and its file stays."""
    metadata = [about(process) for process in range(4)]

    def work(process, turn):
        autosave = Autosave("loras/kept")
        for _ in range(2):
            autosave.save(FACTOR, metadata[process])
            assert rank_of(autosave.path) == process
        if process == turn % 4:
            return autosave.path
        autosave.remove()
        return None

    kept = {path: process for process, _, path in at_once(work, rounds) if path}
    assert len(kept) == rounds and set(kept) == set(output_folder.rglob("*.*"))
    assert all(rank_of(path) == process for path, process in kept.items())


def test_a_training_that_ends_first_removes_its_own_autosave_only(output_folder):  # noqa: F811
    first, second, idle = (Autosave("loras/kept") for _ in range(3))
    first.save(FACTOR, about(1))
    second.save(FACTOR, about(2))
    first.save(FACTOR, about(3))
    second.remove()
    idle.remove()
    assert [rank_of(path) for path in output_folder.rglob("*.*")] == [3]
    first.remove()
    assert not list(output_folder.rglob("*.*")) and idle.path is None


def test_an_autosave_that_was_deleted_or_replaced_is_written_anew(output_folder):  # noqa: F811
    first, second = Autosave("loras/kept"), Autosave("loras/kept")
    first.save(FACTOR, about(1))
    taken = first.path
    taken.unlink()
    second.save(FACTOR, about(2))
    assert second.path == taken
    first.save(FACTOR, about(3))
    assert rank_of(taken) == 2 and rank_of(first.path) == 3
    taken.write_bytes(b"something else")
    second.remove()
    assert taken.read_bytes() == b"something else"


@posix
@pytest.mark.parametrize("stopped", [deaths, errors])
def test_a_lora_whose_writer_stops_at_any_step_is_whole_or_not_there(stopped, output_folder):  # noqa: F811
    folder, metadata = output_folder / "loras", about(1)

    def prepare():
        for path in folder.iterdir():
            path.unlink()

    steps = 0
    for end in stopped(lambda: trained_lora.save_lora("loras/a", FACTOR, metadata), prepare):
        steps += 1
        files = list(folder.rglob("*.safetensors"))
        assert all(rank_of(path) == 1 and load_file(path).keys() == FACTOR.keys() for path in files)
        if stopped is errors:
            assert len(files) == (not end[1]), end
    assert steps == 8


@posix
@pytest.mark.parametrize("stopped", [deaths, errors])
def test_an_autosave_whose_writer_stops_at_any_step_is_the_last_or_the_next(
    stopped,
    output_folder,  # noqa: F811
):
    folder, metadata = output_folder / "loras", [about(number) for number in range(2)]
    autosave = None

    def prepare():
        nonlocal autosave
        for path in folder.iterdir():
            path.unlink()
        autosave = Autosave("loras/kept")
        autosave.save(FACTOR, metadata[0])

    steps = 0
    for end in stopped(lambda: autosave.save(FACTOR, metadata[1]), prepare):
        steps += 1
        (path,) = folder.rglob("*.safetensors")
        renamed = not end[1] if stopped is errors else "replace" in end[:-1]
        assert rank_of(path) == renamed and load_file(path).keys() == FACTOR.keys(), end
    assert steps == 8


# ---- MMDLoRAInfo


def info(name: str, sampler="(any)", scheduler="(any)", steps=0, cfg=0.0, sigmas=None):
    return MMDLoRAInfo.execute(name, sampler, scheduler, steps, cfg, sigmas).result


def test_info_shows_what_it_was_trained_for_and_warns_of_other_use():
    lora = trained(steps_per_sample=3, step_jitter=1, iterations=1)[LORA]
    name = saved(lora)
    report, steps, cfg = info(name)
    assert (steps, cfg) == (3, 1.0) and "⚠" not in report
    assert (
        "For 2 to 4 steps of euler, simple, cfg 1." in report and "Trained on SD3 with 6" in report
    )
    assert "⚠" not in info(name, "ddim", "simple", 4, 1.0)[0]
    warned = info(name, "heun", "karras", 8, 7.0)[0]
    for words in (
        "Set steps to 3: you draw with 8 steps, and the LoRA was trained for 2 to 4.",
        "Set sampler_name to euler: you draw with heun.",
        "Set scheduler to simple: you draw with karras.", "Set cfg to 1: you draw with cfg 7,",
    ):  # fmt: skip
        assert f"⚠ {words}" in warned
    assert warned.count("⚠") == 4
    assert "20 steps" in info(name, steps=3, sigmas=torch.linspace(1, 0, 21))[0]
    assert "MMD² to held-out" not in report
    free = {"sampler_name": "dpmpp_2m", "scheduler": "kl_optimal"}
    for changed, hinted in (({}, False), ({"steps": 4}, True), ({"steps": 4, **free}, False)):
        text = info(saved(TrainedLoRA(lora, {**lora.metadata, **changed})))[0]
        assert ("Try this first: 4 steps of dpmpp_2m, kl_optimal without" in text) == hinted
    known = {**lora.metadata, "mmd2_before": 0.25, "mmd2_after": 0.0625}
    better = info(saved(TrainedLoRA(lora, known)))[0]
    assert "0.25 without it, 0.0625 with it" in better and "⚠" not in better
    no_better = {**known, "mmd2_after": 0.25}
    assert "⚠ Draw without this LoRA" in info(saved(TrainedLoRA(lora, no_better)))[0]


def header(metadata, **tensors) -> bytes:
    text = json.dumps({"__metadata__": metadata, **tensors}).encode()
    return len(text).to_bytes(8, "little") + text


def said(**changed) -> bytes:
    return header({"mmd_ddm": json.dumps({**usual()[LORA].metadata, **changed})})


def written(old: str, new: str) -> bytes:
    """A file whose metadata have `new` in the place of `old`."""
    text = json.dumps(usual()[LORA].metadata)
    assert old in text
    return header({"mmd_ddm": text.replace(old, new)})


OTHERS = {
    "empty": lambda: b"",
    "short": lambda: b"abc",
    "no header": lambda: (100).to_bytes(8, "little") + b"x" * 100,
    "cut off": lambda: said()[:-20],
    "endless": lambda: b"\xff" * 64,
    "a list": lambda: (2).to_bytes(8, "little") + b"[]",
    "deep": lambda: (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "no text": lambda: (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
    "no metadata": lambda: (2).to_bytes(8, "little") + b"{}",
    "other metadata": lambda: header({"ss_steps": "5"}),
    "metadata of text": lambda: header("mmd_ddm"),
    "a number": lambda: header({"mmd_ddm": 5}),
    "half a text": lambda: header({"mmd_ddm": '{"steps": 5'}),
    "nothing in it": lambda: header({"mmd_ddm": "{}"}),
    "words for numbers": lambda: said(steps="five"),
    "nothing for numbers": lambda: said(cfg=None),
    "words for figures": lambda: said(mmd2_before="much"),
    "a billion steps": lambda: said(steps=10**9, steps_to=10**9),
    "negative steps": lambda: said(steps=-5, steps_from=-5),
    "steps out of their range": lambda: said(steps=5, steps_from=6, steps_to=9),
    "yes for steps": lambda: said(steps=True, steps_from=True),
    "half a step": lambda: said(steps=2.0),
    "endless cfg": lambda: said(cfg=math.inf),
    "cfg that is no number": lambda: said(cfg=math.nan),
    "cfg of 400 digits": lambda: said(cfg=10**400),
    "cfg above all floats": lambda: written('"cfg": 1.0', '"cfg": 1e400'),
    "steps twice": lambda: written('"steps": 2', '"steps": 2, "steps": 2'),
    "a name that garbles": lambda: said(sampler_name="\x1b[2J\n[ERROR] forged line"),
    "a name that turns": lambda: said(model="\u202ecod.exe"),
    "half a character": lambda: said(scheduler="\ud800"),
    "a long name": lambda: said(kernel="k" * 101),
    "a name that is a script": lambda: said(sampler_name="<img src=x onerror=alert(1)>"),
    "a name that is a link": lambda: said(scheduler="www.example.com"),
    "a name that is a place": lambda: said(model="/root/x"),
    "no name": lambda: said(features=""),
    "distances of 400 digits": lambda: said(mmd2_before=10**400, mmd2_after=1),
    "a long text": lambda: said(report="r" * 2**20),
    "many values": lambda: said(latent=[1] * 50_000),
    "more than it says": lambda: said() + b"\0",
    "a tensor that is not there": lambda: header(
        {"mmd_ddm": json.dumps(usual()[LORA].metadata)},
        a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_info_refuses_other_files_in_words(kind, output_folder):  # noqa: F811
    (output_folder / "loras" / "other.safetensors").write_bytes(OTHERS[kind]())
    with pytest.raises(ValueError) as error:
        info("other.safetensors")
    assert "MMDLoRAInfo: other.safetensors does not say how it was trained" in str(error.value)


def test_info_names_what_this_comfyui_does_not_have(output_folder):  # noqa: F811
    for name, changed in {"sampler_name": "res_9s", "scheduler": "made up"}.items():
        lora = TrainedLoRA(usual()[LORA], {**usual()[LORA].metadata, name: changed})
        report = info(saved(lora), "euler", "simple")[0]
        assert f"⚠ Install the node pack that adds the {name} {changed}" in report
        assert f"Set {name}" not in report and report.count("⚠") == 1


def test_info_reads_what_was_written_before_the_limits(output_folder):  # noqa: F811
    """Files of any trainer's tensors, and distances that were not finite."""
    for name, data in {
        "nan": said(mmd2_before=math.nan, mmd2_after=math.inf),
        "whole": said(cfg=7, mmd2_before=1, mmd2_after=0),
        "bf16": header(
            {"mmd_ddm": json.dumps(usual()[LORA].metadata), "ss_steps": "5"},
            a={"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
            b={"dtype": "F8_E4M3", "shape": [], "data_offsets": [12, 13]},
        )
        + bytes(13),
    }.items():
        (output_folder / "loras" / f"{name}.safetensors").write_bytes(data)
        report, steps, _ = info(f"{name}.safetensors")
        assert steps == 2 and "For 2 steps of euler" in report and "nan" not in report
        assert ("1 without it, 0 with it" in report) == (name == "whole")


def test_distances_that_are_not_finite_are_unknown_in_the_file(output_folder):  # noqa: F811
    metadata = {**usual()[LORA].metadata, "mmd2_before": math.nan, "mmd2_after": -math.inf}
    path = trained_lora.save_lora("loras/a", FACTOR, metadata)
    with safe_open(path, "pt") as file:
        text = file.metadata()["mmd_ddm"]
    assert "NaN" not in text and "Infinity" not in text
    assert read_metadata(path)["mmd2_before"] is None


@pytest.mark.parametrize("bomb", [
    lambda n: b'{"x":[' + b"[]," * (n // 3) + b"[]]}",
    lambda n: b"[" * n,
    lambda n: b'{"x":' + b"9" * n + b"}",
    lambda n: b"{" + b",".join(b'"%d":0' % i for i in range(n // 10)) + b"}",
    lambda n: header({"mmd_ddm": "[" + "[]," * (n // 6) + "[]]"})[8:],
    lambda n: header({"mmd_ddm": '"' + "A" * n + '"'})[8:],
    lambda n: header({"mmd_ddm": "9" * n})[8:],
    lambda n: header({str(i): "" for i in range(n // 12)})[8:],
])  # fmt: skip
@pytest.mark.parametrize("size, megabytes", [(2**23 - 2**17, 64), (2**24, 1)])
def test_a_header_that_is_a_bomb_takes_little_memory(bomb, size, megabytes, output_folder):  # noqa: F811
    text, path = bomb(size), output_folder / "loras" / "bomb.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    tracemalloc.start()
    try:
        assert read_metadata(path) is None
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


def test_info_of_a_file_that_is_not_there_or_not_to_be_read(monkeypatch):
    with pytest.raises(ValueError, match="^MMDLoRAInfo: there is no LoRA 'x.safetensors'"):
        info("x.safetensors")

    def locked(path):
        raise PermissionError(13, "Permission denied")

    name = saved(usual()[LORA])
    monkeypatch.setattr(mmd_lora_info, "read_metadata", locked)
    with pytest.raises(ValueError, match=r"^MMDLoRAInfo: .* cannot be read \(Permission denied\)"):
        info(name)
