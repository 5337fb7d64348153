"""What a ComfyUI node takes, gives and shows; standard library only."""

from __future__ import annotations

from collections.abc import Mapping

NEUTRALS = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}  # where no default is given
BASE, SLOT, WIDGET, TEXT = 50, 22, 30, 120  # pixels


class Schema:
    """What a node takes and gives, read from its entry in the server's /object_info."""

    def __init__(self, info: Mapping) -> None:
        self.inputs: dict[str, tuple[str, dict, bool]] = {}  # name: type, options, optional
        for kind in ("required", "optional"):
            for name, (type_, *options) in info["input"].get(kind, {}).items():
                given = dict(options[0]) if options else {}
                if isinstance(type_, list | tuple):  # the older way to write a choice
                    type_, given = "COMBO", {**given, "options": list(type_)}
                self.inputs[name] = (str(type_), given, kind == "optional")
        self.category = info["category"]
        self.outputs = list(zip(info["output_name"], info["output"], strict=True))
        widgets = (*NEUTRALS, "COMBO")
        self.widgets = [
            name
            for name, (type_, given, _) in self.inputs.items()
            if type_ in widgets and not given.get("forceInput")
        ]
        self.sockets = [name for name in self.inputs if name not in self.widgets]

    def default(self, name: str) -> object:
        """What the frontend shows in a widget at first."""
        type_, given, _ = self.inputs[name]
        choices = given.get("options") or [""]
        return given.get("default", NEUTRALS[type_] if type_ in NEUTRALS else choices[0])

    def check(self, name: str, value: object) -> None:
        """Raise a ValueError where a number is out of bounds."""
        _, given, _ = self.inputs[name]
        low, high = given.get("min", value), given.get("max", value)
        if isinstance(value, int | float) and not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, not {value}.")

    def is_seed(self, name: str) -> bool:
        """Whether the frontend puts a second widget beside this one, control_after_generate."""
        type_, given, _ = self.inputs[name]
        named = name in ("seed", "noise_seed")
        return type_ == "INT" and bool(given.get("control_after_generate", named))

    def height(self) -> int:
        """Pixels that all slots and widgets take."""
        rows = len(self.widgets) + sum(map(self.is_seed, self.widgets))
        texts = sum(map(self.is_text, self.widgets))
        return height(max(len(self.sockets), len(self.outputs)), rows, texts)

    def is_text(self, name: str) -> bool:
        """Whether a widget has room for several lines."""
        return bool(self.inputs[name][1].get("multiline"))


def height(slots: int, rows: int, texts: int) -> int:
    """Pixels that so many rows of sockets take, so many widgets, and more for those of several lines."""
    return BASE + SLOT * slots + WIDGET * rows + TEXT * texts
