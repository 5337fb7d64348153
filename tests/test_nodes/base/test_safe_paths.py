"""Where pictures may be read: what leads out of the allowed places, and what the owner of the server allows."""

import importlib.util
import os
from pathlib import Path

import folder_paths
import numpy as np
import pytest
from mmd_pack.nodes.base import safe_paths as folders
from mmd_pack.nodes.references.folder import list_files, reference_files
from mmd_pack.nodes.references.folder import reference_folders as places
from mmd_pack.nodes.references.load_reference_set import LoadReferenceSet
from PIL import Image

pytestmark = pytest.mark.comfy
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")


@pytest.fixture
def comfy_input(tmp_path, monkeypatch):
    """ComfyUI's input folder, empty."""
    (tmp_path / "input").mkdir()
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "input"


@pytest.fixture
def register(monkeypatch):
    """Allows folders as a line in extra_model_paths.yaml does."""

    def register(*paths):
        # A copy, for monkeypatch to bring back what was there.
        names = dict(folder_paths.folder_names_and_paths)
        monkeypatch.setattr(folder_paths, "folder_names_and_paths", names)
        for path in paths:
            folder_paths.add_model_folder_path("mmd_reference_images", str(path))

    return register


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(path)
    return path


def node():
    return LoadReferenceSet


