"""C99 from a network: the code does what its oracle in Python does, and the oracle what the network does."""

import json
import os
import subprocess
import sys
from collections import OrderedDict
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

import snnrl.commands.export
from modules import settle
from snnrl.agents.evaluate import episode_seeds, play
from snnrl.agents.exported import agent_chain
from snnrl.agents.library import open_agent
from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.cli import main
from snnrl.energy import count_operations
from snnrl.errors import UserError
from snnrl.export import Chain, Observation, Program, agreement, chain_of, lower, rounded, run, to_c, whole
from snnrl.export.compiled import STRICT, Compiled, compiler
from snnrl.export.program import LARGEST_INPUT
from snnrl.networks import classifier, small_conv
from snnrl.networks.layers import block
from snnrl.networks.views import BinaryView, EventView, View
from snnrl.neurons import NEURONS

TIE = 1e-5
"""Relative distance to the level below which the order of a sum may decide."""
Array = NDArray[Any]


def images(count: int, *shape: int, seed: int = 0) -> Array:
    """Return grey frames with a still background and some noise on it."""
    random = np.random.default_rng(seed)
    background = np.random.default_rng(99).integers(0, 200, shape)
    changed = random.random((count, *shape)) < 0.2
    return np.where(changed, random.integers(0, 256, (count, *shape)), background).astype(np.uint8)


def bytes_seen(*shape: int, view: View | None = None) -> Observation:
    """Return an observation of bytes with a gain and an offset, or with a view."""
    planes = shape[0] if view is None else view.planes
    gain, offset = (1.0, 0.0) if view is not None else (1 / 255, -0.25)
    return Observation(shape, True, np.full((planes, 1, 1), gain), np.full((planes, 1, 1), offset), view)


def written(program: Program, folder: Path, **options: Any) -> Compiled:
    """Write a program's C code and compile it."""
    for name, text in to_c(program, "a network", "0").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Compiled(folder, **options)


def by_layer(agent: Compiled, program: Program) -> list[Array]:
    """Return the latest decision's spikes, maps ``(C, H, W)`` of each layer."""
    found, first = [], 0
    for layer in program.layers[:-1]:
        channels, height, width = layer.shape_spikes
        size = channels * height * width
        found.append(agent.trace[first : first + size].reshape(height, width, channels).transpose(2, 0, 1).astype(bool))
        first += size
    return found


