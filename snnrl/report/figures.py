"""The figures of one run."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes

from snnrl.energy import Breakdown
from snnrl.logs import CLOCKS, Log
from snnrl.report.data import Run, Stage
from snnrl.report.drawing import INK, LINE, PAPER, SERIES, SOFT, blank, legend, look, to_svg
from snnrl.report.tables import Figure, Table

MOST_POINTS = 1_000
"""Of a curve; of a longer one every second, third, ... is drawn and kept."""

PROGRESS = (
    ("score", ("rollout/reward_mean_20", "rollout/ep_rew_mean"), "in training, mean of the last episodes"),
    ("score", ("eval/reward",), "greedy, at the gate"),
    ("loss", ("distil/loss",), "loss"),
)
"""What a learning curve shows: the axis, the column (the first that is there), and what the line is called."""


Point = TypeVar("Point")


def score_against_T(run: Run) -> Figure:
    """Every episode's score, their mean and its interval, by stage."""
    axes = blank()
    rows = []
    for place, stage in enumerate(run.stages):
        value, low, high = stage.estimate
        jitter = np.linspace(-0.22, 0.22, len(stage.scores)) if stage.scores else []
        axes.plot(place + np.asarray(jitter), stage.scores, "o", color=SERIES[0], markersize=3, alpha=0.35)
        axes.errorbar(place, value, [[value - low], [high - value]], fmt="o", color=INK, capsize=4, markersize=5)
        rows.append([stage.name, stage.T, value, low, high, len(stage.scores)])
    stage_axis(axes, [stage.label for stage in run.stages])
    axes.set_ylabel(run.measure)
    table = Table(
        f"{run.measure}-against-T",
        "",
        ["stage", "T", f"{run.measure} mean", "95 % low", "95 % high", "episodes"],
        rows,
    )
    caption = (
        "Dots are episodes; the black mark is their mean, its bar the 95 % bootstrap interval over them. It tells how "
        "sure the mean of these networks is, not how other seeds would train."
    )
    return Figure(f"{run.measure.capitalize()} against T", to_svg(axes, table.name, read_aloud(table)), caption, table)


def learning_curves(run: Run) -> list[Figure]:
    """A figure for each stage that logged anything to draw."""
    figures = (_learning_curve(run, stage, log) for stage, log in run.logs.items())
    return [figure for figure in figures if figure is not None]


def _learning_curve(run: Run, stage: str, log: Log) -> Figure | None:
    shown = [
        (axis, text, column)
        for axis, columns, text in PROGRESS
        if (column := next((column for column in columns if column in log), None)) is not None
    ]
    shown = [line for line in shown if line[0] == shown[0][0]]
    if not shown:
        return None
    clock, clock_text = clock_of(log)
    axes = blank()
    for number, (_, text, column) in enumerate(shown):
        points = thinned([(x, y) for x, y in zip(clock, log[column], strict=True) if y is not None])
        how = look(number) | ({"linestyle": "", "markersize": 5} if column.startswith("eval/") else {"marker": ""})
        axes.plot(*zip(*points, strict=True), **how, label=text)
    axes.set_xlabel(clock_text)
    axes.set_ylabel(run.measure if shown[0][0] == "score" else "loss")
    if len(shown) > 1:
        legend(axes, 1)
    columns = [column for _, _, column in shown]
    rows = list(zip(clock, *(log[column] for column in columns), strict=True))
    rows = thinned([row for row in rows if any(cell is not None for cell in row[1:])])
    table = Table(f"learning-{stage}", "", [clock_text, *columns], rows)
    caption = f"{stage}: {' and '.join(text for _, text, _ in shown)}, over {clock_text}."
    return Figure(f"Learning, {stage}", to_svg(axes, table.name, caption), caption, table)


def clock_of(log: Log) -> tuple[list[float], str]:
    """Return how far a stage had come at each row of its log, and in what."""
    for column, text in zip(CLOCKS, ("environment steps", "batches"), strict=True):
        known = [value for value in log.get(column, []) if value is not None]
        if known:
            return [known[-1] if value is None else value for value in log[column]], text
    return [float(row) for row in range(1, len(next(iter(log.values()))) + 1)], "entries of the log"


