"""The help pages: one for each node, true to its schema, with pictures and links that are there.

The frontend asks for `/extensions/<folder>/docs/<node id>.md`, shows it with marked (GFM, no LaTeX), and puts
`/extensions/<folder>/docs/` before the addresses of pictures, but not before those of links: links must be
whole addresses, or a reader in ComfyUI ends nowhere.
"""

import re
from pathlib import Path

import pytest
from mmd_tests.support.packages import ROOT
from PIL import Image

DOCS = ROOT / "nodes" / "web" / "docs"
PAGES = sorted(DOCS.glob("*.md"))
METHODS = {  # pages on how things work: their pictures, and the nodes whose pages lead there
    DOCS / "method.md": (3, ("ApplyMMDGuidance", "MMDGuidedKSampler")),
    DOCS / "tri-tsmc.md": (1, ("TRITSMCSampler", "TSMCInit")),
    DOCS / "mmd-ddm.md": (1, ("MMDTrainLoRA", "MMDMakeReferences")),
    DOCS / "published.md": (0, ("ApplyMMDGuidance", "MMDGuidedKSampler")),
}
KILOBYTE = 1000
PANEL = 36  # characters of a formula that the panel shows without scrolling on a full HD screen


def repository() -> str:
    """Where files of this repository can be read, as our links say it."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    return re.search(r'^Repository = "(.+)"', project, re.M)[1] + "/blob/main/"


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def pictures(page: Path) -> list[str]:
    return re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", text_of(page))


def links(page: Path) -> list[str]:
    return re.findall(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)", text_of(page))


def tables(page: Path, head: str) -> set[str]:
    """What stands in backticks in the first column of tables with this heading."""
    found, inside = set(), False
    for line in text_of(page).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if not cells:
            inside = False
        elif not inside:
            inside = cells[0] == head
        else:
            names = re.findall(r"`([^`]+)`", cells[0])
            assert names or set(cells[0]) <= set("-:"), f"{page.name}: {line}"
            assert not found & set(names), f"{page.name}: {line} stands there twice"
            found |= set(names)
    return found


@pytest.mark.comfy
def test_every_node_has_a_page_with_all_its_inputs_and_outputs():
    from mmd_pack.nodes import NODES

    for node in NODES:
        schema = node.GET_SCHEMA()
        page = DOCS / f"{schema.node_id}.md"
        assert text_of(page).startswith(f"# {schema.display_name}\n")
        assert tables(page, "input") == {i.id for i in schema.inputs}, page.name
        outputs = {out.display_name or out.id for out in schema.outputs}
        assert tables(page, "output") == outputs, page.name
    ids = {node.GET_SCHEMA().node_id for node in NODES}
    assert {page.stem for page in PAGES} == ids | {page.stem for page in METHODS}


@pytest.mark.comfy
def test_settings_named_on_pages_exist_on_some_node():
    """`like_this` on any page is an input or output, or a value that an input takes, or a file."""
    from mmd_pack.nodes import NODES

    known = set()
    for node in NODES:
        schema = node.GET_SCHEMA()
        known |= {i.id for i in schema.inputs} | {o.display_name or o.id for o in schema.outputs}
        for given in schema.inputs:
            known |= set(map(str, getattr(given, "options", None) or ()))
    for page in PAGES:
        for name in re.findall(r"`([a-z0-9_]+)`", text_of(page)):
            assert name in known | {"10_name", "0_name"}, f"{page.name}: {name}"


def test_every_page_has_what_a_reader_looks_for():
    for page in PAGES:
        if page not in METHODS:
            headings = re.findall(r"^## (.+)$", text_of(page), re.M)
            assert headings[-1] == "Troubles", page.name
            settings = ("Settings that work", "Which fit", "| for | set |")
            assert any(name in text_of(page) for name in settings), page.name
            assert len(text_of(page).split()) < 700, f"{page.name} is longer than two screens"


def test_pages_hold_nothing_that_the_frontend_cannot_show():
    for page in PAGES:
        text = text_of(page)
        assert text.count("```") % 2 == 0
        for pattern in (r"\$[^$]+\$", r"\\\(|\\\[|\\frac", r"<[a-z/]", r"\]\(#"):
            assert not re.search(pattern, text), f"{page.name}: {pattern}"
        for alt in re.findall(r"!\[([^\]]*)\]", text):
            assert alt and '"' not in alt, f"{page.name}: the frontend does not escape it"
        formulas = "".join(text.split("```")[1::2]).splitlines()
        assert max(map(len, formulas), default=0) <= PANEL, page.name
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert all(line.endswith("|") for line in rows)


def test_tables_have_as_many_cells_in_each_row():
    for page in PAGES:
        width = 0
        for line in text_of(page).splitlines():
            cells = line.count("|") if line.startswith("|") else 0
            assert not (cells and width) or cells == width, f"{page.name}: {line}"
            width = cells


def test_pictures_are_there_and_each_is_shown():
    files = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.suffix != ".md"}
    files -= {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.is_dir()}
    shown = {name for page in PAGES for name in pictures(page)}
    assert shown == files  # relative to docs/, which the frontend puts before them
    for name in files:
        with Image.open(DOCS / name) as picture:
            picture.load()
            assert 600 <= picture.width <= 1400, name
        assert (DOCS / name).stat().st_size <= 80 * KILOBYTE, name
    assert sum((DOCS / name).stat().st_size for name in files) <= 600 * KILOBYTE


def test_links_are_whole_addresses_and_lead_to_what_is_there():
    home = repository()
    for page in PAGES:
        for link in links(page):
            assert link.startswith("https://"), f"{page.name}: {link} ends nowhere in ComfyUI"
            if link.startswith(home):
                assert (ROOT / link.removeprefix(home)).is_file(), f"{page.name}: {link}"


@pytest.mark.parametrize("method", METHODS, ids=lambda page: page.stem)
def test_methods_are_explained_in_300_words_and_a_few_pictures_and_can_be_found(method):
    count, nodes = METHODS[method]
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text_of(method))
    assert len(text.split()) <= 300
    assert len(pictures(method)) == len(set(pictures(method))) == count
    address = repository() + method.relative_to(ROOT).as_posix()
    for name in nodes:
        assert address in links(DOCS / f"{name}.md")
    assert method.relative_to(ROOT).as_posix() in (ROOT / "README.md").read_text("utf-8")
