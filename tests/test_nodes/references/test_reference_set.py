"""Reading a folder of reference images: files as people have them, and the node that shows them."""

import inspect
import json
import os
import random
import struct
import threading
import zlib
from contextlib import nullcontext
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import numpy as np
import pytest
import torch
from comfy_extras.nodes_dataset import ImageGridNode, MakeTrainingDataset
from mmd_pack.nodes.pictures.picture_grid import contact_sheet
from mmd_pack.nodes.references.folder import image_folder as folder
from mmd_pack.nodes.references.folder import list_files as files
from mmd_pack.nodes.references.folder import reference_folders
from mmd_pack.nodes.references.load_reference_set import LoadReferenceSet
from PIL import Image, ImageFile

pytestmark = pytest.mark.comfy

PATIENCE = 300  # seconds; then a thread hangs


@pytest.fixture
def comfy_folders(tmp_path, monkeypatch):
    """ComfyUI's input folder, empty."""
    (tmp_path / "input").mkdir()
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "input"


def node():
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


def test_the_order_is_natural_and_does_not_depend_on_the_system(tmp_path, monkeypatch):
    names = ["a1.png", "a2.png", "A10.png", "b/1.png", "b/02.png", "b/11.png", "c.png", "é.png"]
    for name in random.Random(3).sample(names, len(names)):
        save(tmp_path / name)
    assert list(files.list_files(tmp_path, True).images) == names
    scandir = os.scandir

    def shuffled(path):
        entries = list(scandir(path))
        return nullcontext(random.Random(1).sample(entries, len(entries)))

    before = files.fingerprint(tmp_path, True)
    monkeypatch.setattr(files.os, "scandir", shuffled)
    assert list(files.list_files(tmp_path, True).images) == names
    assert files.fingerprint(tmp_path, True) == before


