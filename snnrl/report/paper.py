"""The figures of arXiv 2110.05929 on images, drawn from plain data."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from snnrl.report.data import Rates, layers_in_order

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#767676")
"""Told apart by people who see red and green alike."""


class Handover(NamedTuple):
    """Spike rates by layer where T is lowered."""

    name: str
    source: Rates
    """Of the stage that hands its weights over."""
    before: Rates
    """Of the next stage before its training."""
    after: Rates


class Curve(NamedTuple):
    """Accuracies in per cent by timesteps."""

    name: str
    points: Mapping[int, float]


class Point(NamedTuple):
    """A result of another paper."""

    name: str
    T: int
    accuracy: float


def draw_rates(title: str, handovers: Sequence[Handover]) -> Figure:
    """Draw a panel for each handover, three bars for each layer."""
    figure = Figure(figsize=(10, 3 * len(handovers)), layout="constrained")
    figure.suptitle(title)
    for axes, (name, *series) in zip(np.atleast_1d(figure.subplots(len(handovers), 1)), handovers, strict=True):
        labels = (f"trained at {name.split(' to ')[0]}", "handed over, untrained", "trained")
        layers = layers_in_order(series[-1])
        for number, (label, rates) in enumerate(zip(labels, series, strict=True)):
            places = np.arange(len(layers)) + 0.27 * (number - 1)
            axes.bar(places, [rates[layer] for layer in layers], 0.27, label=label, color=COLOURS[number])
        axes.set_title(name, loc="left")
        axes.set_xticks(range(len(layers)), layers, rotation=45)
        axes.set_ylabel("spikes per neuron")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def draw_accuracy(title: str, ordinary: float, curves: Sequence[Curve], published: Sequence[Point]) -> Figure:
    """Draw accuracy against T on a logarithmic axis, the ordinary network's as a line."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(ordinary, color="black", linewidth=0.8, linestyle="--", label="ordinary network")
    for number, (name, points) in enumerate(curves):
        axes.plot(list(points), list(points.values()), "os^"[number % 3] + "-", color=COLOURS[number], label=name)
    axes.plot([point.T for point in published], [point.accuracy for point in published], "x", color=COLOURS[-1])
    # numbers on the points, names beside the figure: many lie close together
    for number, point in enumerate(published, 1):
        offset = (4, 4) if number % 2 else (4, -10)
        place = (point.T, point.accuracy)
        axes.annotate(str(number), place, offset, textcoords="offset points", fontsize=7, color=COLOURS[-1])
    names = "\n".join(f"{number}  {point.name}" for number, point in enumerate(published, 1))
    axes.text(1.02, 1, names, transform=axes.transAxes, fontsize=7, color=COLOURS[-1], verticalalignment="top")
    axes.set_xscale("log")
    axes.set_xlabel("timesteps")
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure
