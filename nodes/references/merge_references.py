"""MergeReferences: merges several reference sets into one weighted mixture."""

import logging
from collections.abc import Iterable

from comfy_api.latest import io

from ...mmd_core import References
from ...mmd_core.references.merge import merge
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, ReferencesSocket
from ..host.large_tensor import allocate

NODE = "MergeReferences"
LABELS = ("a", "b", "c", "d")

log = logging.getLogger("mmd_guidance")


def different_vaes(sets: Iterable[References]) -> str | None:
    """A warning if the sets have the fingerprints of different VAEs, else None."""
    if len({part.vae for part in sets} - {""}) < 2:
        return None
    return (
        "the sets were encoded with different VAEs. Nothing is wrong if these are copies of one, such as "
        "fp16 and fp32; else encode all sets with the VAE of the checkpoint that draws."
    )


def report(sets: dict[str, References], shares: dict[str, float], merged: References) -> str:
    """The report for the user: the share of each set, and what the sets do not have in common."""
    total = sum(shares[label] for label in sets)
    shape = "×".join(map(str, merged.latents.shape[1:]))
    lines = [f"{len(merged)} references together, latents {shape}."]
    lines += [f"{k}: {len(part)} references, {shares[k] / total:.1%}." for k, part in sets.items()]
    if merged.prompts is None and any(part.prompts is not None for part in sets.values()):
        lines.append(
            "Captions are not used: a prompt kernel needs captions in all sets, encoded with the same "
            "clip by EncodeReferenceLatents."
        )
    warning = different_vaes(sets.values())
    return "\n".join(lines + [f"Warning: {warning}"] * bool(warning))


class MergeReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MergeReferences",
            display_name="Merge References",
            category=CATEGORY,
            description="Mixes reference sets, for example 70 % of one and 30 % of another, however many "
            "images each has.",
            inputs=[
                *(
                    ReferencesSocket.Input(
                        f"references_{label}",
                        optional=label in "cd",
                        tooltip=f"A set of references, of which share_{label} says how much it counts. All "
                        "sets need latents of the same size, from the same VAE.",
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
                        tooltip=f"The share s of references_{label} as a whole, compared with the others: "
                        "0.7 and 0.3 are the same as 70 and 30. 0 leaves the set out.",
                    )
                    for label in LABELS
                ),
            ],
            outputs=[
                ReferencesSocket.Output(
                    "references", tooltip="The mixture, for the guidance nodes."
                ),
                io.String.Output("report", tooltip="In words: how much each set counts."),
            ],
            **schema_options(search_aliases=["mmd", "mix styles", "combine references", "blend"]),
        )

    @classmethod
    def execute(
        cls, references_a, references_b, references_c=None, references_d=None,
        share_a=1.0, share_b=1.0, share_c=1.0, share_d=1.0,
    ):  # fmt: skip
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
        left_out = "".join(f"\n{k} is left out: its share is 0." for k in sets if k not in used)
        return io.NodeOutput(merged, text + left_out)
