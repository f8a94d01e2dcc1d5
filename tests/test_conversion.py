"""Conversion of networks of our own: exact by hand, towards the ordinary network, reported on."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from modules import Net, layers
from snnrl.conversion import ConversionReport, LayerReport, agreement, convert
from snnrl.conversion.fuse import fold_batch_norm
from snnrl.conversion.graph import trace
from snnrl.errors import UserError
from snnrl.networks import DuelingMLP, mlp, nature_cnn, neurons_of, small_conv

IMAGE = (3, 32, 32)


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    """Return a layer with these weights."""
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias or [0.0] * len(weight)))
    return layer


def random_batch_norm(network: nn.Module) -> nn.Module:
    """Give every batch-norm statistics and affine parameters of its own."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
    return network


def relative_error(module: nn.Module, observations: Any, steps: int) -> float:
    """Return the q_error of the conversion with the largest pre-activation as threshold."""
    return convert(module, observations, steps=steps, percentile=100).report.q_error


# --- by hand -------------------------------------------------------------------------------------------------------


def test_thresholds_and_outputs_by_hand() -> None:
    """The threshold of the second layer comes from the spikes of the first, not from its activations."""
    # Inputs 1..4, fc1: weight 1, so currents 1..4; 75th percentile: v_1 = 3. Two steps without leak:
    #   x = 1: U = 1, 2 -> 0 0    x = 2: U = 2, 4 -> 0 1    x = 3: U = 3, 6 -> 0 1    x = 4: U = 4, 5 -> 1 1
    # fc2: weight 2, bias 1 on relu(fc1), so on spikes its weight is 2 * 3 = 6. Its currents are
    #   t = 1: 1 1 1 7    t = 2: 1 7 7 7; of these eight the 75th percentile is the sixth: v_2 = 7
    #   x = 1: U = 1, 2 -> 0 0    x = 2: U = 1, 8 -> 0 1    x = 3: as 2    x = 4: U = 7, 14 -> 0 1 (strictly greater)
    # head: weight 1, bias 0.5, on spikes 7; divided by T = 2: 3.5 and 0.25. Q = 3.5 * spikes + 2 * 0.25
    module = nn.Sequential(linear([[1]]), nn.ReLU(), linear([[2]], [1]), nn.ReLU(), linear([[1]], [0.5]))
    made = convert(module, torch.tensor([[1.0], [2], [3], [4]]), steps=2, percentile=75)
    assert [layer.threshold for layer in made.report.layers] == [3, 7]
    assert [layer.name for layer in made.report.layers] == ["1", "3"]
    assert [layer.rate for layer in made.report.layers] == [4 / 4, 3 / 4]
    body = made.network.body
    assert [body.get_parameter(f"{i}.{p}").item() for i in (0, 2, 4) for p in ("weight", "bias")] == [
        1,
        0,
        6,
        1,
        3.5,
        0.25,
    ]
    assert made.network(torch.tensor([[1.0], [2], [3], [4]])).flatten().tolist() == [0.5, 4, 4, 4]
    assert made.network.heads == ("4",)


@pytest.mark.parametrize(("percentile", "expected"), [(90, 9), (100, 10), (50, 5), (1, 1)])
def test_percentile_threshold_of_one_layer(percentile: float, expected: float) -> None:
    module = nn.Sequential(linear([[1]]), nn.ReLU(), linear([[1]]))
    made = convert(module, torch.arange(1.0, 11.0).view(10, 1), percentile=percentile)
    assert made.report.layers[0].threshold == expected


def test_agreement_by_hand() -> None:
    # greedy actions 0, 1 and 0, 0: half agree; |error| = 0, 0, 0, 4, mean 1; std of 4, 0, 0, 4 is sqrt(16 / 3)
    expected = torch.tensor([[4.0, 0], [0, 4]])
    same, error = agreement(expected, torch.tensor([[4.0, 0], [0, 0]]))
    assert same == 0.5
    assert error == pytest.approx(1 / (16 / 3) ** 0.5)


# --- the argument is left alone ------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_left_as_it_was(training: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(random_batch_norm(small_conv(IMAGE, 8, batch_norm=True)), nn.Linear(8, 2)).train(training)
    module[0].conv1.norm.eval()  # frozen, whatever the rest does
    weights = copy.deepcopy(module.state_dict())
    structure = repr(module)
    modes = [part.training for part in module.modules()]
    identities = [id(part) for part in module.modules()]
    observations = torch.rand(4, *IMAGE)
    kept = observations.clone()

    made = convert(module, observations, steps=2)

    assert list(weights) == list(module.state_dict())
    assert all(torch.equal(weights[key], value) for key, value in module.state_dict().items())
    assert repr(module) == structure
    assert [part.training for part in module.modules()] == modes
    assert [id(part) for part in module.modules()] == identities
    assert torch.equal(observations, kept)
    assert not {p.data_ptr() for p in module.parameters()} & {p.data_ptr() for p in made.network.parameters()}
    assert all(parameter.requires_grad for parameter in made.network.parameters())
    assert not any(part.training for part in made.network.modules())


