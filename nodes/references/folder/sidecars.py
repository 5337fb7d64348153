"""Captions from a file beside each image."""

from collections.abc import Iterator
from dataclasses import replace

from ....mmd_core.files import limits
from ...base.safe_paths import nfc
from .caption_files import CaptionRequest, Captions, clean
from .caption_values import caption_of, parsed
from .file_kinds import stem_of


class _Beside:
    """Finds the files beside images.

    Arguments:
        request: The images and the caption files.
    """

    def __init__(self, request: CaptionRequest) -> None:
        self.exact: dict[tuple[str, str], str] = {}  # by name without ending, and ending
        self.folded: dict[tuple[str, str], list[str]] = {}  # in lower case
        for spell in (nfc, str):  # an exact name overwrites a normalized one
            for file in request.files:
                stem, _, ending = file.rpartition(".")
                self.exact[spell(stem), ending.lower()] = file
        for (stem, ending), file in self.exact.items():
            self.folded.setdefault((stem.casefold(), ending), []).append(file)
        self.taken = {nfc(key) for name in request.every for key in (stem_of(name), name)}

    def files(self, name: str, ending: str) -> Iterator[str]:
        """The files with that ending that may be meant for an image, the best first.

        For photo.png these are photo.txt and photo.png.txt. PHOTO.txt is meant for it if there is
        no PHOTO.png.
        """
        for key in dict.fromkeys((stem_of(name), name)):
            if file := self.exact.get((key, ending)) or self.exact.get((nfc(key), ending)):
                yield file
        for key in (stem_of(name), name):
            found = self.folded.get((nfc(key).casefold(), ending), [])
            if len(set(found)) == 1 and nfc(found[0].rpartition(".")[0]) not in self.taken:
                yield found[0]


def sidecar_captions(request: CaptionRequest) -> Captions:
    """Captions from `image.txt`, else from `image.caption`, beside `image.png`."""
    beside, captions = _Beside(request), {}
    for name in request.names:
        for ending in ("txt", "caption"):
            for file in beside.files(name, ending):
                request.used.add(file)
                if not captions.get(name):
                    caption = clean(request.read(file, limits.SIDECAR) or "")
                    captions[name] = request.limited(caption, 1, file)
    return captions


def json_sidecar_captions(request: CaptionRequest) -> Captions:
    """Captions from `image.json` beside each `image.png` that has none yet.

    Such a file may hold anything else, which is no problem.
    """
    beside, captions = _Beside(request), {}
    unreadable = replace(request, problems=[])
    for name in request.names:
        for file in beside.files(name, "json") if name not in request.found else ():
            caption = caption_of(parsed(unreadable.read(file, limits.SIDECAR) or ""))
            if caption is not None:
                request.used.add(file)
                captions[name] = captions.get(name) or request.limited(caption, 1, file)
    return captions
