"""Numbers with their nouns, in the singular or the plural."""


def counted(n: int, singular: str, plural: str = "") -> str:
    """The number and the words after it: "1 image", "3 images".

    Arguments:
        n: How many.
        singular: The words after 1, for example "image" or "image is".
        plural: The words after any other number, for example "images are"; by default the singular
            with an s.
    """
    return f"{n} {singular if n == 1 else plural or singular + 's'}"
