"""Numbers that come over a wire have the limits of the widgets that they replace."""

import math

import pytest
from comfy_api.latest import io
from mmd_pack.nodes import NODES
from mmd_pack.nodes.base.limits import within_limits
from mmd_pack.nodes.guidance.mmd_kernel import MMDKernel
from mmd_pack.nodes.guidance.mmd_strengths import MMDStrengths

pytestmark = pytest.mark.comfy

NUMBERS = {
    f"{node.__name__}.{given.id}": (node, given)
    for node in NODES
    for given in node.define_schema().inputs
    if isinstance(given, io.Int.Input | io.Float.Input) and not given.force_input
}
BAD = (-1, 0, 1e-300, 0.5, 1e9, 10**6, math.nan, math.inf, -math.inf, "9" * 10**6, [1])


def allowed(given, value):
    """Whether a user could type this number into the widget."""
    whole = isinstance(given, io.Int.Input)
    if not isinstance(value, int if whole else int | float):
        return whole and value in (0.0, 1e9) and given.min <= value <= given.max
    return given.min <= value <= given.max


def test_only_scores_have_no_limits():
    """They come over a wire from any scorer, and have no widget."""
    wires = [
        f"{node.__name__}.{given.id}"
        for node in NODES
        for given in node.define_schema().inputs
        if isinstance(given, io.Int.Input | io.Float.Input) and given.force_input
    ]
    assert wires == ["TSMCUpdate.scores"]
    assert len(NUMBERS) > 70 and all(None not in (n.min, n.max) for _, n in NUMBERS.values())


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_its_widget_is_refused_in_words_before_anything_else(name):
    """All inputs that are no numbers are None: whatever used them first would fail otherwise."""
    node, given = NUMBERS[name]
    schema = node.define_schema()
    rest = {each.id: getattr(each, "min", None) for each in schema.inputs}
    for bad in (given.min - 1, given.max + given.max, *BAD):
        if allowed(given, bad):
            continue
        inputs = {**rest, given.id: bad}
        if schema.is_input_list:
            inputs = {name: [value] for name, value in inputs.items()}
        words = rf"^{node.__name__}: {given.id} must be a "
        with pytest.raises(ValueError, match=words) as refused:
            node.execute(**inputs)
        assert len(str(refused.value)) < 300


class Doubled:
    """A node with numbers."""

    @classmethod
    def define_schema(cls, lists: bool = False) -> io.Schema:
        given = [
            io.Int.Input("n", min=1, max=2**64 - 1),
            io.Float.Input("x", min=-0.5, max=1e6),
            io.Int.Input("k", min=0, max=9, optional=True),
        ]
        return io.Schema(node_id="Doubled", inputs=given, is_input_list=lists)

    @classmethod
    @within_limits
    def execute(cls, n: int, x: float, k: int | None = 3) -> tuple:
        return n, x, k


class Lists(Doubled):
    """The same, with lists."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return super().define_schema(lists=True)

    @classmethod
    @within_limits
    def execute(cls, n: list, x: list, k: list | None = None) -> tuple:
        return n, x, k


def test_numbers_within_their_limits_arrive_as_they_are():
    for n in (1, 7, 2**64 - 1):
        for x in (-0.5, 0, 1e6):
            assert Doubled.execute(n, x) == (n, x, 3)
            assert Lists.execute([n, 1], [x], k=[9]) == ([n, 1], [x], [9])
    assert Doubled.execute(1, x=1.0, k=None) == (1, 1.0, None)  # another node sends nothing


def test_a_whole_number_may_come_as_a_float():
    n, _, k = Doubled.execute(4.0, 0.5, 2.0)
    assert (n, k) == (4, 2) and isinstance(n, int) and isinstance(k, int)
    with pytest.raises(ValueError, match="n must be a whole number from 1 to 1844.*, not 4.5"):
        Doubled.execute(4.5, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * 10**7, "not 10000000 characters"),
        ("x" * 10**6, "not 'x+' and 999900 more characters"),
        ("1e-300", "lie between 1e-06 and 1000000, not 1e-300"),
        ("1," * 10**5, "be 1 to 32 numbers, not 100000"),
        ("", "be 1 to 32 numbers, not 0"),
    ],
    ids=["far too long", "long", "tiny", "many", "none"],
)
def test_multipliers_have_limits_too(text, words):
    with pytest.raises(ValueError, match=f"^MMDKernel: multipliers .*{words}") as refused:
        MMDKernel.execute("rbf", "median", 1.0, text, "none", 0.0)
    assert len(str(refused.value)) < 300


def test_strengths_have_limits_too():
    for text in ("1 " * 10**6, "9" * 10**6, "x" * 10**6):
        with pytest.raises(ValueError, match="^MMDStrengths: strengths ") as refused:
            MMDStrengths.execute(text)
        assert len(str(refused.value)) < 300
    assert MMDStrengths.execute("1 " * 100).result == ([1.0] * 100,)
