"""MMDMemory: images of several queue runs, or of several machines, count as one batch."""

from __future__ import annotations

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ...mmd_core.files import limits
from ...mmd_core.files.memory_file import TRASH, Recalled, disk_use, parts, reset
from ..base.counted import counted
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import SAMPLING, MemorySocket
from ..base.told import told
from .run.shared_memory import KIND, SharedMemory, folder_of

NODE = "MMDMemory"
LOADS = {"load and append": True, "load": True, "append": False, "reset": False}  # by action
APPENDS = {"load and append": True, "load": False, "append": True, "reset": False}


def memory_report(memory: SharedMemory, found: Recalled, disk: tuple[int, int]) -> str:
    """What is remembered, and how it is used.

    Arguments:
        memory: The memory, and how runs use it.
        found: What it holds.
        disk: The bytes of its files, and of those in its trash.
    """
    added = "added" if memory.appends else "not added"
    if found.latents is None:
        lines = [
            f"{memory.name}: nothing is remembered yet, and nodes that need latents do not run. "
            f"The next images are {added}."
        ]
    else:
        n, *shape = found.latents.shape
        newest = "the newest " if n == memory.limit else ""
        one = "It counts" if memory.loads else "It does not count"
        more = "They count" if memory.loads else "They do not count"
        lines = [
            f"{memory.name}: {newest}{counted(n, 'image')}, {'×'.join(map(str, shape))}, "
            f"{found.kind}.",
            f"{one if n == 1 else more} as drawn together with the next images, which are {added}.",
        ]
    used, trash = disk
    if used:
        most = limits.MEMORY_DISK / 1e9
        lines.append(
            f"On disk: {used / 1e6:.1f} MB, at most {most:.1f} GB. It lies in "
            f"{KIND}/{memory.name}; the action reset empties it."
        )
    if trash:
        lines.append(f"In the trash: {trash / 1e6:.1f} MB. The action reset empties it.")
    return "\n".join([*lines, *found.notices])


def reset_report(name: str, forgotten: int, trash: int) -> str:
    """What was forgotten, and how to have it back.

    Arguments:
        name: The name of the memory.
        forgotten: How many images were forgotten.
        trash: The bytes of the files in the trash.
    """
    lines = [
        f"{name}: {counted(forgotten, 'image')} forgotten. This run remembers nothing; choose "
        "another action to go on."
    ]
    if trash:
        lines.append(
            f"Until the next reset, their files are in {KIND}/{name}/{TRASH} ({trash / 1e6:.1f} "
            "MB). To have them back, move them one folder up."
        )
    return "\n".join(lines)


class MMDMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDMemory",
            display_name="MMD Memory",
            category=SAMPLING,
            description="Remembers finished images on disk, so that the images of several queue "
            "runs, or of several ComfyUI servers with one network drive, become distributed like "
            "the references together.",
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "name",
                    default="my_batch",
                    tooltip="The memory, a folder in models/mmd_memories. Take one for each set, "
                    "size and prompt. With a folder: comics/ink.",
                ),
                io.Combo.Input(
                    "action",
                    options=list(LOADS),
                    default="load and append",
                    tooltip="load: remembered images count as drawn together with the next ones. "
                    "append: the next ones are added. reset: all are forgotten at once, and none "
                    "is added; their files stay in a trash until the next reset.",
                ),
                io.Int.Input(
                    "limit",
                    default=256,
                    min=1,
                    max=4096,
                    tooltip="How many images count, the newest (m). More images take longer at "
                    "each step.",
                ),
            ],
            outputs=[
                MemorySocket.Output(
                    "memory",
                    tooltip="For the guidance nodes. They read it when they begin to draw.",
                ),
                io.Latent.Output(
                    "latents",
                    tooltip="The images remembered before this run, oldest first, for VAE Decode "
                    "or MMDScore. If there are none, nodes that need them do not run.",
                ),
                io.String.Output(
                    "report",
                    tooltip="In words: how many images are remembered, and what does not count.",
                ),
            ],
            **schema_options(
                search_aliases=["mmd", "remember", "several runs", "shared batch", "multi machine"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        try:
            if name is not None:  # None: it comes from another node
                folder_of(name)
        except ValueError as error:
            return f"{NODE}: {error}"
        return True

    @classmethod
    def fingerprint_inputs(
        cls, name: str | None = None, action: str | None = None, limit: int | None = None
    ) -> str:
        try:
            return "\n".join(parts(folder_of(name or "")))
        except (OSError, ValueError):
            return ""

    @classmethod
    @within_limits
    def execute(cls, name: str, action: str = "load and append", limit: int = 256) -> io.NodeOutput:
        memory = SharedMemory(name, LOADS[action], APPENDS[action], limit)
        try:
            folder = folder_of(name)
            forgotten = reset(folder) if action == "reset" else 0
            found, disk = memory.recall(), disk_use(folder)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        except OSError as error:
            raise ValueError(
                f"{NODE}: the memory {name!r} cannot be forgotten ({error.strerror or error}): "
                "close other programs that use it, check that ComfyUI may write there, and run "
                "`action` reset again"
            ) from error
        if action == "reset":
            text = reset_report(name, forgotten, disk[1])
        else:
            text = memory_report(memory, found, disk)
        # Blocked without a message, because a first run is no error.
        latents = ExecutionBlocker(None) if found.latents is None else {"samples": found.latents}
        return told(memory, latents, text, says=text)
