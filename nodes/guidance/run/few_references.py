"""Sets that are too small, told before anything is drawn."""

from ....mmd_core import References
from ...base.remark import Remark
from .request import Request

__all__ = ["FEW_REFERENCES", "few_references"]

FEW_REFERENCES = "few references"
ENOUGH = 32  # references of which images are no near copies, even at a high strength
HIGH = 100.0  # the strength from which on fewer make near copies
PLACED = ("latent", "low_pass")  # feature spaces that see places: only there an image can be a copy


def few_references(request: Request, few_images: bool) -> Remark | None:
    """What to change about references that are too few for what a node asks, else None.

    Measured on a learned world at strength 100: with 8, 16, 32 and 64 references images are .10,
    .18, .25 and .56 times as far from the nearest reference as new images of that world.

    Arguments:
        request: What the node asks for.
        few_images: Whether each image follows one reference, with a small share of the strength.
    """
    config, references = request.config, request.references
    if not request.guides or not config.rules.features:
        return None
    different, strength = references.different(ENOUGH), config.strength
    if request.base is not None:
        return _without_style() if len(references) == 1 else None
    if config.kernel_config.feature_space not in PLACED:
        return None
    if different <= 3:
        return _few(references, different)
    if different < ENOUGH and strength >= HIGH and not few_images:
        text = (
            f"Lower strength to 30, or connect {ENOUGH} references or more: at strength "
            f"{strength:g}, images are likely to become near copies of only {different} references."
        )
        return Remark(FEW_REFERENCES, text)
    return None


def _few(references: References, different: int) -> Remark:
    """What to change about at most three different references."""
    count = int((references.weights > 0).sum())
    what = f"Connect {ENOUGH} references or more: here are only {count}"
    if count == 1:
        what = f"Connect {ENOUGH} references or more: here is only one"
    elif different == 1:
        what = f"Connect {ENOUGH} different references or more: all {count} are equal"
    elif different < count:
        what = f"Connect {ENOUGH} different references or more: of {count}, only {different} differ"
    goal = "one picture, and become near copies of it"
    if different > 1:
        goal = f"{different} pictures, and become near copies of them, or mixtures"
    return Remark(FEW_REFERENCES, f"{what}, so all images go towards {goal} at a high strength.")


def _without_style() -> Remark:
    """What to change about a single reference beside base images."""
    return Remark(
        FEW_REFERENCES,
        f"Connect {ENOUGH} references or more, at least 2, or disconnect base: in a single one "
        "style cannot be told from what it shows, so guidance does not act.",
    )
