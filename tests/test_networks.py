"""Networks whose activation slots spike: direct encoding, state that never hides, fewer timesteps."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from snnrl.conversion import convert
from snnrl.networks import (
    DuelingMLP,
    NetworkState,
    SpikingNetwork,
    calibrating,
    carried,
    constrain,
    fill_slots,
    mlp,
    nature_cnn,
    neurons_of,
    output_width,
    reset_rows,
    small_conv,
    spike_counts,
    spike_rates,
)
from snnrl.neurons import LIF
from snnrl.neurons.surrogate import GAMMA

IMAGE = (3, 32, 32)
NATURE_IMAGE = (2, 36, 36)


def _with_head(features: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(features, mlp(width, (), 3))


def _settle_batch_norm(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give batch-norm statistics and affine parameters that are not those it starts with."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    network.train()
    for _ in range(3):
        network(torch.rand(8, *shape))
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(6, (16, 12), 3), (6,)),
    "dueling": (lambda: DuelingMLP(6, (16,), 3), (6,)),
    "small_conv": (lambda: _with_head(small_conv(IMAGE, 24), 24), IMAGE),
    "small_conv_flat": (lambda: _with_head(small_conv(IMAGE, 0), 32), IMAGE),
    "small_conv_norm": (
        lambda: _settle_batch_norm(_with_head(small_conv(IMAGE, 24, batch_norm=True), 24), IMAGE),
        IMAGE,
    ),
    "nature_cnn": (lambda: _with_head(nature_cnn(NATURE_IMAGE, 32), 32), NATURE_IMAGE),
    "nature_cnn_norm": (
        lambda: _settle_batch_norm(_with_head(nature_cnn(NATURE_IMAGE, 32, batch_norm=True), 32), NATURE_IMAGE),
        NATURE_IMAGE,
    ),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    return make(), torch.rand(6, *shape)


def spiking(name: str, steps: int) -> tuple[SpikingNetwork, Tensor]:
    network, observations = build(name)
    return convert(network, observations, steps=steps).network, observations


# --- the ordinary networks -----------------------------------------------------------------------------------------


def test_shapes_by_hand() -> None:
    # 32 -> (32 - 5) // 2 + 1 = 14 -> 5 -> 1, 32 maps; 36 -> (36 - 8) // 4 + 1 = 8 -> 3 -> 1, 64 maps
    assert output_width(small_conv(IMAGE, 0), IMAGE) == 32
    assert output_width(nature_cnn(NATURE_IMAGE, 0), NATURE_IMAGE) == 64
    assert output_width(nature_cnn((4, 84, 84), 0), (4, 84, 84)) == 3136
    assert nature_cnn((4, 84, 84)).get_submodule("fc1.weights").weight.shape == (512, 3136)
    names = [name for name, _ in mlp(4, (8, 8), 2).named_children()]
    assert names == ["fc1", "fc2", "head"]
    assert [name for name, _ in mlp(4, (), 2).named_children()] == ["head"]


def test_output_width_leaves_the_mode() -> None:
    for training in (True, False):
        network = small_conv(IMAGE, 8, batch_norm=True).train(training)
        output_width(network, IMAGE)
        assert all(module.training is training for module in network.modules())


def test_dueling_by_hand() -> None:
    # V = 2, A = (1, 3, 5), mean 3: Q = (0, 2, 4)
    network = DuelingMLP(1, (), 3)
    with torch.no_grad():
        for head, bias in ((network.value, [2.0]), (network.advantage, [1.0, 3.0, 5.0])):
            head.head.weight.zero_()
            head.head.bias.copy_(torch.tensor(bias))
    assert network(torch.zeros(1, 1)).tolist() == [[0, 2, 4]]


# --- spikes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_spikes_are_zero_or_one_and_time_is_folded(name: str, steps: int) -> None:
    network, observations = spiking(name, steps)
    neurons = list(neurons_of(network).values())
    outputs: list[Tensor] = []
    rows: dict[str, list[int]] = {}
    for neuron in neurons:
        neuron.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    for layer, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            rows[layer] = []
            module.register_forward_pre_hook(lambda _m, inputs, layer=layer: rows[layer].append(len(inputs[0])))

    answer = network(observations)

    assert answer.shape == (6, 3)
    assert torch.isfinite(answer).all()
    assert len(outputs) == len(neurons) > 0
    for output in outputs:
        assert len(output) == 6 * steps
        assert ((output == 0) | (output == 1)).all()
    assert any((output == 1).any() for output in outputs)
    # direct encoding: the first layer of each branch sees the batch once, all others the steps as one big batch
    encoders = sum(neuron.encoder for neuron in neurons)
    assert encoders == (2 if name == "dueling" else 1)
    assert sorted(rows.values()) == sorted([[6]] * encoders + [[6 * steps]] * (len(rows) - encoders))
    assert next(iter(rows.values())) == [6]


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_is_stateless(name: str) -> None:
    network, observations = spiking(name, 3)
    first = network(observations)
    network(torch.rand_like(observations))
    assert torch.equal(first, network(observations))
    assert all(neuron.potential is None for neuron in neurons_of(network).values())


def test_gradients_reach_every_parameter() -> None:
    network, observations = spiking("dueling", 3)
    network(observations).pow(2).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert sum(float(p.grad.abs().sum()) > 0 for p in network.parameters() if p.grad is not None) >= 8


def test_one_step_is_a_comparison_with_no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    network, observations = spiking("mlp", 1)
    with carried(network, None):  # the longer way round, which scans
        expected = network(observations)
    monkeypatch.delattr(LIF, "scan")
    assert torch.equal(network(observations), expected)


# --- state that is passed on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "dueling", "small_conv"])
@pytest.mark.parametrize("steps", [1, 3])
def test_two_carried_decisions_are_one_of_twice_the_steps(name: str, steps: int) -> None:
    network, observations = spiking(name, steps)
    with torch.no_grad():
        for neuron in neurons_of(network).values():
            neuron.leak.fill_(0.9)
    twice = copy.deepcopy(network)
    twice.reduce_to(2 * steps)  # halves the head, hence the factor 2 below
    expected, last = twice.decide(observations, None)

    first, state = network.decide(observations, None)
    second, state = network.decide(observations, state)

    torch.testing.assert_close(first + second, 2 * expected, rtol=1e-4, atol=1e-5)
    assert len(state.potentials) == len(neurons_of(network)) == len(last.potentials)
    for ours, theirs in zip(state.potentials, last.potentials, strict=True):
        assert ours.shape[0] == len(observations)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.equal(first, second)


def test_decide_from_zero_is_the_forward() -> None:
    network, observations = spiking("small_conv", 3)
    answer, state = network.decide(observations, None)
    assert torch.equal(answer, network(observations))
    zero = NetworkState(tuple(torch.zeros_like(p) for p in state.potentials))
    assert torch.equal(answer, network.decide(observations, zero)[0])
    assert not answer.requires_grad


def test_reset_rows_zeroes_only_the_starting_rows() -> None:
    state = NetworkState((torch.ones(3, 2), torch.ones(3, 2, 2, 2)))
    reset = reset_rows(state, torch.tensor([False, True, False]))
    for potential in reset.potentials:
        assert potential[1].abs().sum() == 0
        assert (potential[[0, 2]] == 1).all()
    assert all((potential == 1).all() for potential in state.potentials)


def test_reset_rows_decide_like_fresh_ones() -> None:
    network, observations = spiking("small_conv", 2)
    fresh, state = network.decide(observations, None)
    start = torch.tensor([True, False, True, False, False, False])
    answer, _ = network.decide(observations, reset_rows(state, start))
    torch.testing.assert_close(answer[start], fresh[start])
    assert not torch.allclose(answer[~start], fresh[~start])


def _is_clean(network: nn.Module) -> bool:
    return all(
        (neuron.potential, neuron.count, neuron.percentile, neuron.keep_potential) == (None, None, None, False)
        and not neuron._forward_hooks
        for neuron in neurons_of(network).values()
    )


def test_an_exception_inside_a_block_leaves_nothing_behind() -> None:
    network, observations = spiking("mlp", 2)
    before = network(observations)
    _, state = network.decide(observations, None)
    for block in (carried(network, state), spike_counts(network), spike_rates(network), calibrating(network, 50)):
        with pytest.raises(RuntimeError, match="mat1 and mat2"), block:  # noqa: PT012
            assert not _is_clean(network)
            network(torch.zeros(2, 99))
        assert _is_clean(network)
    assert torch.equal(before, network(observations))


def test_carried_collects_nothing_when_the_forward_fails() -> None:
    network, _ = spiking("mlp", 2)
    with pytest.raises(ZeroDivisionError), carried(network, None) as collected:
        raise ZeroDivisionError
    assert collected == []


# --- counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4])
def test_spike_counts_per_layer(steps: int) -> None:
    network, observations = spiking("mlp", steps)
    outputs: dict[str, torch.Tensor] = {}
    for name, neuron in neurons_of(network.body).items():
        neuron.register_forward_hook(lambda _m, _i, o, name=name: outputs.__setitem__(name, o.detach()))
    with spike_counts(network.body) as counts:
        network(observations)
    assert list(counts) == ["fc1", "fc2"]
    for name, width in (("fc1", 16), ("fc2", 12)):
        assert torch.equal(counts[name].spikes, outputs[name].sum(0))
        assert counts[name].decisions == 6
        assert counts[name].rate == pytest.approx(float(outputs[name].sum()) / (6 * width))
        assert 0 < counts[name].rate <= steps
    with spike_rates(network.body) as rates:
        network(observations)
    assert {name: rate.item() for name, rate in rates.items()} == pytest.approx(
        {name: count.rate for name, count in counts.items()}
    )


def test_rates_have_the_surrogates_gradient() -> None:
    layer = nn.Sequential()
    layer.add_module("act", LIF(1, threshold=2.0))
    current = torch.tensor([[1.0, 2.5, 5.0, -1.0]], requires_grad=True)
    with spike_rates(layer) as rates:
        layer(current)
    (rate,) = rates.values()
    assert rate.item() == 0.5
    rate.backward()
    # a quarter each of GAMMA / threshold * max(0, 1 - |current / threshold - 1|)
    assert current.grad is not None
    assert current.grad.tolist() == [pytest.approx([GAMMA / 2 * value / 4 for value in (0.5, 0.75, 0.0, 0.0)])]


# --- thresholds, leaks, steps --------------------------------------------------------------------------------------


def test_fill_slots_and_calibrate() -> None:
    chain = mlp(2, (2, 2), 1)
    fill_slots(chain, "lif", 2, encoder=True)
    neurons = neurons_of(chain)
    assert list(neurons) == ["fc1", "fc2"]
    assert [neuron.encoder for neuron in neurons.values()] == [True, False]
    with torch.no_grad():
        for weights in (chain.fc1.weights, chain.fc2.weights):
            weights.weight.copy_(torch.eye(2))
            weights.bias.zero_()
        with calibrating(chain, 75):
            # currents 1, 2, 3, 4: the 75th percentile is 3. With v = 3: 1 -> 0 0, 2 -> 0 1, 3 -> 0 1, 4 -> 1 1.
            # 4 of the 8 currents of fc2 are 1 and 4 are 0: the 75th percentile is 1
            chain(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert [neuron.spike_value for neuron in neurons.values()] == [3.0, 1.0]
    assert _is_clean(chain)


def test_constrain_reaches_every_layer() -> None:
    network, _ = spiking("mlp", 2)
    with torch.no_grad():
        for neuron in neurons_of(network).values():
            neuron.threshold.fill_(-1)
            neuron.leak.fill_(1.25)
    constrain(network)
    for neuron in neurons_of(network).values():
        assert neuron.threshold > 0
        assert neuron.leak == 1


@pytest.mark.parametrize("name", ["mlp", "dueling", "small_conv"])
def test_reducing_the_steps_scales_the_heads(name: str) -> None:
    network, observations = spiking(name, 5)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    answer = network(observations)

    network.reduce_to(3)

    assert network.steps == 3
    assert all(neuron.steps == 3 for neuron in neurons_of(network).values())
    assert len(network.heads) == (2 if name == "dueling" else 1)
    for key, value in network.state_dict().items():
        of_head = key.removeprefix("body.").rpartition(".")[0] in network.heads
        torch.testing.assert_close(value, before[key] * 5 / 3 if of_head else before[key], rtol=1e-6, atol=0)
    assert network(observations).shape == (6, 3)

    network.reduce_to(5)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-6, atol=0)
    torch.testing.assert_close(network(observations), answer, rtol=1e-4, atol=1e-5)


def test_reducing_keeps_the_scale_of_a_constant_rate() -> None:
    # I = 1.5 > v = 1 at every step, and soft reset leaves 0.5 more each time: one spike a step whatever T is.
    # The head weighs 4 / T, its bias 2 / T: Q = T * (4 / T + 2 / T) = 6
    body = mlp(1, (1,), 1)
    fill_slots(body, "lif", 4, encoder=True)
    with torch.no_grad():
        for parameter, value in zip(body.parameters(), (1.5, 0.0, 1.0, 1.0, 1.0, 0.5), strict=True):
            parameter.fill_(value)
    network = SpikingNetwork(body, 4, ["head"])
    for steps in (4, 2, 1, 3):
        network.reduce_to(steps)
        assert network(torch.ones(1, 1)).item() == pytest.approx(6.0)
