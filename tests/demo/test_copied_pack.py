"""The demonstration pack works as a copy of its folder, as it is where links are not permitted."""

import os
import shutil
import subprocess
import sys

import pytest
from mmd_tests.support.packages import TESTS

pytestmark = pytest.mark.comfy

LOAD = """
import asyncio, importlib.util, sys
from pathlib import Path

comfyui, folder, tests = sys.argv[1:]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu = True

spec = importlib.util.spec_from_file_location("copied", Path(folder, "__init__.py"))
sys.modules["copied"] = pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)

async def nodes():
    return await (await pack.comfy_entrypoint()).get_node_list()

world, latent = asyncio.run(nodes())
for name in ("shapes", "digits", "emoji", "emoji_flow"):
    model, clip, vae = world.execute(name).args
    [[words, _]] = clip.encode_from_tokens_scheduled(clip.tokenize("blue square three"))
    assert words.any(), name
    print(name, *vae.decode(latent.execute(name, 2).args[0]["samples"]).shape)

used = (getattr(module, "__file__", None) for module in sys.modules.values())
print([file for file in used if file and Path(file).is_relative_to(tests)])
"""


def test_a_copy_loads_all_worlds_from_its_own_files(tmp_path):
    folder = shutil.copytree(TESTS / "demo" / "pack", tmp_path / "pack")
    command = [sys.executable, "-c", LOAD, os.environ["COMFYUI_PATH"], folder, TESTS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "shapes 2 32 32 3",
        "digits 2 8 8 3",
        "emoji 2 64 64 3",
        "emoji_flow 2 64 64 3",
        "[]",
    ]
