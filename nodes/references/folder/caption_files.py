"""Reads the files that hold captions, and finds the images that they name."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from ....mmd_core.files import limits
from ...base.safe_paths import nfc, open_file
from .file_kinds import stem_of
from .problems import Problem, Problems

# Characters of a path component; file names have fewer. NFC of a long text can take hours.
MAX_PART = 1000
Captions = dict[str, str]  # caption by image name
Files = dict[str, Path]  # absolute path by path relative to the image folder


@dataclass
class CaptionRequest:
    """The images that need captions, and the files that may have them.

    Arguments:
        folder: The folder of the images.
        names: The images, as paths below it.
        files: The caption files in it.
        every: All images in the folder, also those that need none.
        problems: Receives the files and entries that cannot be used, each with the reason.
        used: Receives the files that belong to an image.
        found: Receives the captions that are not empty.
        on_progress: Is called often, with 0. It may raise an exception to stop.
        length: The number of characters of all captions so far.
    """

    folder: Path
    names: list[str]
    files: Files
    every: Collection[str]
    problems: Problems = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    found: Captions = field(default_factory=dict)
    on_progress: Callable[[int], None] = lambda finished: None
    length: int = 0

    def limited(self, caption: str, images: int, name: str, place: str = "") -> str:
        """The caption, or "" if it is too long, or all captions together are.

        Then the reason is added to `problems`.

        Arguments:
            caption: The caption.
            images: The number of images that get it.
            name: The file that it is from.
            place: Its place in the file, as in `Problem`.
        """
        length = self.length + len(caption) * images
        if len(caption) > limits.CAPTION:
            reason = f"has a caption of more than {limits.CAPTION} characters: shorten it"
        elif length > limits.CAPTIONS:
            reason = f"is left out: all captions have more than {limits.CAPTIONS} characters"
        else:
            self.length = length
            return caption
        self.problems.append(Problem(name, reason, place))
        return ""

    def read(self, name: str, limit: int) -> str | None:
        """The text of a file in UTF-8 or UTF-16, with "\\n" as line ends.

        If the file cannot be read, has more than `limit` bytes or is not text, this returns None
        and adds the reason to `problems`.
        """
        self.on_progress(0)
        try:
            with open_file(self.files[name], limit) as file:
                data = file.read()
            utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
            text = data.decode("utf-16" if utf_16 else "utf-8-sig")
            if "\0" not in text:
                return text.replace("\r\n", "\n").replace("\r", "\n")
            reason = "is not UTF-8 text: save it as UTF-8"
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        except UnicodeDecodeError:
            reason = "is not UTF-8 text: save it as UTF-8"
        except ValueError as error:
            reason = str(error)
        self.problems.append(Problem(name, reason))
        return None


def clean(text: str) -> str:
    """The text without surrounding whitespace, and with "?" for lone surrogates.

    UTF-8 cannot encode these characters, so tokenizers fail.
    """
    return text.encode("utf-8", "replace").decode().strip()


class NamedImages:
    """Finds the images that an entry of a caption file names, among the given `names` only."""

    def __init__(self, names: list[str]) -> None:
        whole, stems = {}, {}
        for name in names:
            whole.setdefault(nfc(name), []).append(name)
            stems.setdefault(nfc(stem_of(name)), []).append(name)
        self.found = stems | whole
        self.spelled: dict[str, set[str]] = {}  # all spellings in upper and lower case
        for key in self.found:
            self.spelled.setdefault(key.casefold(), set()).add(key)

    def find(self, parent: str, key: str) -> list[str]:
        """The images that `key` names, with or without file extension.

        Paths are relative to the folder `parent` of the caption file. Of an absolute path of any
        operating system, the longest trailing part that matches counts, because data sets are often
        moved. If no name has the same letters in upper and lower case, one with other ones counts.
        """
        absolute, key = re.match(r"[/\\]|[A-Za-z]:", key), key.replace("\\", "/")
        if not absolute and len(key) > limits.LIST_KEY:
            return []
        parts = key.rsplit("/", 16)[-16:] if absolute else key.split("/")
        parts = [part for part in parts if part not in ("", ".")]
        parts = [part if len(part) > MAX_PART else nfc(part) for part in parts]
        for start in range(len(parts)) if absolute else [0]:
            wanted = "/".join([parent] * bool(parent) + parts[start:])
            spelled = self.spelled.get(wanted.casefold(), set())
            if wanted in spelled or len(spelled) == 1:
                return self.found[wanted if wanted in spelled else next(iter(spelled))]
        return []
