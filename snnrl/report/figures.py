"""The figures of a run."""

from collections.abc import Mapping, Sequence
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

IN_TRAINING = "in training, mean of the last episodes"

SCORES = {
    "reward": {
        "rollout/reward_mean_20": IN_TRAINING,
        "rollout/ep_rew_mean": IN_TRAINING,
        "eval/reward": "greedy, at the gate",
    },
    "accuracy": {
        "eval/accuracy": "on the validation images, after each epoch",
        "train/accuracy": "of single batches in training",
    },
}
"""Columns of a log that tell the score by measure, and in what; of those that say the same, the first one is drawn."""

LOSSES = {"reward": {"distil/loss": "loss of single batches"}, "accuracy": {"train/loss": "loss of single batches"}}

AT_TIMES = ("eval/reward", "eval/accuracy")
"""Columns of which every point is drawn as a mark, above the lines."""

MARKS = {"linestyle": "", "markersize": 5, "zorder": 3}

Point = TypeVar("Point")


def thinned(points: list[Point]) -> list[Point]:
    """Return every point, or every second, third, ... of more than :data:`MOST_POINTS`."""
    return points[:: max(-(-len(points) // MOST_POINTS), 1)]


def stage_axis(axes: Axes, labels: Sequence[str]) -> None:
    """Put stages side by side."""
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)


def score_against_T(run: Run) -> Figure:
    """Every episode's score, their mean and its interval, by stage."""
    axes = blank()
    for place, stage in enumerate(run.stages):
        value, low, high = stage.estimate
        if run.measure == "reward":
            jitter = np.linspace(-0.22, 0.22, len(stage.scores))
            axes.plot(place + jitter, stage.scores, "o", color=SERIES[0], markersize=3, alpha=0.35)
        axes.errorbar(place, value, [[value - low], [high - value]], fmt="o", color=INK, capsize=4, markersize=5)
    stage_axis(axes, [stage.label for stage in run.stages])
    axes.set_ylabel(run.measure)
    rows = [[stage.name, stage.T, stage.estimate, len(stage.scores)] for stage in run.stages]
    columns = ["stage", "T", run.measure, run.words.tests]
    table = Table(f"{run.measure}-against-T", f"{run.measure.capitalize()} against T", run.words.single, columns, rows)
    return Figure(to_svg(axes, table.name, read_aloud(table)), table)


def learning_curves(run: Run) -> list[Figure]:
    """Figures for each stage that logged anything to draw: its score, its loss where there is none, or both."""
    figures = []
    for stage, log in run.logs.items():
        scores, losses = shown(log, SCORES[run.measure]), shown(log, LOSSES[run.measure])
        if scores:
            figures.append(_learning_curve(run.measure, f"learning-{stage}", stage, log, scores))
        if losses and run.measure == "accuracy":
            figures.append(_learning_curve("loss", f"loss-{stage}", stage, log, losses))
        elif losses and not scores:
            figures.append(_learning_curve("loss", f"learning-{stage}", stage, log, losses))
    return figures


def shown(log: Log, columns: Mapping[str, str]) -> dict[str, str]:
    """Return those columns that a log has, the first one for each text."""
    first: dict[str, str] = {}
    for column, text in columns.items():
        if column in log:
            first.setdefault(text, column)
    return {column: text for text, column in first.items()}


def _learning_curve(measure: str, name: str, stage: str, log: Log, lines: Mapping[str, str]) -> Figure:
    clock, clock_text = clock_of(log)
    axes = blank()
    for number, (column, text) in enumerate(lines.items()):
        how = look(number) | (MARKS if column in AT_TIMES else {"marker": ""})
        axes.plot(*zip(*points_of(clock, log[column]), strict=True), **how, label=text)
    axes.set_xlabel(clock_text)
    axes.set_ylabel(measure)
    if len(lines) > 1:
        legend(axes, 1)
    rows = zip(clock, *(log[column] for column in lines), strict=True)
    kept = thinned([row for row in rows if any(cell is not None for cell in row[1:])])
    caption = f"{measure.capitalize()} of {stage} over its {clock_text}: {'; '.join(lines.values())}."
    title = name.partition("-")[0].capitalize()
    table = Table(name, f"{title}, {stage}", caption, [clock_text, *lines], kept)
    return Figure(to_svg(axes, table.name, caption), table)


def points_of(clock: Sequence[float], values: Sequence[float | None]) -> list[tuple[float, float]]:
    """Return where a column tells something, and what."""
    return thinned([(x, y) for x, y in zip(clock, values, strict=True) if y is not None])


def clock_of(log: Log) -> tuple[list[float], str]:
    """Return how far a stage had come at each row of its log (or at the one before), and in what."""
    for column, text in zip(CLOCKS, ("environment steps", "batches", "batches"), strict=True):
        if column in log:
            clock, now = [], 0.0
            for value in log[column]:
                now = now if value is None else value
                clock.append(now)
            return clock, text
    return [float(row) for row in range(1, len(next(iter(log.values()))) + 1)], "entries in the log"


def rates_in_training(run: Run) -> Figure | None:
    """Spikes per neuron of each layer, one stage after the other."""
    axes = blank(260)
    rows: list[list[Any]] = []
    for stage, log in run.logs.items():
        columns = [log.get(_rate_column(log, layer), []) for layer in run.layers]
        told = [list(rates) for rates in zip(*columns, strict=False) if any(rate is not None for rate in rates)]
        if not told:
            continue
        begin, marked = len(rows) + 0.5, bool(rows)
        told = thinned(told)
        rows += [[stage, len(rows) + number, *rates] for number, rates in enumerate(told, 1)]
        if marked:
            axes.axvline(begin, color=LINE, linewidth=1)
        middle = begin + len(told) / 2
        axes.text(middle, 1, stage, transform=axes.get_xaxis_transform(), ha="center", va="bottom", color=SOFT)
        for number, layer in enumerate(run.layers):
            part = [(row[1], row[2 + number]) for row in rows[-len(told) :]]
            axes.plot(*zip(*part, strict=True), **look(number) | {"markersize": 2.5}, label=None if marked else layer)
    if not rows:
        return None
    axes.set_ylim(bottom=0)
    axes.set_xlabel("entries in the log, stage after stage")
    axes.set_ylabel("spikes per neuron and decision")
    legend(axes, 4)
    caption = (
        "Spikes per neuron and decision, summed over T, of each layer while the spiking stages learn, from left to "
        "right. Stages that passed their gate without training do not appear."
    )
    names = ["stage", "entry", *run.layers]
    table = Table("spike-rate-in-training", "Spike rate over training", caption, names, rows)
    return Figure(to_svg(axes, table.name, caption), table)


def _rate_column(log: Log, layer: str) -> str:
    return next((name for name in log if name.endswith(f"/spikes_{layer}") and not name.startswith("report/")), "")


def hand_over(run: Run) -> Figure | None:
    """Spike rate of each layer at the start of each stage and at its end; None if no stage tells its start."""
    told = [stage for stage in run.spiking if stage.before is not None]
    if not told:
        return None
    axes = blank(260)
    rows = []
    for number, layer in enumerate(run.layers):
        shift = (number - (len(run.layers) - 1) / 2) * 0.7 / len(run.layers)
        how = look(number)
        axes.plot([], how["marker"], color=how["color"], markersize=5, label=layer)
        for place, stage in enumerate(told):
            before, after = (rates.get(layer, np.nan) for rates in (stage.before or {}, stage.spike_rate))
            axes.plot([place + shift] * 2, [before, after], color=how["color"], linewidth=1)
            for rate, inside in ((before, PAPER), (after, how["color"])):
                axes.plot(place + shift, rate, how["marker"], color=how["color"], markerfacecolor=inside, markersize=5)
            rows.append([stage.name, layer, float(before), float(after)])
    stage_axis(axes, [stage.label for stage in told])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("spikes per neuron and decision")
    legend(axes, 4)
    caption = (
        "Hollow: the rate that a stage starts from, with the weights handed over to it or converted. Filled: its rate "
        "after its own training."
    )
    columns = ["stage", "layer", "before", "after"]
    table = Table("spike-rate-at-hand-over", "Spike rate at each hand-over", caption, columns, rows)
    return Figure(to_svg(axes, table.name, read_aloud(table)), table)


def energy_by_layer(stage: Stage, broken: Breakdown) -> Figure:
    """Energy of each layer in the ordinary network and in the spiking one."""
    layers = [row["layer"] for row in broken.layers]
    places = np.arange(len(layers))
    axes = blank(70 + 38 * len(layers))
    for kind, shift, colour in (("ordinary", -0.19, SERIES[3]), ("spiking", 0.19, SERIES[0])):
        values = [row[f"{kind}_pJ"] / 1e3 for row in broken.layers]
        bars = axes.barh(places + shift, values, 0.34, color=colour, label=kind)
        axes.bar_label(bars, [number_text(value) for value in values], padding=3, fontsize=9, color=SOFT)
    axes.set_yticks(places, layers)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    axes.margins(x=0.14)
    axes.set_xlabel("nanojoules per decision")
    legend(axes, 2)
    caption = (
        f"What one decision costs in the ordinary network and in {stage.name}, by the cost table “paper” (multiplying "
        f"and adding 4.6 pJ, adding 0.9 pJ): {broken.ratio:.2f} times as much in total."
    )
    if broken.cap is not None:
        caption += f" No sparsity exceeds {broken.cap:.2f}, as layers with real-valued input stay."
    rows = [list(row.values()) for row in broken.layers]
    table = Table(f"energy-{stage.name}", "Energy by layer", caption, list(broken.layers[0]), rows)
    return Figure(to_svg(axes, table.name, caption), table)


def number_text(value: float) -> str:
    """Return a number with three digits, or as a whole one."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def read_aloud(table: Table) -> str:
    """Return a table's rows as a sentence."""
    return "; ".join(
        ", ".join(
            f"{name} {table.shown(at, cell)}" for at, (name, cell) in enumerate(zip(table.columns, row, strict=True))
        )
        for row in table.rows
    )
