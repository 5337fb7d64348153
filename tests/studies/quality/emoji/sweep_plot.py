"""One picture of all sweeps: a row of small charts for each."""

from mmd_pictures.chart import COLORS, NEUTRAL, Axis, Line, bounds, chart
from mmd_pictures.lettering import BACKGROUND, Color, length, write
from mmd_tests.studies.quality.emoji.report import COLUMNS
from mmd_tests.studies.quality.emoji.results import Results
from mmd_tests.studies.quality.emoji.sweeps import BOTH, SWEEPS, UNGUIDED, Sweep, row_name
from mmd_tests.studies.tables import mean, unique
from PIL import Image, ImageDraw

FIGURES = ("style", "own name first", "sharpness", "nearest by fresh")
TITLES = {"nearest by fresh": "nearest of the set, by fresh"}
SIZE, GAP, HEAD = (480, 290), 10, 44
LINE_COLORS = {UNGUIDED: NEUTRAL, **dict(zip(BOTH, COLORS, strict=False))}


def lines(results: Results, name: str, figure: str) -> list[Line]:
    """The means over seeds of one figure; a level where the value changes nothing."""
    sweep, found = SWEEPS[name], []
    values, rows = list(sweep.points), results.of(name)
    places = {value: (i + 0.5) / len(values) for i, value in enumerate(values)}
    for line in unique(line for line, *_ in sweep.settings):
        points = []
        for _, value, _ in (each for each in sweep.settings if each[0] == line):
            own = [r.figures[figure] for r in rows if r.method == row_name(line, value)]
            for x in [places[value]] if value else [0.0, 1.0]:
                points += [(x, mean(own))] if own else []
        found.append(Line(points, LINE_COLORS[line]))
    return found


def axis_of(sweep: Sweep, name: str) -> Axis:
    """The values, evenly spaced."""
    values = list(sweep.points)
    return Axis([((i + 0.5) / len(values), value) for i, value in enumerate(values)], name)


def legend(draw: ImageDraw.ImageDraw, names: dict[str, Color]) -> None:
    """The names of the lines at the top."""
    x = 2.0 * GAP
    for name, color in names.items():
        draw.rounded_rectangle([x, HEAD / 2 - 2, x + 24, HEAD / 2 + 3], 2, color)
        write(draw, (x + 34, HEAD / 2), name, 19, anchor="lm")
        x += 34 + length(name, 19) + 40


def plot(results: Results) -> Image.Image:
    """A row for each sweep that there are rows of, a column for each figure."""
    names = results.cases(SWEEPS)
    width, height = (side + GAP for side in SIZE)
    picture = Image.new("RGB", (GAP + len(FIGURES) * width, HEAD + len(names) * height), BACKGROUND)
    for row, name in enumerate(names):
        for column, figure in enumerate(FIGURES):
            found = lines(results, name, figure)
            title = TITLES.get(figure, COLUMNS[figure].heading)
            span = (0.0, max(1.0, bounds(found, False)[1])) if figure != "own name first" else None
            small = chart(title, found, SIZE, axis=axis_of(SWEEPS[name], name), span=span)
            picture.paste(small, (GAP + column * width, HEAD + row * height))
    legend(ImageDraw.Draw(picture), LINE_COLORS)
    return picture
