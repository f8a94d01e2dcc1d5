"""What stages log and what docs/metrics.md tells of it, and the state before a stage's training."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from snnrl.agents.metrics import record, watching
from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.agents.spiking_dqn.distil import calibration_play, q_values
from snnrl.agents.spiking_dqn.random_state import random_state
from snnrl.agents.spiking_dqn.stages import Job
from snnrl.config import read_recipe
from snnrl.distillation import regret
from snnrl.energy import count_operations
from snnrl.networks import neurons_of
from snnrl.runs import RunFolder
from worlds import batch_of, same, small_agent

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"
TINY: dict[str, Any] = {
    "schedule": [2],
    "n_envs": 2,
    "report_episodes": 1,
    "most_steps": 30,
    "gate": {"episodes": 1},
    "ann": {"steps": 600, "eval_every": 300},
    "dqn": {"learning_starts": 100, "final_learning_rate": 1e-4},
    "reduction": {"rounds": 1, "batches": 2, "batch_size": 16, "frames": 32, "td": {"steps": 600, "eval_every": 300}},
}
HISTOGRAMS = {"q_chosen", "neurons_LAYER"}


def run(folder: Path, *, loss: str, start: SpikingDQN | None = None, scratch: bool = False) -> Job:
    recipe = read_recipe("cartpole-state", Recipe, TINY | {"reduction": TINY["reduction"] | {"loss": loss}})
    job = Job(recipe, RunFolder(folder), lambda *_: lambda *_: None, lambda _: None, start=start, scratch=scratch)
    job.run_all()
    return job


def untrained(job: Job, *, fresh: bool) -> SpikingDQN:
    """Return the student at T = 2 as its stage begins with it, the log closed at once."""
    student = job.agent("T2", 2, fresh=fresh)
    student.logger.close()
    return student


def logged(folder: Path) -> tuple[set[str], set[str]]:
    """Return the names in CSV and in TensorBoard, LAYER in the place of a layer's name."""
    in_csv: set[str] = set()
    in_tensorboard: set[str] = set()
    for log in folder.rglob("progress.csv"):
        in_csv |= set(next(csv.reader(log.read_text(encoding="utf-8").splitlines())))
        events = EventAccumulator(str(log.parent)).Reload().Tags()
        in_tensorboard |= {*events["scalars"], *events["histograms"]}
    plain = re.compile(r"(spikes|neurons)_fc\d")
    return {plain.sub(r"\1_LAYER", name) for name in in_csv}, {plain.sub(r"\1_LAYER", name) for name in in_tensorboard}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    folder = tmp_path_factory.mktemp("runs")
    first = run(folder / "td", loss="td")
    with pytest.MonkeyPatch.context() as patch:  # no start passes, so there is a round of training
        patch.setattr(Job, "gate", lambda job, agent: (0.0, False))
        return {"td": first, "distill": run(folder / "distill", loss="distill", start=first.load("ann"))}


def test_everything_logged_is_documented_and_the_other_way_round(jobs: dict[str, Job]) -> None:
    rows = re.findall(r"^\| (`.*?/.*?`) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    found = [logged(job.run.path) for job in jobs.values()]
    in_csv, in_tensorboard = (set().union(*names) for names in zip(*found, strict=True))
    assert in_csv | in_tensorboard == documented
    assert in_tensorboard - in_csv == {name for name in documented if name.split("/")[1] in HISTOGRAMS}


def test_the_ordinary_network_logs_what_it_has(jobs: dict[str, Job]) -> None:
    in_csv, in_tensorboard = logged(jobs["td"].run.logs("ann").parent / "ann")
    assert {"eval/reward", "eval/q_mean", "report/q_mean"} <= in_csv
    assert "report/q_chosen" in in_tensorboard
    assert not any("LAYER" in name for name in in_tensorboard)


def test_the_figures_are_those_of_the_forwards_watched() -> None:
    agent = small_agent(T=3)
    space = agent.observation_space
    with torch.no_grad():
        for neuron in neurons_of(agent.q_net).values():
            neuron.threshold.fill_(0.1)
    batches = [torch.as_tensor(batch_of(space, size)) for size in (4, 7)]
    sent: list[torch.Tensor] = []
    (neuron,) = neurons_of(agent.q_net).values()
    hook = neuron.register_forward_hook(lambda _, __, spikes: sent.append(spikes.view(3, -1, 12).sum(0)))
    with watching(agent.q_net) as seen, torch.no_grad():
        answers = torch.cat([agent.q_net(batch) for batch in batches])
    hook.remove()
    layers = count_operations(agent.q_net, batches[0], 4)
    logger = Logger(None, [])
    record(logger, "eval", seen, layers)
    values = logger.name_to_value
    per_neuron = torch.cat(sent).mean(0)
    assert 0 < float(per_neuron.mean()) < 3
    torch.testing.assert_close(values["eval/neurons_fc1"], per_neuron)
    assert values["eval/spikes_fc1"] == pytest.approx(float(per_neuron.mean()))
    assert values["eval/q_mean"] == pytest.approx(float(answers.mean()))
    assert torch.equal(values["eval/q_chosen"], answers.max(1).values)
    agent.q_net(batches[0])
    assert len(seen.answers) == 2  # what comes after the block is not watched


@pytest.mark.parametrize("loss", ["td", "distill"])
def test_before_is_what_the_start_did_untrained(loss: str, jobs: dict[str, Job]) -> None:
    job = jobs[loss]
    result, teacher = job.results["T2"], job.load("ann")
    play = calibration_play(teacher, job.recipe, 2)
    conversions: dict[str, Any] = {}
    student = untrained(job, fresh=False)
    starts = job.starts(student, "T2", [], None, conversions)
    chosen = result.get("start", next(iter(starts)))
    student.q_net.load_state_dict(starts[chosen])
    with watching(student.q_net) as seen:
        answers = q_values(student, play)
    agreed = (answers.argmax(1) == q_values(teacher, play).argmax(1)).float().mean()
    assert result["before"] == {"spike_rate": seen.spike_rate, "action_agreement": float(agreed)}
    assert set(result["before"]["spike_rate"]) == set(result["spike_rate"])
    if chosen == next(iter(starts)):
        assert result["before"]["action_agreement"] == conversions["conversion"]["action_agreement"]


def test_the_chosen_start_leaves_no_trace_in_the_agent(jobs: dict[str, Job]) -> None:
    job = jobs["distill"]
    agent, teacher = job.load("T2"), job.load("ann")
    play = calibration_play(agent, job.recipe, 2)
    assert job.results["T2"]["regret"] == regret(q_values(agent, play), q_values(teacher, play))


def test_before_from_scratch_has_no_teacher_and_draws_nothing(tmp_path: Path) -> None:
    job = run(tmp_path / "scratch", loss="td", scratch=True)
    found = job.results["T2"]["before"]
    assert found["action_agreement"] is None
    assert set(found["spike_rate"]) == {"fc1", "fc2"}
    student = untrained(job, fresh=True)
    generators, tensors = random_state(student.action_space)
    assert job.before(student, None) == found
    after, tensors_after = random_state(student.action_space)
    assert after == generators
    assert same(tensors_after, tensors)
