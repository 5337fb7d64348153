"""MMDMemory: what is drawn in several queue runs, or on several machines, counts as one batch."""

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ...mmd_core.files.memory_file import Recalled, parts, reset
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, MemorySocket
from .run.shared_memory import SharedMemory, folder_of

NODE = "MMDMemory"
LOADS = {"load and append": True, "load": True, "append": False, "reset": False}  # by action
APPENDS = {"load and append": True, "load": False, "append": True, "reset": False}


def report(name: str, action: str, limit: int, found: Recalled, forgotten: int) -> str:
    """What is remembered, and what happens with it, for people."""
    if action == "reset":
        return f"{name}: {forgotten} images forgotten. This run remembers nothing; choose another action to go on."
    added = "added" if APPENDS[action] else "not added"
    if found.latents is None:
        lines = [
            f"{name}: nothing is remembered yet, and nodes that need latents do not run. The next images are {added}."
        ]
    else:
        n, *shape = found.latents.shape
        newest = "the newest " if n == limit else ""
        counts = "count" if LOADS[action] else "do not count"
        lines = [
            f"{name}: {newest}{n} images, {'×'.join(map(str, shape))}, {found.kind}.",
            f"They {counts} as drawn together with the next ones, which are {added}.",
        ]
    return "\n".join([*lines, *found.notices])


class MMDMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDMemory",
            display_name="MMD Memory",
            category=CATEGORY,
            description="Remembers finished images on disk, so that what is drawn in several queue runs, or by several "
            "ComfyUI servers on one network drive, becomes distributed like the references together.",
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "name",
                    default="my_batch",
                    tooltip="The memory, a folder in models/mmd_memories. Take one for each set, size and prompt. "
                    "With a folder: comics/ink.",
                ),
                io.Combo.Input(
                    "action",
                    options=list(LOADS),
                    default="load and append",
                    tooltip="load: remembered images count as drawn together with the next ones. append: the "
                    "next ones are added. reset: all are forgotten, at once, and nothing is added.",
                ),
                io.Int.Input(
                    "limit",
                    default=256,
                    min=1,
                    max=4096,
                    tooltip="How many images count (m): the newest. More take longer at each step.",
                ),
            ],
            outputs=[
                MemorySocket.Output(
                    "memory",
                    tooltip="For the guidance nodes, which read it when they begin to draw.",
                ),
                io.Latent.Output(
                    "latents",
                    tooltip="What is remembered before this run, oldest first, for VAE Decode or MMDScore. While "
                    "nothing is, nodes that need it do not run.",
                ),
                io.String.Output(
                    "report",
                    tooltip="In words: how many images are remembered, and what does not count.",
                ),
            ],
            **schema_options(
                search_aliases=["mmd", "remember", "several runs", "shared batch", "multi machine"]
            ),
        )

    @classmethod
    def validate_inputs(cls, name=None):
        try:
            if name is not None:  # else another node gives it
                folder_of(name)
        except ValueError as error:
            return f"{NODE}: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, name=None, action=None, limit=None):
        try:
            return "\n".join(parts(folder_of(name or "")))
        except (OSError, ValueError):
            return ""

    @classmethod
    def execute(cls, name, action="load and append", limit=256):
        memory = SharedMemory(name, LOADS[action], APPENDS[action], limit)
        try:
            forgotten = reset(folder_of(name)) if action == "reset" else 0
            found = memory.recall()
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        except OSError as error:
            raise ValueError(
                f"{NODE}: the memory {name!r} cannot be forgotten ({error.strerror or error}): see whether another "
                "program uses it and ComfyUI may write there, then run `action` reset again"
            ) from error
        text = report(name, action, limit, found, forgotten)
        # Without a message: a first run is no error.
        latents = ExecutionBlocker(None) if found.latents is None else {"samples": found.latents}
        return io.NodeOutput(memory, latents, text, ui=ui.PreviewText(text))
