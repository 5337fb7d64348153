"""Folders as trainers and systems leave them: which pictures are references, and how often each counts."""

import os
import re

import numpy as np
import pytest
from mmd_pack.nodes.references.folder.image_folder import read_folder
from mmd_pack.nodes.references.folder.list_files import list_files
from mmd_pack.nodes.references.folder.trainer_names import (
    OTHERS,
    doubled_folders,
    left_out,
    repeats,
)
from mmd_pack.nodes.references.load_reference_set import LoadReferenceSet
from PIL import Image

pytestmark = pytest.mark.comfy

# Pictures, and the masks or control maps of them as a trainer, or a person, names them.
SETS = {
    "OneTrainer": (["p0.png", "p1.jpg"], ["p0-masklabel.png", "p1-masklabel.png", "p0-condlabel.png"]),
    "OneTrainer, picture gone": (["p0.png"], ["p7-masklabel.png", "p7-MaskLabel2.png"]),
    "StableTuner": (["p0.png"], ["p0-depth.png"]),
    "cloneofsimo": (["0.src.jpg", "1.src.jpg"], ["0.mask.png", "1.mask.png"]),
    "ai-toolkit": (["p0.jpg"], [f"_controls/p0.{kind}.jpg" for kind in ("depth", "line", "pose")]),
    "ai-toolkit, beside": (["p0.jpg"], [f"p0.{kind}.jpg" for kind in ("depth", "line", "pose")]),
    "inside": (["p0.jpg", "10_x/p1.jpg"], ["masks/p0.png", "10_x/Mask/p1.png"]),
    "beside": (["images/p0.jpg"], ["masks/p0.png", "control/p0.png", "conditioning/p0.webp"]),
    "diffusers": (["images/1.png"], ["conditioning_images/1.png"]),
    "whatever their names": (["images/img_1.png"], ["masks/mask_1.png", "loss masks/other.png"]),
    "a word behind": (["p0.png", "p1.png"], ["p0_mask.png", "p1.mask_0.png", "P0 control.png"]),
    "a word in front": (["p0.png"], ["mask_p0.png", "control-p0.png"]),
    "in a folder of any name": (["images/p0.png"], ["labels/p0_mask.png"]),
    "deep": (["x/p0.png"], ["x/masks/10_y/p0.png"]),
    "likely, and of the same names": (["p0.png", "p1.png"], ["depth/p0.png", "depth/p1.jpg"]),
    "likely, beside": (["images/p0.png", "images/q.png"], ["canny/p0_canny.png"]),
    "accents stored otherwise": (["\u00e9t\u00e9.png"], ["e\u0301te\u0301_mask.png"]),
    "thumbnails": (["p0.png"], ["thumbs/p0.jpg", "Thumbnails/p0.jpg", "p0.thumb.jpg", "thumb_p0.jpg"]),
    "numbered": (["p0.png"], ["control1/p0.png", "control_2/p0.png", "masks 2/p0.png"]),
    "named like the folder": (["10_face/1.png", "a/b/2.png"], ["10_face_masks/7.png", "a/b-depth/2.png"]),
    "ControlNet": (["target/0.png", "target/1.png"], ["source/0.png", "source/1.png"]),
}  # fmt: skip

# Pictures of what is learned, and others that the trainers keep beside them.
TRAININGS = {
    "kohya": (["img/5_dress/a.png"], ["reg/1_dress/r.png", "model/sample/dress_e000001.png"]),
    "kohya, chosen above": (["x/img/5_dress/a.png"], ["x/reg/1_dress/r.png", "x/model/sample/a.png"]),
    "DreamBooth": (["instance_images/a.png"], ["class_images/b.png", "Class Images 2/b.png"]),
    "in words": (["images/a.png"], ["regularization/a.png", "Regularisation_images/b.png"]),
}  # fmt: skip

# What only looks like one.
PICTURES = (
    "masks.png", "gas_mask.png", "mask_1.png", "10_masks/venice.png", "depth/sea.png", "pose/a.png",
    "dance.png", "dance-pose.png", "control freak.png", "maskerade/x.png", "unmask.png", "line.png",
    "beta.src.png", "source/of a river.png", "a_mask/venice.png", "thumbnails/film.png", "p0-masklabels-old.png",
    "class/v.png", "first class/b.png", "regular/c.png", "samples/d.png", "model/e.png", "reg.png", "regatta/f.png",
    "images/g.png", "a model/sample/h.png", "classic images/i.png",
)  # fmt: skip


@pytest.mark.parametrize("kind", SETS)
def test_masks_and_control_maps_are_left_out(kind):
    pictures, maps = SETS[kind]
    assert left_out([*maps, *pictures]).keys() == set(maps)
    assert left_out(pictures) == {}


@pytest.mark.parametrize("kind", TRAININGS)
def test_images_of_other_things_are_left_out(kind):
    pictures, others = TRAININGS[kind]
    assert left_out([*others, *pictures]) == dict.fromkeys(others, OTHERS)
    inside = [name.partition("/")[2] for name in others[:1]]
    assert (
        left_out(inside) == {} or kind == "kohya, chosen above"
    )  # who chooses the folder wants them


def test_other_pictures_stay():
    assert left_out(PICTURES) == {}


