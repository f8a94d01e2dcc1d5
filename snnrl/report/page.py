"""One self-contained HTML page of one run, or of several."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from snnrl.report import figures, seeds
from snnrl.report.data import Behaviour, Run, Sample
from snnrl.report.drawing import mosaic, style, to_png
from snnrl.report.tables import Figure, Table
from snnrl.statistics import Estimate, mean_estimate

MOST_NAMES = 20
"""Of actions or classes, up to which they are shown one against another."""


@dataclass(frozen=True)
class Pictures:
    """A sample as it is shown."""

    observation: str
    """A picture as data; empty for a vector."""
    vector: Sequence[tuple[float, float, float]]
    """Its numbers, each with the left end and the width of its bar, in percent."""
    spikes: str
    text: str


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    title: str
    text: str
    blocks: Sequence[Table | Figure | None] = ()
    """None: there is nothing to tell."""
    samples: Sequence[Pictures] = ()

    @property
    def filled(self) -> list[Table | Figure]:
        """What there is to tell."""
        return [block for block in self.blocks if block is not None]


def render(run: Run, behaviour: Behaviour | None) -> str:
    """Return the page of one run; without ``behaviour`` as much as its folder tells."""
    last = run.stages[-1]
    with style():
        sections = [
            Section("Result", run.note, [_stages(run), figures.score_against_T(run), seeds.rates_against_T([run])]),
            Section("Learning", _untrained(run), figures.learning_curves(run)),
            Section("Spikes", _started(run), [figures.rates_in_training(run), figures.hand_over(run), _rates(run)]),
            *([_told_energy(run), _told_agreement(run)] if behaviour is None else _behaviour(run, behaviour)),
        ]
    score = format(last.score, run.words.form)
    tiles = {f"{run.measure}, {last.label}": score, "energy ratio": f"{last.energy_ratio:.2f}"}
    if last.mean_rate is not None:
        tiles["spikes per neuron"] = f"{last.mean_rate:.2f}"
    return _page([run], tiles, sections)


def render_several(runs: Sequence[Run]) -> str:
    """Return the page of several runs of one recipe with different seeds."""
    with style():
        scores = seeds.score_table(runs)
        drawn = [seeds.score_over_seeds(runs, scores), seeds.ratios_against_T(runs), seeds.rates_against_T(runs)]
        sections = [
            Section("Result", runs[0].note, [scores, *drawn, seeds.first_stage_over_seeds(runs)]),
            Section("Runs", "", [seeds.seed_table(runs)]),
        ]
    label, *cells = scores.rows[-1]
    estimate = next(cell for cell in cells if isinstance(cell, Estimate))
    tiles = {
        f"{runs[0].measure}, {label}": format(estimate.value, runs[0].words.form),
        "runs": str(len(runs)),
        "gates met": f"{sum(run.gate_met for run in runs)} of {len(runs)}",
    }
    return _page(runs, tiles, sections)


def _page(runs: Sequence[Run], tiles: Mapping[str, str], sections: Sequence[Section]) -> str:
    environment = Environment(
        loader=PackageLoader("snnrl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    minutes = sum(stage.minutes for run in runs for stage in run.stages)
    kept = [section for section in sections if section.filled or section.samples]
    title = f"{runs[0].title}, seed{'s' * (len(runs) > 1)} {', '.join(str(run.seed) for run in runs)}"
    template = environment.get_template("page.html.jinja")
    return template.render(title=title, runs=runs, tiles={**tiles, "minutes": f"{minutes:.1f}"}, sections=kept)


def _stages(run: Run) -> Table:
    """The final table: a row per stage."""
    first = run.stages[0]
    rows: list[list[Any]] = []
    for stage in run.stages:
        paired = stage is not first and len(stage.scores) == len(first.scores) > 0
        change = mean_estimate(np.subtract(stage.scores, first.scores)) if paired else None
        played = [len(stage.scores), stage.different, stage.passed]
        cost = [stage.energy_ratio, stage.mean_rate, stage.minutes, stage.start or None]
        rows.append([stage.name, stage.estimate, change, *played, *cost])
    columns = ["stage", run.measure, f"minus {first.name}", run.words.tests, "different", "gate met", "energy ratio"]
    columns += ["spikes per neuron", "minutes", "begun with"]
    caption = (
        f"{run.words.conditions} Intervals are 95 % bootstraps over {run.words.tests}, that of “minus {first.name}” "
        "over the differences on equal ones. Spikes per neuron: per decision, mean of the layers."
    )
    form = run.words.form
    formats = ["", form, f"+{form}", "d", "d", "", ".2f", ".2f", ".1f", ""]
    told = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    columns, formats = ([line[at] for at in told] for line in (columns, formats))
    rows = [[row[at] for at in told] for row in rows]
    return Table("stages", "Stages", caption, columns, rows, formats, wide=True)


def _untrained(run: Run) -> str:
    names = [stage.name for stage in run.stages if not stage.trained]
    return f"Not trained, as their start passed the gate: {', '.join(names)}." if names else ""


def _started(run: Run) -> str:
    if not run.spiking or any(stage.before is not None for stage in run.spiking):
        return ""
    return "This run, of an older version, does not tell the rates at a stage's start, before its own training."


def _rates(run: Run) -> Table | None:
    if not run.spiking:
        return None
    rows = [[stage.name, *(stage.spike_rate.get(layer) for layer in run.layers)] for stage in run.spiking]
    caption = f"Spikes per neuron and decision, summed over T, {run.words.tested}."
    return Table("spike-rate", "Spike rate by layer", caption, ["stage", *run.layers], rows, ["", ".3f"])


def _energy(run: Run, behaviour: Behaviour) -> Section:
    stages = [stage for stage in run.spiking if stage.name in behaviour.energy]
    if not stages:
        return Section("Energy", "")
    last = behaviour.energy[stages[-1].name]
    rows = [[text, *(behaviour.energy[stage.name].what_if[text] for stage in stages)] for text in last.what_if]
    caption = (
        "The ordinary network's energy over the spiking one's if one counts what a row says. Below 1 the spiking "
        "network costs more."
    )
    columns = ["", *(stage.name for stage in stages)]
    table = Table("what-if", "Energy ratio under other assumptions", caption, columns, rows, ["", ".2f"])
    text = "Counted on the observations described under “Agreement”"
    text += "; the table of stages, on each stage's own play." if run.measure == "reward" else "."
    return Section("Energy", text, [figures.energy_by_layer(stages[-1], last), table])


def _behaviour(run: Run, behaviour: Behaviour) -> list[Section]:
    choices = Section("Agreement", behaviour.source, [_agreement(run, behaviour), _confusion(behaviour)])
    return [_energy(run, behaviour), choices, _samples(run.stages[-1].name, behaviour)]


def _told_energy(run: Run) -> Section:
    return Section("Energy", "By layer with snnrl report RUN --data DIR.", [seeds.ratios_against_T([run])])


def _told_agreement(run: Run) -> Section:
    """Compare stages test by test, where one is passed or failed."""
    if len(run.stages) < 2 or not all(stage.scores for stage in run.stages):
        return Section("Agreement", "")
    scores = {stage.name: np.asarray(stage.scores) for stage in run.stages}
    caption = "Share of the test images that two networks both name rightly, or both wrongly."
    rows = [[name, *(float(np.mean(ours == theirs)) for theirs in scores.values())] for name, ours in scores.items()]
    return Section(
        "Agreement", "", [Table("both", "Equally right", caption, ["", *scores], rows, ["", ".1%"], shaded=True)]
    )


def _agreement(run: Run, behaviour: Behaviour) -> Table:
    actions = behaviour.actions
    shares = {(a, b): float(np.mean(actions[a] == actions[b])) for a, b in product(actions, repeat=2)}
    caption = f"Share of the observations on which two choose the same; {run.words.choice}"
    rows = [[name, *(shares[name, other] for other in actions)] for name in actions]
    return Table("agreement", "Equal choices", caption, ["", *actions], rows, ["", ".1%"], shaded=True)


def _confusion(behaviour: Behaviour) -> Table | None:
    if len(behaviour.names) > MOST_NAMES:
        return None
    (first, theirs), *_ = behaviour.actions.items()
    last, ours = list(behaviour.actions.items())[-1]
    count = len(behaviour.names)
    pairs = np.bincount(theirs * count + ours, minlength=count * count).reshape(count, count) / len(ours)
    rows = [[name, *map(float, row)] for name, row in zip(behaviour.names, pairs, strict=True)]
    caption = f"Share of the observations by the choice of {first} (rows) and of {last} (columns)."
    title = f"{first} against {last}"
    return Table("confusion", title, caption, ["", *behaviour.names], rows, ["", ".1%"], shaded=True)


def _samples(last: str, behaviour: Behaviour) -> Section:
    text = (
        f"Above, some of these observations; below, the spikes that {last}'s first layer, {behaviour.first_layer}, "
        "sends on each, a tile per filter or neuron: the stronger its colour, the more."
    )
    largest = max((float(np.abs(sample.observation).max()) for sample in behaviour.samples), default=0.0)
    return Section("Observations", text, samples=[_pictures(sample, largest) for sample in behaviour.samples])


def _pictures(sample: Sample, largest: float) -> Pictures:
    vector = sample.observation.ndim == 1
    numbers = [float(value) for value in sample.observation] if vector else []
    half = 50 / max(largest, 1e-9)
    return Pictures(
        "" if vector else _data(sample.observation),
        [(value, 50 + half * min(value, 0), half * abs(value)) for value in numbers],
        _data(mosaic(sample.spikes)),
        ", ".join(f"{name}: {action}" for name, action in sample.chosen.items()),
    )


def _data(picture: np.ndarray[Any, Any]) -> str:
    return "data:image/png;base64," + b64encode(to_png(picture)).decode()
