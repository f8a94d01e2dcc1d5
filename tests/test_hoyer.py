"""Hoyer neurons: measure and extremum by hand and by finite differences, spikes, gradients, and whole networks."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.agents.spiking_dqn.conversion import convert_agent
from snnrl.conversion import convert
from snnrl.errors import UserError
from snnrl.networks import SpikingNetwork, calibrating, classifier, fill_slots, neurons_of, penalized, spike_rates
from snnrl.networks.spiking import hoyer_measures
from snnrl.neurons import LIF, Hoyer, hoyer_extremum, hoyer_measure
from worlds import batch_of, same, small_agent

VALUES = st.lists(st.floats(-2, 4, width=32), min_size=2, max_size=12)


def potential(values: "list[float]") -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- measure and extremum ------------------------------------------------------------------------------------------


def test_of_zeros_and_ones_the_measure_counts_and_the_extremum_is_one() -> None:
    values = torch.tensor([1.0, 0, 0, 1, 1, 0])
    assert float(hoyer_measure(values, torch.tensor(1.0))) == 3
    assert float(hoyer_extremum(values, 1.0, maps=False)) == 1


@pytest.mark.parametrize("c", [0.125, 0.5, 1.0])
def test_of_equal_values_the_extremum_is_that_value_and_all_fire(c: float) -> None:
    neuron = Hoyer(1, threshold=2.0).train()
    current = torch.full((3, 4), 2 * c)
    assert float(hoyer_extremum(current, 2.0, maps=False)) == c
    assert neuron(current).tolist() == [[1.0] * 4] * 3


def test_by_hand() -> None:
    # clipped at 2: 0, 1, 2, 2; sums 5 and 9, in units of v: E = (9 / 4) / (5 / 2)
    values = torch.tensor([-1.0, 1.0, 2.0, 5.0])
    assert float(hoyer_extremum(values, 2.0, maps=False)) == pytest.approx(0.9)
    assert float(hoyer_measure(values, torch.tensor(2.0))) == pytest.approx(25 / 9)


def test_nothing_positive() -> None:
    values = -torch.rand(2, 3, 4, 4)
    assert hoyer_extremum(values, 1.0, maps=True).tolist() == [1, 1, 1]
    current, threshold = values.requires_grad_(), torch.tensor(1.0, requires_grad=True)
    hoyer_measure(current, threshold).backward()
    assert current.grad is not None
    assert not current.grad.any()
    assert Hoyer(1, channels=3).train()(values).sum() == 0


@settings(max_examples=80, deadline=None)
@given(values=VALUES, v=st.floats(0.25, 3))
def test_gradient_of_the_measure(values: "list[float]", v: float) -> None:
    """Finite differences, the sign on either side of the extremum, and the closed form for the threshold."""
    found = potential(values)
    if not (found > 0.01).any() or (found.abs() < 1e-3).any() or ((found - v).abs() < 1e-3).any():
        return  # a kink
    current, threshold = found.clone().requires_grad_(), torch.tensor(v, dtype=torch.float64, requires_grad=True)
    reference(current, threshold).backward()
    assert current.grad is not None
    assert threshold.grad is not None
    ours = found.float().requires_grad_()
    trained = torch.tensor(v, requires_grad=True)
    hoyer_measure(ours, trained).backward()
    assert ours.grad is not None
    scale = 1 + float(current.grad.abs().max())
    torch.testing.assert_close(ours.grad.double(), current.grad, atol=1e-4 * scale, rtol=1e-3)
    clipped = found.clamp(0, v)
    first, second = clipped.sum(), (clipped**2).sum()
    saturated = int((found > v).sum())
    by_threshold = 2 * first * saturated * (second - first * v) / second**2
    assert float(threshold.grad) == pytest.approx(float(by_threshold), abs=1e-9, rel=1e-6)
    assert float(trained.grad) == pytest.approx(float(by_threshold), abs=1e-3 * scale, rel=1e-3)
    extremum = float(second / first)
    for value, slope in zip(found.tolist(), current.grad.tolist(), strict=True):
        if 0 < value < v and abs(value - extremum) > 1e-6:
            assert (slope > 0) == (value < extremum)


def reference(values: Tensor, threshold: Tensor) -> Tensor:
    """H in double precision, as it is written, with its gradient checked against finite differences."""

    def measure(values: Tensor, threshold: Tensor) -> Tensor:
        z = torch.minimum(values.relu(), threshold) / threshold
        return z.sum() ** 2 / (z**2).sum()

    inputs = (values.detach().clone().requires_grad_(), threshold.detach().clone().requires_grad_())
    torch.autograd.gradcheck(measure, inputs, eps=1e-7, atol=1e-4, rtol=1e-3)
    return measure(values, threshold)


# --- spikes --------------------------------------------------------------------------------------------------------


def test_each_map_has_its_own_threshold() -> None:
    torch.manual_seed(0)
    current = torch.randn(5, 3, 4, 4) * torch.tensor([0.1, 1.0, 3.0]).view(3, 1, 1)
    neuron = Hoyer(1, threshold=1.5, channels=3).train()
    spikes = neuron(current)
    for number in range(3):
        clipped = current[:, number].clamp(0, 1.5)
        level = (clipped**2).sum() / clipped.sum()
        assert torch.equal(spikes[:, number] == 1, current[:, number] >= level)
    assert torch.equal(
        spikes, Hoyer(1, threshold=1.5, channels=3).train()(current.contiguous(memory_format=torch.channels_last))
    )


def test_the_running_extremum_is_what_is_used_when_it_does_not_learn() -> None:
    neuron = Hoyer(1, channels=2)
    current = torch.tensor([0.5, 1.0]).view(1, 2, 1, 1).expand(4, 2, 3, 3)
    for _ in range(3):
        neuron.train()(current)
    expected = [0.5 + 0.5 * 0.9**3, 1.0]
    assert neuron.running_extremum.tolist() == pytest.approx(expected)
    assert neuron.eval()(torch.tensor([0.86, 1.0]).view(1, 2, 1, 1)).flatten().tolist() == [0, 1]
    assert neuron(torch.tensor([0.87, 0.99]).view(1, 2, 1, 1)).flatten().tolist() == [1, 0]
    assert neuron.running_extremum.tolist() == pytest.approx(expected)


def test_surrogate_by_hand() -> None:
    neuron = Hoyer(1, threshold=2.0).eval()
    current = torch.tensor([[-1.0, 0.0, 1.0, 4.0, 4.5]], requires_grad=True)
    (neuron(current) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == [[0, 0, 0.75, 1.0, 0]]
    # -z / v of each, the spike's slope on z being a half
    assert float(neuron.threshold.grad) == pytest.approx(-(3 * 0.5 * 0.5 + 4 * 0.5 * 2.0) / 2.0)


def test_several_steps_by_hand() -> None:
    neuron = Hoyer(3, threshold=1.0, leak=0.5, encoder=True).eval()
    neuron.running_extremum.fill_(0.8)
    # U: 0.7 | 0.35 + 0.7 = 1.05, fires, 0.25 left | 0.125 + 0.7 = 0.825, fires
    assert neuron(torch.tensor([[0.7]])).flatten().tolist() == [0, 1, 1]


def test_one_step_is_a_scan_of_one() -> None:
    current = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    one, scanned = (Hoyer(1).train() for _ in range(2))
    scanned.keep_potential = True
    assert torch.equal(one(current), scanned(current))
    assert torch.equal(one.running_extremum, scanned.running_extremum)


# --- networks ------------------------------------------------------------------------------------------------------


def little(steps: int) -> SpikingNetwork:
    torch.manual_seed(0)
    body = classifier("vgg6", (3, 32, 32), 4, hidden=(16,), batch_norm=True, dropout=0.0, width=0.1)
    fill_slots(body, "hoyer", steps, encoder=True)
    return SpikingNetwork(body, steps, ["decision.head"])


def test_maps_and_vectors_in_a_network() -> None:
    found = {name: neuron.get_buffer("running_extremum") for name, neuron in neurons_of(little(1)).items()}
    shapes = {name.rpartition(".")[2]: tuple(values.shape) for name, values in found.items()}
    assert shapes == {"conv1": (6,), "conv2": (13,), "conv3": (13,), "fc1": ()}


@pytest.mark.parametrize("steps", [1, 3])
def test_a_network_learns_from_scratch_and_answers_right_after_a_batch(steps: int) -> None:
    network, images = little(steps), torch.randn(64, 3, 32, 32)
    labels = torch.arange(64) % 4
    images[torch.arange(64), :, labels * 8] += 1.5
    with torch.no_grad(), calibrating(network, 90):
        network.train()(images)
    with torch.no_grad():
        network.eval()(images)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert (network.eval()(images).argmax(1) == labels).double().mean() > 0.9


def test_a_conversion_of_an_ordinary_network() -> None:
    torch.manual_seed(0)
    ordinary = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    network, report = convert(ordinary, torch.randn(128, 1, 8, 8), steps=1, neuron="hoyer", percentile=95)
    (neuron,) = neurons_of(network).values()
    assert isinstance(neuron, Hoyer)
    assert neuron.running_extremum.shape == (4,)
    assert 0.05 < report.layers[0].rate < 0.5
    assert report.action_agreement > 0.6
    assert np.isfinite(report.q_error)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_penalty_is_that_of_a_batch_of_128(steps: int) -> None:
    network, images = little(steps), torch.randn(8, 3, 32, 32)
    found: list[float] = []
    network.requires_grad_(False)
    for prices in (Priced(0, 0), Priced(0, 1e-3), Priced(0.5, 0)):
        with penalized(network.eval(), prices) as penalty:
            network(images)
        found.append(float(penalty.add_to(torch.tensor(2.0))))
    with hoyer_measures(network) as measures, spike_rates(network) as rates:
        network(images)
    measured = sum(map(float, measures))
    assert len(measures) == 4 * steps
    assert found[0] == 2
    assert found[1] == pytest.approx(2 + 1e-3 * 128 * measured)
    assert found[2] == pytest.approx(2 + 0.5 * sum(map(float, rates.values())) / 4)


def test_the_penalty_drives_potentials_away_from_the_extremum() -> None:
    current = torch.tensor([[0.2, 0.4, 0.6, 0.8]], requires_grad=True)
    with penalized(neuron := Hoyer(1), Priced(0, 1.0)) as penalty:
        neuron.train()(current)
    penalty.add_to(torch.zeros(())).backward()
    assert current.grad is not None
    assert (current.grad > 0).tolist() == [[True, True, False, False]]  # E = 0.6


def test_the_penalty_of_other_neurons_is_refused_and_an_ordinary_network_has_none() -> None:
    with penalized(nn.Sequential(nn.ReLU()), Priced(0, 1)) as penalty:
        assert not penalty.terms
    with pytest.raises(UserError, match="hoyer_penalty is for hoyer neurons"), penalized(LIF(1), Priced(0, 1)):
        pass


class Priced(NamedTuple):
    spike_penalty: float
    hoyer_penalty: float


# --- agents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
@pytest.mark.parametrize("T", [1, 2])
def test_an_agent_learns_and_its_target_network_follows(policy: str, T: int) -> None:
    agent = hoyer_agent(policy, T)
    start = [neuron.running_extremum.clone() for neuron in hoyer_neurons(agent.q_net)]
    agent.learn(60)
    learnt, target = (
        [neuron.running_extremum for neuron in hoyer_neurons(network)] for network in (agent.q_net, agent.q_net_target)
    )
    assert all(not torch.equal(one, other) for one, other in zip(start, learnt, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(learnt, target, strict=True) if one.numel() > 1)
    agent.target_update_interval = agent._n_calls = 1
    agent._on_step()
    assert all(torch.equal(one, other) for one, other in zip(learnt, target, strict=True))


def test_an_agent_is_saved_reduced_and_read_again(tmp_path: Path) -> None:
    agent = hoyer_agent("CnnPolicy", 2).learn(40)
    agent.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent", env=agent.env)
    assert same(loaded.policy.state_dict(), agent.policy.state_dict())
    assert loaded.hoyer_penalty == 1e-6
    agent.reduce_to(1)
    observation = batch_of(agent.observation_space)
    values = agent.q_net(torch.as_tensor(observation)).detach()
    agent.save(tmp_path / "one")
    again = SpikingDQN.load(tmp_path / "one")
    assert again.T == 1
    assert torch.equal(again.q_net(torch.as_tensor(observation)), values)


def test_an_ordinary_agent_is_converted(tmp_path: Path) -> None:
    ordinary = small_agent("CnnPolicy", T=None, policy_kwargs={"neuron": "hoyer"}).learn(40)
    images = batch_of(ordinary.observation_space, 64)
    spiking, report = convert_agent(ordinary, images, T=1)
    assert all(0 < neuron.running_extremum.mean() <= 1 for neuron in hoyer_neurons(spiking.q_net))
    assert all(0 < layer.rate < 1 for layer in report.layers)


def hoyer_agent(policy: str, T: int) -> SpikingDQN:
    return small_agent(policy, T, policy_kwargs={"neuron": "hoyer"}, hoyer_penalty=1e-6)


def hoyer_neurons(network: nn.Module) -> list[Hoyer]:
    return [neuron for neuron in neurons_of(network).values() if isinstance(neuron, Hoyer)]
