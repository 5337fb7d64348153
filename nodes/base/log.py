"""The log of the pack, in ASCII, because consoles of Windows cannot show every sign."""

import logging

__all__ = ["log", "reason"]

# How signs in our own messages are written; other signs become \\uXXXX.
_WRITTEN = str.maketrans(
    {"\u2192": "->", "\u00d7": "x", "\u00b2": "^2", "\u00b7": "-", "\u26a0": "!", "\u2013": "-"}
)


def _in_ascii(record: logging.LogRecord) -> bool:
    """Rewrites the message in ASCII, and lets it pass."""
    text = record.getMessage().translate(_WRITTEN)
    record.msg, record.args = text.encode("ascii", "backslashreplace").decode(), None
    return True


def reason(error: BaseException) -> str:
    """The message of an error, without the folder that an error of the system names."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


log = logging.getLogger("mmd_guidance")
log.addFilter(_in_ascii)