OUTSIDE = [
    "..",
    "../secret",
    "a/../../secret",
    "..\\secret",
    "a\\..\\..\\secret",
    "/etc",
    "//server/share",
    "\\\\server\\share",
    "\\\\?\\C:\\secret",
    "C:\\secret",
    "C:/secret",
    "c:secret",
    "a\0b",
    "\0",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_outside_are_refused(tmp_path, name):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    assert folders.below(tmp_path / "root", name) is None


def test_places_on_the_network_are_not_even_asked_for(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("the system is asked")

    monkeypatch.setattr(Path, "resolve", refuse)
    for name in ("\\\\server\\share", "//server/share", "C:\\x", "/x"):
        assert folders.below(tmp_path, name) is None


def test_names_inside_are_found(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name, path in {
        "": tmp_path,
        ".": tmp_path,
        "a": tmp_path / "a",
        "a/b/": tmp_path / "a" / "b",
        "a\\b": tmp_path / "a" / "b",
        "a/../a": tmp_path / "a",
        "new": tmp_path / "new",
        "صور/图": tmp_path / "صور" / "图",
        "..a": tmp_path / "..a",
    }.items():
        assert folders.below(str(tmp_path), name) == path


@needs_links
def test_links_count_as_where_they_lead(tmp_path):
    for name in ("root", "other", "secret"):
        (tmp_path / name).mkdir()
    root = tmp_path / "root"
    for name, target in {
        "in": root / "new",
        "out": tmp_path / "secret",
        "up": Path("../secret"),
        "to other": tmp_path / "other",
        "twice": root / "out",
        "loop": root / "loop",
    }.items():
        (root / name).symlink_to(target)
    assert folders.below(root, "in") == root / "new"
    for name in ("out", "up", "twice", "out/deeper", "to other"):
        assert folders.below(root, name) is None, name
    assert folders.below(root, "to other/x", [tmp_path / "other"]) == tmp_path / "other" / "x"
    assert folders.below(root, "out", [tmp_path / "other"]) is None
    found = folders.below(root, "loop")
    assert found is None or not found.exists()


def test_a_folder_of_a_similar_name_is_not_inside(tmp_path):
    assert not folders.inside(tmp_path / "root2", [tmp_path / "root"])
    assert not folders.inside(tmp_path, [tmp_path / "root"])
    assert folders.inside(tmp_path / "root", [tmp_path / "x", tmp_path / "root"])


def test_only_files_of_a_bearable_size_are_opened(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    with folders.open_file(tmp_path / "a", 5) as file:
        assert file.read() == b"12345"
    with pytest.raises(ValueError, match="has more than 0 MB"):
        folders.open_file(tmp_path / "a", 4)
    with pytest.raises(ValueError, match="is not a file"):
        folders.open_file(tmp_path, 4)
    with pytest.raises(FileNotFoundError):
        folders.open_file(tmp_path / "b", 4)


# Folders that the owner of the server registered


def test_a_registered_folder_and_those_in_it_can_be_chosen(comfy_input, register, tmp_path):
    photos = save(tmp_path / "store" / "photos" / "a.png").parent
    save(photos / "cats" / "tabby" / "b.png")
    (photos / ".hidden").mkdir()
    save(comfy_input / "own" / "c.png")
    assert "`folder`" in node().validate_inputs(folder="photos")
    register(photos)
    options = node().INPUT_TYPES()["required"]["folder"][1]["options"]
    assert options == ["own", "photos", "photos/cats", "photos/cats/tabby"]
    for name in options + ["photos/", "photos\\cats"]:
        assert node().validate_inputs(folder=name) is True, name
    assert node().execute("photos").args[0].names == ["a.png", "cats/tabby/b.png"]
    assert node().execute("photos/cats/tabby").args[0].names == ["b.png"]
    before = node().fingerprint_inputs("photos")
    save(photos / "d.png")
    assert node().fingerprint_inputs("photos") != before


@pytest.mark.parametrize(
    "name", ["photos/..", "photos/../secret", "photos/cats/../../secret", "photos\\..\\secret", "photo", "/photos"]
)  # fmt: skip
def test_a_registered_folder_opens_nothing_beside_it(comfy_input, register, tmp_path, name):
    save(tmp_path / "photos" / "cats" / "a.png")
    save(tmp_path / "secret" / "a.png")
    save(tmp_path / "photos2" / "a.png")
    register(tmp_path / "photos")
    assert node().validate_inputs(folder=name) is not True
    with pytest.raises(ValueError, match="LoadReferenceSet"):
        node().execute(name)
    assert node().fingerprint_inputs(name) == ""


def test_the_input_folder_comes_first_and_then_one_registered_after_the_other(
    comfy_input, register, tmp_path
):
    save(comfy_input / "photos" / "input.png")
    save(tmp_path / "1" / "photos" / "first.png")
    save(tmp_path / "1" / "photos" / "sub" / "first.png")
    save(tmp_path / "2" / "photos" / "sub" / "second.png")
    save(tmp_path / "2" / "photos" / "last" / "second.png")
    register(tmp_path / "1" / "photos", tmp_path / "gone", tmp_path / "2" / "photos")
    for name, file in {
        "photos": "input.png",
        "photos/sub": "first.png",
        "photos/last": "second.png",
    }.items():
        assert node().execute(name).args[0].names == [file]
    options = node().INPUT_TYPES()["required"]["folder"][1]["options"]
    assert options == ["photos", "photos/sub", "photos/last"]


def test_the_list_of_a_huge_registered_folder_is_cut(comfy_input, register, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "MAX_LISTED", 4)
    for i in range(4):
        (tmp_path / "photos" / str(i) / "deep" / "deeper").mkdir(parents=True)
    register(tmp_path / "photos")
    assert places.list_folders() == ["photos", "photos/0", "photos/1", "photos/2", "photos/3"]


@needs_links
def test_a_link_may_lead_to_a_registered_folder(comfy_input, register, tmp_path):
    save(tmp_path / "photos" / "a.png")
    (comfy_input / "link").symlink_to(tmp_path / "photos")
    save(comfy_input / "set" / "own.png")
    (comfy_input / "set" / "linked.png").symlink_to(tmp_path / "photos" / "a.png")
    message = node().validate_inputs(folder="link")
    assert "mmd_reference_images: PATH" in message and "extra_model_paths.yaml" in message
    assert node().execute("set").args[0].names == ["own.png"]
    register(tmp_path / "photos")
    assert node().validate_inputs(folder="link") is True
    assert node().execute("link").args[0].names == ["a.png"]
    assert node().execute("set").args[0].names == ["linked.png", "own.png"]


def test_folders_are_registered_by_comfyuis_own_file(comfy_input, register, tmp_path):
    # By its path: other modules are called `utils` too.
    path = Path(folder_paths.__file__).parent / "utils" / "extra_config.py"
    spec = importlib.util.spec_from_file_location("extra_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    register()
    save(tmp_path / "store" / "a.png")
    (tmp_path / "paths.yaml").write_text(f"mine:\n  mmd_reference_images: {tmp_path / 'store'}\n")
    module.load_extra_path_config(str(tmp_path / "paths.yaml"))
    assert node().validate_inputs(folder="store") is True


# Links within a folder


@needs_links
def test_links_within_a_folder(comfy_input, tmp_path):
    """Those to files are good while they stay in the input folder; those to folders are named."""
    save(tmp_path / "secret" / "s.png")
    save(comfy_input / "other" / "o.png")
    save(comfy_input / "set" / "a.png")
    for name, target in {
        "b.png": comfy_input / "other" / "o.png",
        "c.png": Path("../other/o.png"),
        "d.png": tmp_path / "secret" / "s.png",
        "e.png": Path("../../secret/s.png"),
        "f.png": comfy_input / "set" / "d.png",
        "g.png": tmp_path / "secret" / "gone.png",
        "h.png": comfy_input / "gone.png",
        "i.png": comfy_input / "set" / "i.png",
        "j.png": Path("/dev/zero"),
        "k.png": comfy_input / "other",
        "inner": comfy_input / "other",
        "outer": tmp_path / "secret",
        "up": comfy_input,
    }.items():
        (comfy_input / "set" / name).symlink_to(target)
    before = node().fingerprint_inputs("set")
    references, _, _, report = node().execute("set").args
    assert references.names == ["a.png", "b.png", "c.png"]
    outside = "is a link to a place outside of the input folder"
    no_folder = "is a link to a folder: links to folders are not followed"
    reasons = dict.fromkeys("defgj", outside)
    reasons = {f"{name}.png": reason for name, reason in reasons.items()}
    reasons |= {"h.png": "is a link to nothing", "i.png": "is a link to nothing"}
    reasons |= {"k.png": no_folder, "inner": no_folder, "up": no_folder, "outer": outside}
    assert dict(references.skipped) == reasons
    assert all(f"Not used: {name}: {reason}" in report for name, reason in reasons.items())
    assert str(tmp_path) not in report
    # What happens outside is none of our business, and what a good link leads to is.
    save(tmp_path / "secret" / "gone.png")
    (tmp_path / "secret" / "s.png").write_text("changed")
    assert node().fingerprint_inputs("set") == before
    os.utime(comfy_input / "other" / "o.png", ns=(1, 1))
    assert node().fingerprint_inputs("set") != before


@needs_links
def test_without_recursion_links_to_folders_do_not_matter(comfy_input):
    save(comfy_input / "set" / "a.png")
    (comfy_input / "set" / "up").symlink_to(comfy_input)
    assert node().execute("set", recursive=False).args[0].skipped == []


def test_junctions_of_windows_are_not_followed(comfy_input, monkeypatch, tmp_path):
    """There a folder may lead elsewhere without being a link."""
    save(comfy_input / "set" / "a.png")
    save(comfy_input / "set" / "junction" / "b.png")
    realpath, junction = os.path.realpath, str(comfy_input / "set" / "junction")

    def resolved(path, **options):
        path = str(realpath(path, **options))
        return path.replace(junction, str(tmp_path / "elsewhere"))

    monkeypatch.setattr(list_files.os.path, "realpath", resolved)
    references = node().execute("set").args[0]
    assert references.names == ["a.png"]
    assert references.skipped == [("junction", "leads to another folder: links are not followed")]


@needs_links
def test_the_input_folder_may_itself_be_a_link(tmp_path, monkeypatch):
    save(tmp_path / "disk" / "set" / "a.png")
    (tmp_path / "input").symlink_to(tmp_path / "disk")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    assert node().validate_inputs(folder="set") is True
    assert node().validate_inputs(folder="../disk/set") is True  # the same place
    assert node().validate_inputs(folder="../disk") is not True


def test_a_folder_without_images_says_what_was_left_out(comfy_input):
    (comfy_input / "set").mkdir()
    os.mkfifo(comfy_input / "set" / "pipe.png")
    with pytest.raises(ValueError, match="holds no images .pipe.png is not a file.: put images"):
        node().execute("set")


# Names that are the same to people


NFC, NFD = "B\u00e4ume \u00e9t\u00e9", "Ba\u0308ume e\u0301te\u0301"


def only_bytes_count(folder):
    """Whether the file system keeps both spellings apart."""
    (folder / NFC).mkdir()
    found = not os.path.exists(folder / NFD)
    (folder / NFC).rmdir()
    return found


@pytest.mark.parametrize("stored, asked", [(NFC, NFD), (NFD, NFC)])
def test_a_name_is_found_however_its_accents_are_stored(
    comfy_input, tmp_path, register, stored, asked
):
    if not only_bytes_count(comfy_input):
        return  # then the system finds it by itself
    register(tmp_path / "store" / stored)
    for place in (comfy_input / stored, comfy_input / "set" / stored / "deep"):
        save(place / "a.png")
    save(tmp_path / "store" / stored / stored / "b.png")
    for name in (asked, f"set/{asked}/deep", f"set\\{asked}\\deep"):
        assert node().validate_inputs(folder=name) is True
        assert node().execute(name).args[0].names == ["a.png"]
        assert node().fingerprint_inputs(folder=name)
    assert node().execute(f"{asked}/{asked}").args[0].names == ["b.png"]
    # What is called exactly so comes first.
    save(comfy_input / asked / "exact.png")
    assert node().execute(asked).args[0].names == ["exact.png"]
    assert node().execute(stored).args[0].names == ["a.png"]


@pytest.mark.parametrize("stored, asked", [(NFC, NFD), (NFD, NFC)])
def test_a_set_is_found_and_kept_in_the_folder_that_there_is(tmp_path, monkeypatch, stored, asked):
    if not only_bytes_count(tmp_path):
        return
    monkeypatch.setattr(reference_files, "places", lambda: [tmp_path])
    (tmp_path / stored).mkdir()
    (tmp_path / stored / f"{stored}.safetensors").write_text("x")
    found = reference_files.find(f"{asked}/{asked}.safetensors")
    assert found == tmp_path / stored / f"{stored}.safetensors"
    assert reference_files.place_for(f"{asked}/new") == (tmp_path / stored, "new")
    assert reference_files.place_for(f"{asked}/inner/new")[0] == tmp_path / stored / "inner"
    assert reference_files.place_for(f"other {asked}/new")[0] == tmp_path / f"other {asked}"


@pytest.mark.skipif(os.name == "nt", reason="a backslash separates folders there")
def test_a_folder_with_a_backslash_in_its_name(comfy_input):
    save(comfy_input / "a\\b" / "x.png")
    save(comfy_input / "c" / "d\\e" / "y.png")
    assert node().execute("a\\b").args[0].names == ["x.png"]
    assert node().execute("c/d\\e").args[0].names == ["y.png"]
    save(comfy_input / "a" / "b" / "z.png")
    assert node().execute("a\\b").args[0].names == ["z.png"]  # as in a workflow from Windows


@needs_links
def test_no_folder_outside_is_looked_into_for_a_name(comfy_input, tmp_path, monkeypatch):
    save(tmp_path / "secret" / NFD / "s.png")
    save(comfy_input / "set" / "a.png")
    (comfy_input / f"{NFD} out").symlink_to(tmp_path / "secret")
    looked = []
    listdir = os.listdir
    monkeypatch.setattr(
        folders.os, "listdir", lambda path: looked.append(Path(path)) or listdir(path)
    )
    for name in (
        *OUTSIDE,
        f"../secret/{NFC}",
        f"set/../../secret/{NFC}",
        f"{NFC} out/{NFC}",
        "é" * 10**6,
    ):
        assert folders.below(comfy_input, name) in (None, comfy_input / name)
        assert node().validate_inputs(folder=name) is not True
    assert set(looked) <= {comfy_input, comfy_input / "set"}
