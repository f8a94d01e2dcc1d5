"""What a stage logged while it learned: the ``progress.csv`` of its starts, joined."""

import csv
import math
import re
from pathlib import Path

from snnrl.errors import UserError

Log = dict[str, list[float | None]]
"""Values by column, one per row of the log; None where a row does not tell."""

CLOCKS = ("time/total_timesteps", "distil/batches", "train/batches")
"""Columns that tell how far a stage has come."""


def read_logs(folder: Path, stage: str) -> Log:
    """Return what a stage logged in all of its starts: ``folder/STAGE``, ``folder/STAGE-2``, ...

    What a killed start logged after its last checkpoint was done again, and is left out.

    Raises:
        UserError: a line of a file is broken.
    """
    starts = [path for path in folder.glob(f"{stage}*") if re.fullmatch(rf"{re.escape(stage)}(-\d+)?", path.name)]
    rows: list[dict[str, float]] = []
    for start in sorted(starts, key=lambda path: (len(path.name), path.name)):
        file = start / "progress.csv"
        later = _rows(file) if file.is_file() else []
        clock = next((clock for clock in CLOCKS if later and clock in later[0]), None)
        if clock is not None:
            rows = [row for row in rows if row.get(clock, -math.inf) < later[0][clock]]
        rows += later
    columns = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in columns}


def _rows(file: Path) -> list[dict[str, float]]:
    """Return the finite numbers of each line by column."""
    found = []
    try:
        with file.open(encoding="utf-8", newline="") as text:
            reader = csv.reader(text)
            header = next(reader, [])
            for cells in reader:
                if len(cells) != len(header):
                    raise ValueError(f"{len(cells)} cells under {len(header)} columns")
                row = {name: float(cell) for name, cell in zip(header, cells, strict=True) if cell}
                found.append({name: value for name, value in row.items() if math.isfinite(value)})
    except (ValueError, csv.Error) as error:
        problem = "not text" if isinstance(error, UnicodeDecodeError) else str(error)
        line = f" line {reader.line_num}" if "reader" in locals() else ""
        raise UserError(f"{file}{line} is broken: {problem}; remove the line, or the file") from error
    return found
