"""Frames as planes of 0 and 1: what they show, what they cost, and agents that see them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.library import open_agent
from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.agents.spiking_dqn.build import build_agent, training_envs
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.agents.spiking_dqn.conversion import convert_agent, through_view
from snnrl.agents.spiking_dqn.distil import gather_play
from snnrl.commands.train import check
from snnrl.config import read_recipe
from snnrl.energy import count_operations, energy_ratio, tally
from snnrl.energy.costs import CostTable, read_costs
from snnrl.envs import PROTOCOLS
from snnrl.errors import UserError
from snnrl.networks import VIEWS, View
from worlds import World

ARITHMETIC: CostTable = read_costs("arithmetic")
LITTLE = {"n_envs": 2, "atari": {"size": 44}, "dqn": {"buffer_size": 64}}


def frames(*values: int) -> torch.Tensor:
    """One observation of single pixels, the oldest first."""
    return torch.tensor(values, dtype=torch.uint8).view(1, -1, 1, 1)


def test_binary_frames() -> None:
    view = VIEWS["binary"](3, 1, 1)
    view.background.fill_(100)
    assert view.planes == 3
    assert view(frames(100, 111, 110)).flatten().tolist() == [0, 1, 0]
    assert view(frames(0, 89, 255)).flatten().tolist() == [1, 1, 1]


def test_event_frames() -> None:
    view = VIEWS["events"](3, 1, 1)
    view.background.fill_(100)
    assert view.planes == 5
    # stands out now; brighter then, brighter now; darker then, darker now
    assert view(frames(100, 120, 100)).flatten().tolist() == [0, 1, 0, 0, 1]
    assert view(frames(0, 255, 255)).flatten().tolist() == [1, 1, 0, 0, 0]
    assert view(frames(95, 100, 105)).flatten().tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(("kind", "adds", "compares", "planes"), [("binary", 1, 1, 4), ("events", 2, 3, 7)])
def test_encoding_is_counted_and_the_first_layer_adds(kind: str, adds: int, compares: int, planes: int) -> None:
    view = VIEWS[kind](4, 6, 5)
    network = nn.Sequential(view, nn.Conv2d(planes, 3, 2, bias=False))
    seen = torch.randint(0, 40, (7, 4, 6, 5), dtype=torch.uint8)
    encoding, first = count_operations(network, seen, 7)
    found = tally(encoding, ARITHMETIC)
    assert (found["add"], found["compare"], found["multiply_accumulate"]) == (adds * 30, compares * 30, 0)
    assert encoding.spikes == int(view(seen).sum()) > 0
    assert set(tally(encoding.ordinary, ARITHMETIC).values()) == {0}
    assert first.spiking
    assert first.macs == planes * 4 * 3 * 20
    assert first.ordinary.macs == 4 * 4 * 3 * 20
    assert tally(first, ARITHMETIC)["multiply_accumulate"] == 0


@pytest.mark.parametrize("kind", VIEWS)
def test_an_agent_that_sees_planes_is_made_of_one_that_sees_grey(kind: str, tmp_path: Path) -> None:
    recipe = read_recipe("pong", Recipe, LITTLE | {"reduction": {"view": kind}})
    envs = training_envs(recipe, 0)
    ordinary = build_agent(recipe, None, envs, 0)
    assert not any(isinstance(module, View) for module in ordinary.policy.modules())
    student = build_agent(recipe, 1, envs, 0)
    view = student.q_net.features_extractor.view
    assert view.background.unique().numel() > 1  # measured: Pong has a frame around its field
    seen = gather_play(ordinary, recipe, 64, 0)
    converted, _ = convert_agent(ordinary, seen.numpy(), T=1)
    weights = through_view(converted, student, seen)
    student.q_net.load_state_dict(weights)
    grey = converted.q_net.state_dict()
    assert torch.equal(
        weights["features_extractor.cnn.conv2.weights.weight"], grey["features_extractor.cnn.conv2.weights.weight"]
    )
    currents = converted.q_net.features_extractor.first(seen / 255 - converted.q_net.features_extractor.background)
    left = student.q_net.features_extractor.first(view(seen)) - currents
    assert left.var() < (currents - currents.mean((0, 2, 3), keepdim=True)).var()
    student.save(tmp_path / "agent")
    again = SpikingDQN.load(tmp_path / "agent")
    assert torch.equal(again.q_net.features_extractor.view.background, view.background)
    tensor, _ = student.policy.obs_to_tensor(seen.numpy())
    assert torch.equal(again.q_net(tensor), student.q_net(tensor))
    assert energy_ratio(count_operations(student.q_net, tensor, 64)) > 3
    envs.close()


def test_it_learns_by_temporal_differences_too() -> None:
    recipe = read_recipe("pong", Recipe, LITTLE | {"reduction": {"view": "binary"}})
    envs = AtariVecEnv("pong", 2, PROTOCOLS["v4"].changed(size=44), seed=0)
    agent = build_agent(
        recipe.model_copy(update={"dqn": recipe.dqn.model_copy(update={"learning_starts": 8})}), 1, envs, 0
    )
    before = agent.q_net.features_extractor.first.weight.clone()
    agent.learn(64)
    assert not torch.equal(agent.q_net.features_extractor.first.weight, before)
    assert torch.equal(
        agent.q_net_target.features_extractor.view.background, agent.q_net.features_extractor.view.background
    )
    envs.close()


def test_mistakes() -> None:
    images = World(spaces.Box(0, 255, (2, 36, 36), np.uint8))
    with pytest.raises(UserError, match=r"unknown view 'binari'; did you mean 'binary'"):
        SpikingDQN("CnnPolicy", images, policy_kwargs={"features_extractor_kwargs": {"view": "binari"}})
    recipe = read_recipe("cartpole-state", Recipe, {"reduction": {"view": "binary"}})
    envs = training_envs(recipe, 0)
    with pytest.raises(UserError, match=r"reduction\.view is of frames: this network sees none"):
        build_agent(recipe, 1, envs, 0)
    envs.close()
    recipe = read_recipe("pong", Recipe, {"reduction": {"view": "binary"}})
    with pytest.raises(UserError, match=r"sees grey frames, reduction\.view is binary: begin with an ordinary"):
        check(recipe, open_agent("pong/T5").agent)
