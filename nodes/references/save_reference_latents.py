"""SaveReferenceLatents: writes references to a file that can be shared."""

from comfy_api.latest import io, ui

from ...mmd_core.files.reference_file import DTYPES
from ..base.schema import advanced, schema_options
from ..base.sockets import CATEGORY, ReferencesSocket
from .folder import reference_files

NODE = "SaveReferenceLatents"


class SaveReferenceLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SaveReferenceLatents",
            display_name="Save Reference Latents",
            category=CATEGORY,
            description="Writes encoded references to a .safetensors file, to be loaded at once the next "
            "time or shared like a LoRA.",
            is_output_node=True,
            inputs=[
                ReferencesSocket.Input("references", tooltip="From EncodeReferenceLatents."),
                io.String.Input(
                    "filename",
                    default="my_style",
                    tooltip="The name of the file in models/mmd_references, without .safetensors. With a "
                    "folder: styles/ink.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="float32",
                    tooltip="How latents are kept. float32: exactly. float16: the file takes half the "
                    "space, and images come out a trace different.",
                ),
                advanced(
                    io.Boolean.Input(
                        "overwrite",
                        default=False,
                        optional=True,
                        tooltip="On: a file of that name is replaced. Off: it is kept, and the new one gets "
                        "a number, such as my_style_2, unless both are equal.",
                    )
                ),
            ],
            outputs=[
                ReferencesSocket.Output("references", tooltip="The same, for the guidance nodes."),
                io.String.Output("report", tooltip="In words: which file was written."),
            ],
            **schema_options(search_aliases=["mmd", "export references", "share style"]),
        )

    @classmethod
    def validate_inputs(cls, filename=None):
        try:
            if filename is not None:  # None: another node provides the name
                reference_files.place_for(filename)
        except ValueError as error:
            return f"{NODE}: {error}"
        return True

    @classmethod
    def execute(cls, references, filename, dtype, overwrite=False):
        try:
            path, written = reference_files.save(references, filename, dtype, overwrite)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        except OSError as error:  # on Windows, also if the file is in use (memory-mapped)
            raise ValueError(
                f"{NODE}: {filename!r} cannot be written ({error.strerror or error}): choose another "
                "`filename`, or see whether the disk is full, and whether the file is in use"
            ) from error
        root = reference_files.places()[0]
        name = f"{root.name}/{path.relative_to(root).as_posix()}"
        text = (
            f"{'Saved as' if written else 'Already in'} {name}: {len(references)} references, "
            f"{path.stat().st_size / 1e6:.1f} MB."
        )
        return io.NodeOutput(references, text, ui=ui.PreviewText(text))
