"""What ComfyUI Manager and the registry see of the pack, and the archive they would install."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

from mmd_tests.make import artwork  # noqa: E402
from mmd_tests.support import manager_scan, package  # noqa: E402
from mmd_tests.support.engine import Engine  # noqa: E402
from mmd_tests.support.node_schema import Schema  # noqa: E402
from mmd_tests.support.server import Server  # noqa: E402

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along

ROOT = package.ROOT
DEMO = ROOT / "tests" / "demo"
NODES = set(json.loads((ROOT / "node_list.json").read_text("utf-8")))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT, COMFY = PYPROJECT["project"], PYPROJECT["tool"]["comfy"]
REPOSITORY = "https://github.com/mmd-guidance/mmd-guidance"
RAW = REPOSITORY.replace("//github.com", "//raw.githubusercontent.com") + "/main/"

# --- pyproject.toml, by the rules of docs.comfy.org/registry/specifications ------------------------


def test_names_are_as_the_registry_wants_them():
    for name in (PROJECT["name"], COMFY["PublisherId"]):
        assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", name) and len(name) < 100
        assert "comfyui" not in name
    assert 0 < len(COMFY["DisplayName"]) <= 40


def test_versions_are_as_the_registry_wants_them():
    assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", PROJECT["version"])
    assert re.fullmatch(r">=\d+\.\d+\.\d+", COMFY["requires-comfyui"])
    assert re.fullmatch(r">=3\.\d+", PROJECT["requires-python"])


def test_the_description_is_one_sentence_or_two():
    """It is all that a search in the Manager shows."""
    assert 60 <= len(PROJECT["description"]) <= 200 and "\n" not in PROJECT["description"]


def test_nothing_is_installed_beside_the_pack():
    assert PROJECT["dependencies"] == [] and "dynamic" not in PROJECT
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert not [line for line in lines if line.strip() and not line.startswith("#")]
    assert not {"install.py", "prestartup_script.py", "uninstall.py"} & set(package.published())


def test_license_readme_and_systems_are_named():
    assert PROJECT["license"] == {"file": "LICENSE"} and PROJECT["readme"] == "README.md"
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    assert PROJECT["classifiers"] == ["Operating System :: OS Independent"]


def test_links_lead_into_the_repository():
    urls = PROJECT["urls"]
    assert urls["Repository"] == urls["Homepage"] == REPOSITORY
    assert urls["Documentation"] == REPOSITORY + "#readme"
    assert urls["Issues"] == urls["Bug Tracker"] == REPOSITORY + "/issues"


def test_only_the_owner_publishes_and_only_what_is_tested():
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    head, jobs = text.split("\njobs:\n")
    assert head.endswith('on:\n  push:\n    tags: ["v*"]\npermissions:\n  contents: read')
    assert re.findall(r"^  (\w+):$", jobs, re.M) == ["tests", "publish"]
    owner = REPOSITORY.removeprefix("https://github.com/")
    assert jobs.count(f"if: github.repository == '{owner}'") == 2
    assert "\n    needs: tests\n" in jobs
    assert "personal_access_token: ${{ secrets.REGISTRY_ACCESS_TOKEN }}" in jobs
    assert re.search(r"uses: Comfy-Org/publish-node-action@[0-9a-f]{40} ", jobs)
    # The tag is compared with this very line.
    compare = 'grep -qxF "version = \\"${GITHUB_REF_NAME#v}\\"" pyproject.toml'
    assert compare in jobs
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    assert lines.count(f'version = "{PROJECT["version"]}"') == 1


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_actions_are_pinned_and_keep_no_credentials(file):
    """A tag of an action can be moved to other code; a hash cannot."""
    steps = re.split(r"^      - ", file.read_text("utf-8"), flags=re.M)[1:]
    used = [(re.search(r"^(?:  )*uses: (\S+)", step, re.M), step) for step in steps]
    actions = [(match[1], step) for match, step in used if match]
    assert actions and all(re.search(r"@[0-9a-f]{40}$", action) for action, _ in actions)
    for action, step in actions:
        if action.startswith("actions/checkout@"):
            assert "persist-credentials: false" in step
    assert "permissions:\n  contents: read\n" in file.read_text("utf-8")


@pytest.mark.parametrize("key, size", [("Icon", (400, 400)), ("Banner", (1260, 540))])
def test_icon_and_banner_are_there_and_up_to_date(key, size):
    """The icon is square, 400 pixels at most; the banner is 21:9."""
    assert COMFY[key].startswith(RAW)
    name = COMFY[key].removeprefix(RAW)
    assert name in package.repository() and (ROOT / name).stat().st_size < 100_000
    with Image.open(ROOT / name) as stored:
        assert stored.format == "PNG" and stored.size == size
        stored = np.asarray(stored.convert("RGBA"), dtype=float)
    drawn = artwork.icon() if key == "Icon" else artwork.banner()
    difference = np.abs(stored - np.asarray(drawn.convert("RGBA"), dtype=float)).mean()
    assert difference < 1, "run `python tests/make/artwork.py`"


# --- what the Manager finds without running anything ---------------------------------------------

OLD = "NODE_CLASS" + "_MAPPINGS"  # in two parts, or this file would be found to define nodes
SCANNED = {
    "class A(io.ComfyNode):\n def define_schema(cls):\n  return io.Schema(node_id='B')": {"B"},
    "class A(ComfyNode):\n def define_schema(cls):\n  return Schema(node_id='B')": {"B"},
    "class A(io.ComfyNode):\n def define_schema(cls):\n  return io.Schema(node_id=NAME)": {"A"},
    "class A(io.ComfyNode):\n def define_schema(cls):\n  return make('B')": {"A"},
    "class _A(io.ComfyNode): pass\nclass B(_A): pass": {"_A"},
    "Base = io.ComfyNode\nclass A(Base): pass": set(),
    f"{OLD} = {{'A': A, 'B': B}}": {"A", "B"},
    f'{OLD}: dict = {{\n  "A": A,\n}}': {"A"},
    f"x = '''{OLD} = {{\"A\": A}}'''": {"A"},
    f'{OLD}["A"] = A': {"A"},
    f'{OLD}.update({{"A": A}})': {"A"},
    f"{OLD} = {{A.NAME: A}}": {"A.NAME"},
    f"{OLD} = {{each.NAME: each for each in [A]}}": {"{each.NAME: each for each in [A]}"},
    "@register_" + 'node("A", "b")\nclass B: pass': {"A"},
    'x = {"A": ' + '{"class": B}}': {"A"},
    f"known = nodes.{OLD} | others\nx = {{'a': 1}}": set(),
}


@pytest.mark.parametrize("text, found", SCANNED.items(), ids=range(len(SCANNED)))
def test_the_scan_finds_nodes_as_the_manager_does(text, found):
    assert manager_scan.scan(text) == found


@pytest.mark.parametrize("files", [package.repository, package.published])
def test_the_manager_finds_our_nodes_and_no_others(files):
    """It scans a clone of the repository with all its tests; others scan the archive."""
    found, about = set(), {}
    for name in files():
        if name.endswith(".py") and not name.startswith("."):
            text = (ROOT / name).read_text("utf-8")
            found |= manager_scan.scan(text)
            about |= {key: (value, name) for key, value in manager_scan.metadata(text).items()}
    assert found == NODES
    assert {name for _, name in about.values()} == {"__init__.py"}
    assert set(about) == {"title", "nickname", "description"}
    assert about["title"][0] == about["nickname"][0] == COMFY["DisplayName"]


def test_node_list_describes_every_node():
    listed = json.loads((ROOT / "node_list.json").read_text("utf-8"))
    for name, text in listed.items():
        assert re.fullmatch(r"[A-Z]\w+", name) and text.endswith(".") and 20 < len(text) < 150


def test_sources_that_are_published_can_be_read_in_the_code_page_of_windows():
    """Some tools read Python files so; letters may then look wrong, but no byte may be without meaning."""
    for name in package.published():
        if name.endswith(".py"):
            (ROOT / name).read_text("cp1252")


# --- the archive ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The archive, as a file."""
    return package.build(tmp_path_factory.mktemp("archive") / "node.zip")


