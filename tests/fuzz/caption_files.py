"""Changed and made-up caption files: each picture gets the caption that they give to it, or none."""

import json
import re
import unicodedata
from pathlib import Path

from hypothesis import strategies as st
from mmd_tests.fuzz.edits import NUMBERS, Case, Form, changed
from mmd_tests.fuzz.limits import Crash, Misread, Watch

NAMES = ("a.png", "b.jpg", "b.webp", "sub/c.png", "sub/é ü.png", "10_x/d.v1.png")
SIDECARS = ("a.txt", "a.caption", "b.TXT", "sub/c.txt", "sub/é ü.caption", "10_x/d.v1.txt")
LISTS = (
    "metadata.jsonl",
    "sub/metadata.jsonl",
    "captions.json",
    "sub/meta_cap.json",
    "meta_clean.json",
)
SOURCES = ("auto", "txt", "metadata.jsonl", "captions.json", "folder name", "none")
NAME_KEYS = (
    "file_name", "image", "file", "path", "image_path", "filename", "img", "img_path", "image_name",
    "file_path", "image_file", "image_file_name", "images",
)  # fmt: skip
TEXT_KEYS = ("text", "caption", "prompt", "captions", "description")
KEYS = (*NAME_KEYS[:5], "images", *TEXT_KEYS[:4], "conversations", "messages", "tags", "other")
MOST_BROKEN = 100  # entries of one file, as documented
LONGEST = 65_536  # characters of a caption
LONG = 40_000
TEXTS = st.text(max_size=12) | st.sampled_from(
    ("", " ", "\ufeff", "\ud800", "\0", "a\r\nb", "\u2028")
)
# What takes long if it is done the simple way: brackets in each other, digits, accents to be put into order.
BOMBS = st.sampled_from(("[", '{"a":', "9", "\u0315\u0300", "a/", "../"))


def names() -> st.SearchStrategy[str]:
    """What may stand where a picture is to be named."""
    without_ending = [name.rpartition(".")[0] for name in NAMES]
    known = st.sampled_from((*NAMES, *without_ending, "c.png", "c", "d.v1.png"))
    return (
        known
        | known.map(lambda name: unicodedata.normalize("NFD", name))
        | known.map(lambda name: "/data/set/" + name)
        | known.map(lambda name: "C:\\set\\" + name.replace("/", "\\"))
        | known.map(lambda name: "../" + name)
        | known.map(lambda name: "./" + name)
        | BOMBS.map(lambda text: text * LONG)
        | TEXTS
    )


def values() -> st.SearchStrategy:
    numbers = st.integers() | st.floats() | st.sampled_from(NUMBERS) | st.just(10**4000)
    simple = st.none() | st.booleans() | numbers | TEXTS | names()
    return st.recursive(
        simple,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=5,
    )


@st.composite
def objects(draw, keys: st.SearchStrategy[str]) -> str:
    """JSON; keys may come twice."""
    pairs = draw(st.lists(st.tuples(keys, values() | TEXTS), max_size=6))
    texts = [f"{json.dumps(key)}: {dumped(draw, value)}" for key, value in pairs]
    return "{" + ", ".join(texts) + "}"


def dumped(draw, value) -> str:
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def entries(draw) -> str:
    """An object for one picture."""
    name, text = draw(names()), draw(TEXTS)
    key, caption = draw(st.sampled_from(NAME_KEYS)), draw(st.sampled_from(TEXT_KEYS))
    return json.dumps({key: name, caption: text}, ensure_ascii=draw(st.booleans()))


