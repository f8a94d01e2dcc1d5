"""The shipped agents play as their cards say, and every one of their hidden outputs is a spike: 0 or 1."""

import pytest
import torch

from snnrl.agents.evaluate import episode_seeds, play
from snnrl.agents.library import open_agent, shipped_agents
from snnrl.networks import neurons_of


def test_there_are_shipped_agents() -> None:
    assert {"cartpole", "cartpole-state"} <= set(shipped_agents())


@pytest.mark.parametrize("name", shipped_agents())
def test_a_shipped_agent_decides_in_one_step_with_spikes_alone(name: str) -> None:
    agent, env_id, _ = open_agent(name)
    assert agent.T == 1
    seen: dict[str, set[float]] = {}
    for layer, neuron in neurons_of(agent.q_net).items():
        values = seen.setdefault(layer, set())
        neuron.register_forward_hook(lambda _, __, spikes, kept=values: kept.update(torch.unique(spikes).tolist()))
    (reward,) = play(agent, env_id, episode_seeds(1, "report", 1))
    assert reward >= 475
    assert seen
    assert all(values == {0.0, 1.0} for values in seen.values())
