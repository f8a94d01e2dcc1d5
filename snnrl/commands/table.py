"""``snnrl table NAME --data DIR``: a table of arXiv 2110.05929, the paper's figures beside those of runs made here."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snnrl.agents.classifier.paper import Row, read_paper
from snnrl.arguments import parse, positional
from snnrl.commands.paper_runs import PaperOptions, PaperRuns
from snnrl.display import Display, print_json
from snnrl.errors import UserError, did_you_mean
from snnrl.files import write_atomically
from snnrl.report.data import layers_in_order
from snnrl.tables import to_csv

Line = dict[str, Any]


class TableOptions(PaperOptions):
    """Train what a table takes, unless it is there already, and print the paper's figures beside ours."""

    csv: Path | None = None
    """File of the table. Default: table-NAME.csv beside the run folders."""


def table(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    paper = read_paper()
    name, rest = positional(TableOptions, arguments, "table", "NAME", paper.tables)
    if name not in paper.tables:
        raise UserError(f"unknown table {name!r}{did_you_mean(name, paper.tables)}")
    options = parse(TableOptions, rest, f"table {name}")
    chosen, runs = paper.tables[name], PaperRuns(paper, options)
    display = Display(options.as_json)
    runs.train([row.run for row in chosen.rows if row.run is not None], display)
    lines = [line for row in chosen.rows for line in lines_of(row, runs)]
    out = options.csv or runs.folder / f"table-{name}.csv"
    write_atomically(out, to_csv([*lines[0]], [[*line.values()] for line in lines]).encode())
    show(f"{chosen.title}; budget {options.budget}, seed {options.seed}", lines, display)
    display.say(f"wrote {out}")
    if options.as_json:
        print_json({"table": name, "budget": options.budget, "seed": options.seed, "lines": lines, "out": str(out)})
    return 0


def lines_of(row: Row, runs: PaperRuns) -> Iterator[Line]:
    """Yield a row's stages: accuracies in per cent, spikes per neuron and decision, seconds of training."""
    stages = {} if row.run is None else runs.stages(row.run)
    for name, paper in row.paper.items():
        stage = stages.get(name, {})
        rates = stage.get("spike_rate") or {}
        yield {
            "row": row.name,
            "stage": name,
            "paper": paper,
            "accuracy": 100 * stage["accuracy"] if stage else None,
            "spikes_per_neuron": float(np.mean([*rates.values()])) if rates else None,
            "energy_ratio": stage.get("energy_ratio"),
            "seconds": 60 * stage["minutes"] if stage else None,
            "failed": stage.get("failed", ""),
            "spikes_by_layer": " ".join(f"{layer} {rates[layer]:.4f}" for layer in layers_in_order(rates)),
        }


def show(title: str, lines: Sequence[Line], display: Display) -> None:
    """Print the table."""
    forms = {"accuracy": ".2f", "spikes_per_neuron": ".3f", "energy_ratio": ".2f", "seconds": ",.0f"}
    columns = ["", "stage", "paper, %", "here, %", "spikes per neuron", "energy ratio", "seconds", "failed"]
    columns = columns if any(line["failed"] for line in lines) else columns[:-1]
    cells = [
        [
            line["row"],
            line["stage"],
            f"{line['paper']:.2f}" if isinstance(line["paper"], float) else line["paper"] or "-",
            *("-" if line[key] is None else format(line[key], form) for key, form in forms.items()),
            line["failed"],
        ][: len(columns)]
        for line in lines
    ]
    display.table(title, columns, cells)
