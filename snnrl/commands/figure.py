"""``snnrl figure NAME --data DIR``: a figure of arXiv 2110.05929 on images, drawn from runs made here."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from snnrl.agents.classifier.evaluate import evenly, predictions
from snnrl.agents.classifier.library import open_classifier
from snnrl.agents.classifier.paper import read_paper
from snnrl.arguments import parse, positional
from snnrl.checkpoint import fingerprint, read_archive
from snnrl.commands.paper_runs import PaperOptions, PaperRuns
from snnrl.display import Display, print_json
from snnrl.errors import UserError, did_you_mean
from snnrl.files import read_json, write_atomically, write_json
from snnrl.networks import SpikingNetwork, encode_by_rate
from snnrl.report.data import layers_in_order
from snnrl.tables import to_csv

if TYPE_CHECKING:  # matplotlib takes its time
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")


class FigureOptions(PaperOptions):
    """Train what a figure takes, unless it is there already, and draw it."""

    out: Path | None = None
    """The figure, .svg, .png or .pdf; its figures go into a .csv beside it. Default: NAME.svg beside the runs."""


class Drawn(NamedTuple):
    """A figure and what it shows."""

    figure: "Figure"
    columns: tuple[str, ...]
    rows: list[list[Any]]


def figure(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    figures = {"rates": rates, "accuracy-vs-T": accuracy_against_T}
    name, rest = positional(FigureOptions, arguments, "figure", "NAME", figures)
    if name not in figures:
        raise UserError(f"unknown figure {name!r}{did_you_mean(name, figures)}")
    options = parse(FigureOptions, rest, f"figure {name}")
    if options.out is not None and options.out.suffix not in FORMATS:
        raise UserError(f"--out {options.out} must end in one of {', '.join(FORMATS)}")
    runs = PaperRuns(read_paper(), options)
    out = options.out or runs.folder / f"{name}.svg"
    display = Display(options.as_json)
    drawn = figures[name](runs, display)
    picture = io.BytesIO()
    drawn.figure.savefig(picture, format=out.suffix[1:], dpi=150)
    write_atomically(out, picture.getvalue())
    write_atomically(out.with_suffix(".csv"), to_csv(drawn.columns, drawn.rows).encode())
    display.say(f"wrote {out} and {out.with_suffix('.csv')}")
    if options.as_json:
        lines = [dict(zip(drawn.columns, row, strict=True)) for row in drawn.rows]
        print_json({"figure": name, "budget": options.budget, "seed": options.seed, "lines": lines, "out": str(out)})
    return 0


def rates(runs: PaperRuns, display: Display) -> Drawn:
    """Draw layers' spike rates where T is lowered, before and after the training at the lower T."""
    from snnrl.report.paper import Handover, draw_rates

    asked = runs.paper.figures.rates
    runs.train([place.split("/")[0] for one in asked.handovers for place in (one.source, one.target)], display)
    handovers = []
    for one in asked.handovers:
        source, target = (runs.result(place) for place in (one.source, one.target))
        handovers.append(Handover(one.name, source["spike_rate"], target["before"]["spike_rate"], target["spike_rate"]))
    rows = [
        [one.name, layer, one.source[layer], one.before[layer], one.after[layer]]
        for one in handovers
        for layer in layers_in_order(one.source)
    ]
    columns = ("handover", "layer", "source", "handed over", "trained")
    return Drawn(draw_rates(asked.title, handovers), columns, rows)


def accuracy_against_T(runs: PaperRuns, display: Display) -> Drawn:
    """Draw accuracy against T of trained stages, of conversions without training, and of other papers."""
    from snnrl.report.paper import Curve, Point, draw_accuracy

    asked = runs.paper.figures.accuracy_vs_T
    runs.train([asked.trained], display)
    stages = runs.stages(asked.trained)
    trained = {stage["T"]: 100 * stage["accuracy"] for stage in stages.values() if stage["T"] is not None}
    curves = [
        Curve("trained", trained),
        *(
            Curve(f"converted, {encoding} input", converted(runs, encoding, display))
            for encoding in ("direct", "poisson")
        ),
    ]
    published = [Point(one.name, one.T, one.accuracy) for one in asked.published]
    rows = [["here", curve.name, T, accuracy] for curve in curves for T, accuracy in curve.points.items()]
    rows += [["paper", *point] for point in published]
    drawn = draw_accuracy(asked.title, 100 * stages["ann"]["accuracy"], curves, published)
    return Drawn(drawn, ("by", "name", "T", "accuracy"), rows)


def converted(runs: PaperRuns, encoding: str, display: Display) -> dict[int, float]:
    """Return accuracies in per cent of the untrained conversion by T; what these weights gave once is kept."""
    asked = runs.paper.figures.accuracy_vs_T
    name, recipe = runs.stage(f"{asked.trained}/ann"), runs.recipe(asked.trained)
    weights = fingerprint(read_archive(name).tensors["network"])
    kept = runs.folder / f"converted-{asked.trained}-{encoding}-{weights}.json"
    found: dict[str, float] = read_json(kept) if kept.exists() else {}
    for T in asked.converted:
        if str(T) in found:
            continue
        images = runs.images(recipe)
        if isinstance(images, UserError):
            raise images
        made = open_classifier(
            str(name), images, T=T, percentile=asked.percentile, seed=recipe.seed, device=recipe.device
        ).classifier
        if encoding == "poisson" and isinstance(made.network, SpikingNetwork):
            encode_by_rate(made.network, made.normalization.largest, recipe.seed)
        named = evenly(images.test, asked.images[runs.options.budget])
        found[str(T)] = 100 * float(np.mean(predictions(made, named) == named.labels))
        display.say(f"converted, {encoding} input, T={T}: {found[str(T)]:.2f}")
        write_json(kept, found)
    return {T: found[str(T)] for T in asked.converted}
