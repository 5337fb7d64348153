"""Reading a folder of reference images: files as people have them, and the node that shows them."""

import json
import os
import random

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.comfy


@pytest.fixture
def folder():
    """The module under test; its package imports ComfyUI."""
    from mmd_pack.nodes import image_folder

    return image_folder


@pytest.fixture
def comfy_folders(tmp_path, monkeypatch):
    """ComfyUI's input folder, empty."""
    import folder_paths

    (tmp_path / "input").mkdir()
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "input"


def node():
    from mmd_pack.nodes.load_reference_set import LoadReferenceSet

    return LoadReferenceSet


def noise(width=20, height=12, seed=0):
    """Random pixels, with shape `(height, width, 3)`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if pixels is None else pixels).save(path, **options)
    return path


def pixels_of(image):
    """The 8-bit pixels of a tensor with shape `(1, H, W, 3)`."""
    assert image.shape[0] == 1 and image.dtype == torch.float32
    return (image[0].numpy() * 255).round().astype(np.uint8)


# Order and selection


def test_the_order_is_natural_and_does_not_depend_on_the_system(folder, tmp_path, monkeypatch):
    names = ["a1.png", "a2.png", "A10.png", "b/1.png", "b/02.png", "b/11.png", "c.png", "é.png"]
    for name in random.Random(3).sample(names, len(names)):
        save(tmp_path / name)
    assert folder.list_images(tmp_path, True) == names
    walk = os.walk

    def shuffled(top):
        for root, folders, files in walk(top):
            random.Random(0).shuffle(folders)
            yield root, folders, random.Random(1).sample(files, len(files))

    monkeypatch.setattr(folder.os, "walk", shuffled)
    assert folder.list_images(tmp_path, True) == names


def test_hidden_files_and_other_files_are_not_images(folder, tmp_path):
    for name in ["x.png", "._x.png", ".cache/y.png", "@eaDir/x.png/SYNO.jpg", "x.txt", "x.mp4"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert folder.list_images(tmp_path, True) == ["x.png"]


def test_without_recursion_only_the_folder_itself_is_read(folder, tmp_path):
    save(tmp_path / "top.png")
    save(tmp_path / "sub" / "deep.png")
    assert folder.read_folder(tmp_path, recursive=False).names == ["top.png"]
    assert folder.read_folder(tmp_path).names == ["sub/deep.png", "top.png"]


@pytest.mark.parametrize("selection", ["first", "even", "random"])
@pytest.mark.parametrize("n, k", [(1, 1), (7, 3), (10, 10), (64, 5)])
def test_a_selection_chooses_as_many_as_wanted_and_orders_the_rest(folder, selection, n, k):
    order = folder.reading_order(n, k, selection, seed=5)
    assert sorted(order) == list(range(n))
    chosen = order[:k]
    if selection == "first":
        assert chosen == list(range(k))
    if selection == "even":
        gaps = np.diff([-0.5, *(np.array(chosen)), n - 0.5])
        assert gaps.max() <= n / k + 1


def test_random_selection_depends_on_the_seed_alone(folder):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    orders = [folder.reading_order(50, 9, "random", seed) for seed in (1, 1, 2, 2**64 - 1)]
    assert orders[0] == orders[1] != orders[2] != orders[3]
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_selection_is_refused(folder):
    with pytest.raises(KeyError):
        folder.reading_order(3, 2, "best", 0)


def test_selected_images_stay_in_natural_order_and_more_contain_fewer(folder, tmp_path):
    names = [f"{i}.png" for i in range(12)]
    for name in names:
        save(tmp_path / name)
    sets = [folder.read_folder(tmp_path, True, k, "random", seed=4).names for k in (3, 6, 0)]
    assert sets[2] == names
    assert set(sets[0]) < set(sets[1])
    for chosen in sets:
        assert chosen == [name for name in names if name in chosen]


# Pixels


def test_png_pixels_are_read_exactly(folder, tmp_path):
    assert (pixels_of(folder.read_image(save(tmp_path / "a.png"))) == noise()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(folder, tmp_path, orientation):
    upright = noise(48, 32) // 8 * 8
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # what a camera held that way stores
    stored = Image.fromarray(upright)
    stored = stored if undo is None else stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert (pixels_of(folder.read_image(tmp_path / "a.png")) == upright).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB"])
def test_transparency_is_laid_on_white(folder, tmp_path, mode):
    path, options = tmp_path / "a.png", {}
    image = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 2))  # left half black, right half clear
    if mode == "LA":
        image = image.convert("LA")
    elif mode == "PA":
        image, path = image.convert("PA"), tmp_path / "a.tif"
    elif mode in ("P", "L", "RGB"):
        image = Image.fromarray(np.array([[0, 0, 7, 7]] * 2, dtype=np.uint8)).convert(mode)
        options = {"transparency": (7, 7, 7) if mode == "RGB" else image.getpixel((3, 0))}
    try:
        image.save(path, **options)
    except OSError:
        pytest.skip(f"this Pillow writes no {mode}")
    pixels = pixels_of(folder.read_image(path))
    assert (pixels[:, 2:] == 255).all() and (pixels[:, :2] == 0).all()


def test_half_transparent_pixels_are_mixed_with_white(folder, tmp_path):
    Image.new("RGBA", (2, 2), (0, 100, 200, 51)).save(tmp_path / "a.webp", lossless=True)
    expected = 255 - 0.2 * (255 - np.array([0, 100, 200]))
    assert abs(pixels_of(folder.read_image(tmp_path / "a.webp")) - expected).max() <= 1


def test_16_bits_of_grey_keep_their_range(folder, tmp_path):
    values = np.array([[0, 257 * 64, 257 * 200, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert pixels_of(folder.read_image(tmp_path / "a.png"))[0, :, 1].tolist() == [0, 64, 200, 255]


@pytest.mark.parametrize("mode, name", [("CMYK", "a.jpg"), ("L", "a.jpg"), ("1", "a.png")])
def test_other_color_models_become_rgb(folder, tmp_path, mode, name):
    image = Image.new("RGB", (16, 8), "white").convert(mode)
    image.paste(0 if mode != "CMYK" else (0, 0, 0, 255), (0, 0, 8, 8))
    image.save(tmp_path / name)
    pixels = pixels_of(folder.read_image(tmp_path / name))
    assert pixels.shape == (8, 16, 3)
    assert pixels[:, :6].max() < 10 and pixels[:, 10:].min() > 245


def test_palette_images_keep_their_colors(folder, tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([2, 0, 1])
    image.save(tmp_path / "a.gif")
    pixels = pixels_of(folder.read_image(tmp_path / "a.gif"))
    assert pixels[0].tolist() == [[0, 0, 255], [255, 0, 0], [0, 255, 0]]


def test_animations_give_their_first_frame(folder, tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        pixels = pixels_of(folder.read_image(tmp_path / name)).astype(int)
        assert abs(pixels - [255, 0, 0]).max() <= 2


def test_huge_pictures_are_reduced_to_a_shorter_side_of_2048(folder, tmp_path):
    Image.new("RGB", (3000, 4000), (10, 20, 30)).save(tmp_path / "a.jpg")
    image = folder.read_image(tmp_path / "a.jpg")
    assert image.shape == (1, 2731, 2048, 3)
    assert abs(pixels_of(image).astype(int) - [10, 20, 30]).max() <= 2
    Image.new("L", (2500, 2048)).save(tmp_path / "b.png")
    assert folder.read_image(tmp_path / "b.png").shape == (1, 2048, 2500, 3)


# Broken files


def test_broken_files_are_named_and_replaced(folder, tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", noise(200, 200, i))
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.jpg").write_text("no picture")
    references = folder.read_folder(tmp_path, max_images=3)
    assert references.names == ["0.png", "2.png", "3.png"]
    assert [name for name, _ in references.skipped] == ["1.png", "2.jpg"]
    assert all(reason and str(tmp_path) not in reason for _, reason in references.skipped)
    assert references.found == 5
    assert torch.equal(references.images[0], folder.read_image(tmp_path / "0.png"))


def test_progress_is_told_for_every_file(folder, tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png")
    calls = []
    folder.read_folder(tmp_path, on_image=lambda: calls.append(1))
    assert len(calls) == 3


def test_stopping_in_the_middle_is_not_taken_for_a_broken_file(folder, tmp_path):
    save(tmp_path / "a.png")

    def stop():
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        folder.read_folder(tmp_path, on_image=stop)


# Captions and weights


def captions(folder, path, source="auto"):
    references = folder.read_folder(path, caption_source=source)
    return dict(zip(references.names, references.captions, strict=True)), references.skipped


def test_captions_come_from_text_files_and_metadata(folder, tmp_path):
    for name in ("a.png", "b.c.png", "d.jpg", "sub/e.png", "sub/f.png"):
        save(tmp_path / name)
    (tmp_path / "a.txt").write_text("\ufeff a cat,\r\nsitting \n", encoding="utf-8")
    (tmp_path / "b.c.txt").write_text("ein Hündchen", encoding="utf-8")
    (tmp_path / "d.txt").write_text("  ")
    lines = [
        {"file_name": "a.png", "text": "from metadata"},
        {"file_name": "./d.jpg", "text": "a dog"},
        {"file_name": "sub\\e.png", "text": "a bird"},
        {"file_name": "sub/f.png", "text": "far"},
        {"file_name": "gone.png", "text": "nobody"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "sub" / "metadata.jsonl").write_text('{"file_name": "f.png", "text": "near"}\n\n')
    found, skipped = captions(folder, tmp_path)
    assert found == {
        "a.png": "a cat,\nsitting",
        "b.c.png": "ein Hündchen",
        "d.jpg": "a dog",
        "sub/e.png": "a bird",
        "sub/f.png": "near",
    }
    assert skipped == []
    assert captions(folder, tmp_path, "txt")[0]["d.jpg"] == ""
    assert captions(folder, tmp_path, "metadata.jsonl")[0]["a.png"] == "from metadata"
    assert set(captions(folder, tmp_path, "none")[0].values()) == {""}


def test_broken_lines_of_metadata_are_named(folder, tmp_path):
    save(tmp_path / "a.png")
    lines = [
        '{"file_name": "a.png"',
        "[1]",
        '{"text": "x"}',
        "",
        '{"file_name": "a.png", "text": 7}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    found, skipped = captions(folder, tmp_path)
    assert found == {"a.png": "7"}
    assert [name for name, _ in skipped] == [f"metadata.jsonl, line {n}" for n in (1, 2, 3)]


def test_an_unreadable_caption_is_named_and_the_image_kept(folder, tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder.Path, "read_text", refuse)
    found, skipped = captions(folder, tmp_path)
    assert found == {"a.png": ""}
    assert skipped == [("a.txt", "cannot be read (Permission denied)")]


def test_folder_names_give_captions_and_kohyas_repeats_weights(folder, tmp_path):
    folders = {
        "10_red cat": (10, "red cat"),
        "1_dog": (1, "dog"),
        "2024_summer": (1, "2024_summer"),
        "01_first": (1, "01_first"),
        "0_off": (1, "0_off"),
        "birds": (1, "birds"),
    }
    for name in folders:
        save(tmp_path / "set" / name / "a.png")
    save(tmp_path / "set" / "top.png")
    references = folder.read_folder(tmp_path / "set", caption_source="folder name")
    got = {
        name.split("/")[0]: (weight, caption)
        for name, weight, caption in zip(
            references.names, references.weights, references.captions, strict=True
        )
    }
    assert got == {**folders, "top.png": (1, "set")}
    assert folder.read_folder(tmp_path / "set" / "10_red cat").weights == [10]


# Fingerprint


def test_the_fingerprint_notices_every_change_that_matters(folder, tmp_path):
    save(tmp_path / "a.png")
    seen = [folder.fingerprint(tmp_path, True)]

    def changed():
        seen.append(folder.fingerprint(tmp_path, True))
        assert seen[-1] not in seen[:-1]

    save(tmp_path / "sub" / "b.png")
    changed()
    (tmp_path / "a.txt").write_text("cat")
    changed()
    (tmp_path / "sub" / "metadata.jsonl").write_text("{}")
    changed()
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    changed()
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    changed()
    (tmp_path / "a.txt").unlink()
    changed()


def test_the_fingerprint_ignores_what_is_not_read(folder, tmp_path):
    save(tmp_path / "a.png")
    before = [folder.fingerprint(tmp_path, recursive) for recursive in (True, False)]
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    assert folder.fingerprint(tmp_path, True) == before[0]
    save(tmp_path / "sub" / "b.png")
    assert folder.fingerprint(tmp_path, False) == before[1]


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_a_broken_link_is_a_broken_file(folder, tmp_path):
    save(tmp_path / "a.png")
    before = folder.fingerprint(tmp_path, True)
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert folder.fingerprint(tmp_path, True) == before
    references = folder.read_folder(tmp_path)
    assert references.names == ["a.png"] and references.skipped[0][0] == "link.png"


# The node


def test_the_node_returns_images_captions_and_a_report(comfy_folders):
    save(comfy_folders / "art" / "10_cats" / "b.png", noise(30, 10))
    save(comfy_folders / "art" / "10_cats" / "a.png")
    (comfy_folders / "art" / "10_cats" / "a.txt").write_text("a cat")
    save(comfy_folders / "art" / "c.png")
    (comfy_folders / "art" / "broken.png").write_text("no picture")
    references, images, texts, report = node().execute("art").args
    assert references.names == ["10_cats/a.png", "10_cats/b.png", "c.png"]
    assert [tuple(image.shape) for image in images] == [
        (1, 12, 20, 3),
        (1, 10, 30, 3),
        (1, 12, 20, 3),
    ]
    assert texts == ["a cat", "", ""]
    for fact in ("3 of the 4", "20×12 (2), 30×10 (1)", "1 of 3", "2 images count 10", "broken.png"):
        assert fact in report, (fact, report)


def test_the_report_stays_short(comfy_folders):
    for i in range(30):
        save(comfy_folders / "many" / f"{i}.png", noise(20 + i, 12))
        (comfy_folders / "many" / f"x{i}.png").write_text("no picture")
    report = node().execute("many").args[3]
    assert len(report.splitlines()) == 24 and "Not used: 10 more." in report
    assert "and 24 more" in report


def test_the_preview_is_saved_as_one_picture(comfy_folders):
    import folder_paths

    for i in range(70):
        save(comfy_folders / "many" / f"{i}.png", noise(8, 4 + i % 9, i))
    out = node().execute("many")
    (file,) = out.ui.as_dict()["images"]
    with Image.open(os.path.join(folder_paths.get_temp_directory(), file["filename"])) as sheet:
        assert sheet.width == 1024 and 700 < sheet.height < 1400


@pytest.mark.parametrize("shapes", [[(9, 9)], [(3000, 10)], [(5, 90)] * 3, [(16, 9), (9, 16)] * 40])
def test_every_set_has_a_contact_sheet(shapes):
    from mmd_pack.nodes.load_reference_set import contact_sheet

    images = [torch.full((1, height, width, 3), 0.5) for width, height in shapes]
    sheet = contact_sheet(images)
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3
    assert 256 <= sheet.shape[1] <= 1600 and 256 <= sheet.shape[2] <= 1024
    share = (sheet - 128 / 255).abs().amax(3).lt(0.01).float().mean()
    assert share > 0.9  # nearly all of it is pictures


def test_missing_and_empty_folders_are_explained_before_the_run(comfy_folders):
    save(comfy_folders / "paintings" / "deep" / "a.png")
    (comfy_folders / "empty").mkdir()
    (comfy_folders / "file.png").write_text("x")
    validate = node().validate_inputs
    assert validate(folder="paintings") is True
    assert validate(folder=None) is True
    assert validate(folder="paintings\\deep") is True
    for name, mend in {
        "": "make one",
        "painting": "there is 'paintings'",
        "empty": "put pictures",
        "../": "copy the images",
        "..": "copy the images",
        ".": "copy the images",
        "paintings/../../x": "copy the images",
        "/etc": "copy the images",
        "\0": "copy the images",
        "file.png": "make it",
    }.items():
        message = validate(folder=name)
        assert message.startswith("LoadReferenceSet: ") and mend in message, message
        assert "`folder`" in message
    with pytest.raises(ValueError, match="switch `recursive` on"):
        node().execute("paintings", recursive=False)


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_links_out_of_the_input_folder_are_not_followed(comfy_folders, tmp_path):
    save(tmp_path / "elsewhere" / "a.png")
    (comfy_folders / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert "copy the images" in node().validate_inputs(folder="link")


def test_a_folder_of_broken_files_is_explained(comfy_folders):
    (comfy_folders / "bad").mkdir()
    (comfy_folders / "bad" / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match="none of the images in 'bad' can be read .a.png"):
        node().execute("bad")


def test_the_list_of_folders_is_deep_and_never_empty(comfy_folders):
    def options():
        return node().INPUT_TYPES()["required"]["folder"][1]["options"]

    assert options() == [""]
    (comfy_folders / "a" / "b").mkdir(parents=True)
    assert options() == ["a", "a/b"]


def test_a_changed_folder_runs_again_and_a_missing_one_does_not_fail(comfy_folders):
    save(comfy_folders / "art" / "a.png")
    inputs = {"folder": "art", "recursive": True, "max_images": 0, "selection": "even", "seed": 0}
    first = node().fingerprint_inputs(**inputs, caption_source="auto")
    save(comfy_folders / "art" / "b.png")
    assert node().fingerprint_inputs(**inputs, caption_source="auto") != first
    assert node().fingerprint_inputs(**{**inputs, "folder": "gone"}) == ""


def test_parameters_are_the_inputs_and_every_one_is_explained():
    import inspect

    schema = node().GET_SCHEMA()
    names = [entry.id for entry in schema.inputs]
    assert names == ["folder", "recursive", "max_images", "selection", "seed", "caption_source"]
    assert list(inspect.signature(node().execute).parameters) == names
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])
    seed = node().INPUT_TYPES()["required"]["seed"][1]
    assert seed["control_after_generate"] is False  # or every run would draw another set
