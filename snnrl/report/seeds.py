"""Tables and figures over T of one run, or of several of one recipe, which differ in their seeds."""

from collections.abc import Sequence

import numpy as np

from snnrl.report.data import Run, Stage
from snnrl.report.drawing import INK, SERIES, blank, legend, look, to_svg
from snnrl.report.figures import SCORES, clock_of, points_of, read_aloud, shown, stage_axis
from snnrl.report.tables import Figure, Table
from snnrl.statistics import Estimate, interquartile_estimate, mean_estimate

Row = tuple[str, list[tuple[Run, Stage]]]
"""A stage's label, and the runs that have such a stage."""


def by_stage(runs: Sequence[Run]) -> list[Row]:
    """Return the runs' stages side by side: the ordinary network's, then by falling T."""
    found: dict[str, list[tuple[Run, Stage]]] = {}
    for run in runs:
        for stage in run.stages:
            found.setdefault(stage.label, []).append((run, stage))
    steps = {label: group[0][1].T for label, group in found.items()}
    return sorted(found.items(), key=lambda item: -(steps[item[0]] or np.inf))


def seed_table(runs: Sequence[Run]) -> Table:
    """Mean score of every run at every T."""
    stages = by_stage(runs)
    rows = []
    for run in runs:
        scores = (next((stage.score for other, stage in found if other is run), None) for _, found in stages)
        minutes = sum(stage.minutes for stage in run.stages)
        rows.append([str(run.seed), *scores, run.stages[-1].energy_ratio, run.gate_met, minutes])
    columns = ["seed", *(label for label, _ in stages), "energy ratio at the last T", "gate met", "minutes"]
    formats = ["", *[runs[0].words.form] * len(stages), ".2f", "", ".1f"]
    return Table("seeds", "By seed", f"Mean {runs[0].measure} of each run.", columns, rows, formats, wide=True)


def score_table(runs: Sequence[Run]) -> Table:
    """Scores of all runs together, by T: the interquartile mean of episodes with both intervals, or the mean accuracy.

    The middle half of zeros and ones tells nothing, so that accuracies are averaged, with the interval over whole runs.
    """
    if runs[0].measure == "accuracy":
        return _accuracy_table(runs)
    rows = []
    for label, found in by_stage(runs):
        scores = np.asarray([stage.scores or (stage.score,) for _, stage in found], float)
        estimates = [interquartile_estimate(scores, whole_runs=whole) for whole in (False, True)]
        rows.append([label, *scores.shape, *estimates, float(scores.mean())])
    columns = ["stage", "runs", "episodes each", "interquartile mean", "by whole runs", "mean"]
    caption = (
        "Mean of the middle half of all episodes of all runs. Its first interval is the stratified bootstrap of "
        "Agarwal et al. (2021), which draws runs for every episode anew; the second draws whole runs, whose episodes "
        "share a network, and is the one to judge another seed by."
    )
    name = f"{runs[0].measure}-over-seeds"
    return Table(name, "All runs", caption, columns, rows, ["", "d", "d", ".1f"], wide=True)


def _accuracy_table(runs: Sequence[Run]) -> Table:
    rows = []
    for label, found in by_stage(runs):
        scores = [stage.score for _, stage in found]
        rows.append([label, len(scores), mean_estimate(scores), min(scores), max(scores)])
    columns = ["stage", "runs", "mean", "lowest", "highest"]
    caption = "Accuracy on the test images. The interval draws whole runs: it is the one to judge another seed by."
    return Table("accuracy-over-seeds", "All runs", caption, columns, rows, ["", "d", ".2%"], wide=True)


def score_over_seeds(runs: Sequence[Run], scores: Table) -> Figure:
    """The estimates of :func:`score_table` against T, with every run's mean beside it."""
    axes = blank()
    stages = by_stage(runs)
    for place, ((_, found), row) in enumerate(zip(stages, scores.rows, strict=True)):
        *stratified, whole = (cell for cell in row if isinstance(cell, Estimate))
        means = [stage.score for _, stage in found]
        axes.plot(np.full(len(means), place + 0.2), means, "o", color=SERIES[0], markersize=4, alpha=0.6)
        axes.plot([place, place], [whole.low, whole.high], color=INK, linewidth=1)
        for inner in stratified:
            axes.plot([place, place], [inner.low, inner.high], color=INK, linewidth=4)
        axes.plot(place, whole.value, "o", color=INK, markersize=7)
    stage_axis(axes, [label for label, _ in stages])
    axes.set_ylabel(runs[0].measure)
    caption = (
        "The mark is the interquartile mean over runs and episodes, the thick bar its 95 % interval by the stratified "
        "bootstrap, the thin one that of drawing whole runs. Coloured: the mean of each run."
        if runs[0].measure == "reward"
        else "The mark is the mean over runs, the bar its 95 % interval by drawing whole runs. Coloured: each run."
    )
    rows = [[label, run.seed, stage.score] for label, found in stages for run, stage in found]
    title = f"{runs[0].measure.capitalize()} against T"
    table = Table("means-over-seeds", title, caption, ["stage", "seed", f"{runs[0].measure} mean"], rows)
    return Figure(to_svg(axes, table.name, read_aloud(scores)), table)


