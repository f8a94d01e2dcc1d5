"""Tables and figures of several runs of one recipe, which differ in their seeds."""

from collections.abc import Sequence

import numpy as np

from snnrl.report.data import Run, Stage
from snnrl.report.drawing import INK, SERIES, blank, legend, look, to_svg
from snnrl.report.figures import clock_of, read_aloud, stage_axis, thinned
from snnrl.report.tables import Figure, Table
from snnrl.statistics import interquartile_estimate

Row = tuple[str, list[tuple[Run, Stage]]]
"""A stage's label, and the runs that have such a stage."""


def by_stage(runs: Sequence[Run]) -> list[Row]:
    """Return the runs' stages side by side: the ordinary network's, then by falling T."""
    found: dict[int | None, list[tuple[Run, Stage]]] = {}
    for run in runs:
        for stage in run.stages:
            found.setdefault(stage.T, []).append((run, stage))
    steps = sorted(found, key=lambda T: -np.inf if T is None else -T)
    return [(found[T][0][1].label, found[T]) for T in steps]


def seed_table(runs: Sequence[Run]) -> Table:
    """Mean score of every run at every T."""
    rows = by_stage(runs)
    cells = []
    for run in runs:
        scores = (next((stage.score for other, stage in found if other is run), None) for _, found in rows)
        minutes = sum(stage.minutes for stage in run.stages)
        cells.append([run.seed, *scores, run.stages[-1].energy_ratio, run.gate_met, minutes])
    columns = ["seed", *(label for label, _ in rows), "energy ratio at the last T", "gate met", "minutes"]
    formats = ["d", *[".1f"] * len(rows), ".2f", "", ".1f"]
    return Table("seeds", f"Mean {runs[0].measure} of each run.", columns, cells, formats)


def score_table(runs: Sequence[Run]) -> Table:
    """Interquartile mean with both intervals, by T."""
    rows = []
    for label, found in by_stage(runs):
        scores = _scores(found)
        value, low, high = interquartile_estimate(scores, whole_runs=False)
        _, lowest, highest = interquartile_estimate(scores, whole_runs=True)
        rows.append([label, *scores.shape, value, low, high, lowest, highest, float(scores.mean())])
    columns = ["stage", "runs", "episodes each", "interquartile mean", "95 % low", "95 % high"]
    columns += ["95 % low, whole runs", "95 % high, whole runs", "mean"]
    caption = (
        "Interquartile mean over runs and episodes. Its first interval is the stratified bootstrap of Agarwal et al. "
        "(2021), which draws runs for every episode anew; the second draws whole runs, whose episodes share a network, "
        "and is the one to judge another seed by."
    )
    return Table(f"{runs[0].measure}-over-seeds", caption, columns, rows, ["d", "d", "d", ".1f"])


def score_over_seeds(runs: Sequence[Run]) -> Figure:
    """Interquartile mean against T, with every run's mean beside it."""
    axes = blank()
    table = score_table(runs)
    for place, ((_, found), row) in enumerate(zip(by_stage(runs), table.rows, strict=True)):
        means = [stage.score for _, stage in found]
        axes.plot(place + 0.18 + np.zeros(len(means)), means, "o", color=SERIES[0], markersize=4, alpha=0.6)
        value, low, high, lowest, highest = row[3:8]
        axes.plot([place, place], [lowest, highest], color=INK, linewidth=1)
        axes.plot([place, place], [low, high], color=INK, linewidth=4)
        axes.plot(place, value, "o", color=INK, markersize=7)
    labels = [label for label, _ in by_stage(runs)]
    stage_axis(axes, labels)
    axes.set_ylabel(runs[0].measure)
    caption = (
        "Black: interquartile mean over runs and episodes; the thick bar is its 95 % interval by the stratified "
        "bootstrap, the thin one that of drawing whole runs. Coloured: the mean of each run."
    )
    name = f"{runs[0].measure.capitalize()} against T"
    return Figure(name, to_svg(axes, "over-seeds", read_aloud(table)), caption, table)


def first_stage_over_seeds(runs: Sequence[Run]) -> Figure | None:
    """The learning curve of the first stage of every run."""
    axes = blank()
    rows = []
    column, text = "rollout/reward_mean_20", ""
    for number, run in enumerate(runs):
        log = next(iter(run.logs.values()), {})
        if column not in log:
            continue
        clock, text = clock_of(log)
        points = thinned([(x, y) for x, y in zip(clock, log[column], strict=True) if y is not None])
        axes.plot(*zip(*points, strict=True), **look(number) | {"marker": ""}, label=f"seed {run.seed}")
        rows += [[run.seed, *point] for point in points]
    if not rows:
        return None
    axes.set_xlabel(text)
    axes.set_ylabel(runs[0].measure)
    legend(axes)
    table = Table("learning-over-seeds", "", ["seed", text, column], rows)
    name = runs[0].stages[0].label
    caption = f"{runs[0].measure.capitalize()} while the first stage ({name}) learns, a line per run."
    return Figure("Learning of the first stage", to_svg(axes, table.name, caption), caption, table)


def rates_over_seeds(runs: Sequence[Run]) -> Figure:
    """Spike rate of each layer against T."""
    axes = blank()
    rows: list[list[object]] = []
    stages = [(label, found) for label, found in by_stage(runs) if found[0][1].T is not None]
    for number, layer in enumerate(runs[0].layers):
        means = []
        for place, (label, found) in enumerate(stages):
            rates = [stage.spike_rate[layer] for _, stage in found if layer in stage.spike_rate]
            means.append(np.mean(rates) if rates else np.nan)
            how = look(number)
            axes.plot(np.full(len(rates), place), rates, how["marker"], color=how["color"], markersize=3, alpha=0.4)
            rows += [[label, layer, run.seed, stage.spike_rate.get(layer)] for run, stage in found]
        axes.plot(range(len(stages)), means, **look(number), label=layer)
    stage_axis(axes, [label for label, _ in stages])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("spikes per neuron and decision")
    legend(axes, 4)
    table = Table("spike-rate-over-seeds", "", ["stage", "layer", "seed", "spike rate"], rows)
    caption = (
        "Spikes per neuron and decision, summed over T, of each layer after training: runs faint, their mean full."
    )
    return Figure("Spike rate against T", to_svg(axes, table.name, caption), caption, table)


def ratios_over_seeds(runs: Sequence[Run]) -> Figure:
    """Energy ratio against T."""
    axes = blank()
    stages = [(label, found) for label, found in by_stage(runs) if found[0][1].T is not None]
    for place, (_, found) in enumerate(stages):
        ratios = [stage.energy_ratio for _, stage in found]
        axes.plot(np.full(len(ratios), place), ratios, "o", color=SERIES[0], markersize=4, alpha=0.5)
        axes.plot(place, np.mean(ratios), "_", color=INK, markersize=18, markeredgewidth=2)
    stage_axis(axes, [label for label, _ in stages])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("energy ratio")
    rows = [[label, run.seed, stage.energy_ratio] for label, found in stages for run, stage in found]
    table = Table("energy-over-seeds", "", ["stage", "seed", "energy ratio"], rows)
    caption = (
        "The ordinary network's energy over the spiking one's, by arithmetic alone (arXiv 2110.05929, Eq. 4): a dot "
        "per run, the bar their mean."
    )
    return Figure("Energy ratio against T", to_svg(axes, table.name, read_aloud(table)), caption, table)


def _scores(found: Sequence[tuple[Run, Stage]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return scores ``(runs, episodes)``, or ``(runs, 1)`` where only means are known."""
    return np.asarray([stage.scores or (stage.score,) for _, stage in found], float)
