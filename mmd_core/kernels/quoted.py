"""Values of the user in messages."""

__all__ = ["quoted"]

LONGEST = 100  # characters: a file or a text of megabytes may be connected by mistake


def quoted(value: object) -> str:
    """The value as Python writes it; of a long text only the beginning."""
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{value[:LONGEST]!r} and {len(value) - LONGEST} more characters"
    text = repr(value)
    return text if len(text) <= LONGEST + 2 else f"{text[:LONGEST]} and so on"
