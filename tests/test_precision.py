"""Learning with products in bfloat16: weights, Q-values, files and everything that is played stay float32."""

import numpy as np
import pytest
import torch

from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.agents.spiking_dqn.conversion import convert_agent
from snnrl.errors import UserError
from snnrl.networks import mlp
from snnrl.precision import mixed_precision
from worlds import POLICIES, batch_of, same, small_agent


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Whatever the processor of this machine: the networks are small."""
    monkeypatch.setattr("snnrl.precision.multiplies_in_bf16", lambda device: True)


def bfloat16(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def test_the_head_computes_in_float32_under_autocast():
    network = mlp(8, (16,), 3)
    with torch.no_grad(), bfloat16():
        hidden = network[:-1](torch.randn(5, 8))
        answered = network.head(hidden)
    assert (hidden.dtype, answered.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(answered, network.head(hidden.float()), atol=0, rtol=0)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("T", [None, 2])
def test_q_values_and_gradients_are_float32_and_near_those_of_float32(policy, T):
    agent = small_agent(policy, T, precision="bf16")
    tensor, _ = agent.policy.obs_to_tensor(batch_of(agent.observation_space))
    with agent.mixed_precision():
        mixed = agent.q_net(tensor)
    exact = agent.q_net(tensor)
    assert mixed.dtype == exact.dtype == torch.float32
    if T is None:  # a spike more or less is no rounding error
        torch.testing.assert_close(mixed, exact, atol=0.02, rtol=0.05)
        assert policy == "MultiInputPolicy" or not torch.equal(mixed, exact)
    mixed.sum().backward()
    assert {value.grad.dtype for value in agent.q_net.parameters() if value.grad is not None} == {torch.float32}


def test_it_is_the_precision_of_learning_alone():
    exact, mixed = (small_agent("CnnPolicy", T=None, precision=precision) for precision in ("fp32", "bf16"))
    images = batch_of(exact.observation_space, 32)
    assert same(exact.q_net.state_dict(), mixed.q_net.state_dict())
    assert torch.equal(*(agent.q_net(torch.as_tensor(images)) for agent in (exact, mixed)))
    for agent in (exact, mixed):
        agent.learn(40)
    assert not same(exact.q_net.state_dict(), mixed.q_net.state_dict())


def test_it_is_left_where_the_processor_has_no_instructions_for_it(monkeypatch):
    monkeypatch.setattr("snnrl.precision.multiplies_in_bf16", lambda device: device.type == "cuda")
    with mixed_precision(torch.device("cpu"), "bf16"):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32
    monkeypatch.setattr("snnrl.precision.multiplies_in_bf16", lambda device: device.type == "cpu")
    with mixed_precision(torch.device("cpu"), "bf16"):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16


def test_it_is_saved_and_loaded(tmp_path):
    agent = small_agent("CnnPolicy", T=2, precision="bf16").learn(40)
    agent.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent", env=agent.env)
    assert loaded.precision == "bf16"
    assert same(loaded.policy.state_dict(), agent.policy.state_dict())
    assert SpikingDQN.load(tmp_path / "agent", precision="fp32").precision == "fp32"
    loaded.learn(20, reset_num_timesteps=False)


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match=r"^unknown precision 'fp16'; did you mean 'bf16'"):
        small_agent(precision="fp16")


def test_what_learnt_in_bfloat16_is_converted_like_any_other():
    agent = small_agent("CnnPolicy", T=None, precision="bf16").learn(40)
    images = batch_of(agent.observation_space, 64)
    spiking, report = convert_agent(agent, images, T=64, percentile=100)
    assert spiking.precision == "bf16"
    assert report.action_agreement > 0.9
    tensor = torch.as_tensor(images)
    answers = [network(tensor).detach().numpy() for network in (spiking.q_net, agent.q_net)]
    np.testing.assert_allclose(*answers, atol=0.05)
