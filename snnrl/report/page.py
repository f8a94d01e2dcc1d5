"""One self-contained HTML page of one run, or of several."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from snnrl.report import figures, seeds
from snnrl.report.data import Behaviour, Run, Sample
from snnrl.report.drawing import style, to_png
from snnrl.report.tables import Figure, Table
from snnrl.statistics import mean_estimate

MOSAIC_COLUMNS = 8
ACCENT = (0, 114, 178)
"""Of pictures of spikes, on a transparent ground: seen on light and on dark."""


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    samples: Sequence["Pictures"] = ()


@dataclass(frozen=True)
class Pictures:
    """A sample as it is shown: pictures as data, a vector as its numbers."""

    observation: str
    """A picture, or empty."""
    vector: Sequence[float]
    spikes: str
    text: str


def render(run: Run, behaviour: Behaviour) -> str:
    """Return the page of one run."""
    last = run.stages[-1]
    with style():
        training = [figures.rates_in_training(run), figures.hand_over(run)]
        sections = [
            Section("Result", tables=[_stages(run)], figures=[figures.score_against_T(run)]),
            Section("Learning", _untrained(run), figures=figures.learning_curves(run)),
            Section("Spikes", _rates_text(run), [_rates(run)], [drawn for drawn in training if drawn is not None]),
            _energy(run, behaviour),
            Section("The same observations", behaviour.source, [_agreement(behaviour), _confusion(run, behaviour)]),
            Section(
                "What the networks see",
                f"Observations of that play, and the spikes of {last.name}'s first layer, {behaviour.first_layer}.",
                samples=[_pictures(sample, last.T) for sample in behaviour.samples],
            ),
        ]
    tiles = {f"{run.measure}, {last.label}": f"{last.score:.1f}", "energy ratio": f"{last.energy_ratio:.2f}"}
    if last.mean_rate is not None:
        tiles["spikes per neuron"] = f"{last.mean_rate:.2f}"
    tiles["minutes"] = f"{sum(stage.minutes for stage in run.stages):.1f}"
    return _page(run.title, [run], tiles, [section for section in sections if _filled(section)])


def render_several(runs: Sequence[Run]) -> str:
    """Return the page of several runs of one recipe with different seeds."""
    with style():
        drawn = [seeds.first_stage_over_seeds(runs), seeds.rates_over_seeds(runs), seeds.ratios_over_seeds(runs)]
        scores = seeds.score_over_seeds(runs)
        sections = [
            Section("Result", tables=[scores.table], figures=[scores]),
            Section(
                "Runs", tables=[seeds.seed_table(runs)], figures=[figure for figure in drawn if figure is not None]
            ),
        ]
    (
        label,
        *_,
    ) = scores.table.rows[-1]
    tiles = {
        f"{runs[0].measure}, {label}": f"{scores.table.rows[-1][3]:.1f}",
        "runs": str(len(runs)),
        "gates met": f"{sum(run.gate_met for run in runs)} of {len(runs)}",
    }
    return _page(runs[0].title, runs, tiles, sections)


def _page(title: str, runs: Sequence[Run], tiles: dict[str, str], sections: Sequence[Section]) -> str:
    environment = Environment(
        loader=PackageLoader("snnrl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(title=title, runs=runs, tiles=tiles, sections=sections)


def _filled(section: Section) -> bool:
    return bool(section.tables or section.figures or section.samples)


def _stages(run: Run) -> Table:
    """The final table: a row per stage."""
    first = run.stages[0]
    rows = []
    for stage in run.stages:
        estimate = stage.estimate
        paired = stage is not first and len(stage.scores) == len(first.scores) > 0
        change = mean_estimate(np.subtract(stage.scores, first.scores)) if paired else (None,) * 3
        played = [len(stage.scores), stage.different, stage.passed]
        cost = [stage.energy_ratio, stage.mean_rate, stage.start or None, stage.minutes]
        rows.append([stage.name, *estimate, *change, *played, *cost])
    columns = ["stage", run.measure, "95 % low", "95 % high", f"minus {first.name}", "low", "high", "episodes"]
    columns += ["different", "gate met", "energy ratio", "spikes per neuron", "weights at the start", "minutes"]
    caption = (
        f"Greedy play on starts that neither training nor gate has seen, the same for every stage. Intervals are 95 % "
        f"bootstraps over episodes; “minus {first.name}” is paired by start. Spikes per neuron: mean of the layers."
    )
    formats = ["", *[".1f"] * 3, *["+.1f"] * 3, "d", "d", "", ".2f", ".2f", "", ".1f"]
    return Table("stages", caption, columns, rows, formats)


def _untrained(run: Run) -> str:
    names = [stage.name for stage in run.stages if not stage.trained]
    return f"Without training of their own, as their start passed the gate: {', '.join(names)}." if names else ""


def _rates_text(run: Run) -> str:
    if any(stage.before is not None for stage in run.spiking) or not run.spiking:
        return ""
    return "This run, of an older version, does not tell the rates at a stage's start, before its own training."


def _rates(run: Run) -> Table:
    rows = [[stage.name, *(stage.spike_rate.get(layer) for layer in run.layers)] for stage in run.spiking]
    caption = "Spikes per neuron and decision, summed over T, by layer, over the reported play."
    return Table("spike-rate", caption, ["stage", *run.layers], rows, ["", ".3f"])


def _energy(run: Run, behaviour: Behaviour) -> Section:
    stages = [stage for stage in run.spiking if stage.name in behaviour.energy]
    if not stages:
        return Section("Energy")
    last, broken = stages[-1], behaviour.energy[stages[-1].name]
    rows = [[text, *(behaviour.energy[stage.name].what_if[text] for stage in stages)] for text in broken.what_if]
    caption = "Ordinary energy over spiking energy, if one counts …"
    table = Table("what-if", caption, ["if one counts", *(stage.name for stage in stages)], rows, ["", ".2f"])
    drawn = [figures.energy_by_layer(last, broken), figures.what_if(last, broken)]
    return Section("Energy", "Counted on the observations of the section below.", [table], drawn)


def _agreement(behaviour: Behaviour) -> Table:
    actions = behaviour.actions
    shares = {(a, b): float(np.mean(actions[a] == actions[b])) for a, b in product(actions, repeat=2)}
    caption = "Share of the observations on which two networks choose the same action."
    rows = [[name, *(shares[name, other] for other in actions)] for name in actions]
    return Table("agreement", caption, ["", *actions], rows, ["", ".1%"], shaded=True)


def _confusion(run: Run, behaviour: Behaviour) -> Table:
    (first, theirs), *_, (last, ours) = behaviour.actions.items()
    count = len(behaviour.names)
    pairs = np.bincount(theirs * count + ours, minlength=count * count).reshape(count, count) / len(ours)
    rows = [[name, *map(float, row)] for name, row in zip(behaviour.names, pairs, strict=True)]
    caption = f"Share of the observations by the action of {first} (rows) and of {last} (columns)."
    return Table("confusion", caption, [f"{first} ↓ {last} →", *behaviour.names], rows, ["", ".1%"], shaded=True)


def _pictures(sample: Sample, T: int | None) -> Pictures:
    vector = sample.observation.ndim == 1
    text = ", ".join(f"{name}: {action}" for name, action in sample.chosen.items())
    return Pictures(
        "" if vector else _data(sample.observation),
        [float(value) for value in sample.observation] if vector else [],
        _data(mosaic(sample.spikes)),
        text,
    )


def _data(picture: np.ndarray[Any, Any]) -> str:
    return "data:image/png;base64," + b64encode(to_png(picture)).decode()


def mosaic(spikes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return spikes as a picture ``(H, W, 4)``: maps ``(C, H, W)`` side by side, or a vector ``(N,)`` in rows.

    The most active neuron is full, silent ones are faint, the ground between maps is clear.
    """
    maps = spikes if spikes.ndim == 3 else spikes[:, None, None]
    columns = MOSAIC_COLUMNS if spikes.ndim == 3 else 4 * MOSAIC_COLUMNS
    count, height, width = maps.shape
    gap = 1
    rows = -(-count // columns)
    picture = np.zeros((rows * (height + gap), columns * (width + gap), 4), np.uint8)
    shares = maps / max(maps.max(), 1e-9)
    for number, share in enumerate(shares):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        tile = picture[top : top + height, left : left + width]
        tile[..., :3], tile[..., 3] = ACCENT, np.rint(32 + 223 * share)
    return picture[:-gap, :-gap]
