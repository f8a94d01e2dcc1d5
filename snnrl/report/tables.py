"""Tables of a report: what is shown is rounded, what is downloaded is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from snnrl.tables import to_csv


@dataclass(frozen=True)
class Table:
    """Rows of numbers and words; None is an empty cell."""

    name: str
    """Of its CSV file."""
    caption: str
    """What one sees."""
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    formats: Sequence[str] = ()
    """How to write the numbers of each column, such as ``.1f``; the last one goes for the rest."""
    shaded: bool = False
    """Whether numbers are shares, the larger the darker."""

    def shown(self, column: int, cell: Any) -> str:
        """Return a cell's text."""
        if cell is None:
            return "\N{EN DASH}"
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if isinstance(cell, str) or not self.formats:
            return str(cell)
        return format(cell, self.formats[min(column, len(self.formats) - 1)]).replace("-", "\N{MINUS SIGN}")

    @property
    def download(self) -> str:
        """The table as a link that holds its CSV."""
        return "data:text/csv;charset=utf-8," + quote(to_csv(self.columns, self.rows), safe=",/")


@dataclass(frozen=True)
class Figure:
    """A drawing, and the numbers that it is made of."""

    title: str
    svg: str
    caption: str
    table: Table
    """Its numbers, for download; they are not shown."""
