"""What a person sees: progress bars while a stage runs, a table at the end."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

LINE_EVERY = 30.0
"""Seconds between progress lines where the output is a file instead of a terminal."""


class _Console(Console):
    """A console whose reader may go away, as with ``| head``: a training goes on without it."""

    def on_broken_pipe(self) -> None:
        """Write to nowhere from now on."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Display:
    """Progress on stderr, results on stdout; with ``quiet`` (for ``--json``) results are left to the JSON line."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.errors = _Console(stderr=True)
        self.console = _Console()
        if not self.console.is_terminal:
            self.console = _Console(width=140)
        self.progress = Progress(
            TextColumn("{task.description:>9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f}/s"),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.errors,
            transient=True,
        )

    def __enter__(self) -> "Display":
        if self.errors.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.errors.is_terminal:
            self.progress.stop()

    def stage(self, name: str, total: int) -> Callable[[int, str], None]:
        """End the stage before and begin one of ``total`` steps; return what to call with the steps done and a text."""
        for earlier in self.progress.task_ids:
            self.progress.remove_task(earlier)
        task = self.progress.add_task(name, total=total, rate=0.0, text="")
        started, last_line = time.monotonic(), time.monotonic()
        first: int | None = None

        def update(done: int, text: str) -> None:
            nonlocal last_line, first
            first = done if first is None else first
            now = time.monotonic()
            rate = (done - first) / max(now - started, 1e-9)
            self.progress.update(task, completed=done, rate=rate, text=text)
            if not self.errors.is_terminal and now - last_line > LINE_EVERY:
                last_line = now
                left = f"at most {(total - done) / rate / 60:.1f} min left, " if rate else ""
                sys.stderr.write(f"{name}: {done} of {total}, {rate:.0f}/s, {left}{text}\n")

        return update

    def say(self, text: str) -> None:
        """Print a line for a person."""
        (self.errors if self.quiet else self.console).print(text, highlight=False, markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table for a person."""
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number and column else "left")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        console = self.errors if self.quiet else self.console
        console.print(table)


def rates(spike_rate: dict[str, float]) -> str:
    """Return spikes per neuron and decision, by layer, on one line."""
    return " ".join(f"{name} {rate:.2f}" for name, rate in spike_rate.items()) or "-"


def print_json(value: object) -> None:
    """Print one JSON object as the last line of stdout."""
    print(json.dumps(value, allow_nan=False), flush=True)
