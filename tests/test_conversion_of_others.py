"""Conversion of modules that others wrote: functional, in place, with shared parts, residual, over dicts."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules import Net, layers, vectors
from snnrl.conversion import convert
from snnrl.errors import UserError
from snnrl.networks import mlp, neurons_of


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
    if name in IMAGES:
        return torch.randint(0, 256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    return vectors(torch.float64 if name == "double precision" else None)


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
    made = convert(module, vectors(), steps=400, percentile=100)
    assert made.report.q_error < 0.06
    assert made.network.body.get_parameter("a.weight") is made.network.body.get_parameter("b.weight")
    assert torch.equal(made.network.body.get_parameter("a.weight"), module.a.weight)


def test_one_relu_in_two_slots_gets_a_threshold_for_each() -> None:
    torch.manual_seed(0)
    made = convert(VECTORS["one ReLU in two slots"](), vectors(), steps=3)
    assert list(neurons_of(made.network.body)) == ["act", "act_again"]
    assert made.report.layers[0].threshold != made.report.layers[1].threshold
    assert [neuron.encoder for neuron in neurons_of(made.network.body).values()] == [True, False]