def thinned(points: list[Point]) -> list[Point]:
    """Return every point, or every second, third, ... of more than :data:`MOST_POINTS`."""
    return points[:: max(-(-len(points) // MOST_POINTS), 1)]


def rates_in_training(run: Run) -> Figure | None:
    """Spikes per neuron of each layer, one stage after the other."""
    axes = blank(260)
    rows: list[list[Any]] = []
    bounds: list[tuple[str, int]] = []
    for stage, log in run.logs.items():
        columns = {layer: _rate_column(log, layer) for layer in run.layers}
        for index in range(len(next(iter(log.values()), []))):
            rates = [log[column][index] if column else None for column in columns.values()]
            if any(rate is not None for rate in rates):
                rows.append([stage, len(rows) + 1, *rates])
        if rows and (not bounds or len(rows) > bounds[-1][1]) and rows[-1][0] == stage:
            bounds.append((stage, len(rows)))
    if not rows:
        return None
    for number, layer in enumerate(run.layers):
        begin = 0
        for _, end in bounds:
            part = thinned([(row[1], row[2 + number]) for row in rows[begin:end] if row[2 + number] is not None])
            if part:
                label = layer if begin == 0 else None
                axes.plot(*zip(*part, strict=True), **look(number) | {"markersize": 2.5}, label=label)
            begin = end
    begin = 0
    for stage, end in bounds:
        axes.text((begin + end + 1) / 2, 1.0, stage, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
        if begin:
            axes.axvline(begin + 0.5, color=LINE, linewidth=1)
        begin = end
    axes.set_ylim(bottom=0)
    axes.set_xlabel("entries of the log, stage after stage")
    axes.set_ylabel("spikes per neuron and decision")
    legend(axes, 4)
    table = Table("spike-rate-in-training", "", ["stage", "entry", *run.layers], thinned(rows))
    caption = (
        "Spikes per neuron and decision, summed over T, of each layer while the spiking stages learn, from left to "
        "right. Stages that passed their gate without training do not appear."
    )
    return Figure("Spike rate over training", to_svg(axes, table.name, caption), caption, table)


def _rate_column(log: Log, layer: str) -> str | None:
    return next((name for name in log if name.endswith(f"/spikes_{layer}") and not name.startswith("report/")), None)


def hand_over(run: Run) -> Figure | None:
    """Spike rate of each layer at the start of each stage and at its end; None if no stage tells its start."""
    told = [stage for stage in run.spiking if stage.before is not None]
    if not told:
        return None
    axes = blank(260)
    rows = []
    for number, layer in enumerate(run.layers):
        shift = (number - (len(run.layers) - 1) / 2) * 0.7 / max(len(run.layers), 1)
        for place, stage in enumerate(told):
            before, after = (stage.before or {}).get(layer), stage.spike_rate.get(layer)
            if before is None or after is None:
                continue
            how = look(number)
            axes.plot([place + shift] * 2, [before, after], color=how["color"], linewidth=1)
            axes.plot(place + shift, before, how["marker"], color=how["color"], markerfacecolor=PAPER, markersize=5)
            label = layer if stage is told[0] else None
            axes.plot(place + shift, after, how["marker"], color=how["color"], markersize=5, label=label)
            rows.append([stage.name, layer, before, after])
    stage_axis(axes, [stage.label for stage in told])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("spikes per neuron and decision")
    legend(axes, 4)
    table = Table("spike-rate-at-hand-over", "", ["stage", "layer", "before", "after"], rows)
    caption = (
        "Hollow: the rate that a stage starts from, with the weights handed over to it or converted. Filled: its rate "
        "after its own training."
    )
    return Figure("Spike rate at each hand-over", to_svg(axes, table.name, read_aloud(table)), caption, table)


def energy_by_layer(stage: Stage, broken: Breakdown) -> Figure:
    """Energy of each layer in the ordinary network and in the spiking one."""
    layers = [row["layer"] for row in broken.layers]
    places = np.arange(len(layers))
    axes = blank(70 + 38 * len(layers))
    for kind, shift, colour in (("ordinary", -0.19, SERIES[3]), ("spiking", 0.19, SERIES[0])):
        values = [row[f"{kind}_pJ"] / 1e3 for row in broken.layers]
        bars = axes.barh(places + shift, values, 0.34, color=colour, label=kind)
        axes.bar_label(bars, [f"{value:,.3g}" for value in values], padding=3, fontsize=9, color=SOFT)
    axes.set_yticks(places, layers)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    axes.margins(x=0.14)
    axes.set_xlabel("nanojoules per decision")
    legend(axes, 2)
    columns = list(broken.layers[0])
    table = Table(f"energy-{stage.name}", "", columns, [list(row.values()) for row in broken.layers])
    caption = (
        f"What one decision costs, ordinary network against {stage.name}, by the cost table “paper” (a multiplication "
        f"and addition 4.6 pJ, an addition 0.9 pJ): {broken.ratio:.2f} times as much in total."
    )
    if broken.cap is not None:
        caption += f" No sparsity exceeds {broken.cap:.2f}, as layers with real-valued input stay."
    return Figure("Energy by layer", to_svg(axes, table.name, caption), caption, table)


def what_if(stage: Stage, broken: Breakdown) -> Figure:
    """The energy ratio under each assumption."""
    rows = [[text, ratio] for text, ratio in broken.what_if.items() if ratio is not None]
    axes = blank(60 + 34 * len(rows))
    for place, (text, ratio) in enumerate(rows):
        axes.plot([1, ratio], [place, place], color=SERIES[0] if ratio >= 1 else SERIES[1], linewidth=2)
        axes.plot(ratio, place, "o" if ratio >= 1 else "s", color=SERIES[0] if ratio >= 1 else SERIES[1], markersize=6)
        axes.text(0.0, place - 0.3, f"{ratio:.3g}  {text}", transform=axes.get_yaxis_transform(), fontsize=9)
    axes.set_xscale("log")
    axes.set_ylim(len(rows) - 0.5, -0.8)
    axes.axvline(1, color=SOFT, linewidth=1)
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_xlabel("ordinary energy over spiking energy")
    table = Table(f"what-if-{stage.name}", "", ["if one counts", "energy ratio"], rows)
    caption = (
        f"The same counts of {stage.name} under other assumptions, on a logarithmic axis: right of the line the "
        "spiking network costs less, left of it (squares) more."
    )
    return Figure("The ratio under other assumptions", to_svg(axes, table.name, read_aloud(table)), caption, table)


def stage_axis(axes: Axes, labels: Sequence[str]) -> None:
    """Put stages side by side."""
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)


def read_aloud(table: Table) -> str:
    """Return a short table as a sentence for screen readers."""
    return "; ".join(
        ", ".join(f"{name} {cell:.4g}" if isinstance(cell, float) else f"{name} {cell}" for name, cell in cells)
        for cells in (zip(table.columns, row, strict=True) for row in table.rows)
    )
