"""Problems that a run meets, each with its fix. Those that its record shows are in `report.py`."""

from ....mmd_core import FEW
from ...base.counted import counted
from ...base.remark import Remark

FEW_IMAGES = Remark(
    "few images",
    f"Draw {FEW} images or more together to match the set itself; micro_batch keeps the memory "
    f"low. Fewer than {FEW} cannot show how the set is spread, so each followed one reference: "
    "one drawn by its noise, or that nearest to the picture from which it started.",
)

NO_NOISE = Remark(
    "not guided",
    "Draw with a model that removes noise: this one maps an image to an image, so guidance cannot "
    "act on the way.",
)

RISING = Remark(
    "noise rises",
    "Where the noise of a schedule rises (unsampling, FlipSigmas), guidance does not act: it would "
    "push the images away from the references.",
)

NO_PROMPT = Remark(
    "no prompt",
    "Connect a prompt to positive, or set prompt_kernel of MMDKernel to none: positive is empty, "
    "nothing can be compared with the captions, and the images are drawn without guidance.",
)

SEVERAL_KINDS = Remark(
    "several kinds",
    "Draw the pictures by themselves: among latents of several kinds at once none can be told as "
    "the picture, so they are drawn without guidance and not remembered.",
)

OTHER_BATCH = "other batch"


def other_batch(asked: int, batch: int) -> Remark:
    """The problem of a sampler that asks the model for `asked` images of a run of `batch`."""
    return Remark(
        OTHER_BATCH,
        f"Choose another sampler: this one asks for {counted(asked, 'image')} at a time, but "
        f"guidance needs all {batch} together, so it did not act there.",
    )