def names(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as content:
        return set(content.namelist())


def test_the_archive_has_all_that_users_need(archive):
    inside = names(archive)
    top = {name for name in inside if "/" not in name}
    assert top == {
        "CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "node_list.json",
        "pyproject.toml", "requirements.txt",
    }  # fmt: skip
    sources = {*ROOT.glob("nodes/**/*.py"), *ROOT.glob("mmd_core/**/*.py")}
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= inside
    workflows = {name for name in inside if re.fullmatch(r"example_workflows/[^/]+\.json", name)}
    assert workflows
    for name in workflows:
        assert name.replace(".json", ".jpg") in inside, "no thumbnail"
        assert name.replace("/", "/api/") in inside, "no version for the API"


def test_the_archive_is_small_and_has_nothing_else(archive):
    inside = names(archive)
    assert archive.stat().st_size < 2_000_000
    assert {name.split("/")[0] for name in inside if "/" in name} == {
        "example_workflows", "locales", "mmd_core", "nodes", "subgraphs",
    }  # fmt: skip
    kinds = {Path(name).suffix for name in inside}
    assert not kinds - {"", ".jpg", ".js", ".json", ".md", ".png", ".py", ".toml", ".txt"}
    assert not [name for name in inside if re.search(r"(^|/)(\.|tests/|test_|__pycache__)", name)]


def test_file_names_survive_every_system(archive):
    """comfy-cli leaves out files whose names git quotes; Windows refuses some signs and lengths."""
    for name in names(archive):
        assert re.fullmatch(r"[\w .()+,/-]+", name, re.ASCII) and len(name) <= 120
        assert not re.search(r"[ .](/|$)", name)


def test_the_files_are_those_that_git_would_take():
    """git reads .comfyignore as we do: what it would ignore is what we leave out."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git repository")
    command = ["git", "-C", ROOT, "ls-files", "-z", "-coi", "-X", ".comfyignore"]
    done = subprocess.run(command, capture_output=True, check=True)
    ignored = set(done.stdout.decode().split("\0"))
    assert set(package.published()) == set(package.repository()) - ignored
    assert ignored & set(package.repository())


def test_without_git_the_same_files_are_found(tmp_path):
    """As in an archive of the sources, where tests may have left their caches."""
    for name in package.repository():
        if not name.startswith("tests/demo/references/"):
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    for name in ("nodes/__pycache__/a.pyc", "mmd_core/b.pyc", "demo_output/c.png", ".venv/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert package.published(tmp_path) == package.published()


@pytest.mark.parametrize("pattern", ["!a", "a/*.py", "**/a", "[ab]", "a?"])
def test_patterns_that_would_be_misread_are_refused(tmp_path, pattern):
    (tmp_path / "file").write_text(f"# comment\n\n{pattern}\n", "utf-8")
    with pytest.raises(ValueError, match="without"):
        package.read_patterns(tmp_path / "file")


@pytest.mark.parametrize(
    "name, pattern, found",
    [
        ("a/b.py", "/a/", True),
        ("x/a/b.py", "/a/", False),
        ("x/a/b.py", "a/", True),
        ("a", "a/", False),
        ("a/", "a/", True),
        ("ab/c", "/a/", False),
        ("x/b.pyc", "*.pyc", True),
        ("b.py", "*.pyc", False),
        ("a/b/c", "a/b", True),
        ("x/a/b", "a/b", False),
    ],
)
def test_patterns_match_as_in_gitignore(name, pattern, found):
    assert package.matches(name, [pattern]) is found


# --- the archive, installed into a clean ComfyUI and run -----------------------------------------


class Installed:
    """A running ComfyUI with the archive unpacked in custom_nodes, as the Manager does it."""

    def __init__(self, base: Path, archive: Path) -> None:
        self.folder = base / "custom_nodes" / PROJECT["name"]
        self.folder.mkdir(parents=True)
        with zipfile.ZipFile(archive) as content:
            content.extractall(self.folder)
        self.files = self._files()
        pictures = sorted((DEMO / "references" / "digits").glob("*.*"))[:32]
        for picture in pictures:
            target = base / "input" / "mmd_references" / picture.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, target)
        engine = Engine(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), "under test")
        self.server = Server(engine, [("mmd-demo", DEMO / "pack")], base=base)

    def _files(self) -> dict[str, bytes]:
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}

    def changed(self) -> bool:
        """Whether anything in the pack's own folder is not as it was unpacked."""
        return self._files() != self.files

    def read(self, path: str) -> bytes | None:
        """What the server answers to GET `path`; None where there is nothing."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.server.url + urllib.parse.quote(path), timeout=300) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            assert error.code == 404
            return None

    def help(self, node_id: str) -> str | None:
        """The help page, where the frontend looks for it."""
        places = f"{node_id}/en.md", f"{node_id}.md"
        pages = (self.read(f"/extensions/{self.folder.name}/docs/{place}") for place in places)
        return next((page.decode() for page in pages if page is not None), None)


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory):
    found = Installed(tmp_path_factory.mktemp("comfyui"), archive)
    with found.server:
        yield found


@pytest.mark.comfy
def test_the_installed_pack_has_all_its_nodes(installed):
    info = installed.server.get("/object_info")
    module = f"custom_nodes.{PROJECT['name']}"
    assert {name for name, node in info.items() if node["python_module"] == module} == NODES


@pytest.mark.comfy
def test_the_installed_pack_offers_its_templates(installed):
    paths = [Path(name) for name in installed.files]
    wanted = {path.stem for path in paths if path.match("example_workflows/*.json")}
    assert set(installed.server.get("/workflow_templates")[PROJECT["name"]]) == wanted
    for name in wanted:
        place = f"/api/workflow_templates/{PROJECT['name']}/{name}"
        workflow = json.loads(installed.read(f"{place}.json"))
        ours = [node for node in workflow["nodes"] if node["type"] in NODES]
        assert ours, "a template without a node of the pack"
        for node in ours:
            assert node["properties"]["cnr_id"] == PROJECT["name"]
            assert node["properties"]["ver"] == PROJECT["version"]
        thumbnail = installed.read(f"{place}.jpg")
        assert thumbnail and thumbnail.startswith(b"\xff\xd8"), f"{name} has no thumbnail"


@pytest.mark.comfy
def test_the_installed_pack_serves_a_help_page_per_node(installed):
    for node in sorted(NODES):
        page = installed.help(node)
        assert page and len(page) > 200, f"no help page of {node}"
        for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)", page):
            shown = installed.read(f"/extensions/{PROJECT['name']}/docs/{picture}")
            assert shown, f"the page of {node} shows {picture}, which is not there"


def prompt(server: Server, nodes: dict[str, tuple[str, dict]]) -> dict:
    """A workflow in the API format; widgets that are not given have their defaults."""
    made = {}
    for key, (kind, given) in nodes.items():
        schema = Schema(server.object_info(kind))
        defaults = {name: schema.default(name) for name in schema.widgets}
        made[key] = {"class_type": kind, "inputs": {**defaults, **given}}
    return made


@pytest.mark.comfy
def test_the_installed_pack_draws(installed):
    world, sampling = "digits", {"steps": 4, "cfg": 1.0, "seed": 1, "scheduler": "karras"}
    nodes = {
        "model": ("MMDDemoWorld", {"world": world}),
        "text": ("CLIPTextEncode", {"text": "", "clip": ["model", 1]}),
        "empty": ("MMDDemoLatent", {"world": world, "batch_size": 8}),
        "load": ("LoadReferenceSet", {"folder": "mmd_references"}),
        "encode": ("EncodeReferenceLatents", {"vae": ["model", 2], "reference_set": ["load", 0]}),
        "kernel": ("MMDKernel", {}),
        "draw": ("MMDGuidedKSampler", {"model": ["model", 0], "references": ["encode", 0]}),
        "decode": ("VAEDecode", {"samples": ["draw", 0], "vae": ["model", 2]}),
        "save": ("SaveImage", {"images": ["decode", 0]}),
    }
    nodes["encode"][1]["target"] = nodes["draw"][1]["latent_image"] = ["empty", 0]
    nodes["draw"][1].update(sampling, positive=["text", 0], negative=["text", 0])
    nodes["draw"][1]["kernel"] = ["kernel", 0]
    entry = installed.server.run(prompt(installed.server, nodes))
    saved = [path for path in installed.server.outputs(entry) if path.parent.name == "output"]
    assert len(saved) == 8 and all(Image.open(path).size == (8, 8) for path in saved)
    assert len({path.read_bytes() for path in saved}) == 8
    traced = re.findall(r'File "[^"]*mmd-guidance.*', installed.server.log_text())
    assert not traced, "an error in the pack was only logged"
    assert not installed.changed(), "the pack wrote into its own folder"
