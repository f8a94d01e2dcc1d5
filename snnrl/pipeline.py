"""Stages that survive being killed: a stage's result is stored once it is done, its checkpoint until then."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from snnrl.checkpoint import Archive, read_archive, write_archive
from snnrl.files import read_json, write_json

Result = dict[str, Any]

STOP = threading.Event()
"""Set when the user asks to stop; a stage then saves at its next safe moment and raises KeyboardInterrupt."""


class StageFolder:
    """Where a stage keeps what it needs to go on: one checkpoint, replaced as a whole, and parts written only once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob(".*.tmp"):
            leftover.unlink()
        self._started = time.monotonic()
        self._before = 0.0
        self.saving = 0.0

    @property
    def seconds(self) -> float:
        """Time spent on the stage, all its starts together; lost work after the last checkpoint is not counted."""
        return self._before + time.monotonic() - self._started

    def load(self) -> Archive | None:
        """Return the last checkpoint, or None if the stage starts from its beginning."""
        if not self._checkpoint.exists():
            return None
        archive = read_archive(self._checkpoint)
        self._before = float(archive.metadata["seconds"])
        return archive

    def save(self, metadata: Mapping[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Replace the checkpoint; if the user asked to stop, this is the moment.

        Raises:
            KeyboardInterrupt: the checkpoint is written, and the user had asked to stop.
        """
        begun = time.monotonic()
        write_archive(self._checkpoint, {**metadata, "seconds": self.seconds}, tensors)
        self.saving += time.monotonic() - begun
        if STOP.is_set():
            raise KeyboardInterrupt

    def add_part(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a part, such as the newest rows of a replay buffer, before the checkpoint that refers to it."""
        begun = time.monotonic()
        write_archive(self.path / f"{name}.zip", {"kind": "part"}, {"part": tensors})
        self.saving += time.monotonic() - begun

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a part."""
        return read_archive(self.path / f"{name}.zip").tensors["part"]

    def keep_parts(self, names: Iterable[str]) -> None:
        """Remove all other parts."""
        kept = {f"{name}.zip" for name in names} | {self._checkpoint.name}
        for file in self.path.iterdir():
            if file.name not in kept:
                file.unlink()

    def clear(self) -> None:
        """Remove the checkpoint and its parts, once the stage's result is stored."""
        for file in self.path.iterdir():
            file.unlink()
        self.path.rmdir()

    @property
    def _checkpoint(self) -> Path:
        return self.path / "checkpoint.zip"


def run_stage(folder: Path, name: str, work: Callable[[StageFolder], Result]) -> Result:
    """Return the stage's stored result, or do its work (from its last checkpoint on), store and return the result.

    ``work`` must be deterministic given the checkpoint, so that being killed at any moment changes nothing.
    """
    stored = folder / f"{name}.json"
    if stored.exists():
        result: Result = read_json(stored)
        if (folder / name).exists():  # it was stored, but killed before it could tidy up
            StageFolder(folder / name).clear()
        return result
    stage = StageFolder(folder / name)
    result = work(stage)
    result["minutes"] = round(stage.seconds / 60, 2)
    result["checkpoint_share"] = round(stage.saving / stage.seconds, 4)
    write_json(stored, result)
    stage.clear()
    return result
