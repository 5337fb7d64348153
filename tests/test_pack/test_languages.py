"""Names, inputs and tooltips in Chinese and Japanese: complete, of our nodes only, and with every number of the English."""

import json
import re

import pytest
from mmd_tests.make.languages.files import LANGUAGES, LOCALES, TABLE, locale_files, words
from mmd_tests.support.packages import ROOT

EVERY = pytest.mark.parametrize("language", LANGUAGES)
LETTERS = {"zh": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff\u4e00-\u9fff]"}
NUMBER = re.compile(r"\d+(?:\.\d+)?")
SPECIAL = set("{}@|")  # the frontend's translations give these a meaning


@pytest.fixture(scope="module")
def infos():
    from mmd_pack.nodes import NODES

    given = {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in NODES}
    return json.loads(json.dumps(given))


def texts_of(node, place=()):
    """All texts of a node in a file, by their place."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from texts_of(value, (*place, key))
        else:
            yield (*place, key), value


@pytest.mark.comfy
@EVERY
def test_every_node_input_and_output_has_its_words(language, infos):
    found = json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))
    assert set(found) == set(infos)
    for node, info in infos.items():
        texts = dict(texts_of(found[node]))
        english = {place: text for place, _, text in words(info)}
        assert set(texts) == set(english), node
        for place, text in texts.items():
            assert text.strip() and not SPECIAL & set(text), (node, place)
            if place[-1] in ("tooltip", "description"):
                assert re.search(LETTERS[language], text), (node, place)


@pytest.mark.comfy
def test_the_files_are_what_the_table_gives(infos):
    for file, text in locale_files(infos).items():
        hint = "run `python tests/make/workflows.py` and commit"
        assert file.read_text("utf-8") == text, f"{file} is out of date: {hint}"


def test_numbers_are_the_same_in_all_languages():
    for english, others in json.loads(TABLE.read_text("utf-8"))["texts"].items():
        for language in LANGUAGES:
            missing = set(NUMBER.findall(english)) - set(NUMBER.findall(others[language]))
            assert not missing, f"{language}: {missing} of {english}"


@EVERY
def test_the_method_is_told_in_both_languages(language):
    page = (ROOT / "nodes" / "web" / "docs" / "method" / f"{language}.md").read_text("utf-8")
    english = (ROOT / "nodes" / "web" / "docs" / "method.md").read_text("utf-8")
    assert len(re.findall(LETTERS[language], page)) > 300
    pictures = re.findall(r"\]\(([^)]+\.png)\)", english)
    assert re.findall(r"\]\(\.\./([^)]+\.png)\)", page) == pictures and pictures
    assert f"method/{language}.md" in english
