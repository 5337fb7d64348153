"""SaveReferenceLatents and LoadReferenceLatents: what is shared is what was encoded, and nothing leads out."""

import asyncio
import dataclasses
import inspect
import os
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import comfy.latent_formats
import execution
import folder_paths
import pytest
import torch
from mmd_pack.mmd_core import (
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    References,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.files.reference_file import read
from mmd_pack.nodes.host import large_tensor
from mmd_pack.nodes.host.vae_match import agreement
from mmd_pack.nodes.references.encode_reference_latents import EncodeReferenceLatents
from mmd_pack.nodes.references.folder import reference_files
from mmd_pack.nodes.references.folder.reference_files import KIND
from mmd_pack.nodes.references.load_reference_latents import LoadReferenceLatents
from mmd_pack.nodes.references.save_reference_latents import SaveReferenceLatents
from mmd_tests.support.at_once import ROUNDS, at_once

import nodes

pytestmark = pytest.mark.comfy
links = pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
posix = pytest.mark.skipif(os.name == "nt", reason="needs forks of POSIX")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """models/mmd_references, which is not there yet, beside things that are nobody's business."""
    folder = tmp_path / "models" / KIND
    entry = ([str(folder)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, KIND, entry)
    return folder


@pytest.fixture
def other_place(tmp_path, place):
    """A second folder, that the owner registered."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder_paths.add_model_folder_path(KIND, str(folder))
    return folder


def saver():
    return SaveReferenceLatents


def loader():
    return LoadReferenceLatents


def some_references(seed=0, **options):
    rng = torch.Generator().manual_seed(seed)
    return References(torch.randn(3, 4, 3, 2, generator=rng), **options)


def save(filename="my_style", seed=0, dtype="float32", overwrite=False):
    return saver().execute(some_references(seed), filename, dtype, overwrite).args[1]


def write(path: Path, seed=0):
    from mmd_pack.mmd_core.files.reference_file import write

    path.parent.mkdir(parents=True, exist_ok=True)
    write(some_references(seed), path)
    return path


def seed_of(path: Path) -> int:
    latents = read(path).latents
    return next(s for s in range(9) if torch.equal(latents, some_references(s).latents))


def everything(folder: Path) -> dict:
    """Every file, folder and link below `folder`, with what it holds."""
    return {
        str(p): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def test_a_choice_of_contents_that_does_not_exist_is_named(place):
    with pytest.raises(ValueError, match=r"SaveReferenceLatents: contents has no 'some': choose"):
        saver().execute(some_references(), "a", "float32", contents="some")


@pytest.mark.parametrize("contents, private, told", [
    ("all", {"a secret cat", "private.png"}, "captions, file names and small images"),
    ("no names or small images", {"a secret cat"}, "captions"),
    ("no captions either", set(), ""),
])  # fmt: skip
def test_what_others_can_read_is_told_and_can_be_left_out(place, contents, private, told):
    thumbnails = torch.full((3, 3, 3, 2), 7 / 255)
    references = some_references(
        names=["private.png"] * 3, captions=["a secret cat"] * 3, thumbnails=thumbnails,
        prompts=torch.ones(3, 5), weights=torch.tensor([1.0, 2, 3]), sizes=((8, 9),) * 3,
    )  # fmt: skip
    passed_on, text = saver().execute(references, "a", "float32", contents=contents).args
    assert passed_on is references
    if told:
        assert f"Others can read its {told}: " in text and "`contents`" in text
    else:
        assert "no captions, file names or small images" in text
    stored = (place / "a.safetensors").read_bytes()
    texts = {text for text in ("a secret cat", "private.png") if text.encode() in stored}
    assert texts == private and (bytes([7] * 54) in stored) == (contents == "all")
    found = loader().execute("a.safetensors").args[0]
    for name in ("latents", "weights", "prompts"):
        assert torch.equal(getattr(found, name), getattr(references, name))
    assert found.sizes == references.sizes
    assert "no captions, file names" in save("plain")


# What is shared is what was encoded


class TinyVAE:
    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([small, small.mean(1, keepdim=True)], 1) * 2 - 1


class TinyCLIP:
    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        pooled = torch.tensor([[float(len(tokens)), 1.0]])
        return [[torch.zeros(1, 3, 5), {"pooled_output": pooled}]]


def test_references_are_the_same_after_saving_and_loading(place, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    rng = torch.Generator().manual_seed(0)
    encoded = EncodeReferenceLatents.execute(
        width=[32], height=[24], fit=["crop"], vae=[TinyVAE()], clip=[TinyCLIP()],
        images=[torch.rand(1, 30 + 9 * j, 40, 3, generator=rng) for j in range(5)],
        captions=["a cat", "a dog\nrunning", "", "birds", "絵"],
    ).args  # fmt: skip
    passed_on, text = saver().execute(encoded[0], "styles/ink", "float32").args
    assert passed_on is encoded[0]
    assert text.startswith("Saved as mmd_references/styles/ink.safetensors: 5 references")
    references, latents, report = loader().execute("styles/ink.safetensors").args
    for field in (each for each in dataclasses.fields(references) if each.init):
        before, after = (getattr(r, field.name) for r in (encoded[0], references))
        if field.name == "thumbnails":
            assert (before - after).abs().max() <= 0.5 / 255 + 1e-6
        elif isinstance(before, torch.Tensor):
            assert before.dtype == after.dtype and torch.equal(before, after), field.name
        else:
            assert before == after, field.name
    assert torch.equal(latents["samples"], encoded[1]["samples"])
    assert report.startswith("5 references") and "(4, 3, 4)" in report and "Captions: 4" in report
    assert latents_guide_alike(encoded[0], references)
    sd15 = comfy.latent_formats.SD15()
    assert torch.allclose(agreement(encoded[0], sd15), agreement(references, sd15), atol=0.01)


def latents_guide_alike(one, other) -> bool:
    """Whether both move a batch to the same place, bit by bit."""
    x = torch.randn(8, 4, 3, 4, generator=torch.Generator().manual_seed(1))
    config = GuidanceConfig(kernel=KernelConfig(prompt_kernel="rbf"))
    moved = []
    for r in (one, other):
        guidance = Guidance(
            config,
            Latents(r.latents, r.weights),
            Schedule((3.0, 2.0, 1.0, 0.0), Window(99.0, 0.1)),
            captions=r.prompts,
        )
        moved.append(guidance(x * 0.5, x * 3, 3.0, torch.ones(8, 2)))
    assert not torch.equal(moved[0], x * 0.5)
    return torch.equal(*moved)


@posix
def test_a_large_set_lies_in_a_file_of_its_own(place, tmp_path, monkeypatch):
    """So that nobody can shorten it, which would kill the process."""
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(large_tensor, "IN_MEMORY", 100)
    mapped, from_file = [], torch.from_file

    def noted(path, **options):
        mapped.append(os.stat(path).st_dev)
        return from_file(path, **options)

    monkeypatch.setattr(torch, "from_file", noted)
    save()

    def work(*_):
        loaded, samples, _ = loader().execute("my_style.safetensors").args
        os.truncate(place / "my_style.safetensors", 0)
        assert mapped == [(tmp_path / "temp").stat().st_dev]
        assert torch.equal(loaded.latents, some_references().latents)
        assert samples["samples"] is loaded.latents
        return True

    assert at_once(work, rounds=1, processes=1) == [(0, 0, True)]


def test_nothing_known_about_the_references_is_reported_as_such(place):
    save()
    report = loader().execute("my_style.safetensors").args[2]
    assert "pixels" not in report and "VAE" not in report and "Weights" not in report
    assert "Captions: 0, without features" in report
    saver().execute(
        some_references(weights=torch.tensor([1.0, 2, 8]), vae="0123456789abcdef"), "b", "float32"
    )
    report = loader().execute("b.safetensors").args[2]
    assert "8 times" in report and "VAE: 0123456789ab." in report


def test_float16_takes_less_and_is_refused_where_it_cannot_hold_the_numbers(place):
    save("a")
    save("b", dtype="float16")
    sizes = [(place / f"{name}.safetensors").stat().st_size for name in "ab"]
    assert sizes[0] - sizes[1] >= 100
    huge = dataclasses.replace(some_references(), latents=torch.full((3, 4, 3, 2), 1e6))
    with pytest.raises(ValueError, match="SaveReferenceLatents: .*choose float32"):
        saver().execute(huge, "c", "float16")
    assert sorted(os.listdir(place)) == ["a.safetensors", "b.safetensors"]


# Which file


def test_a_file_is_kept_and_the_next_one_gets_a_number(place):
    assert "Saved as mmd_references/a.safetensors" in save("a", 0)
    assert "Saved as mmd_references/a_2.safetensors" in save("a.safetensors", 1)
    assert "Saved as mmd_references/a_3.safetensors" in save("a", 2)
    before = everything(place), (place / "a_2.safetensors").stat().st_mtime_ns
    assert "Already in mmd_references/a_2.safetensors" in save("a", 1)
    assert (everything(place), (place / "a_2.safetensors").stat().st_mtime_ns) == before
    assert [seed_of(place / f"a{end}.safetensors") for end in ("", "_2", "_3")] == [0, 1, 2]


def test_overwriting_replaces_the_file(place):
    save("a", 0)
    assert "Saved as mmd_references/a.safetensors" in save("a", 1, overwrite=True)
    assert "Already in mmd_references/a.safetensors" in save("a", 1, overwrite=True)
    assert os.listdir(place) == ["a.safetensors"] and seed_of(place / "a.safetensors") == 1


@posix
@pytest.mark.parametrize("rounds", ROUNDS)
def test_of_sets_saved_at_once_under_one_name_none_is_lost(place, rounds):
    """Each process saves a set of its own under the name of the round; in the last one all save the same set."""

    def work(process, turn):
        seed = 0 if turn == rounds - 1 else process + 1
        path, written = reference_files.save(some_references(seed), str(turn), "float32", False)
        return path, written, seed

    found = at_once(work, rounds)
    assert len(found) == 4 * rounds
    for _, turn, (path, written, seed) in found:
        assert seed_of(path) == seed and (written or turn == rounds - 1)
    assert len(list(place.iterdir())) == 4 * (rounds - 1) + 1


def test_what_is_in_the_way_is_explained(place):
    place.mkdir(parents=True)
    (place / "file").write_text("x")
    with pytest.raises(ValueError, match="SaveReferenceLatents: 'file/a' cannot be written"):
        save("file/a")
    (place / "b.safetensors").mkdir()
    assert "b_2.safetensors" in save("b")
    with pytest.raises(ValueError, match="'b' cannot be written .*choose another `filename`"):
        save("b", 1, overwrite=True)
    assert not [name for name in os.listdir(place) if name.endswith(".tmp")]


def test_a_file_in_use_is_explained(place, monkeypatch):
    """Windows does not replace a file that is loaded."""
    save("a", 0)

    def refuse(*_):
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ValueError, match="Access is denied.*the file is in use"):
        save("a", 1, overwrite=True)
    assert os.listdir(place) == ["a.safetensors"] and seed_of(place / "a.safetensors") == 0


def test_the_first_place_is_written_and_all_are_read(place, other_place):
    write(other_place / "a.safetensors", 1)
    write(other_place / "sub" / "b10.safetensors", 2)
    write(other_place / "sub" / "b9.SAFETENSORS", 3)
    save("a", 4)
    (place / "note.txt").write_text("x")
    (place / ".hidden.safetensors").write_text("x")
    names = ["a.safetensors", "sub/b9.SAFETENSORS", "sub/b10.safetensors"]
    assert loader().INPUT_TYPES()["required"]["file"][1]["options"] == names
    latents = [
        loader().execute(name).args[1]["samples"] for name in [*names, "sub\\b10.safetensors"]
    ]
    for found, seed in zip(latents, (4, 3, 2, 2), strict=True):
        assert torch.equal(found, some_references(seed).latents)


def test_the_folder_is_registered_in_comfyui():
    from mmd_pack.nodes.references.folder import reference_files  # noqa: F401 (registers it)

    places, endings = folder_paths.folder_names_and_paths["mmd_references"]
    assert os.path.join(folder_paths.models_dir, "mmd_references") in places
    assert endings == {".safetensors"}


def test_a_missing_file_is_explained_before_anything_runs(place):
    assert loader().INPUT_TYPES()["required"]["file"][1]["options"] == [""]
    validate = loader().validate_inputs
    assert "no file is chosen: put a file" in validate(file="") and validate(file=None) is True
    save("my_style")
    assert validate(file="my_style.safetensors") is True
    message = validate(file="my_styles.safetensors")
    assert message.startswith("LoadReferenceLatents: there is no file 'my_styles.safetensors'")
    assert "(there is 'my_style.safetensors')" in message and "models/mmd_references" in message
    with pytest.raises(ValueError, match="press R"):
        loader().execute("gone.safetensors")


def test_a_damaged_file_is_explained(place):
    save("a")
    path = place / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(
        ValueError, match="LoadReferenceLatents: 'a.safetensors': the file is damaged"
    ):
        loader().execute("a.safetensors")


def test_a_changed_file_runs_again(place):
    fingerprint = loader().fingerprint_inputs
    assert fingerprint(file="a.safetensors") == fingerprint(file=None) == ""
    save("a")
    first = fingerprint(file="a.safetensors")
    assert first == fingerprint(file="a.safetensors") != ""
    os.utime(place / "a.safetensors", ns=(1, 1))
    assert fingerprint(file="a.safetensors") != first


# Nothing leads out


OUT = [
    "..", "../x", "a/../../x", "..\\x", "a\\..\\..\\x", "/x", "//server/share/x", "\\\\server\\share\\x",
    "\\x", "C:\\x", "C:x", "c:/x", "\\\\?\\C:\\x", "x\0", "../mmd_references_2/x",
]  # fmt: skip
NO_NAMES = [
    "", " ", ".", "...", ".hidden", "a/", "a//b", "/", "a/./b", "a.", "a ", " a", "a. ", "sub./a", "sub /a",
    "a:b", "a.safetensors:b", "a*", "a?", "a<b", "a>b", 'a"b', "a|b", "a\nb", "a\x1b[2J", "a\x7f",
    "a\u202eb", "a\ud800", "CON", "con", "nul.x", "Aux", "COM1", "lpt9.safetensors", "sub/PRN", "nul/a",
    "com¹", "CONIN$", "CON .x", "x" * 201, "é" * 101, ".safetensors", "a/.safetensors", "sub/..",
]  # fmt: skip


@pytest.mark.parametrize("filename", [*OUT, *NO_NAMES])
def test_names_that_lead_out_or_are_none_write_nothing(place, tmp_path, filename):
    before = everything(tmp_path)
    with pytest.raises(ValueError, match="SaveReferenceLatents: .*give `filename` a name") as error:
        save(filename, overwrite=True)
    assert everything(tmp_path) == before
    assert saver().validate_inputs(filename=filename) == str(error.value)
    assert saver().validate_inputs(filename=f"sub/{filename}") is not True


@pytest.mark.parametrize(
    "filename", ["a", "é 絵", "v1.5 (new)", "x" * 200, "a/b/c", "a\\b", "console", "com10", "nul_"]
)
def test_good_names_are_taken(place, filename):
    assert saver().validate_inputs(filename=filename) is True
    save(filename)
    name = filename.replace("\\", "/") + ".safetensors"
    assert loader().validate_inputs(file=name) is True
    assert (place / name).is_file()


def test_only_safetensors_are_written_and_read(place, tmp_path):
    for name in ("a.pt", "a.py", "a.safetensors.exe", "A.SafeTensors"):
        save(name)
    assert sorted(os.listdir(place)) == [
        "A.safetensors", "a.pt.safetensors", "a.py.safetensors", "a.safetensors.exe.safetensors",
    ]  # fmt: skip
    write(place / "b.safetensors").rename(place / "b.pt")
    assert "there is no file" in loader().validate_inputs(file="b.pt")
    assert "b.pt" not in loader().INPUT_TYPES()["required"]["file"][1]["options"]


@pytest.mark.parametrize("name", OUT)
def test_names_that_lead_out_read_nothing(place, tmp_path, name):
    for folder in ("models", ".", "models/mmd_references_2", "models/mmd_references"):
        write(tmp_path / folder / "x.safetensors")
    for file in (name, f"{name}.safetensors", f"{name}/x.safetensors"):
        message = loader().validate_inputs(file=file)
        assert message is not True and message.startswith("LoadReferenceLatents: "), file
        assert str(tmp_path) not in message
        with pytest.raises(ValueError, match="mmd_references"):
            loader().execute(file)


def test_an_error_does_not_show_what_is_outside(place, tmp_path):
    write(tmp_path / "there.safetensors")
    messages = [
        loader().validate_inputs(file=f"../../{name}.safetensors").replace(name, "x")
        for name in ("there", "gone")
    ]
    assert messages[0] == messages[1] and "leads out" in messages[0]


@links
def test_links_that_lead_out_are_not_read(place, tmp_path):
    outside = write(tmp_path / "outside" / "x.safetensors")
    place.mkdir(parents=True)
    (place / "a.safetensors").symlink_to(outside)
    (place / "folder").symlink_to(outside.parent, target_is_directory=True)
    (place / "loop.safetensors").symlink_to(place / "loop.safetensors")
    (place / "dangling.safetensors").symlink_to(tmp_path / "gone.safetensors")
    for name in ("a", "folder/x", "dangling"):
        message = loader().validate_inputs(file=f"{name}.safetensors")
        assert "leads out" in message and "extra_model_paths.yaml" in message, message
    assert loader().validate_inputs(file="loop.safetensors") is not True


@links
def test_links_between_places_are_read(place, other_place):
    place.mkdir(parents=True)
    (place / "a.safetensors").symlink_to(write(other_place / "x.safetensors", 1))
    assert torch.equal(
        loader().execute("a.safetensors").args[0].latents, some_references(1).latents
    )


@links
def test_the_place_itself_may_be_a_link(place, tmp_path):
    (tmp_path / "disk").mkdir()
    place.parent.mkdir()
    place.symlink_to(tmp_path / "disk", target_is_directory=True)
    save("sub/a")
    assert (tmp_path / "disk" / "sub" / "a.safetensors").is_file()
    assert loader().execute("sub/a.safetensors").args[0].latents.shape == (3, 4, 3, 2)


@links
@pytest.mark.parametrize("overwrite", [False, True])
def test_links_are_never_written_through(place, tmp_path, overwrite):
    outside = tmp_path / "outside"
    write(outside / "x.safetensors", 0)
    place.mkdir(parents=True)
    (place / "folder").symlink_to(outside, target_is_directory=True)
    (place / "a.safetensors").symlink_to(outside / "x.safetensors")
    (place / "b.safetensors").symlink_to(outside / "gone.safetensors")
    before = everything(outside)
    for name in ("folder/x", "folder/new", "folder/sub/new"):
        with pytest.raises(ValueError, match="a link leads out"):
            save(name, 0, overwrite=overwrite)
        assert "a link leads out" in saver().validate_inputs(filename=name)
    for name in ("a", "b"):
        save(name, 0, overwrite=overwrite)
        path = place / f"{name}.safetensors"
        assert path.is_symlink() is not overwrite
        assert seed_of(path if overwrite else place / f"{name}_2.safetensors") == 0
    assert everything(outside) == before


@links
def test_pipes_and_devices_are_not_opened(place):
    place.mkdir(parents=True)
    os.mkfifo(place / "a.safetensors")
    assert "there is no file" in loader().validate_inputs(file="a.safetensors")
    assert "a_2.safetensors" in save("a")


# In ComfyUI


class Source:
    """A node that has references."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MMD_REFERENCES",), "load", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        return (some_references(),)


def test_comfyui_runs_them_again_only_when_the_file_changes(place, monkeypatch):
    classes = {"Source": Source, "Save": saver(), "Load": loader()}
    monkeypatch.setattr(nodes, "NODE_CLASS_MAPPINGS", nodes.NODE_CLASS_MAPPINGS | classes)
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None)
    cache = {"cache_type": execution.CacheType.CLASSIC, "cache_args": defaultdict(int)}
    executor = execution.PromptExecutor(server, **cache)

    def run(kind, **inputs):
        """Which nodes were not run again, or why ComfyUI does not start."""
        source = {"class_type": kind, "inputs": inputs}
        options = {"references": ["1", 0], "filename": "a", "dtype": "float32"}
        graph = {"1": source, "2": {"class_type": "Save", "inputs": {**options, "overwrite": True}}}
        valid, _, ends, errors = asyncio.run(execution.validate_prompt("id", graph, None))
        if not valid:
            return errors["1"]["errors"][0]["details"]
        executor.execute(graph, "id", {}, ends)
        assert executor.success, executor.status_messages
        cached = next(
            about for event, about in executor.status_messages if event == "execution_cached"
        )
        return set(cached["nodes"])

    assert "there is no file" in run("Load", file="b.safetensors")
    assert run("Source") == set()
    assert seed_of(place / "a.safetensors") == 0
    write(place / "b.safetensors", 1)
    assert run("Load", file="b.safetensors") == set()
    assert seed_of(place / "a.safetensors") == 1
    assert run("Load", file="b.safetensors") == {"1", "2"}
    write(place / "b.safetensors", 2)
    assert run("Load", file="b.safetensors") == set()
    assert seed_of(place / "a.safetensors") == 2