def test_observations_overwritten_by_the_network_are_left_alone() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x /= 10
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x)))))

    torch.manual_seed(0)
    module = Net(forward, **layers())
    observations = torch.randn(64, 4) * 10
    kept = observations.clone()
    made = convert(module, observations, steps=200, percentile=100)
    assert torch.equal(observations, kept)
    assert made.report.q_error < 0.1


# --- batch-norm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (lambda: nature_cnn((2, 36, 36), 16, batch_norm=True), (2, 36, 36)),
        (lambda: small_conv(IMAGE, 8, batch_norm=True), IMAGE),
        (lambda: nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2)), (5,)),
        (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3, affine=False), nn.ReLU(), nn.Flatten()), (2, 9)),
    ],
)
def test_batch_norm_is_folded(network: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = random_batch_norm(network()).eval()
    observations = torch.rand(16, *shape)
    expected = module(observations)
    graph = trace(copy.deepcopy(module))
    fold_batch_norm(graph)
    assert not any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in graph.modules())
    torch.testing.assert_close(graph(observations), expected, rtol=1e-4, atol=1e-4)


def test_folding_by_hand() -> None:
    # w' = w g / sqrt(var + eps) = 3 * 2 / sqrt(4) = 3; b' = (b - mean) g / 2 + beta = (1 - 5) + 7 = 3
    norm = nn.BatchNorm1d(1, eps=0)
    with torch.no_grad():
        for tensor, value in ((norm.weight, 2), (norm.bias, 7), (norm.running_mean, 5), (norm.running_var, 4)):
            assert tensor is not None
            tensor.fill_(value)
    module = nn.Sequential(linear([[3]], [1]), norm, nn.ReLU(), linear([[1]])).eval()
    graph = trace(module)
    fold_batch_norm(graph)
    assert graph.get_parameter("0.weight").item() == 3
    assert graph.get_parameter("0.bias").item() == 3


def test_names_survive_folding() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(small_conv(IMAGE, 8, batch_norm=True), mlp(8, (4,), 2))
    made = convert(module, torch.rand(4, *IMAGE))
    names = {name for name, _ in made.network.body.named_parameters()}
    blocks = ["0.conv1", "0.conv2", "0.conv3", "0.fc1", "1.fc1"]
    expected = {f"{b}.{p}" for b in blocks for p in ("weights.weight", "weights.bias", "act.threshold", "act.leak")}
    assert names == expected | {"1.head.weight", "1.head.bias"}
    assert list(neurons_of(made.network.body)) == blocks


# --- towards the ordinary network ----------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    width=st.integers(4, 24),
    gain=st.floats(0.5, 3),
    percentile=st.sampled_from([99.9, 100]),
)
def test_one_hidden_layer_converges(seed: int, width: int, gain: float, percentile: float) -> None:
    torch.manual_seed(seed)
    module = mlp(4, (width,), 3)
    with torch.no_grad():
        module.fc1.weights.weight.mul_(gain)
    observations = torch.randn(128, 4)
    errors = [convert(module, observations, steps=t, percentile=percentile).report.q_error for t in (3, 20, 200)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), dueling=st.booleans())
def test_deep_networks_converge_as_one_over_the_steps(seed: int, dueling: bool) -> None:
    torch.manual_seed(seed)
    module = DuelingMLP(4, (12, 12), 3) if dueling else mlp(4, (16, 16), 3)
    observations = torch.randn(64, 4)
    few, many = relative_error(module, observations, 40), relative_error(module, observations, 640)
    assert many < few / 4
    assert many < 0.05