@st.composite
def lists(draw, lines: bool) -> bytes:
    """A list of captions: lines, or one JSON value, in some encoding."""
    entry = entries() | entries() | objects(st.sampled_from(KEYS))
    broken = TEXTS | BOMBS.map(lambda text: text * LONG) | st.just("{") | values().map(json.dumps)
    if lines:
        between = draw(st.sampled_from(("\n", "\r\n", "\n\n")))
        text = between.join(draw(st.lists(entry | entry | broken, max_size=8)))
        text += between + "{}\n" * draw(st.sampled_from((0, 0, 0, MOST_BROKEN - 1, MOST_BROKEN)))
    else:
        some = st.lists(entry, max_size=8).map(lambda found: "[" + ",".join(found) + "]")
        text = draw(objects(names()) | objects(names()) | some | broken)
    return encoded(draw, text)


def encoded(draw, text: str) -> bytes:
    kind = draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32")))
    return text.encode(kind, "surrogatepass" if kind.startswith("utf") else "replace")


def good_list(lines: bool) -> bytes:
    """A list with all pictures of the main folder, as people make it."""
    if lines:
        return "".join(
            json.dumps({"file_name": name, "text": f"of {name}"}) + "\n" for name in NAMES
        ).encode()
    return json.dumps({name: f"of {name}" for name in NAMES}, indent=1).encode()


@st.composite
def cases(draw) -> Case:
    """Some files; `about` is the source and their names."""
    chosen = draw(
        st.lists(st.sampled_from(SIDECARS + LISTS * 2), min_size=1, max_size=5, unique=True)
    )
    files = []
    for file in chosen:
        if file in SIDECARS:
            text = TEXTS | st.binary(max_size=40) | BOMBS.map(lambda text: text * LONG)
            text = draw(text)
            files.append(encoded(draw, text) if isinstance(text, str) else text)
        else:
            lines = file.endswith("l")
            whole = {"": good_list(lines)}
            new = lists(lines)
            files.append(draw(new | new | changed(whole, Form())))
    return Case((draw(st.sampled_from(SOURCES)), tuple(chosen)), tuple(files))


# What the files say, written down once more and without haste


def text_of(data: bytes) -> str | None:
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            text = data.decode("utf-16")
        else:
            text = data.decode("utf-8").removeprefix("\ufeff")
    except ValueError:
        return None
    return None if "\0" in text else re.sub("\r\n?", "\n", text)


def clean(text: str) -> str:
    return "".join("?" if "\ud800" <= c <= "\udfff" else c for c in text).strip()


def plain(value) -> str | None:
    """The text of a JSON value; of a list, that of the first item that says anything."""
    if isinstance(value, list):
        value = next((item for item in value if item not in ("", [], {}, None)), None)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return clean(str(value))


def caption_in(value, tags: bool) -> str | None:
    """The caption that a JSON value is; None if it is none."""
    if not isinstance(value, dict):
        return plain(value)
    talks = {key for key in ("conversations", "messages") if key in value}
    if not {*TEXT_KEYS, *["tags"] * tags} & set(value) and not talks:
        return None
    found = [plain(value[key]) for key in TEXT_KEYS if value.get(key) not in (None, "", [], {})]
    found = found or [None if any(value[key] for key in talks) else ""]  # no talk is made up here
    added = value.get("tags") if tags else None
    parts = [found[0], *map(plain, added if isinstance(added, list) else [added])]
    return None if None in parts else ", ".join(part for part in parts if part)


def pairs_in(text: str, lines: bool) -> list[tuple[str | None, str | None]]:
    """Name and caption of each entry; one of them None if it is broken."""

    def parsed(text):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None

    def named(entry, tags):
        if not isinstance(entry, dict):
            return None, None
        name = [entry[key] for key in NAME_KEYS if key in entry][:1]
        name = name[0] if name and isinstance(name[0], list) and len(name[0]) == 1 else name
        return (name[0] if name and isinstance(name[0], str) else None), caption_in(entry, tags)

    if lines:
        return [named(parsed(line), False) for line in text.split("\n") if line.strip()]
    data = parsed(text)
    if isinstance(data, dict):
        return [(key, caption_in(value, True)) for key, value in data.items()]
    return [named(entry, True) for entry in data] if isinstance(data, list) else [(None, None)]


