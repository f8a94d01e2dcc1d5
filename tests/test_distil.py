"""The rounds of distillation: how large their first steps are, and how many the last stage has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from snnrl.agents.library import open_agent
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.agents.spiking_dqn.conversion import convert_agent
from snnrl.agents.spiking_dqn.distil import calibration_play, distil
from snnrl.agents.spiking_dqn.stages import Job
from snnrl.config import read_recipe
from snnrl.networks import spike_rates
from snnrl.pipeline import StageFolder
from snnrl.runs import RunFolder

SHORT = {"rounds": 1, "batches": 1, "batch_size": 32, "frames": 64, "own_frames": 8, "learning_rate": 0.01}


class Judge:
    """A gate that nothing passes and that likes whoever comes last best."""

    def __init__(self) -> None:
        self.judged = 0

    def __call__(self, agent: SpikingDQN) -> tuple[float, bool]:
        self.judged += 1
        return float(self.judged), False


def first_step(warmup: int, folder: Path) -> Tensor:
    """Return by how much one batch moves the weights of the hidden layers at most."""
    recipe = read_recipe("cartpole-state", Recipe, {"reduction": {**SHORT, "warmup": warmup}})
    teacher = open_agent("cartpole-state/ann").agent
    student, _ = convert_agent(teacher, calibration_play(teacher, recipe, 2).numpy(), T=2)
    student.set_logger(Logger(None, []))
    before = {name: value.clone() for name, value in student.q_net.state_dict().items()}
    distil(student, {"converted": before}, teacher, recipe, Judge(), StageFolder(folder), lambda *_: None, 0)
    moved = [
        (value - before[name]).abs().max()
        for name, value in student.q_net.state_dict().items()
        if name.endswith("weights.weight")
    ]
    return max(moved)


def test_a_warmup_shortens_the_first_step(tmp_path: Path) -> None:
    # Adam's first step moves every weight with a gradient by the learning rate
    assert float(first_step(0, tmp_path / "none")) == pytest.approx(0.01, rel=1e-3)
    assert float(first_step(20, tmp_path / "twenty")) == pytest.approx(0.01 / 20, rel=1e-3)


def test_a_penalty_makes_spikes_rarer_and_no_start_is_good_enough(tmp_path: Path) -> None:
    rates = []
    for penalty in (0.0, 3.0):
        changes = {**SHORT, "batches": 100, "learning_rate": 3e-3, "spike_penalty": penalty}
        recipe = read_recipe("cartpole-state", Recipe, {"reduction": changes})
        teacher = open_agent("cartpole-state/ann").agent
        play = calibration_play(teacher, recipe, 2)
        student, _ = convert_agent(teacher, play.numpy(), T=2)
        student.set_logger(Logger(None, []))
        starts = {"converted": student.q_net.state_dict()}
        folder = StageFolder(tmp_path / str(penalty))
        done = distil(student, starts, teacher, recipe, lambda _: (500.0, True), folder, lambda *_: None, 0)
        assert done.rounds == (1 if penalty else 0)
        with torch.no_grad(), spike_rates(student.q_net) as found:
            student.q_net(play)
        rates.append(float(torch.stack([*found.values()]).mean()))
    assert rates[1] < 0.8 * rates[0]


@pytest.mark.parametrize(("last_rounds", "expected"), [(None, {2: 1, 1: 2}), (4, {2: 1, 1: 4})])
def test_the_last_stage_has_rounds_of_its_own(
    last_rounds: int | None, expected: dict[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "schedule": [2, 1],
        "report_episodes": 1,
        "gate": {"episodes": 1},
        "reduction": {**SHORT, "last_rounds": last_rounds},
    }
    monkeypatch.setattr(Job, "gate", lambda job, agent: (0.0, False))
    recipe = read_recipe("cartpole-state", Recipe, changes)
    start = open_agent("cartpole-state/ann").agent
    said: list[str] = []
    job = Job(recipe, RunFolder(tmp_path / "run"), lambda *_: lambda *_: None, said.append, start=start)
    job.run_all()
    assert {int(stage["T"]): stage["rounds"] for stage in job.results.values() if stage["T"]} == expected
