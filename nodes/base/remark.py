"""Remarks: what a user should change about a run."""

from typing import NamedTuple


class Remark(NamedTuple):
    """One problem of a run.

    Attributes:
        short: The problem in two or three words, for the line of text on the node.
        text: The problem and its fix, in full sentences, for the report.
    """

    short: str
    text: str
