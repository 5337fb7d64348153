"""The hostile files, small: each is read, or refused in words. `run.py` tries them at their full size."""

import os

import folder_paths
import pytest
from mmd_pack.nodes.ddm.mmd_lora_info import MMDLoRAInfo
from mmd_pack.nodes.guidance.mmd_memory import MMDMemory
from mmd_pack.nodes.references.load_reference_latents import LoadReferenceLatents
from mmd_pack.nodes.references.load_reference_set import LoadReferenceSet
from mmd_tests.studies.safety import attack

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX"),
]
NODES = {
    node.__name__: node for node in (LoadReferenceLatents, LoadReferenceSet, MMDLoRAInfo, MMDMemory)
}


@pytest.mark.parametrize("reader", attack.READERS)
def test_small_hostile_files_are_read_or_refused_in_words(reader, tmp_path, monkeypatch):
    monkeypatch.setattr(attack, "FULL", 2**13)
    for kind in ("mmd_references", "loras", "mmd_memories"):
        place = tmp_path / "models" / kind
        place.mkdir(parents=True)
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths, kind, ([str(place)], {".safetensors"})
        )
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    tried = 0
    for name, flow in attack.attacks(tmp_path, reader):
        given, tried = flow["1"], tried + 1
        try:
            NODES[given["class_type"]].execute(**given["inputs"])
        except ValueError as error:
            assert str(error).startswith(f"{given['class_type']}: "), name
            assert len(str(error)) < 1000, name
    assert tried >= (5 if reader == "folders" else 20)
