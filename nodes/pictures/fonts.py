"""Fonts: that of Pillow, and for letters that it lacks those of the system."""

import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Fonts with many scripts, in lower case and without endings: they are tried first.
WIDE = (
    "notosanscjk-regular", "notosanscjksc-regular", "notosanscjkjp-regular",
    "sourcehansans-regular", "arial unicode", "arialuni", "pingfang", "hiragino sans gb",
    "applesdgothicneo", "msyh", "meiryo", "malgun", "yugothm", "msgothic", "simsun", "wqy-zenhei",
    "wqy-microhei", "droidsansfallbackfull", "droidsansfallback", "unifont", "notosans-regular",
    "notosansarabic-regular", "dejavusans", "freesans", "segoeui", "arial", "tahoma", "helvetica",
    "geezapro", "sfarabic",
)  # fmt: skip
ENDINGS = (".ttf", ".otf", ".ttc")
STYLES = re.compile("bold|oblique|italic|light|thin|black|medium|heavy|condensed")
MAX_FILES = 20_000  # files in the folders of fonts
MAX_TRIED = 60  # fonts
MAX_LOOKED_AT = 8  # letters by which a font is chosen
ABSENT = "\U0010ffff"  # no font has it, so it looks like all that a font lacks


@lru_cache(maxsize=256)
def font(size: float, path: str = "") -> Font:
    """The font in a file, or Pillow's own; `size` is in pixels.

    Raises:
        OSError: The file is no font.
    """
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def font_for(text: str, size: float) -> Font:
    """Pillow's font if it has all letters of a text, else the one with most that it lacks."""
    return font(size, _path_for(text))


def lacking(text: str) -> str:
    """The letters of a text that its font lacks."""
    path = _path_for(text)
    return "".join(letter for letter in sorted(_letters(text)) if not _has(path, letter))


def _path_for(text: str) -> str:
    absent = [letter for letter in sorted(_letters(text)) if not _has("", letter)]
    return _best(tuple(absent[:: -(-len(absent) // MAX_LOOKED_AT)])) if absent else ""


def _letters(text: str) -> set[str]:
    """The letters that a font has to have, without spaces and marks that are not seen."""
    unseen = ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")
    return {
        c
        for c in set(text)
        if unicodedata.category(c) not in unseen and not "\ufe00" <= c <= "\ufe0f"
    }


@lru_cache(maxsize=1024)
def _best(letters: tuple[str, ...]) -> str:
    """The font of the system with most of the letters; "" if none has any."""
    most, best = 0, ""
    for path in _system_fonts():
        found = sum(_has(path, letter) for letter in letters)
        if found > most:
            most, best = found, path
        if most == len(letters):
            break
    return best


@lru_cache(maxsize=65_536)
def _has(path: str, letter: str) -> bool:
    return _shape(path, letter) not in (None, _shape(path, ABSENT))


@lru_cache(maxsize=256)
def _shape(path: str, letter: str) -> tuple[tuple[int, int], bytes] | None:
    """What the font shows for a letter: size and pixels; None if it cannot show it."""
    try:
        letters = font(20, path)
        if not isinstance(letters, ImageFont.FreeTypeFont):  # Pillow without FreeType
            return ((0, 0), letter.encode()) if letter.isascii() else None
        mask = letters.getmask(letter)
    except OSError:
        return None
    return mask.size, bytes(mask)


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    """The fonts of the system, those with many scripts first."""
    files = (path for folder in _folders() for path in _files(folder))
    rank = {name: i for i, name in enumerate(WIDE)}
    files = (path for path in islice(files, MAX_FILES) if path.suffix.lower() in ENDINGS)
    found = [path for path in files if not STYLES.search(path.stem.lower())]
    found.sort(key=lambda path: (rank.get(path.stem.lower(), len(WIDE)), str(path)))
    return tuple(map(str, found[:MAX_TRIED]))


def _folders() -> list[Path]:
    """The folders where the system has its fonts."""
    home, folders = Path.home(), os.environ
    if sys.platform == "win32":
        local = Path(folders.get("LOCALAPPDATA", home / "AppData" / "Local"))
        own = local / "Microsoft" / "Windows" / "Fonts"
        return [Path(folders.get("WINDIR", "C:/Windows")) / "Fonts", own]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    data = folders.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = folders.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    return [Path(folder) / "fonts" for folder in (*data.split(":"), own)]


def _files(folder: Path) -> Iterable[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)
