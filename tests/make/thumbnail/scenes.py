"""What each workflow is run with for its thumbnail: references, prompts, world.

Emoji, but for two workflows: they train a LoRA, which takes a minute with digits and hours with emoji.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mmd_tests.make.sets.fluent import Named, colored, emoji
from mmd_tests.make.thumbnail import layouts
from mmd_tests.make.thumbnail.layouts import RUNS, STRENGTHS, Pictures
from mmd_tests.make.workflows import ROOT
from PIL import Image

DIGITS = ROOT / "tests" / "demo" / "references" / "digits"
LORA = "demo.safetensors"
TRAINING = {"steps_per_sample": 3, "batch_size": 100, "micro_batch": 100, "iterations": 300}
TRAINING |= {"learning_rate": 0.002}  # for a small world
MANY = {"MMDDemoLatent": {"batch_size": 16}}


def faces(*colors: str) -> list[Named]:
    """Faces in these colors by turns."""
    return colored(emoji("faces"), *colors)


def faces_and_hearts() -> list[Named]:
    """Blue faces and, as many, green hearts."""
    hearts = colored(emoji("hearts"), "green")
    blue = faces("blue")[: 3 * len(hearts)]
    return blue + 3 * hearts


def digits() -> list[Named]:
    """The handwritten digits of the demonstration."""
    return [Named(Image.open(p).convert("RGB"), "") for p in sorted(DIGITS.glob("*.png"))]


@dataclass(frozen=True)
class Scene:
    """A workflow in a world, and how its pictures are laid out."""

    references: Callable[[], list[Named]]
    page: Callable[[Pictures], Image.Image]
    prompt: str = ""
    changes: Mapping[str, Mapping] = field(default_factory=dict)  # as for in_demo_world
    cfg: float = 4.0
    watched: str = ""  # a node whose images are saved as well
    off: Mapping[str, Mapping] = field(default_factory=dict)  # changes for "Without guidance"
    runs: int = 1  # each with another seed
    world: str = "emoji"
    left_out: Sequence[str] = ()  # nodes that wait for a file


SCENES = {
    "SD1.5 from a folder": Scene(lambda: faces("blue"), layouts.bands, "smiling face", MANY),
    "SDXL from a folder": Scene(lambda: faces("green", "purple"), layouts.large, "smiling face"),
    "Prompt-aware with captions": Scene(
        faces_and_hearts,
        layouts.two_prompts,
        "smiling face",
        {"Second prompt": {"text": "heart"}, **MANY},
    ),
    "Small card": Scene(lambda: faces("red"), layouts.groups, "smiling face"),
    "More diverse batch": Scene(
        list,
        layouts.varied,
        "heart",
        {
            "EmptyLatentImage": {"batch_size": 24},
            "Variation 1": {"text": "blue heart"},
            "Variation 2": {"text": "green heart"},
            "Variation 3": {"text": "yellow heart"},
            "Variation 4": {"text": "purple heart"},
        },
    ),
    "Inpainting": Scene(lambda: faces("blue"), layouts.filled, "smiling face"),
    "With LoRA and ControlNet": Scene(
        lambda: faces("blue"),
        layouts.together,
        "smiling face",
        {**MANY, "LoraLoaderModelOnly": {"lora_name": LORA, "strength_model": 1.75}},
        off={"ApplyMMDGuidance": {"strength": 0.0}},
    ),
    "Share a style set": Scene(lambda: faces("green"), layouts.shared, "smiling face", MANY),
    "Compare with and without": Scene(lambda: faces("pink"), layouts.compared, "smiling face"),
    "Strength sweep": Scene(
        lambda: faces("blue"),
        layouts.swept,
        "smiling face",
        {"MMDStrengths": {"strengths": ", ".join(map(str, STRENGTHS))}},
        watched="VAEDecode",
    ),
    "One batch over many runs": Scene(
        lambda: faces("blue", "blue", "blue", "pink"), layouts.run_by_run, "smiling face", runs=RUNS
    ),
    "Steer towards a set (TRI-TSMC)": Scene(
        lambda: colored(emoji("hearts"), "blue") * 3, layouts.steered, "square"
    ),
    "Steer by your own scorer (TRI-TSMC)": Scene(list, layouts.scored, "square"),
    "Few steps (MMD-DDM)": Scene(
        list,
        layouts.few_steps,
        changes={
            "MMDPrompts": {"text": "any digit"},
            "MMDDemoLatent": {"batch_size": 10},
            "MMDMakeReferences": {"count": 500, "micro_batch": 500, "cfg": 1.0},
            "LatentFromBatch": {"length": 10},
            "MMDTrainLoRA": TRAINING,
            "KSampler": {"steps": 3},
        },
        cfg=1.0,
        world="digits",
        left_out=("LoraLoaderModelOnly", "MMDLoRAInfo"),
    ),
    "Your set in few steps (MMD-DDM)": Scene(
        digits,
        layouts.fast_set,
        changes={
            "MMDDemoLatent": {"batch_size": 10},
            "MMDTrainLoRA": {**TRAINING, "iterations": 600},
            "KSampler": {"steps": 3},
        },
        cfg=1.0,
        world="digits",
    ),
}
