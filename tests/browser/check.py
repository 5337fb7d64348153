"""Checks this pack in a real browser on a real ComfyUI server; started by run.py."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401


from mmd_tests.browser import layout
from mmd_tests.browser.frontend import Frontend, frontend
from mmd_tests.browser.picture import take_picture
from mmd_tests.browser.wired import take_wired, with_base
from mmd_tests.demo.draw import DEMOS, IMAGES, find_files
from mmd_tests.make.workflows import DEMO_TYPES, EXAMPLES, NODE_TYPES, SUBGRAPHS, describe
from mmd_tests.support.engine import Engine
from mmd_tests.support.server import Server, ServerError, WorkflowError

ROOT = EXAMPLES.parent
PACK, DEMO_PACK = "mmd-guidance", "mmd-demo"
PICTURES = ROOT / "nodes" / "web" / "docs" / "pictures"
REFERENCES = ROOT / "tests" / "demo" / "references"
SHOWS_PICTURES = (
    "LoadReferenceSet",
    "MMDPlot",
    "MMDScore",
    "MMDTrainLoRA",
    "PreviewImage",
    "ReferencePreview",
    "SaveImage",
    "TSMCPlot",
)
SHOWS_TEXT = ("PreviewAny",)
SAMPLERS = ("KSampler", "MMDGuidedKSampler", "MMDTrainLoRA", "TRITSMCSampler", "TSMCPropose")
TELLS = (*SAMPLERS, "MMDBaseImages", "MMDLoRAInfo", "MMDMakeReferences", "MMDSaveLoRA")
LIVE = "MMD² 0.0563 → 0.0421 · ⚠ possible copies"
DRAWN = {False: "classic nodes", True: "Nodes 2.0"}
EMPTY = {"version": 0.4, "nodes": [], "links": [], "last_node_id": 0, "last_link_id": 0}
PATIENCE = 600.0  # seconds for the digits


class Report:
    """One line for each check, and how many were not passed."""

    def __init__(self) -> None:
        self.failed = 0

    def check(self, label: str, faults: Iterable[str]) -> None:
        """A check is passed if nothing was found."""
        found = list(dict.fromkeys(faults))
        self.failed += bool(found)
        sys.stdout.write(f"{'FAIL' if found else 'ok  '} {label}\n")
        sys.stdout.writelines(f"       {fault}\n" for fault in found)
        sys.stdout.flush()


# --- what the server needs -----------------------------------------------------------------------


def place_files(base: Path, engine: Engine, workflows: Iterable[dict]) -> None:
    """Put what the workflows name into the server's folders: references for their folders, the
    picture that ComfyUI brings along, and empty files in place of checkpoints and sets."""
    pictures = base / "input"
    pictures.mkdir(parents=True, exist_ok=True)
    for file in find_files(engine.path / "input", IMAGES):
        (pictures / file.name).write_bytes(file.read_bytes())
    for flow in workflows:
        for node in flow["nodes"]:
            for model in node.get("properties", {}).get("models", ()):
                _empty(base / "models" / model["directory"] / model["name"])
            if node["type"] == "LoadReferenceSet":
                _place_references(pictures / node["widgets_values"][0])
            if node["type"] == "LoadReferenceLatents":
                _empty(base / "models" / "mmd_references" / node["widgets_values"][0])
            if node["type"] in ("LoraLoaderModelOnly", "MMDLoRAInfo"):
                _empty(base / "models" / "loras" / node["widgets_values"][0])


def _empty(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def _place_references(folder: Path, world: str = "digits") -> None:
    if folder.exists():
        return
    folder.mkdir(parents=True)
    for file in (REFERENCES / world).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def own_nodes(server: Server) -> list[str]:
    """The ids of this pack's nodes."""
    module = f"custom_nodes.{PACK}"
    return [
        kind
        for kind, schema in server.get("/object_info").items()
        if schema["python_module"] == module
    ]


# --- the checks ----------------------------------------------------------------------------------


def check_templates(
    page: Frontend, report: Report, files: Mapping[str, dict], names: list[str], out: Path
) -> None:
    """Every template: its thumbnail, its nodes, and how they lie, before and after a run."""
    cards = page.browse_templates(PACK)
    titles = {card.get_attribute("data-testid"): card for card in cards.all()}
    missing = [name for name in names if f"template-workflow-{name}" not in titles]
    report.check("the dialog lists all templates", (f"{name} is not listed" for name in missing))
    for name in names:
        if name not in missing:
            report.check(
                f"{name}: thumbnail", thumbnail_faults(page, titles[f"template-workflow-{name}"])
            )
    page.take(out / "templates.png")
    page.open()
    for name in names:
        if name not in missing:
            check_template(page, report, name, files[name], out)


