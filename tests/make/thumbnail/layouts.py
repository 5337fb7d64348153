"""How the pictures of each workflow are laid out on its thumbnail."""

from __future__ import annotations

from mmd_tests.make.thumbnail.page import Block, page
from PIL import Image, ImageDraw

STRENGTHS = (0, 3, 10, 30, 100)
RUNS = 3
MASK = (0, 30, 64, 64)  # of the picture to inpaint
Pictures = dict[str, list[Image.Image]]  # by title of the node that shows them, and "references"


def bands(pictures: Pictures) -> Image.Image:
    """References, and the same noise without guidance and with it."""
    shown = {
        "references": "references",
        "Unguided images": "without guidance",
        "Guided images": "with guidance",
    }
    return page([[Block(title, pictures[name][:14], 7)] for name, title in shown.items()])


def large(pictures: Pictures) -> Image.Image:
    """A few references beside many large pictures."""
    few = Block("references", pictures["references"][:14], 2, 48)
    return page([[few, Block("16 large images", pictures["Guided images"], 4, 96)]])


def two_prompts(pictures: Pictures) -> Image.Image:
    """References of two kinds, mixed, and what each prompt makes of them."""
    references = pictures["references"]
    half = len(references) // 2
    mixed = [pair for both in zip(references, references[half:], strict=False) for pair in both]
    made = [
        Block(f"“{word}”", pictures[f"{which} prompt: images"][:9], 3, framed=True)
        for word, which in (("smiling face", "First"), ("heart", "Second"))
    ]
    return page([[Block("references with captions", mixed[:14], 7)], made])


def groups(pictures: Pictures) -> Image.Image:
    """References, and the groups that are drawn one after the other."""
    images = pictures["Guided images"]
    half = len(images) // 2
    few = Block("references", pictures["references"][:8], 8)
    named = {"first 16 images": images[:half], "next 16 images": images[half:]}
    return page([[few], [Block(name, each, 4, framed=True) for name, each in named.items()]])


def varied(pictures: Pictures) -> Image.Image:
    """The same prompt, first as the model draws it."""
    names = {"Unguided images": "“heart”", "Varied batch": "“heart”, more diverse"}
    return page([[Block(name, pictures[title], 8)] for title, name in names.items()])


def filled(pictures: Pictures) -> Image.Image:
    """The picture with its mask, the references, and what was drawn into it."""
    before = masked(pictures["Picture to inpaint"][0])
    few = Block("references", pictures["references"][:9], 3)
    made = Block("filled", pictures["Guided images"], 4, 96)
    return page([[Block("picture, mask", [before], 1, 200), few], [made]])


def masked(picture: Image.Image) -> Image.Image:
    """The picture, enlarged, with stripes where its mask is."""
    larger = 4
    side = larger * picture.width
    whole = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    hole = tuple(larger * edge for edge in MASK)
    stripes = Image.new("L", whole.size, 0)
    lines = ImageDraw.Draw(stripes)
    for x in range(-side, side, 14):
        lines.line((x, side, x + side, 0), 190, 5)
    inside = Image.new("L", whole.size, 0)
    inside.paste(stripes.crop(hole), hole)
    whole.paste((90, 100, 130), (0, 0), inside)
    return whole


def together(pictures: Pictures) -> Image.Image:
    """What the references bring, what the LoRA brings, and both."""
    few = Block("references", pictures["references"][:9], 3)
    lora = Block("LoRA alone", pictures["Without guidance"][:9], 3)
    return page([[few, "+", lora], [Block("both", pictures["Guided images"][:14], 7)]])


def shared(pictures: Pictures) -> Image.Image:
    """A file, and what is drawn with it."""
    kept = Block("my_style.safetensors", pictures["references"][:21], 7, framed=True)
    return page([[kept], ["down"], [Block("", pictures["Guided images"][:14], 7)]])


def compared(pictures: Pictures) -> Image.Image:
    """Both batches, and how MMD² went."""
    (plot,) = pictures["Without and with, and how it went"]
    panel = (14, plot.height - 434, 633, plot.height - 14)  # the left one of MMDPlot
    blocks = [
        Block(f"{name} guidance", pictures[f"Images {name} guidance"][:12], 4, framed=True)
        for name in ("without", "with")
    ]
    return page([blocks, [plot.crop(panel).resize((501, 340), Image.Resampling.LANCZOS)]])


def swept(pictures: Pictures) -> Image.Image:
    """A row for each strength."""
    batch = len(pictures["VAEDecode"]) // len(STRENGTHS)
    rows = [
        [Block(str(strength), pictures["VAEDecode"][i * batch :][:5], 5, 96, beside=True)]
        for i, strength in enumerate(STRENGTHS)
    ]
    return page(rows, close=True)


def run_by_run(pictures: Pictures) -> Image.Image:
    """References, and what each run adds."""
    few = Block("references", pictures["references"][:8], 8)
    images = pictures["Guided images"]
    each = len(images) // RUNS
    made = [Block(f"run {i + 1}", images[i * each :][:each], 8) for i in range(RUNS)]
    return page([[few], *([block] for block in made)])


def steered(pictures: Pictures) -> Image.Image:
    """References, and what is drawn before and after steering."""
    shown = {"references": "references", "Unsteered images": "the model alone"}
    shown["Steered images"] = "steered to their palette"
    return page([[Block(name, pictures[title][:8], 8)] for title, name in shown.items()])


def scored(pictures: Pictures) -> Image.Image:
    """A few images of each batch, and the best of all."""
    rows = {"First batch": "first batch", "Second batch": "second batch"}
    rows |= {"Third batch": "third batch", "Steered images": "the best by your scorer: the darkest"}
    return page([[Block(name, pictures[title][:8], 8)] for title, name in rows.items()])


def few_steps(pictures: Pictures) -> Image.Image:
    """Digits in few steps before and after training, and others in many."""
    shown = {"Without the LoRA": "3 steps, untrained", "With the LoRA": "3 steps, trained"}
    shown["8 of the references"] = "50 steps"
    return page([[Block(name, pictures[title], 5)] for title, name in shown.items()])


def fast_set(pictures: Pictures) -> Image.Image:
    """A set of digits, and few steps before and after training."""
    rows = {"your set": pictures["references"][::10]}
    rows["3 steps, untrained"] = pictures["Without the LoRA"]
    rows["3 steps, trained on it"] = pictures["With the LoRA"]
    return page([[Block(name, each, 5)] for name, each in rows.items()])
