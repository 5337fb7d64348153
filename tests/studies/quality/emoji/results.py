"""All rows of figures, kept in a JSON file to which later runs add."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from mmd_tests.demo.emoji import measures
from mmd_tests.demo.emoji.files import write_at_once
from mmd_tests.studies.tables import unique
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """The figures of one method in one case at one seed.

    features, real: The judge's features of the images and of the real pictures, (B, F), (M, F);
    None where the row was read from a file.
    """

    case: str
    seed: int
    method: str
    figures: dict[str, float]
    features: Tensor | None = None
    real: Tensor | None = None


class Results:
    """Rows, and what is to be said of how they were made.

    Arguments:
        about: Weights and sampling. Rows of other ones are not comparable.
        rows: A later row of the same case, seed and method takes the place of an earlier one.
    """

    def __init__(self, about: dict[str, str], rows: Iterable[Row] = ()) -> None:
        self.about = about
        self._rows: dict[tuple[str, int, str], Row] = {}
        self._together: dict[tuple[str, str], tuple[list[int], float]] = {}
        self.add(rows)

    @classmethod
    def read(cls, path: Path, about: dict[str, str]) -> "Results":
        """Those of a file, if it is there and was made with the same weights and sampling."""
        content = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if content.get("about") != about:
            return cls(about)
        results = cls(about, (Row(**row) for row in content["rows"]))
        for each in content["together"]:
            results._together[each["case"], each["method"]] = (each["seeds"], each["FD"])
        return results

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return list(self._rows.values())

    def add(self, rows: Iterable[Row]) -> None:
        """Take up rows."""
        for row in rows:
            key = (row.case, row.seed, row.method)
            if key in self._rows and self._rows[key].figures != row.figures:
                self._together.pop((row.case, row.method), None)
            self._rows[key] = row

    def of(self, case: str) -> list[Row]:
        """The rows of a case, by seed."""
        return sorted((r for r in self.rows if r.case == case), key=lambda row: row.seed)

    def cases(self, order: Iterable[str]) -> list[str]:
        """The cases that there are rows of: first those of the list in its order."""
        there = {row.case for row in self.rows}
        return [case for case in unique([*order, *(r.case for r in self.rows)]) if case in there]

    def together(self, rows: list[Row]) -> float | None:
        """The Fréchet distance of the images of all seeds to all their real pictures.

        It is that of the file where the rows are those of the file; None where it is not known.

        Arguments:
            rows: All of one case and method that are shown.
        """
        key, seeds = (rows[0].case, rows[0].method), sorted(row.seed for row in rows)
        if all(row.features is not None for row in rows):
            features, real = (
                torch.cat([getattr(row, side) for row in rows]) for side in ("features", "real")
            )
            self._together[key] = (seeds, measures.frechet_distance(features, real))
        known, distance = self._together.get(key, ([], None))
        return distance if known == seeds else None

    def save(self, path: Path) -> None:
        """Write the file."""
        names = ("case", "seed", "method", "figures")
        rows = [{name: getattr(row, name) for name in names} for row in self.rows]
        together = [
            {"case": case, "method": method, "seeds": seeds, "FD": distance}
            for (case, method), (seeds, distance) in self._together.items()
        ]
        content = {"about": self.about, "rows": rows, "together": together}
        text = json.dumps(content, indent=1) + "\n"
        write_at_once(path, lambda part: part.write_text(text, "utf-8"))