def thumbnail_faults(page: Frontend, card) -> list[str]:
    """What is wrong with the picture of a template."""
    card.scroll_into_view_if_needed()
    pictures = card.locator("img")
    pictures.first.wait_for()
    sources = [picture.get_attribute("src") for picture in pictures.all()]
    lacks = any("default-template" in source for source in sources)
    return [*page.unloaded(pictures), *(["it has none of its own"] if lacks else [])]


def check_template(page: Frontend, report: Report, name: str, flow: dict, out: Path) -> None:
    """One template, with both kinds of nodes."""
    page.forget()
    page.open_template(PACK, name)
    page.show_all()
    page.take(out / f"{name}.png")
    report.check(f"{name}: opens without complaints", [*page.faults(), *page.errors])
    twin = json.loads((EXAMPLES / "api" / f"{name}.json").read_text("utf-8"))
    report.check(f"{name}: Run queues its twin", queued_faults(page.queued(), twin))
    for modern, kind in DRAWN.items():
        page.draw_nodes_as(modern)
        page.open_workflow(flow, f"{name}, {kind}")  # anew: results make nodes grow
        page.show_all()
        report.check(f"{name}: {kind}", layout.faults(page.nodes(), page.groups()))
        page.tell(results(page.shown()))
        page.show_all()
        page.take(out / f"{name}, {kind}.png")
        told = f"{name}: {kind} with results"
        report.check(told, layout.faults(page.nodes(), page.groups()))
    page.draw_nodes_as(False)


def queued_faults(queued: Mapping[str, Mapping], twin: Mapping[str, Mapping]) -> list[str]:
    """How what the page would queue differs from the API format that is shipped, which has muted nodes, too."""
    faults = [f"node {key} is not in it" for key in queued if key not in twin]
    for key in queued.keys() & twin.keys():
        meant = {"class_type": twin[key]["class_type"], **twin[key]["inputs"]}
        seen = {"class_type": queued[key]["class_type"], **queued[key]["inputs"]}
        seen = {name: seen.get(name) for name in meant}  # frontends of other versions add their own
        if seen != meant:
            faults.append(f"node {key}: {seen} is queued, not {meant}")
    return faults or ([] if queued else ["nothing is queued"])


def check_blueprints(page: Frontend, report: Report, out: Path) -> None:
    """Each is found by its name, first of all, and put on the canvas; a run queues the nodes inside."""
    for file in sorted(SUBGRAPHS.glob("*.json")):
        page.forget()
        page.open_workflow(EMPTY, file.stem)
        found = page.search(file.stem)
        page.take(out / f"search {file.stem}.png")
        first = found[0].splitlines()[0] if found else "nothing"
        faults = [] if first == file.stem else [f"the search finds {first} first"]
        page.add_found()
        page.show_all()
        page.take(out / f"blueprint {file.stem}.png")
        inside = json.loads(file.read_text("utf-8"))["definitions"]["subgraphs"][0]["nodes"]
        kinds = sorted(node["class_type"] for node in page.queued().values())
        if kinds != sorted(node["type"] for node in inside):
            faults.append(f"a run queues {kinds}")
        report.check(f"{file.stem}: blueprint", [*faults, *page.errors])


def results(shown: Mapping[str, Mapping]) -> list[tuple[str, dict]]:
    """What a server would send of a run of the nodes shown: previews, live texts, results."""
    picture = {"filename": "example.png", "subfolder": "", "type": "input"}
    address = f"/api/view?{urllib.parse.urlencode(picture)}"
    events = []
    for key, node in shown.items():
        done = {"node": key, "display_node": key, "prompt_id": "x"}
        at = {"nodeId": key, "displayNodeId": key, "jobId": "x"}
        if node["type"] in TELLS:  # of samplers any: its model may be guided
            events.append(("progress_text", {**at, "text": LIVE}))
        if node["type"] in SAMPLERS:
            events.append(("b_preview_with_metadata", {**at, "picture": address}))
        if node["type"] in SHOWS_PICTURES:
            events.append(("executed", {**done, "output": {"images": [picture] * 4}}))
        if node["type"] in SHOWS_TEXT:
            events.append(("executed", {**done, "output": {"text": ["A line of text.\n" * 8]}}))
    return events


def check_run(page: Frontend, report: Report, server: Server, flow: dict, out: Path) -> None:
    """The digits demonstration: run from the page, with results on its nodes."""
    page.forget()
    page.open_workflow(flow, "digits")
    page.show_all()
    report.check("digits: opens without complaints", [*page.faults(), *page.errors])
    report.check("digits: layout", layout.faults(page.nodes(), page.groups()))
    before = set(server.get("/history"))
    page.run()
    end = time.monotonic() + PATIENCE
    while not (done := set(server.get("/history")) - before) and time.monotonic() < end:
        page.page.wait_for_timeout(500)
    if not done:
        report.check("digits: runs", [f"it was not done within {PATIENCE:.0f} s"])
        return
    entry = server.get(f"/history/{next(iter(done))}")[next(iter(done))]
    state = entry["status"]["status_str"]
    report.check("digits: runs", [] if state == "success" else [json.dumps(entry["status"])])
    page.settle(2)
    page.show_all()
    page.take(out / "digits.png")
    report.check("digits: results are shown", result_faults(page.shown()))
    report.check("digits: runs without complaints", [*page.faults(), *page.errors])
    report.check("digits: layout with results", layout.faults(page.nodes(), page.groups()))


