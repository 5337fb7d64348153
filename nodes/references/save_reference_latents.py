"""SaveReferenceLatents: saves references in a file that can be shared."""

from dataclasses import replace

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
CONTENTS = {  # what the file leaves out
    "all": (),
    "no names or small images": ("names", "thumbnails"),
    "no captions either": ("names", "thumbnails", "captions"),
}


def reduced(references: References, contents: str) -> References:
    """The references without what `contents`, a key of `CONTENTS`, leaves out.

    Raises:
        ValueError: `contents` is no key of `CONTENTS`.
    """
    if contents not in CONTENTS:
        raise ValueError(f"contents has no {quoted(contents)}: choose one of {', '.join(CONTENTS)}")
    empty = {"names": (), "captions": (), "thumbnails": None}
    return replace(references, **{name: empty[name] for name in CONTENTS[contents]})


def told_to_others(references: References, contents: str) -> str:
    """What a file tells others, and how to leave it out. Arguments as in `reduced`."""
    numbered = tuple(f"reference {j + 1}" for j in range(len(references)))  # without names
    parts = {
        "captions": any(references.captions),
        "names": references.names != numbered,
        "thumbnails": references.thumbnails is not None,
    }
    words = {"captions": "captions", "names": "file names", "thumbnails": "small images"}
    held = [
        words[part] for part, there in parts.items() if there and part not in CONTENTS[contents]
    ]
    if not held:
        return "It holds no captions, file names or small images."
    listed = " and ".join(filter(None, [", ".join(held[:-1]), held[-1]]))
    return f"Others can read its {listed}: to leave them out, change `contents`."


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
                io.Combo.Input(
                    "contents",
                    options=list(CONTENTS),
                    default="all",
                    optional=True,
                    tooltip="What others can read in the file. all: captions, file names and small "
                    "images. no names or small images: captions. no captions either: only their "
                    "features for a prompt kernel. Whoever has the VAE can see the pictures.",
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
        cls, references: References, filename: str, dtype: str, overwrite: bool = False,
        contents: str = "all",
    ) -> io.NodeOutput:  # fmt: skip
        try:
            shared = reduced(references, contents)
            path, written = reference_files.save(shared, filename, dtype, overwrite)
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
            f"{path.stat().st_size / 1e6:.1f} MB. {told_to_others(shared, contents)}"
        )
        return told(references, text, says=text)
