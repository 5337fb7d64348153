"""Why an image is not read, in the user's words: libraries have words of their own."""

from PIL import Image

from ....mmd_core.files import limits
from ...base.safe_paths import Refused

__all__ = ["CUT_OFF", "DAMAGED", "Refused", "why"]

DAMAGED = "is damaged: copy it again, or save it as .png or .jpg"
CUT_OFF = "is damaged (a part of it is missing): copy it again"


def why(error: Exception) -> str:
    """The reason why an image cannot be read, in one line.

    `error` can have any type, because decoders raise many types of exceptions.
    """
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"has more than {limits.IMAGE_PIXELS // 10**6} megapixels"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return CUT_OFF if "truncated" in str(error) else DAMAGED
