"""What ``snnrl energy`` shows of an agent or a classifier, once its operations are counted: layers, totals, what-if."""

from pathlib import Path

from snnrl.agents.settings import Settings, Steps
from snnrl.display import Display
from snnrl.energy import Breakdown
from snnrl.errors import UserError
from snnrl.files import write_atomically
from snnrl.tables import to_csv

TOTALS = ("ordinary_multiply_accumulate", "multiply_accumulate", "accumulate")


class PricingOptions(Settings):
    """At how many timesteps operations are counted, and how they are priced."""

    T: Steps | None = None
    """Timesteps; default: the network's own. An ordinary one is converted, untrained."""
    model: str = "paper"
    """Cost table: its name (see snnrl list), or a YAML file."""
    csv: Path | None = None
    """Write the table of layers to this file too."""


def check_csv(file: Path | None) -> None:
    """Raise UserError if a table cannot be written to ``file``, or would replace it."""
    if file is not None and file.exists():
        raise UserError(f"{file} exists: give another --csv")
    if file is not None and not file.parent.is_dir():
        raise UserError(f"there is no folder {file.parent} for --csv")


def show(display: Display, title: str, broken: Breakdown, options: PricingOptions) -> None:
    """Print the table of layers and the ratio under other assumptions; write the former if asked to."""
    _show_layers(display, title, broken)
    display.table(
        "ordinary energy over spiking energy, if one counts",
        ["", "ratio"],
        [[text, "-" if ratio is None else f"{ratio:.2f}"] for text, ratio in broken.what_if.items()],
    )
    if broken.cap is not None:
        display.say(f"No sparsity exceeds {broken.cap:.2f}: the layers with real-valued input stay.")
    if options.csv is not None:
        rows = [list(row.values()) for row in broken.layers]
        write_atomically(options.csv, to_csv(list(broken.layers[0]), rows).encode())


def _show_layers(display: Display, title: str, broken: Breakdown) -> None:
    rows = broken.layers
    cells = [
        [
            row["layer"],
            "real" if row["input_rate"] is None else f"{row['input_rate']:.3f}",
            "-" if row["rate"] is None else f"{row['rate']:.3f}",
            f"{row['ordinary_multiply_accumulate']:,.0f}",
            f"{row['multiply_accumulate']:,.0f}",
            f"{row['accumulate']:,.0f}",
            f"{row['multiply'] + row['add'] + row['compare']:,.0f}",
            f"{row['ordinary_pJ'] / 1e3:,.1f}",
            f"{row['spiking_pJ'] / 1e3:,.1f}",
        ]
        for row in rows
    ]
    total = ["total", "", "", *(f"{sum(row[kind] for row in rows):,.0f}" for kind in TOTALS)]
    neurons = sum(row["multiply"] + row["add"] + row["compare"] for row in rows)
    total += [f"{neurons:,.0f}", f"{broken.ordinary_pJ / 1e3:,.1f}", f"{broken.spiking_pJ / 1e3:,.1f}"]
    columns = ["layer", "spikes in", "spikes out", "ordinary MAC", "MAC", "AC", "neurons", "ordinary nJ", "spiking nJ"]
    display.table(title, columns, [*cells, total])
    display.say(f"energy ratio {broken.ratio:.2f}")
