"""Every snnrl command of the README runs, made short by a few options at its end."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from stable_baselines3 import DQN

from papers import use_tiny
from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.spiking_dqn import distil
from snnrl.cli import COMMANDS, main
from snnrl.envs import PROTOCOLS, games

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SHORT_TRAINING = [
    *("--n-envs", "2", "--ann.steps", "200", "--ann.eval-every", "100", "--dqn.learning-starts", "50"),
    *("--dqn.buffer-size", "300", "--reduction.batches", "3", "--reduction.frames", "40"),
    *("--reduction.own-frames", "20"),
    *("--reduction.rounds", "1", "--reduction.last-rounds", "1", "--reduction.td.steps", "60", "--gate.episodes", "1"),
    *("--report-episodes", "1", "--most-steps", "20"),
]
SHORT_GAME = ["--schedule", "1", "--dqn.batch-size", "4", "--reduction.batch-size", "4", "--ann.steps", "60"]
SHORT = {
    "train": SHORT_TRAINING,
    "convert": SHORT_TRAINING[:2] + SHORT_TRAINING[10:],
    "eval": ["--episodes", "1", "--most-steps", "20"],
    "play": ["--most-steps", "20"],
    "energy": ["--episodes", "1"],
    "robustness": ["--episodes", "1", "--kinds", "precision"],
    "export": [],
    "report": [],
    "list": [],
    "table": [],
    "figure": [],
}
SHORT_IMAGES = ["--network.width", "0.05", "--ann.epochs", "1", "--reduction.epochs", "1"]
"""For image classifiers, whose images are in FOLDER."""


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("&&")[-1].split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines if re.match(r"(\.venv/bin/)?snnrl ", line)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    DQN("MlpPolicy", "CartPole-v1", buffer_size=10).save(path / "dqn-CartPole-v1.zip")
    pong = AtariVecEnv("pong", 1, PROTOCOLS["v4"], seed=0)
    DQN("CnnPolicy", pong, buffer_size=10).save(path / "dqn-Pong.zip")
    pong.close()
    (path / "FOLDER").symlink_to(Path(__file__).parent / "data" / "cifar10")
    return path


def test_there_are_commands() -> None:
    names = {shlex.split(line)[1] for line in commands()}
    assert names == set(COMMANDS)
    assert commands()[0] == "snnrl train cartpole --T 5 --reduce-to 1"


def test_tables_say_what_the_results_say() -> None:
    tables = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "tables.py"))
    pages = [page.read_text(encoding="utf-8") for page in tables["PAGES"]]
    marked = [mark[1] for page in pages for mark in tables["MARKED"].findall(page)]
    assert sorted(marked) == sorted(tables["TABLES"])
    assert [tables["fill"](page) for page in pages] == pages


@pytest.mark.parametrize("line", commands())
def test_command(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    use_tiny(monkeypatch)
    monkeypatch.setattr(distil, "CALIBRATION", 64)
    words = shlex.split(line)[1:]
    few = SHORT_GAME if words[0] == "train" and words[1] in games() else []
    few = [*SHORT[words[0]], *few]
    if "FOLDER" in words:
        few = SHORT_IMAGES if words[0] == "train" else []
    assert main([*words, *few]) in ((0, 3) if words[0] in ("train", "convert") else (0,))
