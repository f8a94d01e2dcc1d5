"""Run ``snnrl train ...`` in this process and kill it, with SIGKILL, at a chosen moment.

usage: victim.py MOMENT train RECIPE ...; MOMENT is ``STAGE@STEP`` (a training step of a stage), ``STAGE@write:N`` (in
the middle of the N-th atomic write of a stage) or ``never``.
"""

import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import snnrl.commands.running
import snnrl.files
from snnrl.agents.classifier import training
from snnrl.agents.spiking_dqn import distil
from snnrl.agents.spiking_dqn.stages import Job
from snnrl.cli import main
from snnrl.display import Display


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Moment:
    """When to die."""

    def __init__(self, text: str) -> None:
        self.stage, _, when = text.partition("@")
        self.write = int(when.removeprefix("write:")) if when.startswith("write:") else None
        self.step = int(when) if when and self.write is None else None
        self.current = ""
        self.writes = 0

    def begins(self, stage: str) -> None:
        self.current, self.writes = stage, 0

    def steps(self, done: int) -> None:
        if self.current == self.stage and self.step is not None and done >= self.step:
            die()

    def writes_half(self, descriptor: int) -> None:
        """Stands in for fsync: everything may be in the file, but it has not taken its place yet."""
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        self.writes += 1
        if self.current == self.stage and self.writes == self.write:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()


def watch(moment: Moment) -> None:
    stage, fsync, gate = Display.stage, os.fsync, Job.gate

    def watched(self: Display, name: str, total: int) -> Callable[[int, str], None]:
        moment.begins(name)
        update = stage(self, name, total)

        def both(done: int, text: str) -> None:
            moment.steps(done)
            update(done, text)

        return both

    def flushed(descriptor: int) -> None:
        moment.writes_half(descriptor)
        fsync(descriptor)

    distil.CALIBRATION = 64
    snnrl.commands.running.draw = lambda *_: None  # the page, drawn once all is done
    training.REPORT_EVERY = 1  # a classifier can be killed at every batch
    # no start passes untrained: every stage has training to be killed in
    Job.gate = lambda self, agent: (gate(self, agent)[0], False)  # type: ignore[method-assign]
    patched: Any = snnrl.files.os
    patched.fsync = flushed
    Display.stage = watched  # type: ignore[method-assign]


def run(moment: str, words: list[str], said: Path) -> None:
    """Do it in a process that was forked, which writes to the file ``said``."""
    said.parent.mkdir(parents=True, exist_ok=True)
    with said.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    watch(Moment(moment))
    sys.exit(main(words))


if __name__ == "__main__":
    watch(Moment(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
