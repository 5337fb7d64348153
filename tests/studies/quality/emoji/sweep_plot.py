"""One picture of all sweeps: a row of small charts for each."""

from mmd_pictures.chart import COLORS, LEFT, NEUTRAL, RIGHT, Axis, Line, bounds, chart
from mmd_pictures.lettering import BACKGROUND, Color, length, shortened, write
from mmd_tests.studies.quality.emoji.report import COLUMNS
from mmd_tests.studies.quality.emoji.results import Results
from mmd_tests.studies.quality.emoji.sweeps import BOTH, SWEEPS, UNGUIDED, row_name
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


def axis_of(name: str) -> Axis:
    """The values of a sweep, evenly spaced."""
    values = list(SWEEPS[name].points)
    room = 1.1 * (SIZE[0] - LEFT - RIGHT) / len(values)
    marks = [((i + 0.5) / len(values), shortened(text, 15, room)) for i, text in enumerate(values)]
    return Axis(marks, name)


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
    size = (GAP + len(FIGURES) * width, HEAD + len(names) * height)
    picture = Image.new("RGB", size, BACKGROUND)
    for column, figure in enumerate(FIGURES):
        title = TITLES.get(figure, COLUMNS[figure].heading)
        found = [lines(results, name, figure) for name in names]
        span = bounds([line for each in found for line in each], False)  # the same for a column
        for row, (name, each) in enumerate(zip(names, found, strict=True)):
            small = chart(title, each, SIZE, axis=axis_of(name), span=span)
            picture.paste(small, (GAP + column * width, HEAD + row * height))
    legend(ImageDraw.Draw(picture), LINE_COLORS)
    return picture
