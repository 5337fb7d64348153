"""SaveReferenceLatents: saves references in a file that can be shared."""

from comfy_api.latest import io

from ...mmd_core import References
from ...mmd_core.files.reference_file import DTYPES
from ...mmd_core.kernels.quoted import quoted
from ..base.counted import counted
from ..base.schema import advanced, schema_options
from ..base.sockets import REFERENCES, ReferencesSocket
from ..base.told import told
from .folder import reference_files

NODE = "SaveReferenceLatents"


class SaveReferenceLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveReferenceLatents",
            display_name="Save Reference Latents",
            category=REFERENCES,
            description="Saves encoded references in a .safetensors file. It loads fast, and can "
            "be shared like a LoRA.",
            is_output_node=True,
            inputs=[
                ReferencesSocket.Input("references", tooltip="From EncodeReferenceLatents."),
                io.String.Input(
                    "filename",
                    default="my_style",
                    tooltip="The name of the file in models/mmd_references, without .safetensors. "
                    "With a folder: styles/ink.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="float32",
                    tooltip="How latents are stored. float32: exactly. float16: in half the space; "
                    "drawn images differ slightly.",
                ),
                advanced(
                    io.Boolean.Input(
                        "overwrite",
                        default=False,
                        optional=True,
                        tooltip="What happens to a file of this name. On: it is replaced. Off: it "
                        "is kept, and the new file gets a number, such as my_style_2, unless both "
                        "are equal.",
                    )
                ),
            ],
            outputs=[
                ReferencesSocket.Output(
                    "references", tooltip="The same references, for the guidance nodes."
                ),
                io.String.Output("report", tooltip="As text: which file was written."),
            ],
            **schema_options(
                search_aliases=["mmd", "export references", "share style"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def validate_inputs(cls, filename: str | None = None) -> bool | str:
        try:
            if filename is not None:  # None: another node provides the name
                reference_files.place_for(filename)
        except ValueError as error:
            return f"{NODE}: {error}"
        return True

    @classmethod
    def execute(
        cls, references: References, filename: str, dtype: str, overwrite: bool = False
    ) -> io.NodeOutput:
        try:
            path, written = reference_files.save(references, filename, dtype, overwrite)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        except OSError as error:  # on Windows, also if another program uses the file
            raise ValueError(
                f"{NODE}: {quoted(filename)} cannot be written ({error.strerror or error}): choose "
                "another `filename`, or check whether the disk is full and whether the file is in "
                "use"
            ) from error
        root = reference_files.places()[0]
        name = f"{root.name}/{path.relative_to(root).as_posix()}"
        text = (
            f"{'Saved as' if written else 'Already in'} {name}: "
            f"{counted(len(references), 'reference')}, "
            f"{path.stat().st_size / 1e6:.1f} MB."
        )
        return told(references, text, says=text)