def first_stage_over_seeds(runs: Sequence[Run]) -> Figure | None:
    """The learning curve of the first stage of every run, or None if none was logged."""
    axes = blank()
    rows = []
    unit = text = ""
    for number, run in enumerate(runs):
        log = next(iter(run.logs.values()), {})
        if lines := shown(log, SCORES[run.measure]):
            column, text = next(iter(lines.items()))
            clock, unit = clock_of(log)
            points = points_of(clock, log[column])
            axes.plot(*zip(*points, strict=True), **look(number) | {"marker": ""}, label=f"seed {run.seed}")
            rows += [[run.seed, *point] for point in points]
    if not rows:
        return None
    axes.set_xlabel(unit)
    axes.set_ylabel(runs[0].measure)
    legend(axes)
    caption = f"{runs[0].measure.capitalize()} {text}, while the first stage learns, a line per run."
    columns = ["seed", unit, runs[0].measure]
    table = Table("learning-over-seeds", "Learning of the first stage", caption, columns, rows)
    return Figure(to_svg(axes, table.name, caption), table)


def rates_against_T(runs: Sequence[Run]) -> Figure | None:
    """Spike rate of each layer against T, or None if nothing spikes."""
    stages = _spiking(runs)
    if not stages:
        return None
    axes = blank()
    rows: list[list[object]] = []
    for number, layer in enumerate(runs[0].layers):
        means = []
        how = look(number)
        for place, (label, found) in enumerate(stages):
            rates = [stage.spike_rate.get(layer, np.nan) for _, stage in found]
            means.append(np.mean(rates))
            axes.plot(np.full(len(rates), place), rates, how["marker"], color=how["color"], markersize=3, alpha=0.4)
            rows += [[label, layer, run.seed, stage.spike_rate.get(layer)] for run, stage in found]
        axes.plot(range(len(stages)), means, **how, label=layer)
    stage_axis(axes, [label for label, _ in stages])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("spikes per neuron and decision")
    legend(axes, 4)
    caption = f"Spikes per neuron and decision, summed over T, of each layer {runs[0].words.tested} after training."
    if len(runs) > 1:
        caption += " Runs are faint, their mean is full."
    columns = ["stage", "layer", "seed", "spike rate"]
    table = Table("spike-rate-against-T", "Spike rate against T", caption, columns, rows)
    return Figure(to_svg(axes, table.name, caption), table)


def ratios_against_T(runs: Sequence[Run]) -> Figure | None:
    """Energy ratio against T, or None if nothing spikes."""
    stages = _spiking(runs)
    if not stages:
        return None
    axes = blank()
    for place, (_, found) in enumerate(stages):
        ratios = [stage.energy_ratio for _, stage in found]
        axes.plot(np.full(len(ratios), place), ratios, "o", color=SERIES[0], markersize=4, alpha=0.5)
        axes.plot(place, np.mean(ratios), "_", color=INK, markersize=18, markeredgewidth=2)
    stage_axis(axes, [label for label, _ in stages])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("energy ratio")
    caption = (
        "The ordinary network's energy over the spiking one's, by arithmetic alone (arXiv 2110.05929, Eq. 4): a dot "
        "per run, the bar their mean."
    )
    rows = [[label, run.seed, stage.energy_ratio] for label, found in stages for run, stage in found]
    table = Table("energy-against-T", "Energy ratio against T", caption, ["stage", "seed", "energy ratio"], rows)
    return Figure(to_svg(axes, table.name, read_aloud(table)), table)


def _spiking(runs: Sequence[Run]) -> list[Row]:
    return [(label, found) for label, found in by_stage(runs) if found[0][1].T is not None]
