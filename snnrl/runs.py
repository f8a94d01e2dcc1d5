"""The run folder: one recipe, one seed, everything that came of it."""

import fcntl
import math
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from snnrl.errors import UserError
from snnrl.files import read_json, write_json

UNFINISHED = ".*.tmp"
"""Files of atomic writes that were killed."""

LOCK = ".lock"
"""Locked by the process that writes a run; the file itself means nothing."""

PACKAGES = ("snnrl", "torch", "stable-baselines3", "gymnasium", "numpy")


class RunFolder:
    """``config.json``, stage agents ``NAME.zip``, ``stages/``, ``logs/`` (TensorBoard, CSV) and ``summary.json``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def stages(self) -> Path:
        """Where stages keep their results and, while they run, their checkpoints."""
        return self.path / "stages"

    @property
    def finished(self) -> bool:
        """Whether the run has its summary."""
        return (self.path / "summary.json").exists()

    def agent(self, name: str) -> Path:
        """Path of a stage's agent."""
        return self.path / f"{name}.zip"

    def logs(self, name: str) -> Path:
        """A folder for the logs of a stage; each continuation of a stage gets one of its own."""
        number, folder = 1, self.path / "logs" / name
        while folder.exists():
            number += 1
            folder = self.path / "logs" / f"{name}-{number}"
        return folder

    def open(self, config: Mapping[str, Any]) -> bool:
        """Make the folder, or take it up again; return whether there was a run in it.

        Raises:
            UserError: it belongs to a run with another configuration; the differing keys are named.
        """
        stored = self.path / "config.json"
        if stored.exists():
            differing = sorted(differences(_config(stored), config))
            if differing:
                raise UserError(
                    f"{self.path} holds a run with another configuration ({', '.join(differing)}): "
                    "give the same settings to go on with it, or another --run folder"
                )
            return True
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            used = [file for file in self.path.iterdir() if not file.match(UNFINISHED)]
        except OSError as error:
            raise UserError(f"cannot write the run folder {self.path}: {error.strerror}; give another --run") from error
        if used:
            raise UserError(f"{self.path} is not empty and holds no run: give another --run folder")
        versions = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
        write_json(stored, {"config": dict(config), "versions": versions})
        return False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the folder, until this one leaves it or dies; remove what a killed one left.

        Raises:
            UserError: another process is at work in it.
        """
        with (self.path / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.path} is being written by another process: wait for it, or give another --run folder"
                ) from error
            for leftover in self.path.rglob(UNFINISHED):
                leftover.unlink()
            yield

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, which makes the run finished."""
        write_json(self.path / "summary.json", dict(summary))

    def config(self) -> dict[str, Any]:
        """Return every setting of the run.

        Raises:
            UserError: the folder holds no run.
        """
        return _config(self._stored())

    def versions(self) -> dict[str, str]:
        """Return the versions that the run began with."""
        return dict(read_json(self._stored()).get("versions", {}))

    def _stored(self) -> Path:
        """Return where the configuration is."""
        stored = self.path / "config.json"
        if not stored.is_file():
            raise UserError(
                f"{self.path} holds no run: name a folder that snnrl train has written, such as runs/cartpole-seed0"
            )
        return stored

    def results(self, score: str) -> dict[str, dict[str, Any]]:
        """Return the results of the finished stages by name: the ordinary network's, then by falling T.

        ``score`` is what they are judged by: reward or accuracy.

        Raises:
            UserError: one is damaged, or there is none.
        """
        found = {file.stem: read_json(file) for file in sorted(self.stages.glob("*.json"))}
        for name, result in found.items():
            self.check_stage(name, result, score)
        if not found:
            raise UserError(f"{self.path} has no finished stage yet: the same snnrl train command goes on with it")
        return dict(sorted(found.items(), key=lambda item: -(item[1]["T"] or math.inf)))

    def summary(self) -> dict[str, Any]:
        """Return the summary of a finished run.

        Raises:
            UserError: it is damaged.
        """
        found = read_json(self.path / "summary.json")
        stages = found.get("stages") if isinstance(found, dict) else None
        if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
            raise self.damaged(self.path / "summary.json")
        return dict(found)

    def check_stage(self, name: str, result: Any, score: str) -> None:
        """Check that a stored stage is whole: its result with its ``score`` at the gate, and its agent.

        Raises:
            UserError: it is damaged.
        """
        needed = {"name", "T", f"gate_{score}", "gate_passed", "minutes"}
        if not isinstance(result, dict) or not needed <= result.keys():
            raise self.damaged(self.stages / f"{name}.json")
        if not self.agent(name).exists():
            raise UserError(f"{self.agent(name)} is missing: remove {self.stages / name}.json to train the stage again")

    @staticmethod
    def damaged(file: Path) -> UserError:
        """Return the error for a file that is not as a run writes it."""
        return UserError(f"{file} is damaged: remove it and run the same training again")


def _config(stored: Path) -> dict[str, Any]:
    found = read_json(stored)
    config = found.get("config") if isinstance(found, dict) else None
    if not isinstance(config, dict):
        raise UserError(f"{stored} is not the configuration of a run: give another --run folder")
    return config


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return a line for each value that differs: its dotted name, what it was and what it is."""
    found: list[str] = []
    for key in old.keys() | new.keys():
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} before, {after} now")
    return found
