"""The captions of images, from the files that people and training tools use."""

from collections.abc import Callable

from .caption_files import CaptionRequest, Captions, clean
from .caption_lists import json_captions, metadata_captions
from .sidecars import json_sidecar_captions, sidecar_captions
from .trainer_names import split_repeats


def folder_captions(request: CaptionRequest) -> Captions:
    """Captions from the name of the folder that contains the image, without kohya's repeats."""
    parents = {name: (request.folder / name).parent.name for name in request.names}
    return {name: clean(split_repeats(parent)[1]) for name, parent in parents.items()}


# For each image, the readers are tried in this order: the first caption that is not empty counts.
CAPTION_SOURCES: dict[str, tuple[Callable[[CaptionRequest], Captions], ...]] = {
    "auto": (sidecar_captions, metadata_captions, json_captions, json_sidecar_captions),
    "txt": (sidecar_captions,),
    "metadata.jsonl": (metadata_captions,),
    "folder name": (folder_captions,),
    "none": (),
    "captions.json": (json_captions, json_sidecar_captions),
}

WITHOUT_FILES = ("folder name", "none")


def read_captions(source: str, request: CaptionRequest) -> list[str]:
    """The caption of each image, "" if it has none.

    Arguments:
        source: One of `CAPTION_SOURCES`.
        request: The images and the files.
    """
    for read in CAPTION_SOURCES[source]:
        captions = read(request)
        request.found.update(
            (name, captions[name])
            for name in request.names
            if captions.get(name) and name not in request.found
        )
    return [request.found.get(name, "") for name in request.names]
