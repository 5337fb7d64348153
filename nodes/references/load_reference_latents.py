"""LoadReferenceLatents: reads references from a file."""

import difflib

from comfy_api.latest import io

from ...mmd_core import References
from ...mmd_core.files.reference_file import read
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, ReferencesSocket
from .folder import reference_files

NODE = "LoadReferenceLatents"


def find_set(name: str):
    """The path of the reference file called `name`.

    Raises:
        ValueError: There is no such file, or the name leads out of the allowed folders. The message says how
            to fix it.
    """
    try:
        path = reference_files.find(name) if name else None
    except ValueError as error:
        raise ValueError(f"{NODE}: {error}") from error
    if path is None:
        similar = difflib.get_close_matches(name, reference_files.list_sets(), n=1)
        hint = f" (there is {similar[0]!r})" if similar else ""
        trouble = f"there is no file {name[:200]!r}{hint}" if name else "no file is chosen"
        raise ValueError(
            f"{NODE}: {trouble}: put a set of references into models/mmd_references, press R, and choose "
            "it in `file`; SaveReferenceLatents makes one"
        )
    return path


def report(references: References, name: str) -> str:
    """The report for the user: what the file contains."""
    n, (width, height) = len(references), references.size
    captioned = sum(map(bool, references.captions))
    size = f" at {width}×{height} pixels" if width and height else ""
    use = "with" if references.prompts is not None else "without"
    lines = [
        f"{n} references{size} from {name}, latents {tuple(references.latents.shape[1:])}.",
        f"Captions: {captioned}, {use} features for a prompt kernel.",
    ]
    if references.weights.min() < references.weights.max():
        times = references.weights.max() / references.weights.min()
        lines.append(f"Weights differ: the largest is {times:.3g} times the smallest.")
    return "\n".join(lines + [f"VAE: {references.vae[:12]}."] * bool(references.vae))


class LoadReferenceLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoadReferenceLatents",
            display_name="Load Reference Latents",
            category=CATEGORY,
            description="Reads encoded references from a file that SaveReferenceLatents made.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=reference_files.list_sets() or [""],
                    tooltip="The file with the references. Put it into models/mmd_references and press R "
                    "to see it here.",
                )
            ],
            outputs=[
                ReferencesSocket.Output("references", tooltip="For the guidance nodes."),
                io.Latent.Output("latents", tooltip="The same as a batch of latents, in order."),
                io.String.Output("report", tooltip="In words: what the file holds."),
            ],
            **schema_options(search_aliases=["mmd", "import references", "style"]),
        )

    @classmethod
    def validate_inputs(cls, file=None):
        try:
            if file is not None:  # None: another node provides the name
                find_set(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file=None):
        try:
            status = find_set(file or "").stat()
        except (OSError, ValueError):
            return ""
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, file):
        path = find_set(file)
        try:
            references = read(path)
        except ValueError as error:
            raise ValueError(f"{NODE}: {file!r}: {error}") from error
        return io.NodeOutput(references, {"samples": references.latents}, report(references, file))
