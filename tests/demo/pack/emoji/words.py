"""From a name to words, and from words to the numbers the denoiser knows."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

STYLES = ("noto", "twemoji", "fluent")
"""The styles that are trained on; each is a word as well."""

UNSEEN = "openmoji"
"""The style that is never trained on."""

LENGTH = 16
"""So many words are read at most."""

PADDING = 0
"""The number that stands for "no word"; the words themselves start at 1."""


def split_words(text: str) -> list[str]:
    """Lower-case words of letters and digits, each once, in their order."""
    return list(dict.fromkeys(re.findall(r"[a-z0-9]+", text.lower())))


def build_vocabulary(names: Iterable[str], tags: Iterable[str], least: int = 4) -> list[str]:
    """All words of the names, the tags that occur `least` times, and the styles; sorted."""
    counts = Counter(word for text in tags for word in split_words(text))
    known = {word for text in names for word in split_words(text)}
    known |= {word for word, count in counts.items() if count >= least}
    return sorted(known | set(STYLES))


def encode_words(words: Sequence[str], numbers: dict[str, int], length: int) -> list[int]:
    """Numbers of the known words, cut or padded to `length`; unknown words are passed over."""
    known = [numbers[word] for word in words if word in numbers][:length]
    return known + [PADDING] * (length - len(known))
