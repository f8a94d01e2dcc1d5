"""Conversion of networks of our own and of others: exact where it can be, one clear line where it cannot."""

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
from torch.nn.utils.parametrizations import weight_norm

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


class Net(nn.Module):
    """A module whose forward is given as a function of it and its input."""

    def __init__(self, forward: Callable[[Any, Any], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Any) -> Any:
        return self._forward(self, x)


def layers() -> dict[str, nn.Module]:
    """Return three linear layers 4 -> 12 -> 12 -> 3."""
    return {"fc1": nn.Linear(4, 12), "fc2": nn.Linear(12, 12), "head": nn.Linear(12, 3)}


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


# --- modules of others ---------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Nested: a block that adds its input to what it makes of it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(12, 12), nn.ReLU(inplace=in_place), nn.Linear(12, 12))
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        if self.in_place:
            out += x
            return F.relu(out, inplace=True)
        return F.relu(x + out)


class Combined(nn.Module):
    """Reads a dict of observations, as combined feature extractors do: an image and a vector that stays real-valued."""

    def __init__(self) -> None:
        super().__init__()
        self.extractors = nn.ModuleDict({"image": nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())})
        self.head = nn.Linear(4 * 9 + 2, 3)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        image = self.extractors["image"](observations["image"].float() / 255)
        return self.head(torch.cat([image, observations["vector"]], dim=1))


def _shared_relu(self: Any, x: Tensor) -> Tensor:
    return self.head(self.act(self.fc2(self.act(self.fc1(x)))))


def _shared_linear(self: Any, x: Tensor) -> Tensor:
    return self.head(F.relu(self.fc2(F.relu(self.fc2(F.relu(self.fc1(x)))))))


def _in_place_and_read_again(self: Any, x: Tensor) -> Tensor:
    h = self.fc1(x)
    F.relu(h, inplace=True)
    h = self.fc2(h)
    torch.relu_(h)
    return self.head(h)


def _dueling(self: Any, x: Tensor) -> Tensor:
    h = torch.relu(self.fc1(x))
    advantage = self.head(torch.relu(self.fc2(h)))
    return self.value(h) + (advantage - advantage.mean(1, keepdim=True))


def _skip_to_the_head(self: Any, x: Tensor) -> Tensor:
    return self.head(F.relu(self.fc1(x))) + self.skip(x)


VECTORS: dict[str, Callable[[], nn.Module]] = {
    "functional relu": lambda: Net(lambda s, x: s.head(F.relu(s.fc2(F.relu(s.fc1(x))))), **layers()),
    "method relu": lambda: Net(lambda s, x: s.head(s.fc2(s.fc1(x).relu()).relu()), **layers()),
    "method relu in place": lambda: Net(lambda s, x: s.head(s.fc2(s.fc1(x).relu_()).relu_()), **layers()),
    "torch.relu": lambda: Net(lambda s, x: s.head(torch.relu(s.fc2(torch.relu(s.fc1(x))))), **layers()),
    "in-place module": lambda: nn.Sequential(nn.Linear(4, 12), nn.ReLU(inplace=True), nn.Linear(12, 3)),
    "in place, read again": lambda: Net(_in_place_and_read_again, **layers()),
    "one ReLU in two slots": lambda: Net(_shared_relu, act=nn.ReLU(), **layers()),
    "one linear layer twice": lambda: Net(_shared_linear, **layers()),
    "residual": lambda: nn.Sequential(nn.Linear(4, 12), nn.ReLU(), Residual(False), Residual(False), nn.Linear(12, 3)),
    "residual in place": lambda: nn.Sequential(nn.Linear(4, 12), nn.ReLU(), Residual(True), nn.Linear(12, 3)),
    "residual from the input": lambda: Net(
        lambda s, x: s.head(F.relu(s.fc2(F.relu(s.fc1(x))) + s.skip(x))), skip=nn.Linear(4, 12), **layers()
    ),
    "input beside spikes": lambda: Net(
        lambda s, x: s.head(torch.cat([F.relu(s.fc1(x)), x], 1)), fc1=nn.Linear(4, 12), head=nn.Linear(16, 3)
    ),
    "spikes of two layers": lambda: Net(
        lambda s, x: s.head(torch.cat((h := F.relu(s.fc1(x)), F.relu(s.fc2(h))), dim=-1)),
        **{**layers(), "head": nn.Linear(24, 3)},
    ),
    "spikes twice": lambda: Net(
        lambda s, x: s.head(torch.cat([h := F.relu(s.fc1(x)), h], 1)), fc1=nn.Linear(4, 12), head=nn.Linear(24, 3)
    ),
    "dueling": lambda: Net(_dueling, value=nn.Linear(12, 1), **layers()),
    "real-valued skip to the head": lambda: Net(_skip_to_the_head, skip=nn.Linear(4, 3), **layers()),
    "sum of a list": lambda: Net(
        lambda s, x: s.head(F.relu(sum([s.fc1(x), s.other(x)]))), other=nn.Linear(4, 12), **layers()
    ),
    "part of the features": lambda: Net(
        lambda s, x: s.head(F.relu(s.fc1(x))[:, 2:8]), fc1=nn.Linear(4, 12), head=nn.Linear(6, 3)
    ),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3)),
    "double precision": lambda: mlp(4, (12,), 3).double(),
}


