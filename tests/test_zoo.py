"""The shipped agents play as their cards say, and every one of their hidden outputs is a spike: 0 or 1."""

import json

import pytest
import torch

from snnrl.agents.evaluate import episode_seeds, play
from snnrl.agents.library import ZOO, open_agent, shipped_agents
from snnrl.networks import neurons_of

ENOUGH = {"cartpole": 475, "cartpole-state": 475, "pong": 15}
"""Reward of one episode that a shipped agent must reach."""


@pytest.mark.parametrize("name", ENOUGH)
def test_a_shipped_agent_decides_in_one_step_with_spikes_alone(name: str) -> None:
    opened = open_agent(name)
    assert opened.agent.T == 1
    seen: dict[str, set[float]] = {}
    for layer, neuron in neurons_of(opened.agent.q_net).items():
        values = seen.setdefault(layer, set())
        neuron.register_forward_hook(lambda _, __, spikes, kept=values: kept.update(torch.unique(spikes).tolist()))
    (reward,) = play(opened.agent, opened.env_id, episode_seeds(1, "report", 1), env_kwargs=opened.env_kwargs)
    assert reward >= ENOUGH[name]
    assert seen
    assert all(values == {0.0, 1.0} for values in seen.values())


def test_every_shipped_agent_is_tested() -> None:
    assert set(ENOUGH) == set(shipped_agents())


@pytest.mark.parametrize("name", shipped_agents())
def test_a_card_tells_of_its_agents(name: str) -> None:
    card = json.loads((ZOO / name / "summary.json").read_text())
    assert {"recipe", "seed", "commit", "hours", "machine", "command"} <= card.keys()
    assert [stage["name"] for stage in card["stages"]] == ["ann", "T5", "T1"]
    for stage in card["stages"]:
        opened = open_agent(f"{name}/{stage['name']}")
        assert (opened.agent.T, opened.env_id) == (stage["T"], card["recipe"]["env"])
        assert stage["episodes"] == len(stage["rewards"]) == 30
    assert open_agent(name, T=5).source == "T5.zip"
    assert open_agent(name, T=3).source == "T5.zip"