def assert_same(agent: Compiled, program: Program, chain: Chain, observations: Array) -> int:
    """Compare C code with its oracle; return how many spikes differ, which in float32 must be ties."""
    trace = run(program, observations)
    shapes = [layer.shape_spikes for layer in chain.layers[:-1]]
    ties = 0
    for row, observation in enumerate(observations):
        action = agent.act(observation)
        spikes = by_layer(agent, program)
        assert agent.spikes.tolist() == [int(layer.sum()) for layer in spikes]
        if program.whole:
            assert action == trace.actions[row]
            assert np.array_equal(agent.q_values, trace.q_values[row])
            assert all(np.array_equal(found, wanted[row]) for found, wanted in zip(spikes, trace.spikes, strict=True))
            continue
        shaped = [found.reshape(1, *shape) for found, shape in zip(spikes, shapes, strict=True)]
        found = agreement(chain, observation[None], shaped, agent.q_values[None])
        assert found.farthest < TIE
        assert found.q_error < 1e-4
        ties += found.differing
    return ties


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Sequential, tuple[int, int, int]]:
    """Draw a chain of one or two convolutions, pooling or not, and a linear layer."""
    torch.manual_seed(draw(st.integers(0, 99)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(14, 18)), draw(st.integers(14, 18)))
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    channels = shape[0]
    for number in range(1, draw(st.integers(1, 2)) + 1):
        width, kernel = draw(st.integers(1, 9)), draw(st.integers(1, 3))
        weights = nn.Conv2d(channels, width, kernel, draw(st.integers(1, 2)), draw(st.integers(0, kernel // 2)))
        pool = draw(st.sampled_from(["none", "average", "maximum"])) if number == 1 else "none"
        norm = nn.BatchNorm2d(width) if draw(st.booleans()) else None
        parts[f"conv{number}"] = block(weights, norm, pool=nn.MaxPool2d(2) if pool == "maximum" else None)
        if pool == "average":
            parts["pool"] = nn.AvgPool2d(2)
        channels = width
    features = nn.Sequential(OrderedDict(parts, flatten=nn.Flatten()))
    flat = features(torch.zeros(2, *shape)).shape[1]
    hidden = draw(st.integers(1, 20))
    parts["flatten"] = nn.Flatten()
    parts["fc1"] = block(nn.Linear(flat, hidden, bias=draw(st.booleans())))
    parts["head"] = nn.Linear(hidden, draw(st.integers(1, 5)))
    return nn.Sequential(parts), shape


@pytest.mark.parametrize("neuron", NEURONS)
@given(drawn=networks(), weights=st.sampled_from(["float32", "int8", "int16"]))
@settings(max_examples=4, deadline=None)
def test_c_code_does_what_its_oracle_does(
    drawn: tuple[nn.Sequential, tuple[int, int, int]],
    weights: str,
    neuron: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    network, shape = drawn
    seen = bytes_seen(*shape)
    observations = images(40, *shape)
    chain = chain_of(settle(network, seen.real(observations).float(), neuron), seen)
    program = as_asked(lower(chain, observations[:20]), weights, observations[:20])
    agent = written(program, tmp_path_factory.mktemp("agent"))
    # equal bytes make equal currents, so that there can be many ties
    assert_same(agent, program, chain, observations[20:])


@pytest.mark.parametrize("weights", ["float32", "int16"])
def test_inputs_that_a_stride_leaves_over(weights: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    convolutions = OrderedDict(conv1=block(nn.Conv2d(1, 4, 1)), conv2=block(nn.Conv2d(4, 5, 2, 2)))
    network = nn.Sequential(OrderedDict(convolutions, flatten=nn.Flatten(), head=nn.Linear(5, 2)))
    seen, observations = bytes_seen(1, 3, 3), images(40, 1, 3, 3)
    chain = chain_of(settle(network, seen.real(observations).float(), "lif"), seen)
    program = as_asked(lower(chain, observations), weights, observations)
    assert_same(written(program, tmp_path), program, chain, observations)


@pytest.mark.parametrize("weights", ["float32", "int16"])
def test_maps_that_fire_always_or_never(weights: str, tmp_path: Path) -> None:
    norm = nn.BatchNorm2d(3)
    convolution = OrderedDict(conv1=block(nn.Conv2d(1, 3, 2), norm))
    network = nn.Sequential(OrderedDict(convolution, flatten=nn.Flatten(), head=nn.Linear(12, 2)))
    seen, observations = bytes_seen(1, 3, 3), images(40, 1, 3, 3)
    settle(network, seen.real(observations).float(), "lif")
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.0, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 9.0, -9.0]))
    program = as_asked(lower(chain_of(network, seen), observations), weights, observations)
    found = run(program, observations).spikes[0]
    assert found[:, 1].all()
    assert not found[:, 2].any()
    assert_same(written(program, tmp_path), program, chain_of(network, seen), observations)


def test_what_sums_begin_with_is_kept_whole(tmp_path: Path) -> None:
    """A bright still background in front of filters of one sign: nearly all of a sum is there before the play."""
    torch.manual_seed(0)
    network = nn.Sequential(
        OrderedDict(conv1=block(nn.Conv2d(4, 6, 12)), flatten=nn.Flatten(), head=nn.Linear(6 * 25, 3))
    )
    with torch.no_grad():
        network.conv1.weights.weight.abs_()
    noise = np.random.default_rng(0).integers(-2, 3, (60, 4, 16, 16))
    observations = (250 + noise).astype(np.uint8)
    seen = Observation((4, 16, 16), True, np.full((4, 1, 1), 1 / 255), np.zeros((4, 1, 1)))
    chain = chain_of(settle(network, seen.real(observations).float(), "lif"), seen)
    floats = lower(chain, observations)
    program = rounded(floats, 16, observations)
    assert (run(program, observations).spikes[0] == run(floats, observations).spikes[0]).mean() > 0.99
    assert_same(written(program, tmp_path), program, chain, observations)


@pytest.mark.parametrize("bits", [8, 16])
def test_no_sum_needs_more_than_32_bits(bits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(fc1=block(nn.Linear(1000, 2)), head=nn.Linear(2, 2)))
    observations = np.random.default_rng(0).normal(size=(50, 1000)).astype(np.float32)
    seen = Observation((1000,), False, np.ones(1000), np.zeros(1000))
    program = lower(chain_of(settle(network, torch.from_numpy(observations), "lif"), seen), observations)
    layer = rounded(program, bits, observations).layers[0]
    assert (np.abs(layer.weight.astype(np.int64)).sum(axis=(0, 1, 2)) * LARGEST_INPUT < 2**31).all()
    monkeypatch.setattr(whole, "_units", lambda sizes, *_: np.full(len(sizes), 1e-6 * sizes.max()))
    with pytest.raises(UserError, match="sums of fc1 need more than 32 bits"):
        rounded(program, bits, observations)


def as_asked(program: Program, weights: str, examples: Array) -> Program:
    """Return the program with these weights."""
    return program if weights == "float32" else rounded(program, 8 if weights == "int8" else 16, examples)


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("kind", [BinaryView, EventView])
def test_planes_of_frames(kind: type[View], weights: str, tmp_path: Path) -> None:
    view = kind(3, 41, 43)
    view.background.copy_(torch.from_numpy(images(1, 41, 43)[0]))
    seen = bytes_seen(3, 41, 43, view=view)
    observations = images(30, 3, 41, 43)
    observations[:, :2] = np.where(
        np.random.default_rng(1).random((30, 2, 41, 43)) < 0.9, observations[:, 2:], observations[:, :2]
    )
    network = nn.Sequential(OrderedDict(body=small_conv((view.planes, 41, 43), 24), head=nn.Linear(24, 3)))
    chain = chain_of(settle(network, seen.real(observations).float(), "lif"), seen)
    program = as_asked(lower(chain, observations), weights, observations)
    assert assert_same(written(program, tmp_path), program, chain, observations) <= 2


@pytest.mark.parametrize("weights", ["float32", "int8", "int16"])
def test_vectors_of_any_size(weights: str, tmp_path: Path) -> None:
    network = nn.Sequential(
        OrderedDict(fc1=block(nn.Linear(3, 20)), fc2=block(nn.Linear(20, 20)), head=nn.Linear(20, 2))
    )
    observations = np.random.default_rng(0).normal(0, [0.01, 1, 300], (200, 3)).astype(np.float32)
    seen = Observation((3,), False, np.ones(3), np.zeros(3))
    chain = chain_of(settle(network, torch.from_numpy(observations), "lif"), seen)
    program = as_asked(lower(chain, observations[:100]), weights, observations[:100])
    agent = written(program, tmp_path)
    assert assert_same(agent, program, chain, observations[100:]) <= 2
    if program.whole:
        strange = np.float32([[np.nan, 0, 0], [np.inf, -np.inf, 1e30], [0, -0.0, 1e-30], [-1e9, 1e9, np.nan]])
        assert_same(agent, program, chain, strange)


@pytest.mark.parametrize("kind", ["vgg6", "hoyer-vgg6"])
def test_image_classifiers(kind: str, tmp_path: Path) -> None:
    neuron = "hoyer" if kind == "hoyer-vgg6" else "lif"
    network = classifier(kind, (3, 16, 16), 10, width=1 / 16, hidden=[32, 32], batch_norm=kind != "vgg6")
    observations = images(24, 3, 16, 16)
    seen = bytes_seen(3, 16, 16)
    chain = chain_of(settle(network, seen.real(observations).float(), neuron), seen)
    with torch.no_grad():
        wanted = network(seen.real(observations).float()).numpy()
    program = lower(chain, observations)
    found = run(program, observations)
    # each threshold is one of the currents here, and rounding decides there
    assert (np.abs(found.q_values - wanted).max(axis=1) > 1e-4).sum() <= len(program.layers)
    for weights in ("float32", "int8"):
        folder = tmp_path / weights
        folder.mkdir()
        asked = as_asked(program, weights, observations)
        assert assert_same(written(asked, folder), asked, chain, observations) <= 2


@cache
def shipped(name: str) -> tuple[SpikingDQN, Chain, Array]:
    """Return a shipped agent, its chain, and observations that it meets."""
    opened = open_agent(name)
    met: list[Array] = []
    seeds = episode_seeds(5, "play", 4)
    play(
        opened.agent,
        opened.env_id,
        seeds,
        env_kwargs=opened.env_kwargs,
        most_steps=60,
        on_step=lambda _, observations: met.append(observations.copy()),
    )
    return opened.agent, agent_chain(opened.agent.q_net), np.concatenate(met)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        *product(("cartpole-state", "cartpole"), ("float32", "int8", "int16")),
        ("pong", "float32"),
        ("pong", "int8"),
    ],
)
def test_shipped_agents(name: str, weights: str, tmp_path: Path) -> None:
    agent, chain, observations = shipped(name)
    program = as_asked(lower(chain, observations), weights, observations)
    code = written(program, tmp_path, flags=("-O1",))
    some = observations[::4]
    ties = assert_same(code, program, chain, some)
    assert ties <= 2
    if weights != "float32":
        return
    actions = [code.act(observation) for observation in some]
    q_values = agent.q_net(agent.policy.obs_to_tensor(some)[0]).detach().numpy()
    gaps = np.diff(np.sort(q_values, axis=1))[:, -1]
    assert (np.array(actions) == q_values.argmax(axis=1))[gaps > 1e-3].all()


