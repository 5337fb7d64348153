"""Starting, asking and stopping a server, with a small stand-in for ComfyUI's main.py."""

import sys
from pathlib import Path

import pytest
from mmd_tests.support import server
from mmd_tests.support.engine import Engine
from mmd_tests.support.server import Server, ServerError, WorkflowError

FAKE = """
import http.server, json, sys

FAILED = {"node_id": "3", "node_type": "KSampler",
          "exception_type": "ValueError", "exception_message": "no such thing\\n"}
SAVED = {"10": {"images": [{"filename": "b.png", "subfolder": "s", "type": "output"}]},
         "9": {"text": ["t"], "images": [{"filename": "a.png", "subfolder": "", "type": "temp"}]}}
WRONG = {"3": {"class_type": "KSampler", "errors": [{"message": "Missing", "details": "model"}]}}
HISTORY = {
    "good": {"status": {"status_str": "success", "messages": []}, "outputs": SAVED},
    "bad": {"status": {"status_str": "error",
                       "messages": [["execution_start", {}], ["execution_error", FAILED]]}},
    "stopped": {"status": {"status_str": "error", "messages": [["execution_interrupted", FAILED]]}},
}

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, content, code=200):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def do_GET(self):
        top, last = self.path.rsplit("/", 1)
        found = {"/history": HISTORY, "/object_info": {"A B": {"input": {}}}}.get(top, {})
        last = last.replace("%20", " ")
        stats = {"system": {"argv": sys.argv}}
        self.answer(stats if last == "system_stats" else {last: found[last]} if last in found else {})

    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/prompt" and "id" not in sent["prompt"]:
            return self.answer({"error": {"message": "It is wrong"}, "node_errors": WRONG}, 400)
        return self.answer({"prompt_id": sent["prompt"]["id"]} if "prompt" in sent else {})

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def fake(tmp_path):
    """fake(main.py) is an Engine that runs it."""

    def engine(main):
        folder = tmp_path / "ComfyUI"
        folder.mkdir()
        (folder / "main.py").write_text(main)
        return Engine(folder, Path(sys.executable), "0")

    return engine


def test_it_answers_and_is_stopped_at_the_end(fake, tmp_path):
    base = tmp_path / "base"
    with Server(fake(FAKE), base=base, args=("--mine",)) as running:
        process = running._process
        arguments = " ".join(running.system["argv"])
        assert f"--base-directory {base}" in arguments and arguments.endswith("--mine")
        assert running.object_info("A B") == {"input": {}}
        with pytest.raises(KeyError):
            running.object_info("Unknown")
        files = running.outputs(running.run({"id": "good"}))
        assert files == [base / "temp" / "a.png", base / "output" / "s" / "b.png"]
        running.interrupt()
    assert process.poll() is not None
    with pytest.raises(ServerError, match="not running"):
        running.get("/system_stats")


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ({}, r"refused: It is wrong\n    KSampler \(node 3\): Missing \(model\)"),
        ({"id": "bad"}, r"KSampler \(node 3\) failed with ValueError: no such thing$"),
        ({"id": "stopped"}, r"interrupted at KSampler \(node 3\)"),
        ({"id": "never"}, "not done within 1 s"),
    ],
)
def test_what_went_wrong_is_reported_and_the_server_is_stopped(fake, tmp_path, prompt, told):
    with (
        pytest.raises(WorkflowError, match=told),
        Server(fake(FAKE), base=tmp_path / "base") as running,
    ):
        process = running._process
        running.run(prompt, timeout=1)
    assert process.poll() is not None


def test_a_server_that_ends_at_once_shows_its_last_lines(fake, tmp_path):
    fails = fake("print('no torch here'); raise SystemExit(3)")
    with pytest.raises(ServerError, match=r"(?s)ended \(exit 3\).*no torch here"):
        Server(fails, base=tmp_path / "base").__enter__()


def test_a_server_that_never_answers_is_stopped(fake, tmp_path):
    running = Server(fake("import time; time.sleep(3600)"), base=tmp_path / "base", deadline=0.5)
    with pytest.raises(ServerError, match="did not answer within"):
        running.__enter__()
    assert running._process is None


def test_a_pack_that_cannot_be_imported_is_an_error(fake, tmp_path):
    prints = "print('   0.0 seconds (IMPORT FAILED): /custom_nodes/mine', flush=True)\n"
    with pytest.raises(ServerError, match="cannot import /custom_nodes/mine"):
        Server(fake(prints + FAKE), base=tmp_path / "base").__enter__()


@pytest.mark.parametrize("links", [True, False])
def test_packs_are_linked_or_copied_under_their_names(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_args, **_options):
            raise OSError("links are not permitted")

        monkeypatch.setattr(Path, "symlink_to", refuse)
    pack = tmp_path / "pack"
    (pack / ".git").mkdir(parents=True)
    (pack / "a.py").write_text("1")
    target = pack / "work" / "custom_nodes" / "name"  # within the pack: must not be copied too
    target.parent.mkdir(parents=True)
    for _ in range(2):  # again, as for a second server with the same base
        server._place(pack, target)
        assert (target / "a.py").read_text() == "1"
    if not links:
        assert {path.name for path in target.iterdir()} == {"a.py"}