# The nodes


def test_parameters_are_the_inputs_and_every_one_is_explained():
    for node, inputs, outputs in (
        (
            saver(),
            ["references", "filename", "dtype", "overwrite", "contents"],
            ["references", "report"],
        ),
        (loader(), ["file"], ["references", "latents", "report"]),
    ):
        schema = node.GET_SCHEMA()
        assert [entry.id for entry in schema.inputs] == inputs
        assert [entry.display_name or entry.id for entry in schema.outputs] == outputs
        assert list(inspect.signature(node.execute).parameters) == inputs
        assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])
    assert saver().GET_SCHEMA().is_output_node and not loader().GET_SCHEMA().is_output_node
    types = saver().INPUT_TYPES()
    options = types["required"] | types["optional"]
    assert options["filename"][1]["default"] == "my_style"
    assert options["dtype"][1]["options"] == ["float32", "float16"]
    assert options["overwrite"][1]["default"] is False


def test_the_report_is_shown_on_the_node(place):
    output = saver().execute(some_references(), "a", "float32")
    assert output.ui == {"text": (output.args[1],)}


def test_importing_the_nodes_reads_no_file(place):
    assert not place.exists()
    loader().INPUT_TYPES()
    assert not place.exists() and "mmd_pack.nodes.references.folder.reference_files" in sys.modules
