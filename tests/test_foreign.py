"""Agents of stable-baselines3 are read without unpickling: live ones give equal Q-values, hostile ones one line."""

import base64
import collections
import io
import json
import os
import pickle
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from snnrl.agents.foreign import ScalePixels, build_q_network, read_sb3_dqn, read_vecnormalize
from snnrl.errors import UserError

EXAMPLE = Path(__file__).parents[2] / "shared" / "data" / "sb3" / "dqn-CartPole-v1.zip"


class Random(gym.Env[NDArray[Any], np.int64]):
    """An environment that shows samples of any observation space and has three actions."""

    def __init__(self, space: gym.Space[Any]) -> None:
        self.observation_space = space
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


VECTOR = gym.spaces.Box(-1, 1, (4,))
IMAGE = gym.spaces.Box(0, 255, (84, 84, 2), np.uint8)


def saved(folder: Path, policy: str, space: gym.Space[Any], **arguments: Any) -> tuple[DQN, Path]:
    """A live agent with random weights and the zip it saved."""
    agent = DQN(policy, Random(space), policy_kwargs=arguments or None, buffer_size=2, device="cpu", seed=0, gamma=0.9)
    agent.save(folder / "agent.zip")
    return agent, folder / "agent.zip"


@pytest.mark.parametrize(
    ("policy", "space", "arguments", "net_arch", "activation", "scaled"),
    [
        ("MlpPolicy", VECTOR, {}, (64, 64), "relu", False),
        ("MlpPolicy", VECTOR, {"net_arch": []}, (), "relu", False),
        ("MlpPolicy", VECTOR, {"net_arch": [16, 8, 4], "activation_fn": nn.Tanh}, (16, 8, 4), "tanh", False),
        ("MlpPolicy", VECTOR, {"net_arch": [8], "activation_fn": nn.LeakyReLU}, (8,), "leaky_relu", False),
        ("MlpPolicy", VECTOR, {"net_arch": [8], "activation_fn": nn.SiLU}, (8,), "silu", False),
        ("MlpPolicy", VECTOR, {"net_arch": [8], "activation_fn": nn.SELU}, (8,), "selu", False),
        ("MlpPolicy", gym.spaces.Box(0, 9, (2, 3), np.int64), {"net_arch": [8]}, (8,), "relu", False),
        ("MlpPolicy", gym.spaces.Box(0, 255, (5,), np.uint8), {"net_arch": [8]}, (8,), "relu", False),
        ("MlpPolicy", gym.spaces.Box(0, 9, (36, 36, 3), np.uint8), {"net_arch": [8]}, (8,), "relu", False),
        ("MlpPolicy", IMAGE, {"net_arch": [8]}, (8,), "relu", True),
        ("CnnPolicy", IMAGE, {}, (), "relu", True),
        (
            "CnnPolicy",
            IMAGE,
            {"normalize_images": False, "net_arch": [8], "activation_fn": nn.Tanh},
            (8,),
            "tanh",
            False,
        ),
        (
            "CnnPolicy",
            gym.spaces.Box(0, 255, (4, 52, 60), np.uint8),
            {"features_extractor_kwargs": {"features_dim": 32}},
            (),
            "relu",
            True,
        ),
        (
            "CnnPolicy",
            gym.spaces.Box(0, 1, (4, 36, 36), np.float32),
            {"normalize_images": False, "features_extractor_kwargs": {"normalized_image": True}},
            (),
            "relu",
            False,
        ),
    ],
)
def test_live_agent_gives_equal_q_values(
    policy: str, space: Any, arguments: Any, net_arch: Any, activation: str, scaled: bool, tmp_path: Path
) -> None:
    agent, path = saved(tmp_path, policy, space, **arguments)
    before = torch.get_rng_state()
    foreign = read_sb3_dqn(path)
    network = build_q_network(foreign)
    assert torch.equal(before, torch.get_rng_state()), "the caller's random numbers are left alone"
    assert foreign.features == ("nature_cnn" if policy == "CnnPolicy" else "flatten")
    assert (foreign.net_arch, foreign.activation, foreign.normalize_images) == (net_arch, activation, scaled)
    assert (foreign.n_actions, foreign.gamma, foreign.sb3_version) == (3, 0.9, "2.9.2")
    assert foreign.observation_shape == agent.observation_space.shape
    state = agent.q_net.state_dict()
    assert list(foreign.weights) == list(state)
    assert all(torch.equal(foreign.weights[name], state[name]) for name in state)
    observations = torch.as_tensor(np.stack([agent.observation_space.sample() for _ in range(5)]))
    with torch.no_grad():
        expected = agent.q_net(observations)
        torch.testing.assert_close(network(observations), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(torch.fx.symbolic_trace(network)(observations), expected, rtol=1e-6, atol=1e-6)
    assert expected.std() > 1e-3, "a constant would agree with anything"
    assert isinstance(network[0], ScalePixels)
    assert network[0].divisor == (255.0 if scaled else 1.0)


def test_network_owns_its_weights(tmp_path: Path) -> None:
    foreign = read_sb3_dqn(saved(tmp_path, "MlpPolicy", VECTOR)[1])
    network = build_q_network(foreign)
    assert all(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        next(network.parameters()).fill_(7.0)
    assert not (foreign.weights["q_net.0.weight"] == 7.0).any()


def test_agent_of_another_generation_is_read(tmp_path: Path) -> None:
    """A zip of SB3 1.0 under Python 3.7, or where it is not at hand a live one without what newer versions add."""
    path = (
        EXAMPLE
        if EXAMPLE.exists()
        else saved(tmp_path, "MlpPolicy", gym.spaces.Box(-1, 1, (4,)), net_arch=[256, 256])[1]
    )
    foreign = read_sb3_dqn(path)
    assert (foreign.features, foreign.net_arch, foreign.activation) == ("flatten", (256, 256), "relu")
    assert (foreign.observation_shape, foreign.normalize_images) == ((4,), False)
    if path == EXAMPLE:
        assert (foreign.n_actions, foreign.gamma, foreign.sb3_version) == (2, 0.99, "1.0rc0")
        falling_right = torch.tensor([[0.0, 0.0, 0.1, 0.5]])
        assert build_q_network(foreign)(falling_right).argmax() == 1, "a pole that falls to the right: push right"


# What follows builds zips by hand: a good one, and changes to it.

GOOD = {
    "q_net.q_net.0.weight": torch.linspace(-1, 1, 32).reshape(8, 4),
    "q_net.q_net.0.bias": torch.zeros(8),
    "q_net.q_net.2.weight": torch.linspace(-1, 1, 24).reshape(3, 8),
    "q_net.q_net.2.bias": torch.zeros(3),
}
DATA = {
    "policy_class": {"__module__": "stable_baselines3.dqn.policies"},
    "policy_kwargs": {"net_arch": [8]},
    "observation_space": {
        ":type:": "<class 'gym.spaces.box.Box'>",
        ":serialized:": "",
        "dtype": "float32",
        "shape": [4],
    },
    "gamma": 0.99,
}


class Payload:
    """Leaves a file in the working directory if anybody unpickles it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def torch_file(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def zipped(members: Mapping[Any, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data, compression)
    return buffer.getvalue()


def agent(weights: Any = GOOD, data: Any = DATA, **members: bytes) -> bytes:
    """A zip with the given weights (bytes are taken as they are), JSON and further members."""
    policy = weights if isinstance(weights, bytes) else torch_file(weights)
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return zipped({"data": text, "policy.pth": policy, **{name.replace("__", "."): d for name, d in members.items()}})


def changed(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The good weights with some replaced (``w0`` is layer 0's weight) or, for None, left out."""
    names = {"w0": "0.weight", "b0": "0.bias", "w2": "2.weight", "b2": "2.bias"}
    new = GOOD | {f"q_net.q_net.{names[key]}": value for key, value in tensors.items()}
    return {name: value for name, value in new.items() if value is not None}


def torch_zip(content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    return zipped({"archive/data.pkl": content, "archive/version": b"3\n"}, compression)


def tar_file() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(pickle.dumps(Payload(), 2))
            archive.addfile(member, io.BytesIO(pickle.dumps(Payload(), 2)))
    return buffer.getvalue()


def symbolic_link() -> bytes:
    member = zipfile.ZipInfo("policy.pth")
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return zipped({"data": json.dumps(DATA).encode(), member: b"/etc/passwd"})


NESTED = b"\x80\x02}q\0" + b"N" + b"\x85" * 200_000 + b"K\x01s."  # a key nested so deeply that hashing it would crash
SPACE = DATA["observation_space"]
EXTRACTOR = {
    f"q_net.features_extractor.{name}": torch.zeros(1) for name in ("extractors.image.cnn.0.weight", "own.weight")
}
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a zip"),
    "pickle": (pickle.dumps(Payload()), "not a zip"),
    "truncated": (agent()[:1000], "not a zip"),
    "path traversal": (agent(**{"../policy__pth": b""}), "does not belong"),
    "pickle inside": (agent(policy__pkl=pickle.dumps(Payload())), "'policy.pkl' does not belong"),
    "symbolic link": (symbolic_link(), "not a regular file"),
    "bomb": (zipped({"data": b" " * 10**6}, zipfile.ZIP_DEFLATED), "compressed more than"),
    "no weights": (zipped({"data": b"{}"}), "no member 'policy.pth'"),
    "no data": (zipped({"policy.pth": torch_file(GOOD)}), "no member 'data'"),
    "data not JSON": (agent(data=b"{"), "not valid JSON"),
    "data a list": (agent(data=[]), "not a JSON object"),
    "data a pickle": (agent(data=pickle.dumps(Payload())), "not valid JSON"),
    "data nested": (agent(data=b"[" * 10**5), "nested too deeply"),
    "bare pickle as weights": (agent(pickle.dumps(Payload())), "not a zip as PyTorch"),
    "legacy weights": (agent(torch_file(GOOD, _use_new_zipfile_serialization=False)), "not a zip as PyTorch"),
    "legacy weights with code": (agent(torch_file(Payload(), _use_new_zipfile_serialization=False)), "not a zip as"),
    "tar of pickles": (agent(tar_file()), "not a zip as PyTorch"),
    "code in the weights": (agent({"q_net.q_net.0.weight": Payload()}), "imports 'posix.system'"),
    "code in protocol 4": (agent(torch_zip(pickle.dumps(Payload(), 4))), "unexpected opcode STACK_GLOBAL"),
    "code in protocol 0": (agent(torch_zip(pickle.dumps(Payload(), 0))), "imports 'posix.system'"),
    "a whole module": (agent(nn.Linear(2, 2)), "imports '__builtin__.set', which is no tensor"),
    "a terabyte of zeros": (
        agent(torch_zip(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.")),
        "bytearray",
    ),
    "script": (agent(zipped({"a/code/x.py": b"", "a/data.pkl": b"N."})), "'a/code/x.py' does not belong"),
    "constants": (agent(zipped({"a/constants.pkl": pickle.dumps(Payload())})), "does not belong"),
    "weights with a bomb": (agent(torch_zip(b"N" * 10**6, zipfile.ZIP_DEFLATED)), "compressed more than"),
    "nested key": (agent(torch_zip(NESTED)), "more than 20000 pickle opcodes"),
    "garbled pickle": (agent(torch_zip(b"\x80\x02\xff\xff")), "cannot read"),
    "empty pickle": (agent(torch_zip(b"")), "cannot read"),
    "truncated weights": (agent(torch_file(GOOD)[:-100]), "not a zip"),
    "weights a list": (agent(list(GOOD.values())), "list"),
    "weights a number": (agent(3), "int"),
    "weights empty": (agent({}), "no tensors of a Q-network, but 'nothing'"),
    "numbers as names": (agent({3: torch.zeros(1)}), "int"),
    "weights of PPO": (agent({"mlp_extractor.policy_net.0.weight": torch.zeros(1)}), "but 'mlp_extractor"),
    "number as tensor": (agent(GOOD | {"q_net.q_net.0.bias": 3.0}), "not a dense float32"),
    "NaN": (agent(changed(b2=torch.tensor([0, float("nan"), 0]))), "'q_net.2.bias' holds NaN"),
    "infinity": (agent(changed(w0=torch.full((8, 4), float("inf")))), "'q_net.0.weight' holds NaN or infinity"),
    "float64": (agent(changed(b0=torch.zeros(8).double())), "'q_net.0.bias' is not a dense float32"),
    "expanded": (agent(changed(w0=torch.zeros(1).expand(2**20, 2**20))), "'q_net.0.weight' is not a dense float32"),
    "sparse": (agent(changed(w0=torch.eye(4).to_sparse())), "cannot read"),
    "chain of wrong widths": (agent(changed(w2=torch.zeros(3, 9))), "shape [3, 9], not [3, 8]"),
    "wrong bias": (agent(changed(b2=torch.zeros(4))), "shape [4], not [3]"),
    "missing bias": (agent(changed(b2=None)), "'q_net.2.bias' is missing"),
    "missing layer": (agent(changed(w0=None, b0=None)), "no chain of linear layers"),
    "scalar weight": (agent(changed(w0=torch.tensor(1.0))), "no chain of linear layers"),
    "no actions": (agent(changed(w2=torch.zeros(0, 8), b2=torch.zeros(0))), "a layer is empty"),
    "other observation": (agent(data=DATA | {"observation_space": SPACE | {"shape": [5]}}), "shape [8, 4], not [8, 5]"),
    "huge observation": (agent(data=DATA | {"observation_space": SPACE | {"shape": [2**30] * 9}}), "cannot read"),
    "discrete observation": (
        agent(data=DATA | {"observation_space": {":type:": "<class 'gym.spaces.discrete.Discrete'>"}}),
        "not a Box",
    ),
    "dict observation": (
        agent(data=DATA | {"observation_space": {":type:": "<class 'gym.spaces.Dict'>"}}),
        "not a Box",
    ),
    "combined extractor": (
        agent(GOOD | EXTRACTOR),
        "unsupported extractor tensors 'features_extractor.extractors.image",
    ),
    "extractor class": (
        agent(data=DATA | {"policy_kwargs": {"features_extractor_class": "<class '__main__.Flatten\n'>"}}),
        "features extractor",
    ),
    "half a NatureCNN": (agent(GOOD | {"q_net.features_extractor.cnn.0.weight": torch.zeros(32, 4, 8, 8)}), "no chain"),
    "policy class": (agent(data=DATA | {"policy_class": {"__module__": "own"}}), "policy class of module 'own'"),
    "unknown activation": (
        agent(data=DATA | {"policy_kwargs": {"activation_fn": "<class 'own.Tanh'>"}}),
        "its activation \"<class 'own.Tanh'>\" is none of relu, tanh",
    ),
    "unreadable arguments": (agent(data=DATA | {"policy_kwargs": None}), "is not stored; choose it with --activation"),
    "no arguments": (
        agent(data={}),
        "is not stored; choose it with --activation relu|tanh|elu|leaky_relu|gelu|silu|sigm",
    ),
    "version of a megabyte": (agent(_stable_baselines3_version=b"9" * 10**6), "larger than 100 bytes"),
}


def one_line_error(read: Callable[[Path], object], content: bytes, folder: Path) -> str:
    """The message of the UserError that reading the content ends in; nothing may be written or executed meanwhile."""
    path = folder / "file"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert type(caught.value) is UserError
    assert message.isprintable()
    assert len(message) < 1000
    assert [file.name for file in folder.iterdir()] == ["file"]
    return message


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_agent_ends_in_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, expected = HOSTILE[case]
    assert expected in one_line_error(read_sb3_dqn, content, tmp_path)


def test_handmade_agent_is_good_and_its_blobs_stay_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, the table above could fail for a reason that all its rows share."""
    monkeypatch.chdir(tmp_path)
    blob = {":serialized:": base64.b64encode(pickle.dumps(Payload())).decode()}
    data = DATA | {"lr_schedule": blob, "max_grad_norm": float("inf"), "observation_space": SPACE | blob}
    (tmp_path / "a.zip").write_bytes(agent(data=data, pytorch_variables__pth=pickle.dumps(Payload())))
    foreign = read_sb3_dqn(tmp_path / "a.zip")
    assert (foreign.net_arch, foreign.n_actions, foreign.gamma, foreign.sb3_version) == ((8,), 3, 0.99, None)
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_activation_can_be_chosen_only_where_the_file_does_not_tell_it(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(agent(data={}))
    foreign = read_sb3_dqn(path, activation="tanh")
    assert (foreign.activation, foreign.observation_shape, foreign.gamma) == ("tanh", None, None)
    inputs = torch.eye(4)
    hidden = torch.tanh(inputs @ GOOD["q_net.q_net.0.weight"].T)
    torch.testing.assert_close(build_q_network(foreign)(inputs), hidden @ GOOD["q_net.q_net.2.weight"].T)
    with pytest.raises(UserError, match="unknown activation 'tanhh'; choose one of relu, tanh"):
        read_sb3_dqn(path, activation="tanhh")
    path.write_bytes(agent())
    assert read_sb3_dqn(path, activation="relu").activation == "relu"
    with pytest.raises(UserError, match="its activation is relu, not tanh"):
        read_sb3_dqn(path, activation="tanh")


def normalizer(space: gym.Space[Any] = VECTOR, **changes: Any) -> VecNormalize:
    """A live VecNormalize that has seen 20 observations, with some of its attributes replaced."""
    environment = VecNormalize(DummyVecEnv([lambda: Random(space)]), clip_obs=3.0, epsilon=1e-4)
    environment.reset()
    for _ in range(20):
        environment.step(np.zeros(1, int))
    environment.__dict__.update(changes)
    return environment


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("space", [VECTOR, gym.spaces.Box(-1, 1, (2, 3))])
def test_statistics_equal_those_of_the_live_normalizer(space: Any, protocol: int, tmp_path: Path) -> None:
    live = normalizer(space)
    live.obs_rms.var = np.asfortranarray(live.obs_rms.var)
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(live, protocol))
    if protocol == 2:  # its bytes are text that is encoded by a call
        with pytest.raises(UserError, match="cannot read"):
            read_vecnormalize(tmp_path / "v.pkl")
        return
    mean, variance, epsilon, clip_obs = read_vecnormalize(tmp_path / "v.pkl")
    np.testing.assert_array_equal(mean, live.obs_rms.mean)
    np.testing.assert_array_equal(variance, live.obs_rms.var)
    assert mean.shape == space.shape
    assert (epsilon, clip_obs) == (1e-4, 3.0)
    observation = space.sample()
    normalized = np.clip((observation - mean) / np.sqrt(variance + epsilon), -clip_obs, clip_obs)
    np.testing.assert_allclose(normalized, live.normalize_obs(observation), rtol=1e-6)


def test_statistics_that_vecnormalize_itself_saved(tmp_path: Path) -> None:
    live = normalizer(epsilon=np.float64(1e-3), clip_obs=5)
    live.save(str(tmp_path / "v.pkl"))
    statistics = read_vecnormalize(tmp_path / "v.pkl")
    np.testing.assert_array_equal(statistics.mean, live.obs_rms.mean)
    assert (statistics.epsilon, statistics.clip_obs) == (1e-3, 5.0)


def test_statistics_of_rewards_alone_say_nothing_of_observations(tmp_path: Path) -> None:
    normalizer(norm_obs=False).save(str(tmp_path / "v.pkl"))
    assert read_vecnormalize(tmp_path / "v.pkl") is None


def test_calls_beside_the_statistics_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    live = normalizer(render_mode=Payload(), reset_infos={Payload(): [Payload()]})
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(live))
    np.testing.assert_array_equal(read_vecnormalize(tmp_path / "v.pkl").mean, live.obs_rms.mean)
    assert [file.name for file in tmp_path.iterdir()] == ["v.pkl"]


def moments(mean: Any, variance: Any) -> RunningMeanStd:
    result = RunningMeanStd()
    result.mean, result.var = mean, variance
    return result


ONES = np.ones(4)
HOSTILE_STATISTICS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"mean: 0\n",
    "code": lambda: pickle.dumps(Payload()),
    "code in protocol 0": lambda: pickle.dumps(Payload(), 0),
    "code as a mean": lambda: pickle.dumps(normalizer(obs_rms=moments(Payload(), ONES))),
    "code as all statistics": lambda: pickle.dumps(normalizer(obs_rms=Payload())),
    "code as a number": lambda: pickle.dumps(normalizer(epsilon=Payload())),
    "truncated": lambda: pickle.dumps(normalizer())[:-200],
    "another class": lambda: pickle.dumps(collections.Counter()),
    "no class": lambda: pickle.dumps({"obs_rms": 1}),
    "nested": lambda: b"\x80\x04}N" + b"\x85" * 90_000 + b"K\x01s.",
    "endless": lambda: b"\x80\x04" + b"N" * 200_000 + b".",
    "stack underflow": lambda: b"\x80\x04N\x87.",
    "missing memo": lambda: b"\x80\x04h\x07.",
    "name of a megabyte": lambda: b"\x80\x04X\0\0\x10\0" + b"a" * 2**20 + b"\x8c\x01b\x93.",
    "persistent": lambda: b"\x80\x04K\x01Q.",
    "no word on observations": lambda: pickle.dumps(normalizer(norm_obs=None)),
    "dict observations": lambda: pickle.dumps(normalizer(gym.spaces.Dict({"a": VECTOR}))),
    "NaN": lambda: pickle.dumps(normalizer(obs_rms=moments(ONES, ONES * np.nan))),
    "negative variance": lambda: pickle.dumps(normalizer(obs_rms=moments(ONES, -ONES))),
    "two shapes": lambda: pickle.dumps(normalizer(obs_rms=moments(ONES, np.ones(5)))),
    "texts": lambda: pickle.dumps(normalizer(obs_rms=moments(np.array(["a"]), ONES))),
    "objects": lambda: pickle.dumps(normalizer(obs_rms=moments(np.array([Payload()]), ONES))),
    "integers": lambda: pickle.dumps(normalizer(obs_rms=moments(np.ones(4, int), ONES))),
    "lists": lambda: pickle.dumps(normalizer(obs_rms=moments([1.0], [1.0]))),
    "epsilon a text": lambda: pickle.dumps(normalizer(epsilon="1\n2")),
    "epsilon infinite": lambda: pickle.dumps(normalizer(epsilon=float("inf"))),
    "clip_obs negative": lambda: pickle.dumps(normalizer(clip_obs=-1.0)),
}


@pytest.mark.parametrize("case", HOSTILE_STATISTICS)
def test_hostile_statistics_end_in_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one_line_error(read_vecnormalize, HOSTILE_STATISTICS[case](), tmp_path)


@pytest.mark.parametrize("read", [read_sb3_dqn, read_vecnormalize])
def test_missing_file_and_folder(read: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "missing")
    with pytest.raises(UserError, match="it is a folder"):
        read(tmp_path)
