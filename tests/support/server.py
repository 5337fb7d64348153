"""A ComfyUI server that runs while a `with` block runs; standard library only."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmd_tests.support.engine import Engine

# No proxies: the server is on this machine, whatever the environment says about proxies.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(Exception):
    """The server does not start or has died; the message ends with its last log lines."""


class WorkflowError(Exception):
    """A workflow was refused or failed; `entry` is its history entry where it has one."""

    def __init__(self, message: str, entry: dict | None = None) -> None:
        super().__init__(message)
        self.entry = entry


class WorkflowInterrupted(WorkflowError):
    """A workflow was stopped by an interrupt."""


class Server:
    """ComfyUI with just the node packs `packs`, all its files in the folder `base`.

    A pack is a folder, or a pair (name, folder) where it must have another name in custom_nodes.
    `args` are further arguments of ComfyUI; by default it runs on the CPU.
    """

    def __init__(
        self,
        engine: Engine,
        packs: Iterable[Path | tuple[str, Path]] = (),
        *,
        base: Path,
        args: tuple[str, ...] = ("--cpu",),
        deadline: float = 600.0,
    ) -> None:
        self.engine, self.args, self.deadline = engine, args, deadline
        self.base = Path(base).resolve()
        self.packs = [pack if isinstance(pack, tuple) else (pack.name, pack) for pack in packs]
        self.log = self.base / "server.log"
        self.url = ""
        self.system: dict = {}
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        for name in ("custom_nodes", "input", "output", "models", "user"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for name, path in self.packs:
            _place(Path(path).resolve(), self.base / "custom_nodes" / name)
        try:
            self._start()
            self._check_packs()
        except BaseException:  # an interrupt from the keyboard too must not leave it running
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        database = (self.base / "user" / "comfyui.db").as_posix()
        command = [self.engine.python, self.engine.path / "main.py"]
        command += ["--listen", "127.0.0.1", "--port", port, "--base-directory", self.base]
        # Without the database option it would be in the ComfyUI tree; API nodes need the internet.
        command += ["--database-url", f"sqlite:///{database}", "--disable-auto-launch"]
        command += ["--disable-api-nodes", *self.args]
        env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        env["PYTHONDONTWRITEBYTECODE"] = "1"  # nothing is written into the ComfyUI tree
        # Threads that wait busily stall each other as soon as anything else runs on the machine.
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        env.pop("PYTHONSAFEPATH", None)  # main.py imports what lies beside it
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.base,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + self.deadline
        while not self.system:
            try:
                self.system = self.get("/system_stats", timeout=5)["system"]
            except OSError as error:
                if time.monotonic() > end:
                    told = f"ComfyUI did not answer within {self.deadline:.0f} s"
                    raise ServerError(self._with_log(told)) from error
                time.sleep(0.2)

    def _check_packs(self) -> None:
        text = self.log_text()
        if failed := re.findall(r"\(IMPORT FAILED\): (.+)", text):
            told = f"ComfyUI cannot import {', '.join(failed)}"
            raise ServerError(self._with_log(told, text.partition("Import times")[0]))

    def stop(self) -> None:
        """Stop the server; done by itself at the end of the `with` block."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_text(self) -> str:
        """All that the server has printed so far."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def _with_log(self, message: str, text: str | None = None) -> str:
        lines = "\n    ".join((self.log_text() if text is None else text).splitlines()[-25:])
        return f"{message}; its last lines:\n    {lines}"

    # --- requests -------------------------------------------------------------------------------

    def get(self, path: str, timeout: float = 300.0) -> dict:
        """The JSON that the server answers to GET `path`."""
        return self._request(path, None, timeout)

    def post(self, path: str, content: dict, timeout: float = 300.0) -> dict:
        """The JSON that the server answers to POST `path`; {} where it answers nothing."""
        return self._request(path, json.dumps(content).encode(), timeout)

    def _request(self, path: str, data: bytes | None, timeout: float) -> dict:
        request = urllib.request.Request(self.url + path, data)
        request.add_header("Content-Type", "application/json")
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                return json.loads(answer.read() or b"{}")
        except OSError as error:
            code = self._process.poll() if self._process else None
            if self._process is None or code is not None:
                told = "ComfyUI is not running" if code is None else f"ComfyUI ended (exit {code})"
                raise ServerError(self._with_log(told)) from error
            raise

    def object_info(self, node_id: str) -> dict:
        """A node's schema as the frontend sees it; raises KeyError where the node is unknown."""
        return self.get(f"/object_info/{urllib.parse.quote(node_id)}")[node_id]

    def queue(self, prompt: dict, workflow: dict | None = None) -> str:
        """Queue an API-format workflow, with the UI-format one to embed, and return its id."""
        content: dict = {"prompt": prompt, "client_id": uuid.uuid4().hex}
        if workflow is not None:
            content["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            answer = self.post("/prompt", content)
        except urllib.error.HTTPError as error:
            raise WorkflowError(_refusal(error.read().decode("utf-8", "replace"))) from error
        if answer.get("node_errors"):  # ComfyUI accepts a workflow of which any part is valid
            self.interrupt()
            told = {"error": {"message": "part of it is not valid"}, **answer}
            raise WorkflowError(_refusal(json.dumps(told)))
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 1800.0) -> dict:
        """The history entry of a workflow once it is done; raises WorkflowError if it failed."""
        end = time.monotonic() + timeout
        while not (entry := self.get(f"/history/{prompt_id}").get(prompt_id)):
            if time.monotonic() > end:
                self.interrupt()
                raise WorkflowError(f"The workflow was not done within {timeout:.0f} s.")
            time.sleep(0.1)
        if entry["status"]["status_str"] == "success":
            return entry
        for kind, what in entry["status"]["messages"]:
            node = f"{what.get('node_type')} (node {what.get('node_id')})"
            if kind == "execution_interrupted":
                raise WorkflowInterrupted(f"The workflow was interrupted at {node}.", entry)
            if kind == "execution_error":
                told = f"{what['exception_type']}: {what['exception_message'].strip()}"
                raise WorkflowError(f"{node} failed with {told}", entry)
        raise WorkflowError(f"The workflow failed: {json.dumps(entry['status'])}", entry)

    def run(self, prompt: dict, workflow: dict | None = None, timeout: float = 1800.0) -> dict:
        """Queue a workflow and wait for it: its history entry."""
        return self.wait(self.queue(prompt, workflow), timeout)

    def interrupt(self) -> None:
        """Interrupt the workflow that is running."""
        self.post("/interrupt", {})

    def outputs(self, entry: dict) -> list[Path]:
        """The files that the nodes of a finished workflow saved, in order of node and file."""
        nodes = sorted(entry["outputs"].items(), key=lambda item: _natural(item[0]))
        return [
            self.base / file.get("type", "output") / file.get("subfolder", "") / file["filename"]
            for _, kinds in nodes
            for files in kinds.values()
            if isinstance(files, list)
            for file in files
            if isinstance(file, dict) and "filename" in file
        ]


def _natural(node_id: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in node_id.split(":")]


def _refusal(answer: str) -> str:
    """What is wrong with a workflow, out of the server's answer."""
    try:
        content = json.loads(answer)
        lines = [content["error"]["message"]]
        for node_id, node in content.get("node_errors", {}).items():
            for error in node["errors"]:
                details = f" ({error['details']})" if error.get("details") else ""
                lines.append(f"{node['class_type']} (node {node_id}): {error['message']}{details}")
    except (ValueError, KeyError, TypeError):
        text = re.sub(r"<[^>]*>|\s+", " ", answer).strip()
        return f"The workflow was refused (it must be in the API format): {text[:500]}"
    return "The workflow was refused: " + "\n    ".join(lines)


def _place(pack: Path, target: Path) -> None:
    """Link a pack to `target`, or copy it where links are not permitted."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    try:
        target.symlink_to(pack, target_is_directory=True)
    except OSError:
        unwanted = {".git", "__pycache__", "venv", ".venv"}

        def leave_out(folder: str, names: list[str]) -> set[str]:
            # The copy itself may lie within the pack.
            return {x for x in names if x in unwanted or Path(folder, x) in target.parents}

        shutil.copytree(pack, target, ignore=leave_out)
