"""ONNX and NIR: other programs send the spikes of the network, but for currents at the edge of a level."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from modules import settled
from snnrl.agents.classifier.agent import Classifier, Description
from snnrl.agents.evaluate import play
from snnrl.agents.exported import agent_chain, classifier_chain
from snnrl.agents.library import open_agent
from snnrl.errors import UserError
from snnrl.export import Chain, Layer, Observation, chain_of, currents
from snnrl.export.agreement import agreement
from snnrl.export.chain import Firing
from snnrl.export.nir import nir_bytes, to_nir
from snnrl.export.onnx import OPSET, to_onnx
from snnrl.networks import calibrating, classifier, neurons_of
from worlds import SMALL_CNN, World, small_agent

TIE = 1e-5
"""Distance of a current from its level, in thresholds, below which rounding may decide."""
FEW = 1e-5
"""Share of the spikes and silences that may be such ties."""
SMALL = (3, 16, 16)


class Case(NamedTuple):
    """A network, what it sees, and its chain."""

    network: nn.Module
    observations: NDArray[Any]
    chain: Chain

    def given(self) -> torch.Tensor:
        """Return what the network is given."""
        if hasattr(self.network, "features_extractor"):
            return torch.from_numpy(self.observations)
        return self.chain.observation.real(self.observations).float()


def shipped(name: str) -> Case:
    opened = open_agent(name, device="cpu")
    seen: list[NDArray[Any]] = []
    play(
        opened.agent,
        opened.env_id,
        range(4),
        env_kwargs=opened.env_kwargs,
        most_steps=50,
        epsilon=0.3,
        on_step=lambda running, observations: seen.append(observations.copy()),
    )
    return Case(opened.agent.q_net, np.concatenate(seen), agent_chain(opened.agent.q_net))


def small_vgg6() -> Case:
    torch.manual_seed(0)
    labels, mean, std = tuple("0123456789"), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    given: dict[str, Any] = {"kind": "vgg6", "image_shape": (3, 32, 32), "labels": labels, "mean": mean, "std": std}
    description = Description(**given, images="cifar10", hidden=(16,), batch_norm=False, width=1 / 16, T=1)
    network = Classifier(description, "cpu")
    chain = classifier_chain(network)
    images = bytes_of(64, 3, 32, 32)
    with torch.no_grad(), calibrating(network.network, 90.0):
        network.network(chain.observation.real(images).float())
    return Case(network.network, images, classifier_chain(network))


def bytes_of(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


def with_batch_norm(kind: str, neuron: str) -> Case:
    network = classifier(kind, SMALL, 10, hidden=(32,), width=0.125, batch_norm=True)
    network, _ = settled(network, SMALL, neuron)
    seen = Observation(SMALL, True, np.full((3, 1, 1), 1 / 73), np.full((3, 1, 1), -1.7))
    return Case(network, bytes_of(64, *SMALL), chain_of(network, seen))


def agent_of(space: spaces.Box, **features: Any) -> Case:
    agent = small_agent(
        "CnnPolicy",
        env=World(space),
        policy_kwargs={"features_extractor_kwargs": SMALL_CNN["features_extractor_kwargs"] | features},
    )
    seen = bytes_of(64, *space.shape)
    view = agent.q_net.features_extractor.view
    if view is not None:
        view.background.copy_(torch.from_numpy(bytes_of(*space.shape[1:])))
    with torch.no_grad(), calibrating(agent.q_net, 90.0):
        agent.q_net(torch.from_numpy(seen))
    return Case(agent.q_net, seen, agent_chain(agent.q_net))


FRAMES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
CASES: dict[str, Callable[[], Case]] = {
    "cartpole-state": lambda: shipped("cartpole-state/T1"),
    "cartpole": lambda: shipped("cartpole/T1"),
    "pong": lambda: shipped("pong/T1"),
    "vgg6, lif": small_vgg6,
    "vgg6, hoyer, batch-norm": lambda: with_batch_norm("vgg6", "hoyer"),
    "vgg6, binary, batch-norm": lambda: with_batch_norm("vgg6", "binary"),
    "hoyer-vgg6": lambda: with_batch_norm("hoyer-vgg6", "hoyer"),
    "binary frames": lambda: agent_of(FRAMES, view="binary"),
    "event frames": lambda: agent_of(FRAMES, view="events"),
}
NOT_IN_NIR = ("hoyer-vgg6", "binary frames", "event frames")


@cache
def case(name: str) -> Case:
    return CASES[name]()


def run_onnx(content: bytes, observations: NDArray[Any], more: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Return the outputs of a model, and ``more`` of the values within it."""
    model = onnx.load_from_string(content)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in more)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"observation": observations})
    return dict(zip((output.name for output in session.get_outputs()), found, strict=True))