def test_a_mask_changes_nothing_but_the_report(tmp_path, monkeypatch):
    for i in range(3):
        save(tmp_path / "plain" / f"{i}.png", i)
        save(tmp_path / "masked" / f"{i}.png", i)
        for name in (f"{i}-masklabel.png", f"_controls/{i}.depth.jpg", f"masks/{i}.png"):
            save(tmp_path / "masked" / name, 100 + i)
    monkeypatch.setattr("folder_paths.input_directory", str(tmp_path))
    monkeypatch.setattr("folder_paths.temp_directory", str(tmp_path / "temp"))
    plain, masked = (LoadReferenceSet.execute(name).args for name in ("plain", "masked"))
    assert plain[0].names == masked[0].names and plain[2] == masked[2]
    assert all((a == b).all() for a, b in zip(plain[1], masked[1], strict=True))
    assert "Left out as masks, control maps or thumbnails: 9 (0-masklabel.png, " in masked[3]
    assert "Left out" not in plain[3] and masked[0].found == 3
    # Who chooses the folder of the masks wants them.
    assert LoadReferenceSet.execute("masked/masks").args[0].names == ["0.png", "1.png", "2.png"]


def test_a_folder_of_nothing_else_says_so(tmp_path, monkeypatch):
    save(tmp_path / "set" / "masks" / "a.png")
    save(tmp_path / "off" / "0_x" / "a.png")
    save(tmp_path / "trash" / "#recycle" / "a.png")
    monkeypatch.setattr("folder_paths.input_directory", str(tmp_path))
    for name, part in {
        "set": "are masks, control maps or thumbnails (masks/a.png): rename them",
        "off": "are switched off by a folder name such as 0_name (0_x/a.png)",
        "trash": "holds no images",
    }.items():
        with pytest.raises(ValueError, match=re.escape(part)):
            LoadReferenceSet.execute(name)


@pytest.mark.parametrize(
    "names, doubled",
    [
        (["p0.png", "p1.png", "lines of them/p0.png", "lines of them/p1.jpg"], ["lines of them"]),
        (["a/cat.png", "a/dog.png", "b/cat.png", "b/dog.png"], ["a", "b"]),
        (["a/x/cat.png", "a/x/dog.png", "b/x/cat.png", "b/x/dog.png", "b/z.png"], ["a"]),
        (["p0.png", "more/p0.png", "more/p1.png"], []),
        (["5_cat/1.png", "5_cat/2.png", "10_dog/1.png", "10_dog/2.png"], []),
        (["a/img_01.png", "a/img_02.png", "b/img_01.png", "b/img_02.png"], []),
        (["x/face.png", "y/face.png"], []),
    ],
)
def test_folders_of_the_same_names_are_named(names, doubled):
    assert doubled_folders(names) == doubled


def test_the_report_names_them(tmp_path):
    for name in ("p0.png", "p1.png", "traced/p0.png", "traced/p1.png"):
        save(tmp_path / name)
    references, _ = read_folder(tmp_path)
    assert len(references.names) == 4
    assert any("traced" in note and "move them out" in note for note in references.notes)


def test_the_nearest_numbered_folder_says_how_often_an_image_counts(tmp_path):
    counts = {
        "10_face/a.png": 10,
        "10_face/closeup/b.png": 10,
        "10_face/closeup/2_eyes/c.png": 2,
        "10_face/2024_summer/d.png": 10,
        "0_bad/5_good/e.png": 5,
        "plain/f.png": 1,
        "g.png": 1,
    }
    off = ["0_bad/h.png", "5_good/0_not/i.png", "00_x/deep/j.png"]
    for name in [*counts, *off]:
        save(tmp_path / name)
    references, _ = read_folder(tmp_path)
    assert dict(zip(references.names, references.weights, strict=True)) == counts
    (note,) = references.notes
    assert note.startswith("Left out as switched off by a folder name such as 0_name: 3 (")
    assert references.found == len(counts)
    # Who chooses a folder that is switched off wants it.
    assert read_folder(tmp_path / "0_bad")[0].weights == [5, 1]
    assert read_folder(tmp_path / "10_face" / "closeup")[0].weights == [2, 1]
    assert repeats("closeup/b.png", "10_face") == 10


SYSTEM = (
    "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", "@Recycle", "lost+found", "System Volume Information",
    "__MACOSX", "#snapshot",
)  # fmt: skip


def test_trash_is_not_read(tmp_path):
    save(tmp_path / "a.png")
    for folder in (*SYSTEM, ".thumbnails", ".Trash-1000", ".@__thumb", "@eaDir/a.png"):
        for place in (tmp_path, tmp_path / "sub"):
            save(place / folder / "deleted.png")
    (tmp_path / "sub" / "lost+found").chmod(0)  # as fsck leaves it
    save(tmp_path / "recycle" / "bin.png")
    references, _ = read_folder(tmp_path)
    assert references.names == ["a.png", "recycle/bin.png"] and references.skipped == []
    found = {name.rpartition("/")[2] for name in list_files(tmp_path, True).left_out}
    assert found == {name for name in os.listdir(tmp_path) if name in SYSTEM}
    (note,) = references.notes
    assert note.startswith(f"Left out as folders of the system: {2 * len(found)} (#recycle, ")
    assert read_folder(tmp_path, recursive=False)[0].notes == ()


def test_many_folders_of_alike_names_take_no_time_that_grows_with_their_square(monkeypatch):
    """Counted in comparisons of two folders."""
    n = 3000
    names = [f"{i}/{file}.png" for i in range(n) for file in ("front", f"back of {i} house")]
    compared = 0

    class Counted(set):
        def __le__(self, other):
            nonlocal compared
            compared += 1
            return set.__le__(self, other)

    module = "mmd_pack.nodes.references.folder.trainer_names.defaultdict"
    from collections import defaultdict

    monkeypatch.setattr(module, lambda kind: defaultdict(Counted))
    assert doubled_folders(names) == []
    assert compared <= 2 * n


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
