"""What a guidance node asks of the runs of its model."""

import logging
from dataclasses import dataclass, field

from torch import Tensor

from ....mmd_core import GuidanceConfig, References
from ...base.log import log
from ...base.remark import Remark
from ...host.fit_latent import fit_latents
from .shared_memory import SharedMemory
from .trace import Trace

KEPT = 2**30  # bytes of resized references that are kept for later runs


@dataclass(frozen=True)
class Request:
    """What a node asks of all runs of its model.

    Arguments:
        node: The name of the node, for messages.
        references: What the images are to be distributed like.
        config: The settings. With strength 0 runs are recorded but not changed.
        trace: Where to record what guidance does, or None.
        memory: The memory that these runs share with other runs, or None.
        preview_batch: Whether the preview shows the whole batch.
        node_id: The node on which progress is shown, or None.
        base: What the model itself draws for the captions of the references, or None.
        resizes: Whether references are resized if images of another size are drawn.
    """

    node: str
    references: References
    config: GuidanceConfig
    trace: Trace | None = None
    memory: SharedMemory | None = None
    preview_batch: bool = False
    node_id: str | None = None
    base: References | None = None
    resizes: bool = False
    _resized: dict[tuple, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        told = self.trace is not None or self.memory is not None or self.preview_batch
        return self.config.strength == 0 and not told

    @property
    def guides(self) -> bool:
        """Whether images are changed, and not only recorded."""
        return self.config.strength > 0

    @property
    def compares_prompts(self) -> bool:
        """Whether the kernel compares prompts with captions."""
        return self.config.kernel_config.prompt_kernel != "none"

    def tell(self, problem: Remark, level: int = logging.WARNING) -> None:
        """Writes a problem of the runs into the log and the report, once."""
        if self.trace is None or self.trace.note(problem):
            log.log(level, "%s: %s", self.node, problem.text)

    def latents_at(self, references: References, size: tuple[int, int]) -> Tensor:
        """The latents of the references or of the base images at a size.

        The middle of each latent is scaled. The result is kept for later runs.

        Arguments:
            references: `references` or `base`.
            size: The height and width.
        """
        if references.latents.shape[-2:] == size:
            return references.latents
        if self.trace is not None:
            self.trace.resized.add(tuple(size))
        key = (references is self.base, *size)
        if key not in self._resized:
            found = fit_latents(list(references.latents.split(1)), *size, antialias=False)
            while self._resized and sum(map(_bytes, [found, *self._resized.values()])) > KEPT:
                del self._resized[next(iter(self._resized))]
            self._resized[key] = found
        return self._resized[key]


def _bytes(latents: Tensor) -> int:
    return latents.numel() * latents.element_size()
