"""RL Zoo trains, continues and plays the spiking agent after one line of registration."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# in a process of its own: importing RL Zoo patches gymnasium
SCRIPT = """
import runpy, sys
runpy.run_path(sys.argv[1])
from rl_zoo3.train import train
from rl_zoo3.enjoy import enjoy
environment = ["zoo", "--algo", "spiking_dqn", "--env", "CartPole-v1", "-n", "600", "-f", sys.argv[3]]
learning = ["-conf", sys.argv[2], "--eval-freq", "200", "--eval-episodes", "1", "--seed", "1", "--save-replay-buffer"]
short = ["-params", "train_freq:50", "gradient_steps:5", "learning_starts:100", "policy_kwargs:dict(net_arch=[16])"]
sys.argv = [*environment, *learning, *short]
train()
sys.argv += ["-i", f"{sys.argv[8]}/spiking_dqn/CartPole-v1_1/CartPole-v1.zip"]
train()
sys.argv = [*environment, "--no-render"]
enjoy()
"""


@pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="rl_zoo3 is not installed")
def test_rl_zoo_trains_continues_and_plays(tmp_path):
    arguments = [str(BENCHMARKS / "rl_zoo.py"), str(BENCHMARKS / "rl_zoo.yml"), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "New best mean reward!" in done.stdout
    assert "Loading replay buffer" in done.stdout
    assert "Episode Reward" in done.stdout
    for run in ("CartPole-v1_1", "CartPole-v1_2"):
        files = {path.name for path in (tmp_path / "spiking_dqn" / run).iterdir()}
        assert {"CartPole-v1.zip", "best_model.zip", "replay_buffer.pkl"} <= files