@pytest.mark.parametrize("name", ["cartpole-state", "cartpole"])
def test_it_counts_the_additions_that_energy_is_reckoned_by(name: str, tmp_path: Path) -> None:
    agent, chain, observations = shipped(name)
    code = written(lower(chain, observations), tmp_path)
    some = observations[::4]
    counted = count_operations(agent.q_net, agent.policy.obs_to_tensor(some)[0], len(some))
    additions = np.zeros(len(counted), np.int64)
    for observation in some:
        code.act(observation)
        additions += code.additions
    assert additions[1:].tolist() == [layer.active for layer in counted[1:]]


@pytest.mark.parametrize("name", ["cartpole-state", "cartpole"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_no_observation_leads_to_undefined_behaviour(name: str, weights: str, tmp_path: Path) -> None:
    _, chain, observations = shipped(name)
    program = as_asked(lower(chain, observations), weights, observations)
    for file, text in to_c(program, name, "0").items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    command = compiler()
    flags = [*STRICT, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = [str(tmp_path / "snnrl_agent.c"), str(tmp_path / "examples" / "decide.c")]
    subprocess.run([command, *flags, f"-I{tmp_path}", "-o", str(tmp_path / "decide"), *sources], check=True)
    given = np.random.default_rng(0).bytes(3000 * (observations[0].nbytes if name == "cartpole-state" else 16))
    given += b"".join(observation.tobytes() for observation in observations[::40])
    done = subprocess.run([str(tmp_path / "decide")], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert set(done.stdout.split()) <= {b"0", b"1"}
    assert done.stdout


def test_two_exports_are_the_same_files(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        words = ["export", "cartpole-state", "--weights", "int8", "--out", str(tmp_path / folder), "--no-check"]
        assert main(words) == 0
    names = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file())
    assert Path("snnrl_agent.c") in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name


def test_the_check_beside_the_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "agent"
    assert main(["export", "cartpole-state", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["checked"].startswith("64 observations: 0 actions differ, the numbers of spikes of 0")
    source = out / "snnrl_agent.c"
    code = source.read_text()

    def check(**environment: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(out / "check.py")]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | environment)

    assert check().returncode == 0
    for wrong in (
        code.replace("sum >= fc1_level[channel]", "sum < fc1_level[channel]"),
        code.replace("snnrl_q_values[action] =", "snnrl_q_values[action] = 1.001f *"),
    ):
        assert wrong != code
        source.write_text(wrong)
        assert check().returncode == 1
    for refused in (check(CC="false"), check(CC="no-compiler")):
        assert refused.returncode == 2
        assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_an_agent_that_falls_at_once(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    SpikingDQN("MlpPolicy", "CartPole-v1", T=1, seed=0, device="cpu", policy_kwargs={"net_arch": [16]}).save(
        "untrained"
    )
    words = ["export", "untrained.zip", "--env", "CartPole-v1", "--weights", weights]
    assert main([*words, "--out", "agent"]) == 0
    assert "on 1,000 observations" not in capsys.readouterr().out
    monkeypatch.setattr(snnrl.commands.export, "FEWEST", 4000)
    assert main([*words, "--out", "other"]) == 2
    assert "too few for examples (4000)" in capsys.readouterr().err
    monkeypatch.setenv("CC", "false")
    monkeypatch.setattr(snnrl.commands.export, "FEWEST", 40)
    assert main([*words, "--out", "other"]) == 2
    assert "false refuses snnrl_agent.c: exit code 1; nothing was written" in capsys.readouterr().err
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cartpole-state", "--T", "5"], "T"),
        (["cartpole-state/ann"], "an ordinary network has no spikes"),
        (["cartpole-state/T5"], "decides in 5 timesteps cannot be exported: give --T 1"),
        (["cartpole-stat"], "did you mean 'cartpole-state'?"),
        (["cartpole-state", "--to", "onnx", "--weights", "int8"], "--weights int8 is for --to c"),
        (["cartpole-state", "--out", "no/such/folder"], "there is no folder"),
    ],
)
def test_a_users_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert main(["export", "cartpole-state", "--out", str(tmp_path)]) == 2
    assert "exists and is not empty: give another --out" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_without_a_compiler_it_says_so_and_writes_without_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    out = tmp_path / "agent"
    assert main(["export", "cartpole-state", "--out", str(out)]) == 2
    assert "there is no C compiler" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(RuntimeError, match="there is no C compiler"):
        Compiled(out)
    assert main(["export", "cartpole-state", "--out", str(out), "--no-check"]) == 0
    assert (out / "snnrl_agent.c").is_file()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 2, 3, dilation=2)), "dilated"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, stride=(1, 2))), "not the same on all sides"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), "has groups"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.AvgPool2d(3, 2)), "windows overlap"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sigmoid()), r"1 \(Sigmoid\) cannot be exported"),
        (classifier("resnet20", (2, 16, 16), 4, batch_norm=False, width=0.1), "cannot be exported: a chain of"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()), "ends in no linear layer"),
    ],
)
def test_what_is_no_chain_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chain_of(network, bytes_seen(2, 16, 16))


def test_layers_that_do_not_spike_between_those_that_do_are_refused() -> None:
    network = nn.Sequential(OrderedDict(fc1=block(nn.Linear(3, 4)), fc2=nn.Linear(4, 4), head=nn.Linear(4, 2)))
    chain = settle(network, torch.rand(8, 3), "lif")
    with pytest.raises(UserError, match="layers that do not spike"):
        chain_of(chain, Observation((3,), False, np.ones(3), np.zeros(3)))


def test_a_large_bias_fits_into_whole_numbers(tmp_path: Path) -> None:
    network = nn.Sequential(OrderedDict(fc1=block(nn.Linear(3, 8)), head=nn.Linear(8, 2)))
    nn.init.constant_(network.head.bias, 1e9)
    observations = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    seen = Observation((3,), False, np.ones(3), np.zeros(3))
    chain = chain_of(settle(network, torch.from_numpy(observations), "lif"), seen)
    program = rounded(lower(chain, observations), 8, observations)
    agent = written(program, tmp_path)
    assert_same(agent, program, chain, observations)
    np.testing.assert_allclose(agent.q_values, 1e9, rtol=1e-3)
