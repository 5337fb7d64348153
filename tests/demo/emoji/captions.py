"""What is said of a picture in training: some of its words, now and then none."""

import random
from collections.abc import Sequence

import numpy as np
from mmd_demo.emoji.words import LENGTH, STYLES, build_vocabulary, encode_words, split_words

NO_WORDS = 0.13
STYLE = 0.3


def read_vocabulary(table: dict[str, np.ndarray]) -> list[str]:
    """All words that the training pictures teach."""
    taught = table["split"] == "train"
    names = np.concatenate([table[column][taught] for column in ("name", "short", "tone")])
    tags = sorted(set(zip(table["name"][taught], table["tags"][taught], strict=True)))
    return build_vocabulary(np.unique(names), [text for _, text in tags])


class Captions:
    """Draws the words of pictures, given the columns of the table."""

    def __init__(self, table: dict[str, np.ndarray], vocabulary: Sequence[str]):
        self.numbers = {word: number for number, word in enumerate(vocabulary, 1)}
        columns = ("name", "short", "tags", "tone")
        self.texts = [
            tuple(map(split_words, texts))
            for texts in zip(*(table[column] for column in columns), strict=True)
        ]
        self.styles = table["style"].tolist()

    def encode(self, text: str) -> list[int]:
        """Numbers of the words that somebody wrote."""
        return encode_words(split_words(text), self.numbers, LENGTH)

    def name(self, row: int) -> list[int]:
        """The words of a name and its skin tone, all of them."""
        name, _, _, tone = self.texts[row]
        return encode_words([*name, *tone], self.numbers, LENGTH)

    def draw(self, row: int, dice: random.Random) -> list[int]:
        """Some words: name, other names or keywords; skin tone; at times the style; or nothing."""
        if dice.random() < NO_WORDS:
            return [0] * LENGTH
        name, short, tags, tone = self.texts[row]
        tags = [tag for tag in tags if tag in self.numbers]
        way = dice.random()
        if way < 0.2:
            words = list(short)
        elif way < 0.35:
            words = name + dice.sample(tags, min(len(tags), dice.randint(1, 2)))
        elif way < 0.42 and len(tags) > 1:
            words = dice.sample(tags, min(len(tags), dice.randint(2, 3)))
        else:
            words = list(name)
        if len(words) > 1 and dice.random() < 0.3:
            words.remove(dice.choice(words))
        if dice.random() < 0.9:
            words = words + tone
        if dice.random() < STYLE and self.styles[row] in STYLES:
            words = [self.styles[row], *words]
        return encode_words(list(dict.fromkeys(words)), self.numbers, LENGTH)