def check_upload(page: Frontend, report: Report, server: Server, out: Path) -> None:
    """A folder chosen with the button of LoadReferenceSet: its files are on the server, and the node shows it."""
    for modern, kind in DRAWN.items():
        page.forget()
        page.draw_nodes_as(modern)
        shown = page.upload("LoadReferenceSet", REFERENCES / "digits")
        there = {file.name for file in (server.base / "input" / shown).iterdir()}
        missing = {file.name for file in (REFERENCES / "digits").iterdir()} - there
        faults = [f"{name} was not uploaded" for name in sorted(missing)[:3]]
        faults += [] if shown.startswith("digits") else [f"the node shows {shown!r}"]
        page.take(out / f"upload, {kind}.png")
        report.check(f"upload: {kind}", [*faults, *page.errors])
    page.draw_nodes_as(False)
    page.open()  # what it tells about uploads is no complaint of the next workflow


def result_faults(shown: Mapping[str, Mapping]) -> list[str]:
    """Which nodes show no picture or no text after a run."""
    faults = []
    for node in shown.values():
        if node["type"] in SHOWS_PICTURES and not node["pictures"]:
            faults.append(f"{node['title']} ({node['type']}) shows no picture")
        if node["type"] in SHOWS_TEXT and not node["text"].strip():
            faults.append(f"{node['title']} ({node['type']}) shows no text")
    return faults


def check_help(page: Frontend, report: Report, kinds: list[str], out: Path) -> None:
    """The help page of every node."""
    for kind in kinds:
        page.forget()
        content = page.open_help(kind)
        faults = [*page.unloaded(content.locator("img")), *page.too_wide(content)]
        if content.locator(".fallback-content").count():
            faults.append(f"there is no page /extensions/{PACK}/docs/{kind}.md")
        page.take(out / f"help {kind}.png")
        report.check(f"{kind}: help page", [*faults, *page.faults(), *page.errors])


def demonstration(server: Server, world: str) -> dict:
    """The workflow of a demonstration world."""
    schemas = {kind: server.object_info(kind) for kind in (*NODE_TYPES, *DEMO_TYPES)}
    return describe(DEMOS[world], schemas).ui()


def check(told: dict) -> int:
    """All checks, or those of some templates; returns how many were not passed."""
    out, wanted, picture = Path(told["screenshots"]), told["templates"], told["picture"]
    engine = Engine(
        **{**told["engine"], **{k: Path(told["engine"][k]) for k in ("path", "python")}}
    )
    files = {file.stem: json.loads(file.read_text("utf-8")) for file in EXAMPLES.glob("*.json")}
    names = [n for n in sorted(files) if not wanted or any(part in n for part in wanted)]
    report = Report()
    with ExitStack() as stack:
        temp = tempfile.TemporaryDirectory(prefix="mmd-browser-", ignore_cleanup_errors=True)
        base = Path(stack.enter_context(temp))
        world = "shapes" if picture else "digits"
        _place_references(base / "input" / DEMOS[world].folder, world)
        place_files(base, engine, files.values())
        packs = [(PACK, ROOT), (DEMO_PACK, ROOT / "tests" / "demo" / "pack")]
        args = ("--cpu", *(("--front-end-root", told["page"]) if told["page"] else ()))
        server = stack.enter_context(Server(engine, packs, base=base, args=args))
        page = stack.enter_context(frontend(told["browser"], server.url, told["theme"]))
        if picture:
            take_picture(page, server, demonstration(server, world), Path(picture))
            return 0
        if told["wired"]:
            base_images = with_base(server.get("/object_info")).ui()
            take_wired(page, {**files, "": base_images}, PICTURES)
            return 0
        out.mkdir(parents=True, exist_ok=True)
        unlisted = set(files) ^ set(server.get("/workflow_templates").get(PACK, ()))
        report.check("the server lists all templates", (f"{name} differs" for name in unlisted))
        check_templates(page, report, files, names, out)
        if not wanted:
            check_blueprints(page, report, out)
            check_upload(page, report, server, out)
            check_run(page, report, server, demonstration(server, world), out)
            check_help(page, report, own_nodes(server), out)
    sys.stdout.write(f"{report.failed} checks failed\n" if report.failed else "all checks passed\n")
    return report.failed


def main() -> int:
    """Check what the first argument, in JSON, asks for."""
    try:
        failed = check(json.loads(sys.argv[1]))
    except (ServerError, WorkflowError) as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
