"""Presets of both guidance nodes: a name in place of strength and mode."""

from comfy_api.latest import io

CUSTOM = "custom"
PRESETS = {  # strength and mode
    "nudge": (10.0, "keep_prompt"),
    "clear": (30.0, "keep_prompt"),
    "full": (100.0, "flow"),
    "closest": (300.0, "flow"),
}


def preset_input() -> io.Input:
    """The input of both nodes, with what each preset sets."""
    told = "; ".join(f"{name}: {s:g}, {mode}" for name, (s, mode) in PRESETS.items())
    return io.Combo.Input(
        "preset",
        options=[CUSTOM, *PRESETS],
        default=CUSTOM,
        optional=True,
        tooltip=f"Sets strength and mode for you, and their inputs are not used ({told}). nudge "
        "and clear keep the prompt. full follows kinds and proportions best, with a prompt that "
        "fits the references. closest comes near single references. custom: the inputs count.",
    )


def chosen(node: str, preset: str, strength: float, mode: str) -> tuple[float, str]:
    """The strength and the mode that count.

    Raises:
        ValueError: There is no such preset.
    """
    if preset == CUSTOM:
        return strength, mode
    if preset not in PRESETS:
        raise ValueError(
            f"{node}: preset has no {preset!r}: choose one of {', '.join((CUSTOM, *PRESETS))}"
        )
    return PRESETS[preset]