def test_two_hidden_layers_at_two_hundred_steps() -> None:
    torch.manual_seed(0)
    module = mlp(4, (16, 16), 3)
    observations = torch.randn(200, 4)
    errors = [relative_error(module, observations, steps) for steps in (2, 10, 50, 200)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.03


@pytest.mark.parametrize("batch_norm", [False, True])
def test_images_converge(batch_norm: bool) -> None:
    torch.manual_seed(0)
    features = random_batch_norm(small_conv((3, 30, 30), 16, batch_norm=batch_norm))
    module = nn.Sequential(features, mlp(16, (), 3))
    observations = torch.rand(12, 3, 30, 30)
    few, many = relative_error(module, observations, 20), relative_error(module, observations, 300)
    assert many < few / 3


# --- reports -------------------------------------------------------------------------------------------------------


def test_dead_and_saturated_layers_are_named() -> None:
    # dead: every current is negative; busy: the lowest of a hundred positive currents is the threshold
    dead = nn.Sequential(linear([[-1]]), nn.ReLU(), linear([[1]]))
    report = convert(dead, torch.rand(10, 1) + 1, steps=4).report
    assert len(report.advice) == 1
    assert report.advice[0].startswith("layer 1 is dead (rate 0.00000)")
    assert "lower" in report.advice[0]
    busy = nn.Sequential(linear([[1]]), nn.ReLU(), linear([[1]]))
    report = convert(busy, torch.linspace(10, 20, 100).view(-1, 1), steps=50, percentile=1).report
    assert len(report.advice) == 1
    assert report.advice[0].startswith("layer 1 is saturated (rate 49.99 of 50)")
    assert "raise" in report.advice[0]


def test_rates_between_are_not_advised_on() -> None:
    assert LayerReport("fc1", 1.0, 0.5, 5, False).advice is None
    assert LayerReport("fc1", 1.0, 4.9, 5, False).advice is not None
    assert LayerReport("fc1", 1.0, 0.0, 5, False).advice is not None
    assert LayerReport("fc1", 1.0, 0.5, 5, True).advice is not None


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.GELU, nn.SiLU])
def test_inexact_activations_are_advised_on(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    report = convert(mlp(4, (8,), 2, activation), torch.randn(32, 4)).report
    assert report.inexact == (f"{activation.__name__} at 'fc1.act'",)
    assert any("fc1.act" in line and "distil" in line for line in report.advice)


@pytest.mark.parametrize(
    ("activation", "named"),
    [
        (nn.PReLU(), "PReLU at "),
        (nn.Hardtanh(), "Hardtanh at "),
        (lambda x: x.clamp(min=0), "clamp at 'clamp'"),
        (lambda x: F.leaky_relu_(x), "leaky_relu_ at "),
    ],
)
def test_activations_that_stay_are_named(activation: Callable[[Tensor], Tensor], named: str) -> None:
    class Mixed(nn.Module):
        def __init__(self, spiking: bool) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
            self.spiking = spiking
            self.other = activation if isinstance(activation, nn.Module) else None

        def forward(self, x: Tensor) -> Tensor:
            x = (self.other or activation)(self.first(x))
            return self.head(torch.relu(self.second(x))) if self.spiking else self.head(x)

    report = convert(Mixed(True), torch.randn(64, 8)).report
    assert [name.startswith(named) for name in report.dense] == [True]
    assert any(advice.startswith(named) and "stays before the spikes" in advice for advice in report.advice)
    with pytest.raises(UserError, match=r"no activation that could spike \(.* cannot\)") as caught:
        convert(Mixed(False), torch.randn(64, 8))
    assert named in str(caught.value)


def test_report_is_json() -> None:
    torch.manual_seed(0)
    report = convert(mlp(4, (8, 8), 2, nn.Tanh), torch.randn(32, 4)).report
    assert isinstance(report, ConversionReport)
    read = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [layer["name"] for layer in read["layers"]] == ["fc1", "fc2"]
    assert read["inexact"] == ["Tanh at 'fc1.act'", "Tanh at 'fc2.act'"]
    assert 0 <= read["action_agreement"] <= 1
    assert read["q_error"] == report.q_error


# --- the trace -------------------------------------------------------------------------------------------------------


def test_optional_arguments_take_their_defaults() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: Tensor, mask: Tensor | None = None, scale: bool = True, factor: float = 2.0) -> Tensor:
            values: Tensor = self.layers(x)
            if mask is not None:
                values = values.masked_fill(mask, -1e9)
            return values if scale else values * factor

    module, observations = Masked(), torch.randn(64, 4)
    network = convert(module, observations, steps=500, percentile=100).network
    assert float((network(observations) - module(observations)).detach().abs().max()) < 0.05


def test_subclasses_of_layers_are_layers() -> None:
    class Orthogonal(nn.Linear):
        def reset_parameters(self) -> None:
            nn.init.orthogonal_(self.weight)
            nn.init.zeros_(self.bias)

    network = convert(nn.Sequential(Orthogonal(4, 8), nn.ReLU(), Orthogonal(8, 2)), torch.randn(64, 4)).network
    assert network.heads == ("2",)


def test_trace_shares_parameters_and_names() -> None:
    module = mlp(4, (8,), 2)
    graph = trace(module)
    assert isinstance(graph, fx.GraphModule)
    assert [name for name, _ in graph.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert all(a is b for a, b in zip(graph.parameters(), module.parameters(), strict=True))