def _view(self: Any, x: Tensor) -> Tensor:
    h = F.relu(self.conv(x / 255))
    return self.head(h.view(x.size(0), -1))


def _view_by_shape(self: Any, x: Tensor) -> Tensor:
    h = self.conv(x / 255).relu()
    return self.head(h.reshape((x.shape[0], 4 * 36)))


def _view_by_own_size(self: Any, x: Tensor) -> Tensor:
    h = F.relu(self.conv(x / 255))
    return self.head(torch.reshape(h, (h.shape[0], -1)))


def _pooled(self: Any, x: Tensor) -> Tensor:
    h = self.pool(F.relu(self.conv(x / 255)))
    return self.head(torch.flatten(F.avg_pool2d(h, 3), 1))


def _conv(forward: Callable[[Any, Tensor], Tensor], width: int = 4 * 36, **more: nn.Module) -> nn.Module:
    return Net(forward, conv=nn.Conv2d(1, 4, 3), head=nn.Linear(width, 3), **more)


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "view by the input's size": lambda: _conv(_view),
    "reshape by the input's shape": lambda: _conv(_view_by_shape),
    "reshape by its own shape": lambda: _conv(_view_by_own_size),
    "flatten": lambda: _conv(lambda s, x: s.head(F.relu(s.conv(x / 255)).flatten(1))),
    "view without a size": lambda: _conv(lambda s, x: s.head(F.relu(s.conv(x / 255)).view(-1, 144))),
    "average pool": lambda: _conv(_pooled, 4, pool=nn.AvgPool2d(2)),
    "adaptive pool": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ),
    "mean over the pixels": lambda: _conv(lambda s, x: s.head(F.relu(s.conv(x / 255)).mean((2, 3))), 4),
    "maps of two layers": lambda: Net(
        lambda s, x: s.head(torch.cat([h := F.relu(s.conv(x / 255)), F.relu(s.conv2(h))], 1).flatten(1)),
        conv=nn.Conv2d(1, 4, 3),
        conv2=nn.Conv2d(4, 4, 3, padding=1),
        head=nn.Linear(8 * 36, 3),
    ),
}


def observe(name: str) -> Any:
    """Return a batch that the network of this name reads."""
    generator = torch.Generator().manual_seed(1)
    if name in IMAGES:
        return torch.randint(0, 256, (24, 1, 8, 8), generator=generator).float()
    return torch.randn(96, 4, generator=generator, dtype=torch.float64 if name == "double precision" else None)


@pytest.mark.parametrize("name", [*VECTORS, *IMAGES])
def test_modules_of_others_converge(name: str) -> None:
    torch.manual_seed(0)
    module = (VECTORS | IMAGES)[name]()
    observations = observe(name)
    few = convert(module, observations, steps=25, percentile=100)
    many = convert(module, observations, steps=400, percentile=100)
    assert many.report.q_error < few.report.q_error / 4
    assert many.report.q_error < 0.06
    assert not few.report.inexact
    with torch.no_grad():
        spikes: list[Tensor] = []
        for neuron in neurons_of(few.network).values():
            neuron.register_forward_hook(lambda _m, _i, output: spikes.append(output))
        few.network(observations)
        assert all(((s == 0) | (s == 1)).all() for s in spikes)
        # another batch size, and other numbers of steps
        assert few.network(observations[:5]).shape == (5, 3)
        few.network.reduce_to(400)
        torch.testing.assert_close(
            few.network(observations).float(), module.eval()(observations).float(), rtol=0.3, atol=0.3
        )
        few.network.reduce_to(1)
        assert few.network(observations).shape == (len(observations), 3)


def test_spiking_copies_train_and_copy() -> None:
    torch.manual_seed(0)
    for name in ("residual in place", "one linear layer twice", "input beside spikes", "dueling"):
        network = convert(VECTORS[name](), observe(name), steps=3).network
        again = copy.deepcopy(network)
        again.load_state_dict(network.state_dict())
        assert torch.equal(again(observe(name)), network(observe(name)))
        network(observe(name)).pow(2).mean().backward()
        assert all(parameter.grad is not None for parameter in network.parameters()), name


