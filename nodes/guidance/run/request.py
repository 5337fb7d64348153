"""What a guidance node asks of the runs of its model."""

from dataclasses import dataclass

from ....mmd_core import GuidanceConfig, References
from .shared_memory import SharedMemory
from .trace import Trace


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
    """

    node: str
    references: References
    config: GuidanceConfig
    trace: Trace | None = None
    memory: SharedMemory | None = None
    preview_batch: bool = False
    node_id: str | None = None
    base: References | None = None

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
