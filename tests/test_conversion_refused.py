"""What cannot be converted is refused, in one line."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from modules import Net, layers, vectors
from snnrl.conversion import convert
from snnrl.errors import UserError
from snnrl.networks import mlp


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
        convert(module, vectors(), steps=3)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_old_weight_norm_is_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.utils.weight_norm(nn.Linear(8, 2)))
    module(torch.randn(2, 4))
    with pytest.raises(UserError, match="remove its weight norm first"):
        convert(module, torch.randn(9, 4))


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