def test_hidden_files_and_other_files_are_not_images(tmp_path):
    for name in ["x.png", "._x.png", ".cache/y.png", "@eaDir/x.png/SYNO.jpg", "x.txt", "x.mp4"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(files.list_files(tmp_path, True).images) == ["x.png"]


def test_without_recursion_only_the_folder_itself_is_read(tmp_path):
    save(tmp_path / "top.png")
    save(tmp_path / "sub" / "deep.png")
    assert folder.read_folder(tmp_path, recursive=False)[0].names == ["top.png"]
    assert folder.read_folder(tmp_path)[0].names == ["sub/deep.png", "top.png"]


@pytest.mark.parametrize("selection", ["first", "even", "random"])
@pytest.mark.parametrize("n, k", [(1, 1), (7, 3), (10, 10), (64, 5)])
def test_a_selection_chooses_as_many_as_wanted_and_orders_the_rest(selection, n, k):
    order = folder.reading_order(n, k, selection, seed=5)
    assert sorted(order) == list(range(n))
    chosen = order[:k]
    if selection == "first":
        assert chosen == list(range(k))
    if selection == "even":
        gaps = np.diff([-0.5, *(np.array(chosen)), n - 0.5])
        assert gaps.max() <= n / k + 1


def test_random_selection_depends_on_the_seed_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    orders = [folder.reading_order(50, 9, "random", seed) for seed in (1, 1, 2, 2**64 - 1)]
    assert orders[0] == orders[1] != orders[2] != orders[3]
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_selection_is_refused():
    with pytest.raises(KeyError):
        folder.reading_order(3, 2, "best", 0)


def test_selected_images_stay_in_natural_order_and_more_contain_fewer(tmp_path):
    names = [f"{i}.png" for i in range(12)]
    for name in names:
        save(tmp_path / name)
    sets = [folder.read_folder(tmp_path, True, k, "random", seed=4)[0].names for k in (3, 6, 0)]
    assert sets[2] == names
    assert set(sets[0]) < set(sets[1])
    for chosen in sets:
        assert chosen == [name for name in names if name in chosen]


# Broken files


def test_broken_files_are_named_and_replaced(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", noise(200, 200, i))
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.jpg").write_text("no picture")
    references, images = folder.read_folder(tmp_path, max_images=3)
    assert references.names == ["0.png", "2.png", "3.png"]
    assert [name for name, _ in references.skipped] == ["1.png", "2.jpg"]
    assert all(reason and str(tmp_path) not in reason for _, reason in references.skipped)
    assert references.found == 5
    assert (pixels_of(images[0]) == noise(200, 200, 0)).all()
    assert references.images[2].size == (200, 200)
    assert torch.equal(references.images[2].load().decode(), images[2])


def test_progress_is_reported_for_every_file(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_text("no picture")
    (tmp_path / "4.png").write_bytes((tmp_path / "0.png").read_bytes()[:-30])
    calls = []
    folder.read_folder(tmp_path, on_progress=calls.append)
    assert sum(calls) == 5


def test_stopping_in_the_middle_is_not_taken_for_a_broken_file(tmp_path):
    save(tmp_path / "a.png")

    def stop(finished):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        folder.read_folder(tmp_path, on_progress=stop)


# Fingerprint


def test_the_fingerprint_notices_every_change_that_matters(tmp_path):
    save(tmp_path / "a.png")
    seen = [files.fingerprint(tmp_path, True)]

    def changed():
        seen.append(files.fingerprint(tmp_path, True))
        assert seen[-1] not in seen[:-1]

    save(tmp_path / "sub" / "b.png")
    changed()
    (tmp_path / "a.txt").write_text("cat")
    changed()
    for name in (
        "metadata.jsonl",
        "captions.json",
        "meta_cap.json",
        "meta_clean.json",
        "b.caption",
    ):
        (tmp_path / "sub" / name).write_text("{}")
        changed()
        (tmp_path / "sub" / name).write_text("{ }")
        changed()
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    changed()
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    changed()
    (tmp_path / "a.txt").unlink()
    changed()


def test_the_fingerprint_ignores_what_is_not_read(tmp_path):
    save(tmp_path / "a.png")
    before = [files.fingerprint(tmp_path, recursive) for recursive in (True, False)]
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    assert files.fingerprint(tmp_path, True) == before[0]
    save(tmp_path / "sub" / "b.png")
    assert files.fingerprint(tmp_path, False) == before[1]


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_a_broken_link_is_a_broken_file(tmp_path):
    save(tmp_path / "a.png")
    before = files.fingerprint(tmp_path, True)
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert files.fingerprint(tmp_path, True) == before
    references, _ = folder.read_folder(tmp_path)
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
    for fact in (
        "Images used: 3 of 4 ",
        "20×12 (2), 30×10 (1)",
        "1 of 3",
        "2 images count 10",
        "broken.png",
    ):
        assert fact in report, (fact, report)


def test_the_report_stays_short(comfy_folders):
    for i in range(30):
        save(comfy_folders / "many" / f"{i}.png", noise(20 + i, 12))
        (comfy_folders / "many" / f"x{i}.png").write_text("no picture")
    report = node().execute("many").args[3]
    assert len(report.splitlines()) == 24 and "Not used: 10 more." in report
    assert "and 24 more" in report


def test_the_preview_is_saved_as_one_picture(comfy_folders):
    for i in range(70):
        save(comfy_folders / "many" / f"{i}.png", noise(8, 4 + i % 9, i))
    out = node().execute("many")
    (file,) = out.ui["images"]
    with Image.open(os.path.join(folder_paths.get_temp_directory(), file["filename"])) as sheet:
        assert sheet.width == 1024 and 700 < sheet.height < 1400


@pytest.mark.parametrize("shapes", [[(9, 9)], [(3000, 10)], [(5, 90)] * 3, [(16, 9), (9, 16)] * 40])
def test_every_set_has_a_contact_sheet(shapes):
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
    for name, remedy in {
        "": "put a folder",
        "painting": "there is 'paintings'",
        "empty": "put images",
        "../": "copy the images",
        "..": "copy the images",
        ".": "copy the images",
        "paintings/../../x": "copy the images",
        "/etc": "copy the images",
        "\0": "copy the images",
        "file.png": "create it",
    }.items():
        message = validate(folder=name)
        assert message.startswith("LoadReferenceSet: ") and remedy in message, message
        assert "`folder`" in message
    with pytest.raises(ValueError, match="switch `recursive` on"):
        node().execute("paintings", recursive=False)


@pytest.fixture
def looked_at(monkeypatch):
    """The entries of folders that were looked at, by name."""
    seen, scandir = [], os.scandir

    class Counted:
        def __init__(self, path):
            self.entries = scandir(path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.entries.close()

        def __iter__(self):
            for entry in self.entries:
                seen.append(entry.name)
                yield entry

    monkeypatch.setattr(os, "scandir", Counted)
    return seen


def test_before_a_run_the_size_of_a_folder_does_not_matter(comfy_folders, looked_at):
    """The server then answers nobody else. The run itself looks at all files."""
    for number in range(40):
        (comfy_folders / "none" / f"{number}").mkdir(parents=True)
        for name in range(40):
            (comfy_folders / "none" / f"{number}" / f"{name}.dat").touch()
    assert node().validate_inputs(folder="none") is True
    assert len(looked_at) == files.LOOKED_AT + 1
    with pytest.raises(ValueError, match="the folder 'none' holds no images"):
        node().execute("none")
    (comfy_folders / "none" / "a.png").touch()
    looked_at.clear()
    assert node().validate_inputs(folder="none") is True
    assert len(looked_at) <= 41


def test_the_folders_offered_are_limited(comfy_folders, looked_at, monkeypatch):
    for number in range(30):
        (comfy_folders / f"{number}" / "in").mkdir(parents=True)
    assert len(reference_folders.list_folders()) == 60
    looked_at.clear()
    monkeypatch.setattr(reference_folders, "MAX_LISTED", 35)
    found = reference_folders.list_folders()
    assert len(found) == 35 and {f"{number}" for number in range(30)} <= {*found}
    monkeypatch.setattr(reference_folders, "MAX_ENTRIES", 32)
    looked_at.clear()
    assert len(reference_folders.list_folders()) == 32 == len(looked_at)


def test_the_interrupt_of_comfyui_stops_the_search_for_images(comfy_folders, monkeypatch):
    for number in range(9):
        save(comfy_folders / "set" / f"{number}.png")
    whole, begun, walk = node().fingerprint_inputs(folder="set"), [], files._walk

    def interrupted(*arguments):
        for found in walk(*arguments):
            if len(begun) % 9 == 3:
                comfy.model_management.interrupt_current_processing(True)
            begun.append(found)
            yield found

    monkeypatch.setattr(files, "_walk", interrupted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        node().execute("set")
    assert len(begun) == 4
    begun.clear()
    assert node().fingerprint_inputs(folder="set") == "" and len(begun) == 4
    assert comfy.model_management.processing_interrupted()  # so that the next node is not run
    comfy.model_management.interrupt_current_processing(False)
    monkeypatch.setattr(files, "_walk", walk)
    assert node().fingerprint_inputs(folder="set") == whole


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

    assert options() == ["mmd_references"]  # the one to make
    (comfy_folders / "a" / "b").mkdir(parents=True)
    assert options() == ["mmd_references", "a", "a/b"]


def test_a_changed_folder_runs_again_and_a_missing_one_does_not_fail(comfy_folders):
    save(comfy_folders / "art" / "a.png")
    inputs = {"folder": "art", "recursive": True, "max_images": 0, "selection": "even", "seed": 0}
    first = node().fingerprint_inputs(**inputs, caption_source="auto")
    save(comfy_folders / "art" / "b.png")
    assert node().fingerprint_inputs(**inputs, caption_source="auto") != first
    assert node().fingerprint_inputs(**{**inputs, "folder": "gone"}) == ""


def test_parameters_are_the_inputs_and_every_one_is_explained():
    schema = node().GET_SCHEMA()
    names = [entry.id for entry in schema.inputs]
    assert names == ["folder", "recursive", "max_images", "selection", "seed", "caption_source"]
    assert list(inspect.signature(node().execute).parameters) == names
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])
    seed = node().INPUT_TYPES()["required"]["seed"][1]
    assert seed["control_after_generate"] is False  # or every run would draw another set


# Names, numbers and memory


def test_names_in_any_script(comfy_folders):
    """Each is read, shown in one line and can be written as UTF-8."""
    names = ["قطة ١٠.png", "قطة ٩.png", "猫.png", "кот.png", "แมว.png", "👩‍👩‍👧.png", "a\u202egnp.exe.png", "x" * 250 + ".png"]  # fmt: skip
    names += [
        "two\nlines.png",
        "tab\t.png",
        "quote'\".png",
        "100%.png",
        "${HOME}.png",
        " .png",
        "-rf.png",
    ]
    for name in names:
        save(comfy_folders / "set" / name)
    if os.name == "posix":
        save(comfy_folders / "set" / os.fsdecode(b"raw\xff\xfe.png"))
        (comfy_folders / "set" / os.fsdecode(b"bad\xff.png")).write_text("no picture")
        names += ["raw\\udcff\\udcfe.png"]
    shown = {name: name for name in names} | {
        "two\nlines.png": "two\\nlines.png",
        "tab\t.png": "tab\\t.png",
        "a\u202egnp.exe.png": "a\\u202egnp.exe.png",
    }
    references, images, captions, report = node().execute("set").args
    assert sorted(references.names) == sorted(shown.values())
    assert references.names.index("قطة ٩.png") < references.names.index("قطة ١٠.png")
    json.dumps([references.names, references.skipped, report]).encode()
    "".join([*references.names, *map("".join, references.skipped), report]).encode()
    assert len(report.splitlines()) == 3 + len(references.skipped)
    assert all(picture.load().decode().shape == (1, 12, 20, 3) for picture in references.images)


def test_names_that_differ_by_case_or_by_the_way_accents_are_stored(tmp_path):
    names = ["CAT.png", "Cat.png", "cat.png", "f.png", "\u00e9.png", "e\u0301.png"]
    for i, name in enumerate(names):
        save(tmp_path / name, noise(seed=i))
    if len(list(tmp_path.iterdir())) < len(names):
        pytest.skip("this file system takes some of them for one name")
    references, images = folder.read_folder(tmp_path)
    assert references.names == [*names[:4], names[5], names[4]]
    for name, image in zip(references.names, images, strict=True):
        assert (pixels_of(image) == noise(seed=names.index(name))).all()


def test_folders_deeper_than_a_path_may_be_long(tmp_path):
    """A hostile archive unpacks to such."""
    save(tmp_path / "a.png")
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(30):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
    finally:
        os.chdir(here)
    references, _ = folder.read_folder(tmp_path)
    assert references.names == ["a.png"]
    ((name, reason),) = references.skipped
    assert name.startswith("ddd") and reason == "cannot be read (File name too long)"


def test_images_keep_their_order_whichever_is_decoded_first(tmp_path, monkeypatch):
    for i in range(24):
        save(tmp_path / f"{i}.png", noise(seed=i))
    read, threads = folder.read_sized, set()
    odd = {i: threading.Event() for i in range(1, 24, 2)}

    def later(path, *options):
        """Each even picture is decoded after the odd one that follows it."""
        threads.add(threading.get_ident())
        i = int(path.stem)
        assert i in odd or odd[i + 1].wait(PATIENCE)
        result = read(path, *options)
        if i in odd:
            odd[i].set()
        return result

    monkeypatch.setattr(folder.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(folder, "read_sized", later)
    references, images = folder.read_folder(tmp_path)
    assert 2 <= len(threads) <= 4
    assert references.names == [f"{i}.png" for i in range(24)]
    for i, (picture, image) in enumerate(zip(references.images, images, strict=True)):
        assert (pixels_of(image) == noise(seed=i)).all() and picture.path.name == f"{i}.png"


def test_stopping_does_not_wait_for_the_rest(tmp_path, monkeypatch):
    for i in range(200):
        save(tmp_path / f"{i}.png")
    read, begun, finished, stopped = folder.read_sized, [], [], threading.Event()

    def slow(path, *options):
        begun.append(path)
        assert int(path.stem) < 3 or stopped.wait(PATIENCE)
        return read(path, *options)

    def stop(n):
        finished.append(n)
        if sum(finished) == 3:
            raise KeyboardInterrupt

    class Pool(folder.ThreadPoolExecutor):
        def shutdown(self, wait=True, **options):
            super().shutdown(wait=False, **options)
            stopped.set()  # those that are being read go on now
            super().shutdown(wait)

    monkeypatch.setattr(folder, "read_sized", slow)
    monkeypatch.setattr(folder, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(folder.os, "cpu_count", lambda: 4)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        folder.read_folder(tmp_path, on_progress=stop)
    assert len(begun) <= 3 + 4 and threading.active_count() == before


def test_the_interrupt_of_comfyui_stops_the_node(comfy_folders, monkeypatch):
    for i in range(3):
        save(comfy_folders / "set" / f"{i}.png")
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        node().execute("set")
    assert len(node().execute("set").args[1]) == 3


def test_large_pictures_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    for i in range(8):
        save(tmp_path / f"{i}.png", noise(40, 40) if i % 2 else None)
    read, now, most = folder.read_sized, [], []
    taken, changed = [], threading.Condition()

    class Lock:
        def __init__(self):
            self.lock = threading.Lock()

        def __enter__(self):
            note(taken)
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    def note(places):
        with changed:
            places.append(1)
            changed.notify_all()

    def watch(path, *options):
        if int(path.stem) % 2:
            note(now)
            with changed:  # until threads have taken all of them
                assert changed.wait_for(lambda: len(taken) == 4 or len(now + most) > 1, PATIENCE)
            most.append(len(now))
            now.pop()
        return read(path, *options)

    monkeypatch.setattr(folder, "threading", SimpleNamespace(Lock=Lock))
    monkeypatch.setattr(folder.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(folder, "LARGE", 40 * 40 - 1)
    monkeypatch.setattr(folder, "read_sized", watch)
    folder.read_folder(tmp_path)
    assert max(most) == 1 and len(most) == 4


def memory(images):
    return sum(4 * image.numel() for image in images)


@pytest.mark.parametrize("limit", [10**9, 2_000_000, 100_000, 3_000, 12 * 12])
def test_the_decoded_images_fit_into_the_memory(tmp_path, monkeypatch, limit):
    sizes = [(300, 200), (20, 30), (500, 40), (1, 200), (64, 64)] * 2 + [(90, 90), (700, 500)]
    for i, (width, height) in enumerate(sizes):
        save(tmp_path / f"{i}.png", noise(width, height, i))
    whole = memory(folder.read_folder(tmp_path)[1])
    monkeypatch.setattr(folder, "MAX_DECODED", limit)
    references, images = folder.read_folder(tmp_path)
    assert [picture.size for picture in references.images] == sizes
    assert memory(images) <= limit
    assert memory(images) >= min(0.7 * limit, whole)  # not smaller than need be
    shorter = max(min(image.shape[1:3]) for image in images)
    for (width, height), image in zip(sizes, images, strict=True):
        assert min(image.shape[1:3]) == min(width, height, shorter)
        assert abs(image.shape[2] / image.shape[1] / (width / height) - 1) < 0.1 or shorter < 20


def test_those_that_replace_broken_ones_fit_too(tmp_path, monkeypatch):
    for i in range(30):
        save(tmp_path / f"{i:02}.png", noise(60, 40, i))
        if i % 3:  # the header is good, the pixels are not
            path = tmp_path / f"{i:02}.png"
            path.write_bytes(path.read_bytes()[:-500])
    monkeypatch.setattr(folder, "MAX_DECODED", 100_000)
    references, images = folder.read_folder(tmp_path, max_images=9)
    assert len(images) == 9 and memory(images) <= 100_000
    assert references.names == [f"{i:02}.png" for i in range(0, 27, 3)]
    assert min(min(image.shape[1:3]) for image in images) >= 20


def test_the_report_says_when_images_are_reduced(comfy_folders, monkeypatch):
    for i in range(4):
        save(comfy_folders / "set" / f"{i}.png", noise(80, 60, i))
    assert "smaller" not in node().execute("set").args[3]
    monkeypatch.setattr(folder, "MAX_DECODED", 4 * 12 * 40 * 30)
    references, images, _, report = node().execute("set").args
    assert all(image.shape == (1, 30, 40, 3) for image in images)
    assert "in the output `images`, to a shorter side of 30 pixels: 4." in report
    assert references.images[0].load().decode().shape == (1, 60, 80, 3)
    assert "Sizes: 80×60 (4)." in report


def test_the_report_names_pictures_larger_than_needed(comfy_folders):
    save(comfy_folders / "set" / "a.png", np.zeros((2100, 2200, 3), np.uint8))
    images, report = node().execute("set").args[1::2]
    assert (
        "2200×2100 (1). Larger images get a shorter side of 2048 pixels." in report
        and "Reduced" not in report
    )
    assert images[0].shape == (1, 2048, 2146, 3)


def test_a_thousand_pictures(tmp_path):
    for i in range(1000):
        Image.new("L", (8, 8), i % 256).save(tmp_path / f"{i}.png")
    references, images = folder.read_folder(tmp_path, max_images=900)
    assert references.found == 1000 and len(images) == 900
    assert [pixels_of(image)[0, 0, 0] for image in images] == [i % 256 for i in range(900)]


# A folder in which nearly nothing is as it should be


def damaged(path):
    """The picture with a changed byte among its pixels."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def hostile(top, outside):
    """Fills a folder; returns the good images and all others with a part of the reason."""
    top.mkdir()
    good, bad = ["01 good.png", "02 grün.jpg", "03 猫.webp", "10_many/04 rep.png", "sub/05.gif"], {}
    for i, name in enumerate(good):
        save(top / name, noise(40, 30, i))
    Image.new("RGBA", (30, 40), (255, 0, 0, 60)).save(top / "06 alpha.png")
    Image.new("CMYK", (40, 30), (0, 200, 0, 0)).save(top / "07 cmyk.jpg")
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(top / "08 grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(40, 30, 8)).save(top / "09 turned.jpg", exif=exif)
    good += ["06 alpha.png", "07 cmyk.jpg", "08 grey.png", "09 turned.jpg"]
    for name, data, reason in [
        ("20 empty.png", b"", "is empty"),
        ("21 text.png", b"no picture", "supported format"),
        ("22 eps.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "supported format"),
        ("23 psd.jpg", b"8BPS\0\1" + b"\0" * 40, "supported format"),
        ("24 html.webp", b"<html>404 not found</html>", "supported format"),
        ("25 heic.heic", b"\0\0\0\x18ftypheic" + b"\0" * 40, "supported format"),
    ]:  # fmt: skip
        (top / name).write_bytes(data)
        bad[name] = reason
    for name in (
        "30 half.png",
        "31 half.jpg",
        "32 half.webp",
        "33 half.gif",
        "34 half.tif",
        "35 half.bmp",
    ):
        save(top / name, noise(50, 50))
        (top / name).write_bytes((top / name).read_bytes()[: (top / name).stat().st_size // 2])
        bad[name] = ""
    damaged(save(top / "36 changed.png", noise(50, 50)))
    bad["36 changed.png"] = "is damaged"
    Image.new("F", (9, 9)).save(top / "37 float.tif")
    Image.new("I", (9, 9), 99_999).save(top / "38 wide.tif")
    bad |= dict.fromkeys(("37 float.tif", "38 wide.tif"), "unknown range")
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 999)), (b"IEND", b""))
    )
    (top / "40 bomb.png").write_bytes(bomb)
    bad["40 bomb.png"] = "megapixels"
    outside.mkdir()
    save(outside / "secret.png")
    (outside / "secret.txt").write_text("secret")
    os.mkfifo(top / "41 pipe.png")
    (top / "42 out.png").symlink_to(outside / "secret.png")
    (top / "43 out").symlink_to(outside)
    (top / "44 up.png").symlink_to("../../outside/secret.png")
    (top / "45 gone.png").symlink_to(top / "nothing.png")
    (top / "46 loop.png").symlink_to(top / "46 loop.png")
    (top / "47 dev.png").symlink_to("/dev/zero")
    (top / "48 folder.png").mkdir()
    (top / "01 good.txt").symlink_to(outside / "secret.txt")
    bad |= {
        "41 pipe.png": "not a file",
        "45 gone.png": "link to nothing",
        "46 loop.png": "link to nothing",
    }
    bad |= dict.fromkeys(
        ("42 out.png", "43 out", "44 up.png", "47 dev.png", "01 good.txt"), "place outside"
    )
    (top / "02 grün.txt").write_text("green", encoding="utf-8")
    (top / "03 猫.caption").write_text("猫", encoding="utf-8")
    (top / "06 alpha.txt").write_bytes(b"\xff\xfe\xff")
    (top / "captions.json").write_text(
        '{"sub/05": "gif", "../../outside/secret.png": "x", "07 cmyk": [[1]]}'
    )
    (top / "metadata.jsonl").write_text(
        '{"file_name": "08 grey.png", "text": "grey"}\n{"file_name"'
    )
    bad |= {"06 alpha.txt": "UTF-8", "captions.json, entry '07 cmyk'": "not JSON"}
    bad |= {"metadata.jsonl, line 2": "not JSON"}
    (top / ".hidden.png").write_text("hidden")
    (top / "notes.md").write_text("notes")
    (top / "Thumbs.db").write_bytes(b"\0")
    return good, bad


@pytest.mark.skipif(os.name == "nt", reason="has links and pipes")
@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("selection", ["first", "even", "random"])
@pytest.mark.parametrize("max_images", [0, 1, 4, 9, 20])
def test_a_hostile_folder(comfy_folders, tmp_path, monkeypatch, selection, max_images, truncated):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None if truncated else 89_478_485)
    good, bad = hostile(comfy_folders / "set", tmp_path / "outside")
    assert node().validate_inputs(folder="set") is True
    options = {"max_images": max_images, "selection": selection, "seed": 3}
    references, images, texts, report = node().execute("set", **options).args
    wanted = min(max_images or 99, len(good))
    assert len(references.names) == len(images) == len(texts) == wanted
    assert set(references.names) <= set(good)
    expected = {
        "02 grün.jpg": "green",
        "03 猫.webp": "猫",
        "sub/05.gif": "gif",
        "08 grey.png": "grey",
    }
    assert texts == [expected.get(name, "") for name in references.names]
    assert references.weights == [10 if "rep" in name else 1 for name in references.names]
    assert all(bad[name] in reason for name, reason in references.skipped)
    if max_images in (0, 20):  # then all were tried
        assert {name for name, _ in references.skipped} == set(bad)
    assert f"Images used: {wanted} of {references.found} in 'set' ({selection})." in report
    named = [f"Not used: {name}: {reason}" for name, reason in references.skipped]
    assert all(line in report for line in named[:20]) and (len(named) <= 20 or "more." in report)
    assert "secret" not in report and str(tmp_path) not in report
    for picture, image in zip(references.images, images, strict=True):
        assert picture.size == (image.shape[2], image.shape[1])
        assert torch.equal(picture.load().decode(), image)


def test_a_folder_given_up_names_no_place(comfy_folders):
    """Also a file that vanishes or changes between the looks at it is only a reason."""
    save(comfy_folders / "set" / "a.png")
    references, _, _, _ = node().execute("set").args
    (comfy_folders / "set" / "a.png").unlink()
    with pytest.raises(OSError):
        references.images[0].load()


# With the nodes of others


def test_images_and_captions_go_into_the_nodes_of_comfyui(comfy_folders):
    for i in range(4):
        save(comfy_folders / "set" / f"{i}.png", noise(16 + 8 * i, 24, i))
        (comfy_folders / "set" / f"{i}.txt").write_text(f"caption {i}")
    _, images, captions, _ = node().execute("set").args

    class VAE:
        def encode(self, pixels):
            assert pixels.ndim == 4 and pixels.shape[3] == 3 and pixels.dtype == torch.float32
            return pixels.movedim(-1, 1)

    class CLIP:
        def tokenize(self, text):
            return text

        def encode_from_tokens_scheduled(self, tokens):
            return tokens

    latents, conditioning = MakeTrainingDataset.execute(images, [VAE()], [CLIP()], captions).args
    assert [latent["samples"].shape[3] for latent in latents] == [16, 24, 32, 40]
    assert conditioning == [f"caption {i}" for i in range(4)]
    (grid,) = ImageGridNode.execute(
        images, columns=[2], cell_width=[20], cell_height=[20], padding=[0]
    ).args
    assert grid.shape == (1, 40, 40, 3)
