"""Text in pictures: cut and wrapped without haste for long texts, in fonts that have its letters."""

import random

import comfy.model_management
import numpy as np
import pytest
import torch
from mmd_pack.mmd_core import References
from mmd_pack.nodes.pictures import fonts, lettering
from mmd_pack.nodes.pictures.lettering import length, shortened, wrapped, write
from mmd_pack.nodes.references.reference_preview import ReferencePreview
from PIL import Image, ImageDraw

pytestmark = pytest.mark.comfy

WORDS = "a wide photograph of an old harbour in the evening, with warm light on the water, "


def wrapped_slowly(text, size, width, lines):
    """Word by word, and letter by letter."""
    words, found = text.split(), []
    while words and len(found) < lines - 1:
        n = 1
        while n < len(words) and length(" ".join(words[: n + 1]), size) <= width:
            n += 1
        found.append(cut_slowly(" ".join(words[:n]), size, width))
        words = words[n:]
    return [*found, cut_slowly(" ".join(words), size, width)] if words else found


def cut_slowly(text, size, width):
    if length(text, size) <= width:
        return text
    while text and length(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


@pytest.mark.parametrize(
    "size, width, lines", [(14, 196, 2), (14, 60, 3), (19, 170, 1), (15, 90, 2)]
)
def test_text_is_wrapped_as_word_by_word(size, width, lines):
    draw = random.Random(0)
    texts = [
        "",
        " ",
        WORDS,
        WORDS[:40],
        "x" * 300,
        "i" * 90,
        "one\n\n two ",
        "Donaudampfschiff " * 5,
    ]
    texts += [" ".join(draw.choices((*WORDS.split(), "MMD²", "W" * 30), k=30)) for _ in range(20)]
    for text in texts:
        assert wrapped(text, size, width, lines) == wrapped_slowly(text, size, width, lines)
        assert shortened(text, size, width) == cut_slowly(" ".join(text.split()), size, width)


@pytest.mark.parametrize(
    "text", [WORDS, "x", "一只猫坐在窗边看着雨中的城市", "e\u0301\u0302", " . ", "\u200b"]
)
def test_the_work_does_not_grow_with_the_text(monkeypatch, text):
    """Counted in letters that are measured."""
    measured = 0

    def counted(text, size, plain=length):
        nonlocal measured
        measured += len(text)
        return plain(text, size)

    monkeypatch.setattr(lettering, "length", counted)
    work = []
    for n in (400, 65_000, 1_000_000):
        measured = 0
        lines = wrapped((text * n)[:n], 14, 196, 2)
        work.append(measured)
        assert len(lines) <= 2
    assert max(work) <= max(2 * work[0], 10_000)


def test_scripts_without_spaces_fill_all_lines():
    text = "一只猫坐在窗边看着雨中的城市" * 10
    lines = wrapped(text, 14, 196, 3)
    assert len(lines) == 3 and lines[2].endswith("…")
    assert text.startswith("".join(lines)[:-1]) and all(length(line, 14) <= 196 for line in lines)
    assert length(lines[0] + text[len(lines[0])], 14) > 196
    assert wrapped("two 一只猫", 14, 196, 2) == ["two 一只猫"]


# Letters that Pillow's font lacks


@pytest.fixture
def no_cache():
    """Fonts are looked for anew, before and after."""

    functions = (fonts._best, fonts._system_fonts, fonts._has)
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


def test_pillows_font_comes_first():
    assert fonts.lacking(WORDS + "…") == "" and fonts.font_for(WORDS, 14) is fonts.font(14, "")
    invisible = "a\u200d\ufe0f\u00a0\t\n"
    assert fonts.font_for(invisible, 14) is fonts.font(14, "")


def test_a_font_of_the_system_is_taken_if_it_has_more(monkeypatch, no_cache):
    letters = {"": "abc ", "some": "abcж", "most": "абв", "all": "abcабвжé"}
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ("some", "most", "all"))
    monkeypatch.setattr(fonts, "_has", lambda path, letter: letter in letters[path])
    monkeypatch.setattr(fonts, "font", lambda size, path="": (size, path))
    for text, path in {
        "abc": "",
        "ж": "some",
        "абв": "most",
        "ж а": "all",
        "é": "all",
        "猫": "",
    }.items():
        assert fonts.font_for(text, 14) == (14, path), text
    assert fonts.lacking("猫 a ж") == "猫" and fonts.lacking("жб") == ""


def test_files_that_are_no_fonts_are_passed_over(monkeypatch, no_cache, tmp_path):
    for name in ("broken.ttf", "empty.otf", "notes.txt", "DejaVuSans-Bold.ttf"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / name).write_bytes(b"x" * (name != "empty.otf"))
    monkeypatch.setattr(fonts, "_folders", lambda: [tmp_path, tmp_path / "nothing"])
    assert [path.rsplit("/")[-1] for path in fonts._system_fonts()] == ["broken.ttf", "empty.otf"]
    assert fonts.font_for("猫", 14) is fonts.font(14, "") and fonts.lacking("猫") == "猫"


def test_what_a_font_lacks_looks_like_what_none_has():
    """True of each letter, so that a box is never taken for a letter."""
    shown = []
    for text in ("猫", "\U0010ffff", "A"):
        image = Image.new("L", (40, 40))
        letters = fonts.font(20)
        ImageDraw.Draw(image).text((5, 5), text, fill=255, font=letters)
        shown.append(np.asarray(image))
    assert (shown[0] == shown[1]).all() and (shown[0] != shown[2]).any()
    assert not fonts._has("", "猫") and fonts._has("", "A")


def test_text_of_any_script_is_written():
    image = Image.new("L", (400, 40))
    write(ImageDraw.Draw(image), (5, 5), "кошка قطة 猫 MMD² 😀 \u0301", 14, 255)
    assert np.asarray(image).any()


# The node


def references(captions):
    n = len(captions)
    latents = torch.zeros(n, 4, 2, 2)
    pictures = torch.zeros(n, 3, 2, 2)
    names = [f"{i}.png" for i in range(n)]
    return References(latents=latents, captions=captions, names=names, thumbnails=pictures)


@pytest.fixture
def previews(tmp_path, monkeypatch):
    monkeypatch.setattr("folder_paths.temp_directory", str(tmp_path))


def test_captions_without_a_font_are_shown_as_text(previews, monkeypatch, no_cache):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    shown = ReferencePreview.execute(references(["a cat", "一只猫", "кошка " * 500]), 64)
    (text,) = shown.ui["text"]
    assert shown.ui["images"] and shown.args[0].shape[0] == 1
    assert "2: 一只猫" in text and "3: кошка кошка" in text and "1: a cat" not in text
    assert "install a font" in text and len(text) < 600
    plain = ReferencePreview.execute(references(["a cat", ""]), 64)
    assert "text" not in plain.ui.as_dict()


def test_the_text_of_many_captions_has_an_end(previews, monkeypatch, no_cache):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    (text,) = ReferencePreview.execute(references(["猫" * 9000] * 100), 100).ui["text"]
    assert text.endswith("And 36 more.") and len(text) < 20_000


def test_the_preview_can_be_interrupted(previews):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ReferencePreview.execute(references(["a cat"]), 64)
    assert ReferencePreview.execute(references(["a cat"]), 64).args[0].shape[0] == 1