def test_dict_observations() -> None:
    torch.manual_seed(0)
    observations = {
        "image": torch.randint(0, 256, (32, 1, 5, 5), dtype=torch.uint8),
        "vector": torch.randn(32, 2),
    }
    module = Combined()
    errors = [convert(module, observations, steps=t, percentile=100).report.q_error for t in (10, 300)]
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.02
    observations["vector"][3, 1] = float("nan")
    with pytest.raises(UserError, match=r"observations\['vector'\] must be finite, but 1 values"):
        convert(module, observations)


def test_tied_weights_stay_right_and_tied() -> None:
    torch.manual_seed(0)
    module = Net(
        lambda s, x: s.head(F.relu(s.b(F.relu(s.a(F.relu(s.fc1(x))))))),
        a=nn.Linear(12, 12),
        b=nn.Linear(12, 12),
        **layers(),
    )
    module.b.weight = module.a.weight
    made = convert(module, observe(""), steps=400, percentile=100)
    assert made.report.q_error < 0.06
    assert made.network.body.get_parameter("a.weight") is made.network.body.get_parameter("b.weight")
    assert torch.equal(made.network.body.get_parameter("a.weight"), module.a.weight)


def test_one_relu_in_two_slots_gets_a_threshold_for_each() -> None:
    torch.manual_seed(0)
    made = convert(VECTORS["one ReLU in two slots"](), observe(""), steps=3)
    assert list(neurons_of(made.network.body)) == ["act", "act_again"]
    assert made.report.layers[0].threshold != made.report.layers[1].threshold
    assert [neuron.encoder for neuron in neurons_of(made.network.body).values()] == [True, False]


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


def test_report_is_json() -> None:
    torch.manual_seed(0)
    report = convert(mlp(4, (8, 8), 2, nn.Tanh), torch.randn(32, 4)).report
    assert isinstance(report, ConversionReport)
    read = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [layer["name"] for layer in read["layers"]] == ["fc1", "fc2"]
    assert read["inexact"] == ["Tanh at 'fc1.act'", "Tanh at 'fc2.act'"]
    assert 0 <= read["action_agreement"] <= 1
    assert read["q_error"] == report.q_error


# --- refused, in one line ------------------------------------------------------------------------------------------


def _branch(self: Any, x: Tensor) -> Tensor:
    return self.head(F.relu(self.fc1(x)) if x.sum() > 0 else F.relu(self.fc1(-x)))


def _lstm(self: Any, x: Tensor) -> Tensor:
    return self.head(self.lstm(F.relu(self.fc1(x)))[0])


def _two_heads_share(self: Any, x: Tensor) -> Tensor:
    h = self.head(F.relu(self.fc1(x)))
    return h + self.last(F.relu(h))


def _changing(self: Any, x: Tensor) -> Tensor:
    self.calls = getattr(self, "calls", 0) + 1
    return self.head(F.relu(self.fc1(x))) * self.calls


def _with_norm(self: Any, x: Tensor) -> Tensor:
    return self.head(self.norm(F.relu(self.fc1(x))))