def run_nir(content: bytes, observations: NDArray[Any], path: Path) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Return what the neurons of a file do, as NIR has it, in one timestep dt = 1 from v = 0, and its output."""
    path.write_bytes(content)
    graph = nir.read(path)
    following = dict(graph.edges)
    values = torch.from_numpy(observations.astype(np.float32))
    name, spikes = "input", []
    while (name := following[name]) != "output":
        match graph.nodes[name]:
            case nir.Conv2d() as node:
                weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
                values = nn.functional.conv2d(values, weight, bias, tuple(node.stride), tuple(node.padding))
            case nir.Affine() as node:
                values = nn.functional.linear(values, torch.from_numpy(node.weight), torch.from_numpy(node.bias))
            case nir.AvgPool2d() as node:
                values = nn.functional.avg_pool2d(values, tuple(node.kernel_size), tuple(node.stride))
            case nir.Flatten() as node:
                values = values.flatten(1 + int(node.start_dim))
            case nir.IF() as node:
                values = (torch.from_numpy(node.r) * values > torch.from_numpy(node.v_threshold)).float()
                spikes.append(values.numpy())
            case node:
                raise AssertionError(node)
    return spikes, values.numpy()


def check(one: Case, spikes: Sequence[NDArray[Any]], q_values: NDArray[Any]) -> None:
    """Compare with the chain layer by layer, and with the network itself where it sends the same spikes."""
    found = agreement(one.chain, one.observations, spikes, q_values)
    assert found.farthest < TIE
    assert found.differing <= max(2, FEW * found.compared)
    assert found.q_error < 1e-4
    own: list[NDArray[Any]] = []
    hooks = [
        neuron.register_forward_hook(lambda neuron, inputs, result: own.append(result.numpy()))
        for neuron in neurons_of(one.network).values()
    ]
    with torch.no_grad():
        expected = one.network(one.given()).numpy()
    for hook in hooks:
        hook.remove()
    rows = len(expected)
    assert all(0 < mine.mean() < 1 for mine in own)
    same = np.all([(mine == other).reshape(rows, -1).all(axis=1) for mine, other in zip(own, spikes, strict=True)], 0)
    assert same.mean() > 0.9
    assert np.abs(expected[same] - q_values[same]).max() < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_sends_the_same_spikes(name: str) -> None:
    one = case(name)
    hidden = [layer.name for layer in one.chain.layers[:-1]]
    found = run_onnx(to_onnx(one.chain, name), one.observations, [f"{layer}.spikes" for layer in hidden])
    assert list(found)[: 2 + len(hidden)] == ["q_values", "action", *(f"spikes_{layer}" for layer in hidden)]
    spikes = [found[f"{layer}.spikes"] for layer in hidden]
    check(one, spikes, found["q_values"])
    assert np.array_equal(found["action"], found["q_values"].argmax(axis=1))
    for layer, sent in zip(hidden, spikes, strict=True):
        assert np.array_equal(found[f"spikes_{layer}"], sent.reshape(len(sent), -1).sum(axis=1))


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_IN_NIR])
def test_nir_neurons_send_the_same_spikes(name: str, tmp_path: Path) -> None:
    one = case(name)
    check(one, *run_nir(nir_bytes(to_nir(one.chain, name)), one.observations, tmp_path / "agent.nir"))


def ordinary(kind: str, *, batch_norm: bool) -> Case:
    torch.manual_seed(0)
    network = classifier(kind, SMALL, 10, hidden=(32,), width=0.125, batch_norm=batch_norm).eval()
    seen = Observation(SMALL, False, np.ones((3, 1, 1)), np.zeros((3, 1, 1)))
    images = np.random.default_rng(0).normal(size=(16, *SMALL)).astype(np.float32)
    return Case(network, images, chain_of(network, seen))


@pytest.mark.parametrize(("kind", "batch_norm"), [("vgg6", True), ("hoyer-vgg6", False)])
def test_ordinary_networks_are_exported_to_onnx(kind: str, batch_norm: bool) -> None:
    one = ordinary(kind, batch_norm=batch_norm)
    found = run_onnx(to_onnx(one.chain, kind), one.observations)
    with torch.no_grad():
        expected = one.network(one.given()).numpy()
    assert list(found) == ["q_values", "action"]
    assert np.abs(found["q_values"] - expected).max() < 1e-4
    assert np.array_equal(found["action"], expected.argmax(axis=1))


def test_what_a_model_tells_of_itself() -> None:
    model = onnx.load_from_string(to_onnx(case("event frames").chain, "Pong"))
    onnx.checker.check_model(model, full_check=True)
    assert (model.producer_name, model.opset_import[0].version, model.graph.name) == ("snnrl", OPSET, "Pong")
    assert {entry.key: entry.value for entry in model.metadata_props} == {"T": "1"}
    assert "decides in one timestep" in model.doc_string
    given, q_values = model.graph.input[0], model.graph.output[0]
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == ["batch", 3, 36, 36]
    assert [side.dim_param or side.dim_value for side in q_values.type.tensor_type.shape.dim] == ["batch", 3]
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_what_a_graph_tells_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "agent.nir"
    path.write_bytes(nir_bytes(to_nir(case("pong").chain, "Pong")))
    graph = nir.read(path)
    assert [name for name, _ in graph.edges] == [
        *("input", "conv1", "conv1_neurons", "conv2", "conv2_neurons", "conv3", "conv3_neurons"),
        *("fc1_flat", "fc1", "fc1_neurons", "head"),
    ]
    assert graph.nodes["input"].input_type["input"].tolist() == [4, 84, 84]
    assert (graph.metadata["name"], graph.metadata["timesteps"]) == ("Pong", 1)
    assert "no reset matters" in graph.metadata["reset"]
    assert "0 to 255" in graph.metadata["input"]


@pytest.mark.parametrize("above", [False, True], ids=["at its level", "above it"])
def test_neurons_at_their_level(above: bool, tmp_path: Path) -> None:
    # currents of exactly 0 and 1, neurons of level 0, above 0 and 1, and two that never and always fire
    weight = np.ones((5, 1))
    level = np.array([0.0, 1e-45, 1.0, np.inf, -np.inf])
    firing = Firing(level, np.zeros(5, bool), np.full(5, 0.75))
    layers = (
        Layer("fc1", weight, np.zeros(5), (1,), (5,), firing=firing),
        Layer("head", np.eye(5), np.zeros(5), (5,), (5,)),
    )
    chain = Chain(Observation((1,), False, np.ones(1), np.zeros(1)), layers)
    given = np.array([[0.0], [1.0]], np.float32)
    expected = [[1, 0, 0, 0, 1], [1, 1, 1, 0, 1]]
    assert run_onnx(to_onnx(chain, "edges"), given)["q_values"].tolist() == expected
    graph = to_nir(chain, "edges")
    if above:  # as simulators do that fire at v_threshold
        threshold = graph.nodes["fc1_neurons"].v_threshold
        threshold[:] = np.nextafter(threshold, np.zeros_like(threshold))
    assert run_nir(nir_bytes(graph), given, tmp_path / "edges.nir")[1].tolist() == expected


def test_flipped_neurons_without_maxima_are_turned_round() -> None:
    chain = case("cartpole-state").chain
    first = chain.layers[0]
    assert first.firing is not None
    firing = replace(first.firing, level=-first.firing.level, flipped=~first.firing.flipped)
    flipped = replace(chain, layers=(replace(first, weight=-first.weight, firing=firing), *chain.layers[1:]))
    straight, turned = (to_nir(given, "").nodes["fc1"] for given in (chain, flipped))
    assert np.array_equal(straight.weight, turned.weight)
    assert np.array_equal(straight.bias, turned.bias)


def test_layers_of_the_same_name_are_told_apart() -> None:
    agent = small_agent("CnnPolicy", policy_kwargs={"net_arch": [8]})
    chain = agent_chain(agent.q_net)
    assert [layer.name for layer in chain.layers[-3:]] == ["fc1", "fc1_2", "head"]
    onnx.load_from_string(to_onnx(chain, "twice"))


def test_a_difference_is_counted_where_it_is_made() -> None:
    one = case("cartpole-state")
    fired: list[NDArray[Any]] = []
    values = one.chain.observation.real(one.observations)
    for layer in one.chain.layers[:-1]:
        assert layer.firing is not None
        values = (currents(layer, values) >= torch.from_numpy(layer.firing.level)).double()
        fired.append(values.numpy())
    q_values = currents(one.chain.layers[-1], values).numpy()
    exact = agreement(one.chain, one.observations, fired, q_values)
    assert (exact.differing, exact.farthest, exact.q_error, exact.same.all()) == (0, 0.0, 0.0, True)
    fired[1][3, 5] = 1 - fired[1][3, 5]
    found = agreement(one.chain, one.observations, fired, q_values)
    assert found.differing == 1
    assert found.farthest > TIE
    assert np.flatnonzero(~found.same).tolist() == [3]
    assert found.q_error > 0


def test_what_nir_cannot_say() -> None:
    for name, message in (
        ("hoyer-vgg6", r"NIR has no node for the maxima behind conv1: export it --to onnx"),
        ("event frames", r"NIR has no node that compares frames"),
    ):
        with pytest.raises(UserError, match=message):
            to_nir(case(name).chain, name)
    with pytest.raises(UserError, match=r"NIR has no node for the ReLUs of an ordinary network"):
        to_nir(ordinary("vgg6", batch_norm=True).chain, "ordinary")


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = case("cartpole-state").chain
    for name, export in (("onnx", to_onnx), ("nir", to_nir)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=rf"the package {name} is missing: pip install 'snnrl\[export\]'"):
            export(chain, "")
