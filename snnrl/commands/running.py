"""What the commands that run stages share: going on with a run, stopping it, and what is shown at its end."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

from snnrl.agents.chain import Chain
from snnrl.agents.classifier import Classifier
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.commands.recipes import title_of
from snnrl.commands.report import PAGE, write_page
from snnrl.display import Display, rates
from snnrl.envs.images import ImageSet
from snnrl.errors import UserError
from snnrl.files import first_line
from snnrl.networks import FROM_SCRATCH, WINDOWS
from snnrl.pipeline import STOP
from snnrl.runs import RunFolder


def run_chain(
    make: Callable[[Display], Chain[Any]],
    run: RunFolder,
    config: Mapping[str, Any],
    quiet: bool,
    images: ImageSet | None = None,
) -> tuple[dict[str, Any], int]:
    """Run or take up a chain of stages, show its table, and return the summary and the exit code.

    ``images`` are those of a classifier.
    """
    with Display(quiet) as display:
        resumed = run.open(config)
        if run.finished:
            summary = run.summary()
            display.say(f"{run.path} is finished; remove it or give another --run folder to train again")
            drawn = (run.path / PAGE).exists()
        else:
            drawn = False
            display.say(f"{'going on with' if resumed else 'writing'} {run.path} on {torch.get_num_threads()} threads")
            try:
                with run.alone(), saving_on_interrupt(display.say):
                    summary = make(display).run_all()
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(
                    f"interrupted; the same command goes on from the last checkpoint in {run.path}"
                ) from stop
            except FloatingPointError as error:
                raise UserError(f"{error}; {run.path} keeps the last good checkpoint") from error
        if not drawn:
            draw(run, display, images)
    show(summary, display)
    if not summary["gate_met"]:
        display.say("the last stage missed its gate; its best agent is kept")
    return summary, 0 if summary["gate_met"] else 3


def from_scratch(words: Sequence[str]) -> bool:
    """Say whether ``--from scratch`` is among the words of a command."""
    return "--from=scratch" in words or ("--from", "scratch") in pairwise(words)


def beginning(start: str, teacher: str | None, kind: str) -> tuple[bool, str | None]:
    """Return whether a run begins with random weights, and the network that it begins with or is taught by, if any.

    ``start`` and ``teacher`` are what ``--from`` and ``--teacher`` name, ``kind`` is that of the recipe's network.

    Raises:
        UserError: there is a teacher, but the run does not begin from scratch.
    """
    scratch = start == "scratch" or (start == "ann" and kind in FROM_SCRATCH)
    if teacher is not None and not scratch:
        raise UserError(
            "--teacher is for --from scratch: without it the ordinary network that a run begins with teaches"
        )
    return scratch, teacher if scratch else None if start == "ann" else start


def check_beginning(kind: str, neuron: str, scratch: bool, start: SpikingDQN | Classifier | None) -> None:
    """Raise UserError if ``start`` cannot be the teacher, or the beginning, of a network of that kind."""
    if not scratch and start is not None and start.T is not None:
        theirs = start.description.neuron if isinstance(start, Classifier) else start.q_net.neuron
        if theirs != neuron:
            raise UserError(
                f"the network to begin with has {theirs} neurons, not {neuron}: give --neuron {theirs}, or begin with "
                "an ordinary one, such as ann.zip in its run folder"
            )
    if scratch and start is not None and start.T is not None:
        raise UserError("--teacher spikes: give an ordinary network, such as ann.zip in its run folder")
    if not scratch and start is not None and kind in FROM_SCRATCH and (start.T is None or kind in WINDOWS):
        raise UserError(f"network.kind {kind} is trained from scratch: give --teacher instead of --from, or neither")


def check_lowers(begins: int, ends: int) -> None:
    """Raise UserError unless fewer timesteps are left to go to for a network that begins with ``begins`` of them."""
    if ends >= begins:
        raise UserError(
            f"the network to begin with decides in {begins} timesteps already, nothing is left to lower to {ends}: "
            "begin with one that decides in more, or with an ordinary one, such as ann.zip in a run folder"
        )


@contextmanager
def saving_on_interrupt(say: Callable[[str], None]) -> Iterator[None]:
    """Let Ctrl-C ask the running stage to save and stop; a second one stops at once."""

    def ask(*_: object) -> None:
        STOP.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("saving; Ctrl-C again stops at once, from the last checkpoint")

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        STOP.clear()
        signal.signal(signal.SIGINT, previous)


def draw(run: RunFolder, display: Display, images: ImageSet | None) -> None:
    """Write the report of a finished run; the run is whole without it."""
    display.stage("report", 1)(0, "")
    try:
        write_page(run.path / PAGE, run, images=images)
    except Exception as error:  # whatever goes wrong in it, the summary is written
        display.say(f"no report: {first_line(error)}; snnrl report {run.path} tries again")
    else:
        display.say(f"wrote {run.path / PAGE}")


def show(summary: Mapping[str, Any], display: Display) -> None:
    """Print the table of stages."""
    first, recipe = summary["stages"][0], summary["recipe"]
    tests = f"{first['images']} test images" if "accuracy" in first else f"{first['episodes']} greedy episodes"
    score = "accuracy, %" if "accuracy" in first else "reward"
    columns = ["stage", score, "difference to first (95 %)", "spikes per neuron", "energy ratio", "minutes"]
    rows = [
        [
            stage["name"],
            _score(stage),
            _difference(stage, 100 if "accuracy" in first else 1),
            rates(stage["spike_rate"]),
            f"{stage['energy_ratio']:.2f}",
            f"{stage['minutes']:.1f}",
        ]
        for stage in summary["stages"]
    ]
    display.table(f"{title_of(recipe, summary)}, seed {summary['seed']}, {tests}", columns, rows)


def _score(stage: Mapping[str, Any]) -> str:
    if "accuracy" in stage:
        return f"{100 * stage['accuracy']:.2f}"
    return f"{stage['reward_mean']:.1f} +- {stage['reward_std']:.1f}"


def _difference(stage: Mapping[str, Any], unit: float) -> str:
    change = stage.get("difference")
    if not change:
        return ""
    mean, low, high = (unit * change[part] for part in ("mean", "low", "high"))
    digits = 2 if unit > 1 else 1
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