def _one_layer_two_norms(self: Any, x: Tensor) -> Tensor:
    h = F.relu(self.norm(self.fc1(x)))
    return self.head(F.relu(self.other(self.fc1(h))))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "LSTM": (lambda: Net(_lstm, lstm=nn.LSTM(12, 12), **layers()), "LSTM at 'lstm' is not supported between spikes"),
    "softmax": (
        lambda: Net(lambda s, x: s.head(F.softmax(F.relu(s.fc1(x)), dim=1)), **layers()),
        "softmax at 'softmax' is not supported between spikes",
    ),
    "softmax output": (
        lambda: nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3), nn.Softmax(1)),
        "Softmax at '3' is not supported between spikes",
    ),
    "max pooling": (
        lambda: nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.MaxPool1d(2), nn.Linear(6, 3)),
        "MaxPool1d at '2' is not supported",
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, 3)),
        "LayerNorm at '2' is not supported",
    ),
    "product of spikes": (
        lambda: Net(lambda s, x: s.head((h := F.relu(s.fc1(x))) * h), **layers()),
        "mul at 'mul' is not supported",
    ),
    "norm after the activation": (
        lambda: Net(_with_norm, norm=nn.BatchNorm1d(12), **layers()),
        "batch-norm 'norm' cannot",
    ),
    "norm of the input": (
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3)),
        "batch-norm '0' cannot be folded",
    ),
    "norm without statistics": (
        lambda: nn.Sequential(
            nn.Linear(4, 12), nn.BatchNorm1d(12, track_running_stats=False), nn.ReLU(), nn.Linear(12, 3)
        ),
        "batch-norm '1' cannot be folded: it must have running statistics",
    ),
    "one layer with two norms": (
        lambda: Net(
            _one_layer_two_norms,
            fc1=nn.Linear(4, 4),
            norm=nn.BatchNorm1d(4),
            other=nn.BatchNorm1d(4),
            head=nn.Linear(4, 2),
        ),
        "batch-norm 'norm' cannot be folded",
    ),
    "norm beside another reader": (
        lambda: Net(lambda s, x: s.head(F.relu(s.norm(h := s.fc1(x)) + h)), norm=nn.BatchNorm1d(12), **layers()),
        "batch-norm 'norm' cannot be folded",
    ),
    "branch on values": (lambda: Net(_branch, **layers()), "Net cannot be traced .*: its forward must not branch"),
    "loop over the batch": (
        lambda: Net(lambda s, x: torch.stack([s.head(F.relu(s.fc1(row))) for row in x]), **layers()),
        "Net cannot be traced",
    ),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 3)), "nothing to convert.*it is linear"),
    "no head": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()), "give it a linear head"),
    "tied head": (
        lambda: Net(lambda s, x: s.fc2(F.relu(s.fc2(F.relu(s.fc1(x))))), **layers()),
        "must come from linear layers of its own",
    ),
    "head that feeds spikes": (
        lambda: Net(_two_heads_share, last=nn.Linear(3, 3), **layers()),
        "must come from linear layers of its own",
    ),
    "output beside the spikes": (
        lambda: Net(lambda s, x: (F.relu(s.fc1(x)), s.skip(x))[1], skip=nn.Linear(4, 3), **layers()),
        "does not depend on any activation",
    ),
    "constant": (
        lambda: Net(lambda s, x: s.head(F.relu(s.fc1(x))) + 1.0, **layers()),
        "add at 'add' adds a constant: make it the bias",
    ),
    "two outputs": (
        lambda: Net(lambda s, x: (s.head(F.relu(s.fc1(x))), x), **layers()),
        r"one tensor of Q-values \(B, K\)",
    ),
    "vector output": (lambda: Net(lambda s, x: s.head(F.relu(s.fc1(x))).sum(1), **layers()), r"Q-values \(B, K\)"),
    "mixes the batch": (
        lambda: Net(lambda s, x: s.head((h := F.relu(s.fc1(x))) - h.mean(0, keepdim=True)), **layers()),
        "mean at 'mean' is not supported between spikes and output: it must keep the rows",
    ),
    "fixed batch size": (
        lambda: Net(lambda s, x: s.head(F.relu(s.fc1(x)).view(96, 12)), **layers()),
        "view at 'view'",
    ),
    "joins the batch": (
        lambda: Net(lambda s, x: s.head(torch.cat([h := F.relu(s.fc1(x)), h])), **layers()),
        "cat at 'cat' joins rows of the batch",
    ),
    "computed weight": (
        lambda: nn.Sequential(nn.Linear(4, 12), nn.ReLU(), weight_norm(nn.Linear(12, 3))),
        "ParametrizedLinear at '2' has a computed weight",
    ),
    "activation over two layers": (
        lambda: Net(
            lambda s, x: s.head(F.relu(torch.cat([h := F.relu(s.fc1(x)), F.relu(s.fc2(h))], 1))),
            **{**layers(), "head": nn.Linear(24, 3)},
        ),
        "relu at 'relu_2' reads spikes of several layers at once",
    ),
    "other at every call": (lambda: Net(_changing, **layers()), "other answers once it is traced|is not supported"),
    "wrong observations": (lambda: mlp(5, (8,), 2), "Sequential cannot read these observations: mat1 and mat2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str) -> None:
    torch.manual_seed(0)
    make, message = REFUSED[name]
    module = make()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UserError, match=message) as caught:
        convert(module, observe(""), steps=3)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_observations_must_be_finite(value: float) -> None:
    observations = torch.zeros(4, 4)
    observations[2, 1] = value
    with pytest.raises(UserError, match="observations must be finite, but 1 values are NaN or infinite"):
        convert(mlp(4, (8,), 2), observations)


def test_outputs_must_be_finite() -> None:
    module = mlp(4, (8,), 2)
    with torch.no_grad():
        module.fc1.weights.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        convert(module, torch.ones(4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": "lifs"}, "unknown neuron 'lifs'; did you mean 'lif'?"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"percentile": 0}, "percentile in"),
        ({"percentile": 101}, "percentile in"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        convert(mlp(4, (8,), 2), torch.rand(4, 4), **options)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(UserError, match="for a batch of observations"):
        convert(mlp(4, (8,), 2), torch.zeros(0, 4))


def test_trace_shares_parameters_and_names() -> None:
    module = mlp(4, (8,), 2)
    graph = trace(module)
    assert isinstance(graph, fx.GraphModule)
    assert [name for name, _ in graph.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert all(a is b for a, b in zip(graph.parameters(), module.parameters(), strict=True))
