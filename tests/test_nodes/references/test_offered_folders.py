"""Which folder a new LoadReferenceSet shows, and what it says where there is none."""

import folder_paths
import pytest
from mmd_pack.nodes.references.folder.offered_folders import NEW_FOLDER, offered_folders
from mmd_pack.nodes.references.load_reference_set import LoadReferenceSet
from mmd_tests.make.templates.parts import FOLDER

pytestmark = pytest.mark.comfy


@pytest.fixture
def put(tmp_path, monkeypatch):
    """put(name, ...) makes these files, or folders where the name ends with "/", in ComfyUI's input folder."""
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))

    def make(*names):
        for name in names:
            path = tmp_path / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_bytes(b"")

    return make


@pytest.mark.parametrize(
    ("files", "first"),
    [
        (["3d/", "empty/", "photos/a.PNG"], "photos"),
        (["a/notes.txt", "b/c/1.webp", "z/1.png"], "b/c"),
        (["3d/shot.png", "clipspace/m.png", "pasted/image.png", "zebra/1.jpg"], "zebra"),
        (["set/10_cat/1.png", "set/5_dog/1.png"], "set"),
        (["10_cat/1.png"], "10_cat"),
        (["photos/masks/1.png", "photos/real/1.png"], "photos/real"),
        (["#recycle/1.png", "trip/1.png"], "trip"),
        (["old/.hidden.png", "trip/1.png"], "trip"),
    ],
)
def test_the_first_folder_with_pictures_is_chosen(put, files, first):
    put("loose.png", *files)
    offered = offered_folders()
    assert offered[0] == first
    assert sorted(offered) == sorted(folder_paths.get_input_subfolders())
    options = LoadReferenceSet.INPUT_TYPES()["required"]["folder"][1]
    assert options["options"][0] == first and "default" not in options


@pytest.mark.parametrize("files", [[], ["3d/"], ["3d/a.glb", "pasted/image.png", "old/a.txt"]])
def test_without_pictures_the_folder_to_make_is_named(put, files):
    put(*files)
    assert offered_folders()[0] == NEW_FOLDER
    message = LoadReferenceSet.validate_inputs(folder=NEW_FOLDER)
    assert f"no '{NEW_FOLDER}': create it and put the images into it" in message


def test_a_folder_that_exists_and_is_empty_is_named_too(put):
    put(f"{NEW_FOLDER}/")
    assert offered_folders() == [NEW_FOLDER]
    assert "holds no images" in LoadReferenceSet.validate_inputs(folder=NEW_FOLDER)


def test_it_is_the_folder_of_the_templates():
    assert NEW_FOLDER == FOLDER
