"""The demo: its picture, its command line, its report, and all of it on a real server."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from mmd_tests.demo import draw, picture, report, run  # noqa: E402
from mmd_tests.support.engine import Engine  # noqa: E402

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def pictures(count: int, size: tuple[int, int], color=RED) -> list:
    return [Image.new("RGB", size, color)] * count


def places(page, color):
    """Where a picture has a color (height, width)."""
    return (np.asarray(page) == color).all(2)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 32, 128])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (768, 512)])
def test_all_tiles_are_whole_and_none_covers_another(count, size):
    panels = [
        picture.Panel("64 references", pictures(64, size, GREEN)),
        picture.Panel("without guidance", pictures(count, size, RED)),
        picture.Panel("with MMD guidance", pictures(count, size, BLUE)),
    ]
    page = picture.compose(panels)
    shown = min(count, picture.SHOWN)
    columns, rows = picture.grid_shape(shown)
    wide, high = picture.tile_size(size, columns)
    left, middle, right = (places(page, color) for color in (GREEN, RED, BLUE))
    assert middle.sum() == right.sum() == shown * wide * high
    assert left.sum() >= 0.9 * columns * rows * wide * high
    spans = [np.flatnonzero(each.any(0)) for each in (left, middle, right)]
    assert spans[0][-1] < spans[1][0] and spans[1][-1] < spans[2][0]
    assert page.width <= 2600 and page.height <= 2000


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (40, 2)])
def test_rows_have_a_column_for_each_label(count, rows):
    labels = ["cat face", "panda", "a very long label", "ghost"]
    drawn = [Image.new("RGB", (64, 64), (255, n, 0)) for n in range(count)]
    panels = [
        picture.Panel("64 references", pictures(64, (64, 64), GREEN)),
        picture.Panel("without guidance", drawn),
        picture.Panel("with MMD guidance", pictures(count, (64, 64), BLUE)),
    ]
    page = picture.compose_rows(panels, labels)
    columns = min(count, 4)
    shown = min(count, 4 * rows)
    spans = [np.flatnonzero(places(page, color).any(1)) for color in (GREEN, RED, BLUE)]
    assert spans[0][-1] < spans[1][0] and spans[1][-1] < spans[2][0]
    assert places(page, GREEN).sum() == 2 * columns * 64 * 64
    assert places(page, BLUE).sum() == shown * 64 * 64
    for number in range(shown):  # the first ones, in their order, each below the one before
        place = np.argwhere(places(page, (255, number, 0)))
        assert len(place) == 64 * 64
        assert place[0][1] == picture.BORDER + picture.GAP + number % columns * (64 + picture.GAP)
    legend = np.asarray(page)[spans[2][-1] + picture.GAP + 1 :]
    assert (legend < 200).any()
    assert (legend[-4:] == 255).all()


def test_long_titles_are_not_cut():
    long = "a title that is much longer than the pictures below it are wide"
    page = picture.compose([picture.Panel(long, pictures(2, (8, 8))) for _ in range(3)])
    assert (np.asarray(page)[:, [0, 4, -5]] == 255).all()
    assert page.width > 3 * picture._font(picture.TITLE).getlength(long)


@pytest.mark.parametrize("count", range(1, 40))
def test_grids_hold_all_tiles(count):
    columns, rows = picture.grid_shape(count)
    assert columns * (rows - 1) < count <= columns * rows
    assert columns >= rows


def test_tiles_are_picked_from_the_whole_set():
    assert picture.spread(range(100), 4) == [0, 25, 50, 75]
    assert picture.spread(range(3), 4) == [0, 1, 2]


def test_small_pictures_stay_sharp():
    checks = Image.new("RGB", (8, 8), RED)
    checks.putpixel((0, 0), GREEN)
    page = picture.compose([picture.Panel("", [checks])] * 3)
    assert places(page, GREEN).sum() == 3 * 5 * 5


# --- the command line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prompt", "a cat"], "--prompt goes with --checkpoint"),
        (["--size", "512x512"], "--size goes with --checkpoint"),
        (["--checkpoint", "HERE/none.safetensors"], "needs --references"),
        (["--checkpoint", "HERE/c.ckpt", "--references", "HERE/full"], "needs --prompt"),
        (["--checkpoint", "HERE/c.ckpt", "--world", "digits"], "not both"),
        (["--checkpoint", "HERE/no", "--references", "HERE/full", "--prompt", ""], "no checkpoint"),
        (["--checkpoint", "HERE/c.ckpt", "--references", "HERE/no", "--prompt", ""], "no folder"),
        (
            ["--checkpoint", "HERE/c.ckpt", "--references", "HERE/empty", "--prompt", ""],
            "no images",
        ),
    ],
)
def test_wrong_arguments_end_with_one_sentence(arguments, told, tmp_path):
    files(tmp_path)
    with pytest.raises(SystemExit) as end:
        run.read_options([argument.replace("HERE", str(tmp_path)) for argument in arguments])
    assert told in end.value.code and "\n" not in end.value.code


@pytest.mark.parametrize("size", ["512", "500x512", "axb", "0x0", "512x512x3"])
def test_wrong_sizes_are_refused(size, capsys):
    with pytest.raises(SystemExit):
        run.read_options(["--size", size])
    assert "is not a size" in capsys.readouterr().err


def files(folder: Path) -> None:
    (folder / "c.ckpt").write_bytes(b"weights")
    for name in ("full", "empty"):
        (folder / name / "sub").mkdir(parents=True)
    for name in ("b.PNG", "sub/a.jpg", "b.txt", ".hidden.png", "other.doc"):
        (folder / "full" / name).write_bytes(b"")


def test_a_checkpoint_runs_the_shipped_example(tmp_path):
    files(tmp_path)
    arguments = ["--checkpoint", f"{tmp_path}/c.ckpt", "--references", f"{tmp_path}/full"]
    arguments += ["--prompt", "a cat", "--batch", "4", "--strength", "5", "--seed", "7"]
    settings = draw.settings_of(run.read_options(arguments))
    assert (settings.checkpoint, settings.positive, settings.batch) == ("c.ckpt", "a cat", 4)
    assert (settings.width, settings.height, settings.seed) == (512, 512, 7)
    assert settings.sampler == {**draw.SHIPPED[0].sampler, "strength": 5.0}
    assert settings.negative == draw.SHIPPED[0].negative
    options = run.read_options([*arguments, "--size", "768x512", "--negative", ""])
    settings = draw.settings_of(options)
    assert (settings.width, settings.height, settings.negative) == (768, 512, "")


def test_the_server_gets_references_and_checkpoint(tmp_path):
    files(tmp_path)
    arguments = ["--checkpoint", f"{tmp_path}/c.ckpt", "--references", f"{tmp_path}/full"]
    options = run.read_options([*arguments, "--prompt", ""])
    args = draw.prepare(tmp_path / "base", options)
    placed = tmp_path / "base" / "input" / "mmd_references"
    found = {str(path.relative_to(placed).as_posix()) for path in placed.rglob("*.*")}
    assert found == {"b.PNG", "sub/a.jpg", "b.txt"}
    paths = json.loads(Path(args[args.index("--extra-model-paths-config") + 1]).read_text("utf-8"))
    assert paths == {"demo": {"checkpoints": str(tmp_path)}}


def test_the_demo_draws_emoji_if_nothing_is_said():
    from mmd_tests.demo.draw import DEMO, PROMPTS

    settings = draw.settings_of(run.read_options([]))
    assert (settings.world, settings.batch, settings.many) == ("emoji", len(PROMPTS), True)
    assert settings.positive.splitlines() == list(PROMPTS)
    names = [file.read_text("utf-8").strip() for file in (DEMO / "references/emoji").glob("*.txt")]
    assert len(names) == 64 and not {*names} & {*PROMPTS}


# --- progress and report ----------------------------------------------------------------------------


def test_progress_is_read_from_the_servers_bars():
    bar = "\r {}%|#  | {}/40 [00:00<00:01, 9.9it/s]"
    log = "got prompt\n" + "".join(bar.format(n, n) for n in (0, 3, 40, 40))
    assert draw.how_far("", 40) == (0, 0)
    assert draw.how_far(log, 40) == (1, 40)
    assert draw.how_far(log + bar.format(0, 0) + bar.format(9, 9), 40) == (2, 9)


def test_squared_mmd_is_smaller_for_closer_batches():
    import torch

    generator = torch.Generator().manual_seed(0)
    references, same, far = (torch.randn(40, 1, 8, 8, generator=generator) for _ in range(3))
    near_zero, large = (report.squared_mmd(x, references) for x in (same, far + 1))
    assert abs(near_zero) < 0.02 < 0.1 < large
    assert report.squared_mmd(same[:1], references) > 0


def test_tables_line_up():
    table = report.table([("a", ["", "1", "2"]), ("longer", ["1%", "22%", "333%"])])
    assert len({len(line) for line in table.splitlines()}) == 1


@pytest.mark.comfy
def test_the_demo_takes_the_files_that_the_node_takes():
    from mmd_pack.nodes.references.folder.file_kinds import CAPTION_FILE, IMAGE_FILE

    assert all(IMAGE_FILE.fullmatch(f"a.{ending}") for ending in run.IMAGES)
    names = ("a.txt", "a.caption", "metadata.jsonl", "captions.json")
    assert all(map(CAPTION_FILE.fullmatch, names))
    assert [name.rpartition(".")[2] for name in names] == list(draw.CAPTIONS)


DIGITS_ROWS = ("| zero ", "total variation, digit", "Fréchet", "confidence")


@pytest.mark.comfy
@pytest.mark.parametrize(
    ("world", "rows"),
    [pytest.param("digits", DIGITS_ROWS, marks=pytest.mark.long), ("emoji", ())],
)
def test_demo_on_a_real_server(world, rows, tmp_path):
    engine = Engine(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), "under test")
    options = {"world": world, "batch": 16, "sampler": {"steps": 6}, "out": str(tmp_path)}
    path, text = draw.draw(options, engine)
    assert path == tmp_path / f"{world}.png"
    with Image.open(path) as page:
        assert {node["type"] for node in json.loads(page.text["workflow"])["nodes"]} >= {
            "MMDDemoWorld",
            "MMDGuidedKSampler",
        }
    drawn = sorted(file.name for file in (tmp_path / world).iterdir())
    assert len(drawn) == 32 and drawn[0] == "guided_001.png"
    page = (tmp_path / f"{world}.md").read_text("utf-8")
    assert text in page and f"{world}.png" in page
    row = re.search(r"\| MMD² \(latents\) +\| +\| +(-?[\d.]+) \| +(-?[\d.]+) \|", text)
    assert float(row[2]) < float(row[1])
    assert all(what in text for what in (*rows, "16 images", "seed 1"))
