"""Run folders and stages: taken up again, never mixed up, memoised."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnrl import pipeline
from snnrl.errors import UserError
from snnrl.pipeline import STOP, StageFolder, run_stage
from snnrl.runs import RunFolder, differences

CONFIG = {"env": "A", "dqn": {"gamma": 0.9, "batch_size": 8}, "schedule": None}
JSON = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=8,
)
CONFIGS = st.dictionaries(st.text("abc", min_size=1, max_size=2), JSON, max_size=4)


def test_open(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "deep" / "run")
    assert not run.open(CONFIG)
    assert run.open(CONFIG)
    stored = json.loads((run.path / "config.json").read_text())
    assert stored["config"] == CONFIG
    assert set(stored["versions"]) >= {"python", "snnrl", "torch"}
    (run.path / "stages").mkdir(exist_ok=True)
    for folder in (run.path, run.stages):
        (folder / ".0123.tmp").touch()
    assert run.open(CONFIG)
    with run.alone():
        assert list(tmp_path.rglob("*.tmp")) == []


def test_one_process_writes_a_run(tmp_path: Path) -> None:
    for _ in range(2):
        with RunFolder(tmp_path).alone():
            (tmp_path / ".0123.tmp").touch()
            with pytest.raises(UserError, match="is being written by another process"), RunFolder(tmp_path).alone():
                pass
            assert (tmp_path / ".0123.tmp").exists()


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.open(CONFIG)
    other = {**CONFIG, "dqn": {"gamma": 0.5, "batch_size": 8}, "schedule": [3, 1]}
    with pytest.raises(UserError, match=r"dqn\.gamma: 0\.9 before, 0\.5 now, schedule: None before, \[3, 1\] now"):
        run.open(other)
    assert run.open(CONFIG)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".notes.tmp").touch()
    (tmp_path / "mine" / "text").touch()
    with pytest.raises(UserError, match="not empty and holds no run"):
        RunFolder(tmp_path / "mine").open(CONFIG)
    assert len(list((tmp_path / "mine").iterdir())) == 2
    with pytest.raises(UserError, match="cannot write the run folder"):
        RunFolder(tmp_path / "mine" / "text" / "run").open(CONFIG)
    for text in ("[]", '{"config": 3}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="is not the configuration of a run"):
            RunFolder(tmp_path).open(CONFIG)


def test_killed_before_the_configuration_was_written(tmp_path: Path) -> None:
    (tmp_path / ".0123.tmp").touch()
    assert not RunFolder(tmp_path).open(CONFIG)


@given(CONFIGS, CONFIGS)
def test_differences(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert differences(old, old) == []
    found = differences(old, new)
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    assert {line.split(":")[0].split(".")[0] for line in found} == changed
    assert sorted(line.split(":")[0] for line in found) == sorted(line.split(":")[0] for line in differences(new, old))


def test_logs_are_numbered(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for name in ("T1", "T1-2", "T1-3"):
        assert run.logs("T1") == tmp_path / "logs" / name
        run.logs("T1").mkdir(parents=True)
    assert run.logs("ann") == tmp_path / "logs" / "ann"


def test_summary(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert not run.finished
    run.finish({"stages": [{"name": "T1"}]})
    assert run.finished
    assert run.summary() == {"stages": [{"name": "T1"}]}
    assert run.agent("T1") == tmp_path / "T1.zip"


# stages


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(pipeline.time, "monotonic", lambda: self.now)


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    calls = []

    def work(folder: StageFolder) -> dict[str, Any]:
        calls.append(folder)
        folder.save({"a": 1}, {})
        return {"reward": 1.5}

    first = run_stage(tmp_path / "stages", "T1", work)
    assert first["reward"] == 1.5
    assert run_stage(tmp_path / "stages", "T1", work) == first
    assert len(calls) == 1
    assert [file.name for file in (tmp_path / "stages").iterdir()] == ["T1.json"]
    run_stage(tmp_path / "stages", "T2", work)
    assert len(calls) == 2


def test_killed_between_result_and_tidying_up(tmp_path: Path) -> None:
    run_stage(tmp_path, "T1", lambda _: {"reward": 1.0})
    StageFolder(tmp_path / "T1").save({}, {})
    assert run_stage(tmp_path, "T1", lambda _: {"reward": 2.0})["reward"] == 1.0
    assert not (tmp_path / "T1").exists()


def test_a_failed_stage_leaves_its_checkpoint(tmp_path: Path) -> None:
    def fail(folder: StageFolder) -> dict[str, Any]:
        folder.save({"batch": 3}, {"weights": {"w": torch.ones(2)}})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, "T1", fail)
    (tmp_path / "T1" / ".0123.tmp").touch()

    def go_on(folder: StageFolder) -> dict[str, Any]:
        checkpoint = folder.load()
        assert checkpoint is not None
        assert checkpoint.metadata["batch"] == 3
        assert checkpoint.tensors["weights"]["w"].tolist() == [1.0, 1.0]
        assert [file.name for file in folder.path.iterdir()] == ["checkpoint.zip"]
        return {}

    run_stage(tmp_path, "T1", go_on)


def test_seconds_add_up_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    folder = StageFolder(tmp_path)
    assert folder.load() is None
    clock.now += 60
    folder.save({}, {})
    clock.now += 1000  # lost with the kill
    folder = StageFolder(tmp_path)
    folder.load()
    clock.now += 30
    assert folder.seconds == 90
    folder.save({}, {})
    folder = StageFolder(tmp_path)
    folder.load()
    clock.now += 30
    assert folder.seconds == 120


def test_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def work(_: StageFolder) -> dict[str, Any]:
        clock.now += 90
        return {}

    assert run_stage(tmp_path, "T1", work)["minutes"] == 1.5


def test_parts(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    for number in range(3):
        folder.add_part(f"rows-{number}", {"x": torch.full((2,), float(number))})
    folder.save({}, {})
    folder.keep_parts(["rows-1", "rows-2"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.zip", "rows-1.zip", "rows-2.zip"]
    assert StageFolder(tmp_path).part("rows-2")["x"].tolist() == [2.0, 2.0]
    folder.clear()
    assert not tmp_path.exists()


def test_stopping_saves_first(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    STOP.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            folder.save({"batch": 7}, {})
    finally:
        STOP.clear()
    checkpoint = StageFolder(tmp_path).load()
    assert checkpoint is not None
    assert checkpoint.metadata["batch"] == 7
