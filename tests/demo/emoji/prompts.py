"""The words under which a picture is trained: mostly its name, sometimes more, sometimes none."""

import random

import numpy as np
from words import STYLES, UNSEEN, build_vocabulary, encode_words, split_words

LENGTH = 16
"""Words of a prompt at most."""

NO_WORDS, STYLE_WORD = 0.12, 0.3
"""How often a picture is trained without any words, and how often its style is one of them."""


def vocabulary(table: dict[str, np.ndarray]) -> list[str]:
    """All words that a prompt may have; the n-th has the number n + 1."""
    columns = (table["name"], table["short"], table["tone"], table["category"])
    trained = table["style"] != UNSEEN
    names = [text for column in columns for text in np.unique(column[trained])]
    return build_vocabulary(names, np.unique(table["tags"][trained]).tolist())


class Prompter:
    """Draws the words of pictures, as numbers."""

    def __init__(self, table: dict[str, np.ndarray], rows: np.ndarray, known: list[str]):
        self.numbers = {word: i + 1 for i, word in enumerate(known)}
        self.names = [split_words(f"{table['name'][i]} {table['tone'][i]}") for i in rows]
        self.more = [
            split_words(f"{table['short'][i]} {table['tags'][i]} {table['category'][i]}")
            for i in rows
        ]
        self.styles = [str(table["style"][i]) for i in rows]

    def plain(self, row: int) -> list[int]:
        """The numbers of the name alone."""
        return encode_words(self.names[row], self.numbers, LENGTH)

    def drawn(self, row: int) -> list[int]:
        """Numbers of words as somebody might have written them."""
        if random.random() < NO_WORDS:
            return encode_words([], self.numbers, LENGTH)
        words = list(self.names[row])
        if len(words) > 1 and random.random() < 0.15:
            words.remove(random.choice(words))
        others = [word for word in self.more[row] if word not in words]
        if others and random.random() < 0.5:
            words += random.sample(others, random.randint(1, min(4, len(others))))
        if self.styles[row] in STYLES and random.random() < STYLE_WORD:
            words.append(self.styles[row])
        if random.random() < 0.5:
            random.shuffle(words)
        return encode_words(words, self.numbers, LENGTH)
