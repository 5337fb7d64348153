"""LoadReferenceLatents: reads references from a file."""

import difflib
from pathlib import Path

from comfy_api.latest import io

from ...mmd_core import References
from ...mmd_core.files.reference_file import read
from ...mmd_core.kernels.quoted import quoted
from ..base.counted import counted
from ..base.schema import schema_options
from ..base.sockets import REFERENCES, ReferencesSocket
from ..base.told import told
from ..host.large_tensor import allocate
from .folder import reference_files

NODE = "LoadReferenceLatents"


def find_set(name: str) -> Path:
    """The path of the reference file called `name`.

    Raises:
        ValueError: There is no such file, or the name leads out of the allowed folders. The message
            says how to fix it.
    """
    try:
        path = reference_files.find(name) if name else None
    except ValueError as error:
        raise ValueError(f"{NODE}: {error}") from error
    if path is None:
        similar = difflib.get_close_matches(name, reference_files.list_sets(), n=1)
        hint = f" (there is {similar[0]!r})" if similar else ""
        problem = f"there is no file {quoted(name)}{hint}" if name else "no file is chosen"
        raise ValueError(
            f"{NODE}: {problem}: put a file from SaveReferenceLatents into models/mmd_references, "
            "press R, and choose it in `file`"
        )
    return path


def report(references: References, name: str) -> str:
    """The report for the user: what the file contains."""
    n, (width, height) = len(references), references.size
    captioned = sum(map(bool, references.captions))
    shape = tuple(references.latents.shape[1:])
    size = f" at {width}×{height} pixels" if width and height else ""
    use = "with" if references.prompts is not None else "without"
    lines = [
        f"{counted(n, 'reference')}{size} from {name}, latents {shape}.",
        f"Captions: {captioned}, {use} features for a prompt kernel.",
    ]
    if references.weights.min() < references.weights.max():
        times = references.weights.max() / references.weights.min()
        lines.append(f"Weights differ: the largest is {times:.3g} times the smallest.")
    return "\n".join(lines + [f"VAE: {references.vae[:12]}."] * bool(references.vae))


class LoadReferenceLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadReferenceLatents",
            display_name="Load Reference Latents",
            category=REFERENCES,
            description="Loads encoded references from a file that SaveReferenceLatents wrote.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=reference_files.list_sets() or [""],
                    tooltip="The file with the references. To see it here, put it into "
                    "models/mmd_references and press R.",
                )
            ],
            outputs=[
                ReferencesSocket.Output("references", tooltip="For the guidance nodes."),
                io.Latent.Output("latents", tooltip="The references as a batch of latents."),
                io.String.Output("report", tooltip="As text: what the file contains."),
            ],
            **schema_options(
                search_aliases=["mmd", "import references", "style"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        try:
            if file is not None:  # None: another node provides the name
                find_set(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None) -> str:
        try:
            status = find_set(file or "").stat()
        except (OSError, ValueError):
            return ""
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = find_set(file)
        try:
            references = read(path, allocate)
        except ValueError as error:
            raise ValueError(f"{NODE}: {quoted(file)}: {error}") from error
        text = report(references, file)
        return told(references, {"samples": references.latents}, text, says=text)
