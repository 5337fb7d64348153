"""MergeReferences: mixes several reference sets by shares."""

from collections.abc import Iterable

from comfy_api.latest import io

from ...mmd_core import References
from ...mmd_core.references.merge import merge
from ..base.counted import counted
from ..base.limits import within_limits
from ..base.log import log
from ..base.schema import schema_options
from ..base.sockets import REFERENCES, ReferencesSocket
from ..base.told import told
from ..host.large_tensor import allocate

NODE = "MergeReferences"
LABELS = ("a", "b", "c", "d")


def different_vaes(sets: Iterable[References]) -> str | None:
    """A warning if the sets have the fingerprints of different VAEs, else None."""
    if len({part.vae for part in sets} - {""}) < 2:
        return None
    return (
        "the sets were encoded with different VAEs. Encode all sets with the VAE of the checkpoint "
        "that draws, unless the VAEs are copies of one, such as fp16 and fp32."
    )


def report(sets: dict[str, References], shares: dict[str, float], merged: References) -> str:
    """The report for the user: the share of each set, and what the sets do not have in common."""
    total = sum(shares[label] for label in sets)
    shape = "×".join(map(str, merged.latents.shape[1:]))
    lines = [f"{counted(len(merged), 'reference')} together, latents {shape}."]
    lines += [
        f"{label}: {counted(len(part), 'reference')}, {shares[label] / total:.1%}."
        for label, part in sets.items()
    ]
    if merged.prompts is None and any(part.prompts is not None for part in sets.values()):
        lines.append(
            "Captions are not used: for a prompt kernel, encode the captions of all sets with the "
            "same clip in EncodeReferenceLatents."
        )
    warning = different_vaes(sets.values())
    return "\n".join(lines + [f"Warning: {warning}"] * bool(warning))


class MergeReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MergeReferences",
            display_name="Merge References",
            category=REFERENCES,
            description="Mixes reference sets by shares, for example 70 % and 30 %, regardless of "
            "how many images each has.",
            inputs=[
                *(
                    ReferencesSocket.Input(
                        f"references_{label}",
                        optional=label in "cd",
                        tooltip=f"A set of references, which counts by share_{label}. All sets "
                        "need latents of the same size, from the same VAE.",
                    )
                    for label in LABELS
                ),
                *(
                    io.Float.Input(
                        f"share_{label}",
                        default=1.0,
                        min=0.0,
                        max=1_000_000.0,
                        step=0.05,
                        round=0.0001,
                        optional=label in "cd",
                        tooltip=f"How much references_{label} counts as a whole (s), compared with "
                        "the other sets: 0.7 and 0.3 are the same as 70 and 30. 0 leaves it out.",
                    )
                    for label in LABELS
                ),
            ],
            outputs=[
                ReferencesSocket.Output(
                    "references", tooltip="The mixture, for the guidance nodes."
                ),
                io.String.Output("report", tooltip="As text: how much each set counts."),
            ],
            **schema_options(
                search_aliases=["mmd", "mix styles", "combine references", "blend"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @within_limits
    def execute(
        cls,
        references_a: References,
        references_b: References,
        references_c: References | None = None,
        references_d: References | None = None,
        share_a: float = 1.0,
        share_b: float = 1.0,
        share_c: float = 1.0,
        share_d: float = 1.0,
    ) -> io.NodeOutput:
        inputs = (references_a, references_b, references_c, references_d)
        sets = {label: part for label, part in zip(LABELS, inputs, strict=True) if part is not None}
        shares = dict(zip(LABELS, (share_a, share_b, share_c, share_d), strict=True))
        try:
            merged = merge(list(sets.values()), [shares[k] for k in sets], list(sets), allocate)
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        used = {label: part for label, part in sets.items() if shares[label] > 0}
        warning = different_vaes(used.values())
        if warning:
            log.warning("%s: %s", NODE, warning)
        text = report(used, shares, merged)
        left_out = "".join(
            f"\n{label} is left out, because its share is 0." for label in sets if label not in used
        )
        text += left_out
        return told(merged, text, says=text)
