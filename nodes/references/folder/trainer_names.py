"""What the names of files and folders mean to trainers: repeats, masks, images of other things.

Rules of the trainers: OneTrainer ends the names of masks with -masklabel and those of control
images with -condlabel. StableTuner ends depth maps with -depth. ai-toolkit writes control maps into
_controls, as NAME.depth.jpg. Kohya's and most other trainers read them from a folder of their own,
in which each has the name of its image. Kohya's trainers skip folders with 0 repeats. Kohya's GUI
puts what is learned into img, regularization images into reg, and samples into model/sample;
DreamBooth calls regularization images class images.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from ...base.safe_paths import nfc
from .file_kinds import stem_of

MAPS = "masks, control maps or thumbnails"
OTHERS = "regularization images, or samples of a training"
OFF = "switched off by a folder name such as 0_name"

_KINDS = "(loss|alpha|att|attention|image|img|train|training)"
_THINGS = "(images?|imgs?|pics?|pictures?|maps?|data|dir|inputs?|files?|labels?)"
# Folders with these names hold nothing else.
_MAP_FOLDER = re.compile(
    rf"_*({_KINDS}[ _-]*)?(mask(label)?s?|cond(label)?s?|control(net)?s?|conditionings?)"
    rf"([ _-]*{_THINGS})*[ _-]*\d*_*",
    re.IGNORECASE,
)
# Folders with these names may show something else, unless their images have the names of others.
_LIKELY_FOLDER = re.compile(
    "_*(depths?|canny|edges?|(open|dw)?poses?|line(art)?s?|soft_?edges?|hed|pidinet|scribbles?|"
    "normals?|normal_?maps?|seg(mentation)?s?|mattes?|trimaps?|alphas?|inpaint|thumb(nail)?s?|"
    "sources?|hints?)"
    rf"([ _-]*{_THINGS})*_*",
    re.IGNORECASE,
)
_OTHERS_FOLDER = re.compile(
    rf"_*(reg(ulari[sz](ation|er))?s?([ _-]*{_THINGS})*|class[ _-]*{_THINGS}+)[ _-]*\d*_*",
    re.IGNORECASE,
)
_SAMPLES = re.compile(r"(.*/)?model/samples?(/.*)?", re.DOTALL)
_NUMBER = r"([ _.-]*\d+)?"
_LABEL = re.compile(rf".+-(mask|cond)label{_NUMBER}", re.IGNORECASE | re.DOTALL)
_MAP = (
    r"(masks?|masklabel|cond(label|itioning)?|control(net)?|depth|canny|(open|dw)pose|lineart|"
    r"thumb(nail)?s?)"
)
# Only after a dot, because "-line" may also be a part of a name.
_DOTTED = r"(\.(line|pose|inpaint|normal|seg|edge|scribble|soft_?edge|hed))"
_BEHIND = re.compile(rf"(?P<base>.+?)([ _.-]+{_MAP}|{_DOTTED}){_NUMBER}", re.IGNORECASE | re.DOTALL)
_BEFORE = re.compile(rf"{_MAP}[ _.-]+(?P<base>.+)", re.IGNORECASE | re.DOTALL)


def split_repeats(folder_name: str) -> tuple[float, str]:
    """The repeats and the concept of a folder name of kohya's trainers.

    For example, `10_concept` gives (10, "concept"). 0 repeats switch a folder off. Numbers with
    four digits or more (years) and other numbers with a leading 0 are not repeats.
    """
    match = re.fullmatch(r"([1-9]\d{0,2}|0{1,3})_(.+)", folder_name, re.DOTALL)
    return (float(match[1]), match[2]) if match else (1.0, folder_name)


def repeats(name: str, top: str) -> float:
    """How often an image counts: by the nearest folder above it whose name begins with a number.

    Arguments:
        name: The path of the image, relative to the chosen folder.
        top: The name of the chosen folder. To choose a folder switches it on.
    """
    for part in reversed(name.split("/")[:-1]):
        number, concept = split_repeats(part)
        if concept != part:
            return number
    return split_repeats(top)[0] or 1.0


def left_out(names: Iterable[str]) -> dict[str, str]:
    """The images among `names` that are no references, each with `MAPS`, `OTHERS` or `OFF`.

    The names are paths relative to the chosen folder, whose own name does not count.
    """
    names = list(names)
    found = {name: OFF for name in names if repeats(name, "") == 0}
    paths = {name: nfc(stem_of(name)).casefold().split("/") for name in names}
    files, folders = (
        {path[-1] for path in paths.values()},
        set().union(*(p[:-1] for p in paths.values())),
    )
    map_folders = {
        f for f in folders if _MAP_FOLDER.fullmatch(f) or not folders.isdisjoint(_bases(f))
    }
    for name, (*around, file) in paths.items():
        is_map = _LABEL.fullmatch(file) or not files.isdisjoint(_bases(file))
        if is_map or not map_folders.isdisjoint(around):
            found[name] = MAPS
        elif any(map(_OTHERS_FOLDER.fullmatch, around)) or _SAMPLES.fullmatch("/".join(around)):
            found[name] = OTHERS
    tree = _Tree(name for name in names if name not in found)
    for folder in tree.folders:
        if _LIKELY_FOLDER.fullmatch(folder.rpartition("/")[2]) and tree.repeats_others(folder):
            found |= dict.fromkeys(tree.names_in(folder), MAPS)
    return found


def doubled_folders(names: Iterable[str]) -> list[str]:
    """The folders whose images all have the names of images beside the folder.

    They may hold masks or control maps. Images in another folder beside it count, too, but not if
    all of them are only numbered.
    """
    tree = _Tree(names)
    return [folder for folder in tree.folders if tree.repeats_others(folder, numbered=False)]


def _bases(file: str) -> list[str]:
    """The names that the image of the mask or control map `file` may have, without endings."""
    matches = _BEHIND.fullmatch(file), _BEFORE.fullmatch(file)
    found = [match["base"] for match in matches if match]
    return [*found, *(f"{base}.src" for base in found)]  # as cloneofsimo's trainer writes them


class _Tree:
    """The folders of images, to compare the names in them.

    Arguments:
        names: The paths of the images, relative to the chosen folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self.here: dict[str, set[str]] = defaultdict(set)  # the images directly in a folder
        self.below: dict[str, set[str]] = defaultdict(set)  # also those in folders inside it
        # The folders with a certain image, by the folder around them and by that image.
        self.owners: dict[tuple[str, str], set[str]] = defaultdict(set)
        for path in map(stem_of, self.names):
            folder, _, file = path.rpartition("/")
            self.here[folder].add(file)
            while folder:
                parent, file = folder.rpartition("/")[0], path[len(folder) + 1 :]
                self.below[folder].add(file)
                self.owners[parent, file].add(folder)
                folder = parent
        self.folders = sorted(self.below)

    def names_in(self, folder: str) -> list[str]:
        """The images in a folder and in those inside it."""
        return [name for name in self.names if name.startswith(f"{folder}/")]

    def repeats_others(self, folder: str, numbered: bool = True) -> bool:
        """Whether each image in the folder has the name of one beside it.

        This may also be in another folder beside it; with `numbered` False, not if all of the
        images are only numbered.
        """
        parent = folder.rpartition("/")[0]
        own = {(*_bases(file), file)[0] for file in self.below[folder]}
        if own <= self.here[parent]:
            return True
        if not numbered and (len(own) < 2 or all(re.fullmatch(r"\D*\d+", file) for file in own)):
            return False
        rarest = min((self.owners[parent, file] for file in own), key=len)
        return any(own <= self.below[other] for other in rarest - {folder})
