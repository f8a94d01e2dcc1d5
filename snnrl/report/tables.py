"""Tables of a report: what is shown is rounded, what is downloaded is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from snnrl.statistics import Estimate
from snnrl.tables import to_csv


@dataclass(frozen=True)
class Table:
    """Rows of words, numbers and estimates; None is an empty cell."""

    name: str
    """Of its CSV file."""
    title: str
    caption: str
    """What one sees."""
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    formats: Sequence[str] = ("",)
    """How to write the numbers of each column, such as ``.1f``; the last one goes for the rest."""
    shaded: bool = False
    """Whether numbers are shares, the larger the darker."""
    wide: bool = False
    """Whether it takes the page's whole width."""

    @property
    def headings(self) -> list[str]:
        """The columns' names as they are shown."""
        return [f"{name} [95 %]" if self._estimates(at) else name for at, name in enumerate(self.columns)]

    def shown(self, column: int, cell: Any) -> str:
        """Return a cell's text."""
        if cell is None:
            return "\N{EN DASH}"
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if isinstance(cell, str):
            return cell
        if isinstance(cell, Estimate):
            value, low, high = (self.shown(column, number) for number in cell)
            return f"{value} [{low}, {high}]"
        return format(cell, self.formats[min(column, len(self.formats) - 1)]).replace("-", "\N{MINUS SIGN}")

    @property
    def download(self) -> str:
        """The table as a link that holds its CSV; an estimate has three columns."""
        columns: list[str] = []
        for at, name in enumerate(self.columns):
            columns += [name, f"{name} low", f"{name} high"] if self._estimates(at) else [name]
        rows = [[part for at, cell in enumerate(row) for part in self._parts(at, cell)] for row in self.rows]
        return "data:text/csv;charset=utf-8," + quote(to_csv(columns, rows), safe=",/")

    def _estimates(self, column: int) -> bool:
        return any(isinstance(row[column], Estimate) for row in self.rows)

    def _parts(self, column: int, cell: Any) -> Sequence[Any]:
        if isinstance(cell, Estimate):
            return cell
        return [cell, None, None] if self._estimates(column) else [cell]


@dataclass(frozen=True)
class Figure:
    """A drawing, and the numbers that it is made of, for download."""

    svg: str
    table: Table