def meant(name: str, parent: str) -> list[str]:
    """The pictures that a list in the folder `parent` means by `name`."""

    def normal(text):
        return unicodedata.normalize("NFC", text)

    ending = name[-2000:]  # no picture has a longer name
    parts = [part for part in re.split(r"[/\\]", normal(ending)) if part not in ("", ".")]
    places = [parts]
    if re.match(r"[/\\]|[A-Za-z]:", name):
        places = [parts[i:] for i in range(max(0, len(parts) - 16), len(parts))]
    for place in places:
        wanted = "/".join([*filter(None, [parent]), *place])
        for case in (str, str.casefold):
            for spell in (lambda n: n, lambda n: n.rpartition(".")[0]):
                if found := [n for n in NAMES if case(normal(spell(n))) == case(wanted)]:
                    return found
    return []


def read_plainly(lists: tuple[str, ...], files: dict[str, bytes]) -> dict[str, str]:
    """The captions in these lists, by picture; later lists and entries count more."""
    found = {}
    for file in lists:
        text = text_of(files[file]) if file in files else None
        broken = 0
        for name, caption in pairs_in(text, file.endswith("l")) if text is not None else ():
            if name is None or caption is None:
                broken += 1
                if broken == MOST_BROKEN:
                    break
            elif 0 < len(caption) <= LONGEST:
                found.update(dict.fromkeys(meant(name, file.rpartition("/")[0]), caption))
    return found


def expected(source: str, files: dict[str, bytes]) -> list[str]:
    """The caption of each picture."""
    lines = read_plainly(("metadata.jsonl", "sub/metadata.jsonl"), files)
    values = read_plainly(("meta_clean.json", "captions.json", "sub/meta_cap.json"), files)
    captions = []
    for name in NAMES:
        folder, _, file = name.rpartition("/")
        stem = name.rpartition(".")[0]
        beside = [files.get(stem + ending, b"") for ending in (".txt", ".TXT", ".caption")]
        texts = [clean(text_of(data) or "") for data in beside]
        texts = [text for text in texts if len(text) <= LONGEST]
        by_source = {
            "txt": next(filter(None, texts), ""),
            "metadata.jsonl": lines.get(name, ""),
            "captions.json": values.get(name, ""),
            "folder name": {"sub": "sub", "10_x": "x"}.get(folder, "set"),
            "none": "",
        }
        in_order = filter(None, list(by_source.values())[:3])
        captions.append(next(in_order, "") if source == "auto" else by_source[source])
    return captions


def check(case: Case, place: Path) -> list[str]:
    """An outcome for each file, see `Target`: "other" for all of them if any caption was found."""
    from mmd_pack.nodes.references.folder.caption_files import CaptionRequest
    from mmd_pack.nodes.references.folder.captions import read_captions

    source, chosen = case.about
    folder, files = place / "set", dict(zip(chosen, case.files, strict=True))
    folder.mkdir(exist_ok=True)
    paths = {file: folder / str(i) for i, file in enumerate(files)}
    for file, path in paths.items():
        path.write_bytes(files[file])
    request = CaptionRequest(folder, list(NAMES), paths, NAMES)
    with Watch() as watch:
        try:
            found = read_captions(source, request)
        except Exception as error:
            raise Crash(repr(error)) from error
    watch.check()
    problems = request.problems
    if not all(isinstance(text, str) for texts in (found, *problems) for text in texts):
        raise Crash("no texts")
    if len(problems) > (MOST_BROKEN + 1) * len(files):
        raise Crash(f"{len(problems)} complaints")
    "".join(found).encode()  # no lone surrogates
    wanted = expected(source, files)
    if found != wanted:
        raise Misread(f"{found!r:.2000} and not {wanted!r:.2000}")
    return ["other" if any(found) else "refused"] * len(case.files)
