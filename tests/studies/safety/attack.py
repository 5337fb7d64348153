"""The attack itself, inside ComfyUI's Python; started by run.py, which knows the options."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
from mmd_tests.studies.safety import hostile
from mmd_tests.studies.safety.run import make_parser
from mmd_tests.support.engine import get_engine
from mmd_tests.support.packages import ROOT
from mmd_tests.support.server import Server, ServerError, WorkflowError
from PIL import Image

SECONDS, MEGABYTES, ANSWER = 30, 2048, 1.0  # the most that one file may take; seconds of an answer
FULL = 2**20
PAUSE = 0.05  # seconds between questions to the server


@dataclass
class Watch:
    """Asks the server for its queue, and Linux for its memory, again and again."""

    server: Server
    answer: float = 0.0  # the longest, in seconds
    megabytes: float = 0.0  # the most
    stopped: bool = False
    process: int = 0
    lost: int = 0  # questions without an answer

    def run(self) -> None:
        while not self.stopped:
            begun = time.monotonic()
            try:
                with urllib.request.urlopen(f"{self.server.url}/queue", timeout=60) as answer:
                    answer.read()
            except OSError:
                self.lost += 1
            self.answer = max(self.answer, time.monotonic() - begun)
            self.megabytes = max(self.megabytes, self.memory())
            time.sleep(PAUSE)

    def memory(self) -> float:
        """The memory that the server has taken, in MB."""
        try:
            text = Path(f"/proc/{self.process}/statm").read_text()
        except OSError:
            return 0.0
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Row:
    """What one reader did with its files."""

    refused: int = 0
    read: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    answer: float = 0.0
    faults: list[str] = field(default_factory=list)


def workflow(node: str, report: int | None, **inputs: object) -> dict:
    flow = {"1": {"class_type": node, "inputs": inputs}}
    if report is not None:
        flow["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", report]}}
    return flow


def folder(name: str) -> dict:
    return workflow(
        "LoadReferenceSet", 3, folder=name, recursive=True, max_images=0, selection="even", seed=0,
        caption_source="auto",
    )  # fmt: skip


def attacks(base: Path, reader: str):
    """By name, one after the other: the workflow that reads a hostile file, which now lies in its place."""
    models = base / "models"
    if reader in ("sets", "loras"):
        place = models / ("mmd_references" if reader == "sets" else "loras")
        for i, (name, data) in enumerate(getattr(hostile, reader)(FULL).items()):
            path = place / f"{i}.safetensors"
            path.write_bytes(data)
            if reader == "sets":
                yield name, workflow("LoadReferenceLatents", 2, file=path.name)
            else:
                yield name, workflow(
                    "MMDLoRAInfo", None, lora_name=path.name, sampler_name="(any)", scheduler="(any)",
                    steps=0, cfg=0.0,
                )  # fmt: skip
            path.unlink()
    elif reader == "memories":
        for i, (name, make) in enumerate(hostile.memories(FULL).items()):
            place = models / "mmd_memories" / f"m{i}"
            place.mkdir(parents=True)
            make(place, FULL)
            yield (
                name,
                workflow("MMDMemory", None, name=place.name, action="load and append", limit=256),
            )
    elif reader == "pictures":
        for i, (name, (ending, data)) in enumerate(hostile.pictures(FULL).items()):
            place = picture_folder(base / "input" / f"p{i}")
            (place / f"b.{ending}").write_bytes(data)
            yield name, folder(place.name)
            (place / f"b.{ending}").unlink()
    else:
        for i, (name, make) in enumerate(getattr(hostile, reader)(FULL).items()):
            place = picture_folder(base / "input" / f"{reader}{i}")
            if reader == "folders":
                (place / "a.png").unlink()
            make(place, FULL)
            yield name, folder(place.name)
            shutil.rmtree(place)


def picture_folder(place: Path) -> Path:
    place.mkdir(parents=True)
    Image.new("RGB", (32, 32), (200, 80, 40)).save(place / "a.png")
    return place


REFUSALS = ("Not used:", "left out:", "nothing is remembered yet")  # in reports
READERS = ("sets", "loras", "memories", "pictures", "captions", "folders")


def attack(server: Server, reader: str, each: bool) -> Row:
    """All files of one reader."""
    row, process = Row(), server._process.pid
    for name, flow in attacks(server.base, reader):
        watch = Watch(server, process=process)
        before, begun = watch.memory(), time.monotonic()
        watcher = threading.Thread(target=watch.run)
        watcher.start()
        failed, told = False, ""
        try:
            done = server.run(flow, timeout=4 * SECONDS)
            told = " ".join(str(output.get("text", "")) for output in done["outputs"].values())
        except WorkflowError as error:
            failed, told = True, str(error)
        finally:
            watch.stopped = True
            watcher.join()
        seconds, taken = time.monotonic() - begun, max(0.0, watch.megabytes - before)
        refused = failed or any(words in told for words in REFUSALS)
        row.read += not refused
        row.refused += refused
        row.seconds, row.answer = max(row.seconds, seconds), max(row.answer, watch.answer)
        row.megabytes = max(row.megabytes, taken)
        if seconds > SECONDS or taken > MEGABYTES or watch.answer > ANSWER or watch.lost:
            row.faults.append(name)
        elif failed and not any(f"{kind}:" in told for kind in NODES):
            row.faults.append(f"{name}: {told}")  # an error that is not in our words
        if each:
            figures = f"{seconds:5.1f} s {taken:6.0f} MB, answers within {watch.answer:.2f} s"
            sys.stderr.write(f"{reader}, {name}: {figures}; {told[:200]!r}\n")
    return row


NODES = ("LoadReferenceLatents", "MMDLoRAInfo", "MMDMemory", "LoadReferenceSet")


def main() -> int:
    options = make_parser().parse_args()
    readers = options.readers or READERS
    rows, packs = {}, [("mmd-guidance", ROOT)]
    with tempfile.TemporaryDirectory() as place:
        for kind in ("mmd_references", "loras", "mmd_memories"):
            (Path(place) / "models" / kind).mkdir(parents=True)
        picture_folder(Path(place) / "input" / "good")
        try:
            with Server(get_engine(), packs, base=Path(place)) as server:
                server.run(folder("good"))  # what the first run loads counts for none
                for reader in readers:
                    rows[reader] = attack(server, reader, options.each)
                server.run(folder("good"))  # it still works
        except ServerError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    lines = [
        f"Limits for each file: {SECONDS} s, {MEGABYTES} MB, answers within {ANSWER:g} s.",
        "",
        "| reader | files | refused | read | longest | most memory | slowest answer |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {reader} | {row.refused + row.read} | {row.refused} | {row.read} | {row.seconds:.1f} s "
        f"| {row.megabytes:.0f} MB | {row.answer:.2f} s |"
        for reader, row in rows.items()
    ]
    lines += [f"\nBeyond a limit: {r}, {fault}" for r, row in rows.items() for fault in row.faults]
    sys.stdout.write("\n".join([*lines, ""]))
    return any(row.faults for row in rows.values())


if __name__ == "__main__":
    sys.exit(main())
