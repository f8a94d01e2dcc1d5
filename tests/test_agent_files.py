"""Files of agents, policies and replay buffers: what comes back, what needs ``custom_objects``, what is refused."""

import copy
import io
import json
import pickle
import resource
import sys
import types
import zipfile

import cloudpickle
import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch
import torch._dynamo  # torch imports it when an optimiser is made, and it derives a class from Unpickler
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from snnrl.agents.encoding import decode, encode, resolve_class
from snnrl.agents.spiking_dqn import (
    SpikingCnnPolicy,
    SpikingDQN,
    SpikingDQNPolicy,
    SpikingMlpPolicy,
    SpikingMultiInputPolicy,
)
from snnrl.errors import UserError
from snnrl.networks import neurons_of

FAST = {"learning_starts": 20, "batch_size": 8, "buffer_size": 100, "train_freq": 4, "seed": 0}
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
SPACES = {
    "MlpPolicy": spaces.Box(np.array([-1, -np.inf, 0], np.float32), np.array([1, np.inf, 0.1], np.float32)),
    "CnnPolicy": IMAGE,
    "MultiInputPolicy": spaces.Dict([("z", spaces.MultiDiscrete([2, 3])), ("a", IMAGE), ("m", spaces.MultiBinary(2))]),
}
KWARGS = {
    "MlpPolicy": {"net_arch": [6]},
    "CnnPolicy": {"features_extractor_kwargs": {"network": "small", "features_dim": 8}},
    "MultiInputPolicy": {
        "net_arch": [6],
        "features_extractor_kwargs": {"network": "small", "cnn_output_dim": 8, "batch_norm": True},
    },
}


class World(gymnasium.Env):
    """Random observations of any space, two actions, the reward is the action, five steps."""

    def __init__(self, observation_space):
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = spaces.Discrete(2)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(action), self.steps == 5, False, {}


class Own(BaseFeaturesExtractor):
    """A feature extractor of the user's, built as SB3's documentation shows it."""

    def __init__(self, observation_space, features_dim=4):
        super().__init__(observation_space, features_dim)
        with torch.no_grad():
            width = torch.from_numpy(observation_space.sample()[None]).float().flatten(1).shape[1]
        self.net = torch.nn.Linear(width, features_dim)

    def forward(self, observations):
        return self.net(observations.flatten(1))


def halving(progress_remaining):
    return 0.001 * progress_remaining


def make_agent(policy="MlpPolicy", *, T=2, envs=1, policy_kwargs=None, **changes):
    env = DummyVecEnv([lambda: World(SPACES[policy])] * envs)
    return SpikingDQN(policy, env, T=T, policy_kwargs=KWARGS[policy] | (policy_kwargs or {}), **FAST | changes)


def observations(agent, size=6):
    space = copy.deepcopy(agent.observation_space)
    space.seed(1)
    samples = [space.sample() for _ in range(size)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
    return np.stack(samples)


def assert_equal_agents(first, second):
    for ours, theirs in (
        (first.policy.state_dict(), second.policy.state_dict()),
        (first.q_net.state_dict(), second.q_net.state_dict()),
    ):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
    tensor, _ = first.policy.obs_to_tensor(observations(first))
    with torch.no_grad():
        first.policy.set_training_mode(False)
        second.policy.set_training_mode(False)
        assert torch.equal(first.q_net(tensor), second.q_net(tensor))


@pytest.fixture
def no_pickle(monkeypatch):
    """Every way to unpickle something raises."""

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for module, name in (
        *((pickle, name) for name in ("load", "loads", "Unpickler", "_loads", "_load")),
        *((cloudpickle, name) for name in ("load", "loads")),
        (torch, "load"),
        (torch.serialization, "load"),
    ):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(np, "load", refuse)


# --- what comes back


@pytest.mark.parametrize("policy", SPACES)
def test_an_agent_comes_back_whole_without_unpickling(policy, tmp_path, no_pickle):
    kwargs = {"dueling": True, "carry": True, "neuron": "lif"}
    agent = make_agent(policy, T=3, envs=2, policy_kwargs=kwargs, tau=0.5, gamma=0.8, double_q=False).learn(48)
    agent.save(tmp_path / "agent")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        assert {name.rpartition(".")[2] for name in archive.namelist()} == {"safetensors", "json"}
    loaded = SpikingDQN.load(tmp_path / "agent", env=agent.env, device="cpu")
    assert_equal_agents(agent, loaded)
    assert loaded.T == 3
    assert loaded.policy.carry
    assert loaded.q_net.dueling
    assert (loaded.tau, loaded.gamma, loaded.double_q, loaded.calibrated) == (0.5, 0.8, False, True)
    assert (loaded.num_timesteps, loaded._n_updates, loaded._episode_num) == (48, agent._n_updates, agent._episode_num)
    assert loaded.exploration_rate == agent.exploration_rate
    assert loaded.observation_space == agent.observation_space
    assert list(getattr(loaded.observation_space, "spaces", [])) == list(getattr(agent.observation_space, "spaces", []))
    assert loaded.ep_info_buffer == agent.ep_info_buffer
    ours, theirs = (a.get_parameters()["policy.optimizer"] for a in (agent, loaded))
    assert ours["param_groups"] == theirs["param_groups"]
    for index, state in ours["state"].items():
        assert all(torch.equal(value, theirs["state"][index][name]) for name, value in state.items())
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 64


@pytest.mark.parametrize("policy", SPACES)
def test_a_policy_comes_back_whole_without_unpickling(policy, tmp_path, no_pickle):
    agent = make_agent(policy, T=3, policy_kwargs={"dueling": True, "carry": True}).learn(28)
    agent.policy.save(tmp_path / "policy.zip")
    loaded = type(agent.policy).load(tmp_path / "policy.zip")
    assert (loaded.T, loaded.carry, loaded.spiking) == (3, True, {"T": 3, "neuron": "lif", "dueling": True})
    batch = observations(agent)
    np.testing.assert_array_equal(loaded.predict(batch)[0], agent.predict(batch, deterministic=True)[0])
    assert SpikingDQNPolicy.load(tmp_path / "policy.zip").T == 3
    assert SpikingDQNPolicy.load(io.BytesIO((tmp_path / "policy.zip").read_bytes())).T == 3


def test_a_lowered_T_comes_back(tmp_path):
    agent = make_agent(T=4).learn(28)
    agent.reduce_to(2)
    agent.save(tmp_path / "agent")
    agent.policy.save(tmp_path / "policy")
    loaded = SpikingDQN.load(tmp_path / "agent")
    assert (loaded.T, loaded.policy_kwargs["T"], loaded.q_net_target.T) == (2, 2, 2)
    assert {neuron.steps for neuron in neurons_of(loaded.policy).values()} == {2}
    assert SpikingMlpPolicy.load(tmp_path / "policy").T == 2
    assert_equal_agents(agent, loaded)


def test_without_an_environment_an_agent_predicts(tmp_path):
    agent = make_agent().learn(28)
    agent.save(str(tmp_path / "agent"))
    loaded = SpikingDQN.load(str(tmp_path / "agent"))
    assert loaded.env is None
    batch = observations(agent)
    np.testing.assert_array_equal(
        loaded.predict(batch, deterministic=True)[0], agent.predict(batch, deterministic=True)[0]
    )
    with pytest.raises(AssertionError):
        loaded.learn(10)
    loaded.set_env(agent.env)
    loaded.learn(28)


def test_paths_streams_and_suffixes_work_as_in_sb3(tmp_path):
    agent = make_agent()
    for path in (tmp_path / "deep" / "er" / "agent", str(tmp_path / "text"), tmp_path / "named.model"):
        agent.save(path)
        assert_equal_agents(agent, SpikingDQN.load(path))
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "text.zip", "named.model"}
    agent.save(tmp_path / "v1.5.zip")
    assert_equal_agents(agent, SpikingDQN.load(tmp_path / "v1.5"))
    (tmp_path / "text").mkdir()
    assert_equal_agents(agent, SpikingDQN.load(tmp_path / "text"))
    stream = io.BytesIO()
    agent.save(stream)
    assert_equal_agents(agent, SpikingDQN.load(stream))
    with open(tmp_path / "file", "wb") as file:
        agent.save(file)
    with open(tmp_path / "file", "rb") as file:
        assert_equal_agents(agent, SpikingDQN.load(file))
        assert not file.closed
    with pytest.raises(UserError, match="no such file"):
        SpikingDQN.load(tmp_path / "nowhere")


def test_settings_can_be_replaced_left_out_and_not_included(tmp_path):
    agent = make_agent(gamma=0.7, verbose=0, tensorboard_log=str(tmp_path)).learn(28)
    agent.save(tmp_path / "agent", exclude=["gamma", "verbose", "tensorboard_log"], include=["tensorboard_log"])
    loaded = SpikingDQN.load(
        tmp_path / "agent", env=agent.env, learning_rate=0.5, buffer_size=50, exploration_fraction=1.0
    )
    assert (loaded.gamma, loaded.tensorboard_log) == (0.99, str(tmp_path))
    assert (loaded.lr_schedule(1), loaded.replay_buffer.buffer_size, loaded.exploration_fraction) == (0.5, 50, 1.0)
    loaded.learn(28)
    assert loaded.policy.optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(UserError, match="save_replay_buffer"):
        agent.save(tmp_path / "agent", include=["replay_buffer"])
    with pytest.raises(UserError, match="reduce_to"):
        SpikingDQN.load(tmp_path / "agent", T=1)
    same = copy.deepcopy(KWARGS["MlpPolicy"])
    assert SpikingDQN.load(tmp_path / "agent", policy_kwargs=same, T=2).T == 2
    with pytest.raises(UserError, match="cannot be changed"):
        SpikingDQN.load(tmp_path / "agent", policy_kwargs={"net_arch": [7]})
    with pytest.raises(ValueError, match="spaces do not match"):
        SpikingDQN.load(tmp_path / "agent", env=World(spaces.Discrete(2)))


def test_more_environments_than_when_saved(tmp_path):
    agent = make_agent(envs=1).learn(28)
    agent.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent", env=make_agent(envs=3).env)
    assert loaded.learn(40).n_envs == 3


def test_schedules_of_sb3_and_episode_wise_training_survive(tmp_path):
    agent = make_agent(learning_rate=LinearSchedule(0.01, 0.001, 0.5), train_freq=(2, "episode")).learn(30)
    agent.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent", env=agent.env)
    assert [loaded.lr_schedule(x) for x in (1, 0.75, 0)] == [agent.lr_schedule(x) for x in (1, 0.75, 0)]
    assert loaded.train_freq == TrainFreq(2, TrainFrequencyUnit.EPISODE)
    loaded.learn(30, reset_num_timesteps=False)


def test_n_step_agents_come_back_without_a_warning(tmp_path):
    agent = make_agent(n_steps=3, gamma=0.9).learn(28)
    agent.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent", env=agent.env)
    assert isinstance(loaded.replay_buffer, NStepReplayBuffer)
    assert (loaded.replay_buffer.n_steps, loaded.replay_buffer.gamma) == (3, 0.9)
    chosen = make_agent(replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs={"n_steps": 4}).learn(28)
    chosen.save(tmp_path / "chosen")
    assert SpikingDQN.load(tmp_path / "chosen").replay_buffer.n_steps == 4


@pytest.mark.parametrize(
    ("optimizer", "kwargs"),
    [
        (torch.optim.RMSprop, {"alpha": 0.9, "centered": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.Adafactor, {}),
        (RMSpropTFLike, {}),
    ],
)
def test_other_optimisers_come_back_with_their_state(tmp_path, optimizer, kwargs):
    agent = make_agent(policy_kwargs={"optimizer_class": optimizer, "optimizer_kwargs": kwargs}).learn(28)
    agent.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent", env=agent.env)
    assert type(loaded.policy.optimizer) is optimizer
    assert_equal_agents(agent, loaded)
    for a in (agent, loaded):
        a.replay_buffer = agent.replay_buffer
        a._logger = agent.logger
        a.set_random_seed(0)
        a.train(3, 8)
    assert_equal_agents(agent, loaded)


@pytest.mark.parametrize(("policy", "steps"), [("MlpPolicy", 30), ("MultiInputPolicy", 30), ("CnnPolicy", 130)])
def test_a_replay_buffer_comes_back_without_unpickling(policy, steps, tmp_path, no_pickle):
    agent = make_agent(policy).learn(steps)
    agent.save_replay_buffer(tmp_path / "buffer")
    other = make_agent(policy, buffer_size=7)
    other.load_replay_buffer(tmp_path / "buffer")
    ours, theirs = agent.replay_buffer, other.replay_buffer
    assert (theirs.pos, theirs.full, theirs.buffer_size, theirs.size()) == (
        ours.pos,
        ours.full,
        100,
        min(steps + 2, 100),
    )
    if isinstance(ours, DictReplayBuffer):
        for key, array in ours.observations.items():
            np.testing.assert_array_equal(theirs.observations[key], array)
    else:
        np.testing.assert_array_equal(theirs.observations, ours.observations)
        np.testing.assert_array_equal(theirs.actions, ours.actions)
    other.learn(8, reset_num_timesteps=False)


def test_a_memory_saving_buffer_keeps_its_last_observation(tmp_path):
    kwargs = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    agent, other = make_agent(**kwargs).learn(32), make_agent(**kwargs)
    agent.save_replay_buffer(tmp_path / "buffer")
    other.load_replay_buffer(tmp_path / "buffer")
    ours, theirs = agent.replay_buffer, other.replay_buffer
    assert ours.observations[32].any()
    np.testing.assert_array_equal(theirs.observations, ours.observations)
    assert (theirs.pos, theirs.full) == (32, False)


# --- code of one's own


def test_a_custom_extractor_is_passed_by_name_or_within_policy_kwargs(tmp_path):
    kwargs = {"features_extractor_class": Own, "features_extractor_kwargs": {"features_dim": 3}}
    agent = make_agent(policy_kwargs=kwargs).learn(28)
    agent.save(tmp_path / "agent")
    agent.policy.save(tmp_path / "policy")
    for load in (lambda: SpikingDQN.load(tmp_path / "agent"), lambda: SpikingMlpPolicy.load(tmp_path / "policy")):
        with pytest.raises(UserError, match=r"custom_objects=\{'features_extractor_class': \.\.\.\}"):
            load()
    for own in ({"features_extractor_class": Own}, {"policy_kwargs": KWARGS["MlpPolicy"] | kwargs}):
        loaded = SpikingDQN.load(tmp_path / "agent", custom_objects=own)
        assert type(loaded.q_net.features_extractor) is Own
        assert_equal_agents(agent, loaded)
    policy = SpikingMlpPolicy.load(tmp_path / "policy", custom_objects={"features_extractor_class": Own})
    batch = observations(agent)
    np.testing.assert_array_equal(policy.predict(batch)[0], agent.predict(batch, deterministic=True)[0])


def test_a_custom_schedule_is_passed_by_name_or_replaced(tmp_path):
    agent = make_agent(learning_rate=halving).learn(28)
    agent.save(tmp_path / "agent")
    with pytest.raises(UserError, match=r"custom_objects=\{'learning_rate': \.\.\.\}"):
        SpikingDQN.load(tmp_path / "agent")
    given = {"learning_rate": halving, "lr_schedule": halving, "clip_range": halving}  # as RL Zoo passes them
    assert SpikingDQN.load(tmp_path / "agent", custom_objects=given).lr_schedule(0.5) == 0.0005
    assert SpikingDQN.load(tmp_path / "agent", learning_rate=0.1).lr_schedule(0.5) == 0.1


def test_a_custom_policy_and_buffer_are_passed_by_name(tmp_path):
    class Policy(SpikingMultiInputPolicy):
        pass

    class Buffer(DictReplayBuffer):
        pass

    agent = SpikingDQN(
        Policy,
        World(spaces.Dict({"a": spaces.Discrete(3)})),
        policy_kwargs={"net_arch": [4]},
        replay_buffer_class=Buffer,
        **FAST,
    )
    agent.save(tmp_path / "agent")
    with pytest.raises(UserError, match=r"custom_objects=\{'policy_class'"):
        SpikingDQN.load(tmp_path / "agent")
    with pytest.raises(UserError, match=r"custom_objects=\{'replay_buffer_class'"):
        SpikingDQN.load(tmp_path / "agent", custom_objects={"policy_class": Policy})
    loaded = SpikingDQN.load(tmp_path / "agent", custom_objects={"policy_class": Policy, "replay_buffer_class": Buffer})
    assert type(loaded.policy) is Policy
    assert type(loaded.replay_buffer) is Buffer
    with pytest.raises(UserError, match="derive it from SpikingDQNPolicy"):
        SpikingDQN.load(tmp_path / "agent", custom_objects={"policy_class": Own, "replay_buffer_class": Buffer})


# --- values as JSON


def numbers():
    return st.one_of(
        st.integers(-(2**62), 2**62), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=9)
    )


VALUES = st.recursive(
    st.one_of(numbers(), arrays(st.sampled_from([np.float32, np.int64, np.uint8, bool]), (2, 3))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_values_come_back_equal_and_of_the_same_type(value):
    found = decode(json.loads(json.dumps(encode(value))), "value")
    np.testing.assert_equal(found, value)
    assert type(found) is type(value)
    if isinstance(value, np.ndarray):
        assert found.dtype == value.dtype


@pytest.mark.parametrize(
    "space",
    [
        *SPACES.values(),
        spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
        spaces.Box(-np.inf, np.inf, (), np.float64),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiDiscrete([2, 3], start=[1, 1], dtype=np.int32),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 3]),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(3)}, sort_keys=False),
    ],
    ids=str,
)
def test_spaces_come_back_equal_with_their_keys_in_order(space):
    found = decode(json.loads(json.dumps(encode(space))), "space")
    assert found == space
    assert list(getattr(found, "spaces", [])) == list(getattr(space, "spaces", []))


def test_a_space_that_sb3_has_no_observations_of_is_named():
    with pytest.raises(UserError, match="type Text cannot be saved"):
        encode(spaces.Text(3))


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "builtins.eval",
        "stable_baselines3.common.save_util.json",
        "stable_baselines3.common.save_util.load_from_pkl",
        "stable_baselines3.common.logger.CSVOutputFormat",
        "stable_baselines3.common.monitor.Monitor",
        "snnrl.cli.os",
        "snnrl.agents.spiking_dqn.agent.SpikingDQN",
        "snnrl_evil.Module",
        "stable_baselines3_evil.Module",
        "torch.nn.nothing.Linear",
        "torch.nn.Lineer",
        "torch.hub.load",
        "torch.nn",
        "",
        ".",
    ],
)
def test_only_networks_optimisers_and_buffers_of_trusted_packages_are_resolved(path):
    with pytest.raises(UserError) as error:
        resolve_class(path, "features_extractor_class")
    assert "\n" not in str(error.value)
    assert "features_extractor_class" in str(error.value)


def test_a_package_whose_name_only_begins_like_a_trusted_one_is_not(monkeypatch):
    module = types.ModuleType("snnrl_evil")
    module.Evil = type("Evil", (torch.nn.Module,), {"__module__": "snnrl_evil"})
    monkeypatch.setitem(sys.modules, "snnrl_evil", module)
    with pytest.raises(UserError, match="is not loaded from a file"):
        resolve_class("snnrl_evil.Evil", "features_extractor_class")
    assert encode(module.Evil, "activation_fn") == {"missing": "activation_fn"}


# --- files that were tampered with


@pytest.fixture(scope="module")
def members():
    """The parts of one agent's and one replay buffer's file."""
    agent = make_agent(envs=2).learn(40)
    files = {}
    for name, save in (("agent", agent.save), ("replay", agent.save_replay_buffer), ("policy", agent.policy.save)):
        stream = io.BytesIO()
        save(stream)
        with zipfile.ZipFile(stream) as archive:
            files[name] = {member: archive.read(member) for member in archive.namelist()}
    return files


def rewrite(members, path, change):
    """Write a file again whose metadata and tensors ``change`` has changed in place."""
    metadata = json.loads(members["metadata.json"])
    tensors = {name: safetensors.torch.load(data) for name, data in members.items() if name != "metadata.json"}
    change(metadata, tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps(metadata))
        for name, group in tensors.items():
            archive.writestr(name, safetensors.torch.save(group))


def refused(load, path):
    """The one line with which a file is refused, little memory having been spent on it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as error:
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def setting(name, value):
    def change(metadata, tensors):
        metadata["attributes"][name] = value

    return change


def policy_setting(name, value):
    def change(metadata, tensors):
        metadata["attributes"]["policy_kwargs"]["dict"][name] = value

    return change


def without(group, name=None):
    def change(metadata, tensors):
        if name is None:
            del (metadata if group in metadata else tensors)[group]
        else:
            del (metadata if group in metadata else tensors)[group][name]

    return change


def put(group, name, value):
    def change(metadata, tensors):
        (metadata if group in metadata else tensors)[group][name] = value

    return change


def top(name, value):
    def change(metadata, tensors):
        metadata[name] = value

    return change


def optimizer_groups(metadata, tensors):
    groups = metadata["optimizer"]["param_groups"]
    groups[0]["items"] = [[key, "x" if key == "lr" else value] for key, value in groups[0]["items"]]


def optimizer_parameters(metadata, tensors):
    groups = metadata["optimizer"]["param_groups"]
    groups[0]["items"] = [[key, [0] if key == "params" else value] for key, value in groups[0]["items"]]


def optimizer_shape(metadata, tensors):
    group = tensors["optimizer.safetensors"]
    name = next(key for key, value in group.items() if value.dim() == 2)
    group[name] = torch.zeros(99, 99)


HEAD = "q_net.q_net.head.weight"
OWN_EXTRACTOR = {"class": "stable_baselines3.common.torch_layers.NatureCNN"}
TAMPERED_AGENTS = [
    (policy_setting("T", 10**9), "T must be a whole number from 1 to 1000"),
    (policy_setting("T", -1), "T must be a whole number from 1 to 1000"),
    (policy_setting("T", "3"), "T must be a whole number from 1 to 1000"),
    (policy_setting("T", [1]), "T must be a whole number"),
    (policy_setting("neuron", "x\ny"), "unknown neuron"),
    (policy_setting("neuron", []), "policy cannot be made"),
    (policy_setting("net_arch", [10**9]), "has shape"),
    (policy_setting("net_arch", [6, 10**9]), "is missing"),
    (policy_setting("net_arch", [1] * 10**5), "net_arch has 100000 layers"),
    (policy_setting("net_arch", [-5]), "policy cannot be made"),
    (policy_setting("net_arch", "os.system"), "policy cannot be made"),
    (policy_setting("features_extractor_class", {"class": "os.system"}), "is not loaded from a file"),
    (policy_setting("features_extractor_class", {"class": "snnrl.cli.os"}), "names (the class )?'snnrl.cli.os'"),
    (policy_setting("features_extractor_class", {"class": "torch.nn.Linear"}), "policy cannot be made"),
    (policy_setting("features_extractor_class", OWN_EXTRACTOR), "needs images"),
    (policy_setting("features_extractor_class", {"class": 5}), "damaged"),
    (policy_setting("features_extractor_kwargs", {"dict": {"a\nb": 1}}), "policy cannot be made"),
    (policy_setting("activation_fn", {"class": "stable_baselines3.common.save_util.json"}), "no class"),
    (policy_setting("optimizer_class", {"optimizer": "Adamm"}), "did you mean 'Adam'"),
    (policy_setting("unheard_of", 1), "policy cannot be made"),
    (policy_setting("observation_space", {"Discrete": [3, 0, "<i8"]}), "tensor|policy|agent"),
    (setting("policy_class", {"class": "stable_baselines3.common.torch_layers.NatureCNN"}), "does not spike"),
    (setting("policy_class", {"class": "stable_baselines3.common.save_util.json"}), "no class"),
    (setting("policy_class", 3), "policy_class is '3'"),
    (setting("policy_kwargs", 3), "policy_kwargs is '3'"),
    (setting("policy_kwargs", {"dict": 3}), "damaged"),
    (setting("buffer_size", 10**12), "buffer_size is 1000000000000"),
    (setting("buffer_size", -1), "buffer_size is -1"),
    (setting("buffer_size", 1.5), "buffer_size is '1.5'"),
    (setting("n_envs", 10**12), "n_envs is 1000000000000"),
    (setting("n_envs", "2"), "n_envs is '2'"),
    (setting("gamma", "os.system('true')"), "gamma is"),
    (setting("seed", -5), "cannot make the agent"),
    (setting("train_freq", {"train_freq": [1, "year"]}), "damaged"),
    (setting("learning_rate", "fast"), "learning_rate is 'fast'"),
    (setting("learning_rate", {"missing": "a\nb"}), "custom_objects"),
    (setting("learning_rate", {"pickle": "gASV"}), "damaged"),
    (setting("replay_buffer_class", {"class": "torch.nn.Linear"}), "cannot make the agent"),
    (setting("replay_buffer_kwargs", {"dict": {"x": 1}}), "cannot make the agent"),
    (setting("observation_space", {"Box": [0, 1, [10**5, 10**5], "<f4"]}), "damaged"),
    (setting("observation_space", {"Box": [0, 1, [4], "|O"]}), "damaged"),
    (setting("observation_space", {"Discrete": [10**12, 0, "<i8"]}), "has shape"),
    (setting("observation_space", {"MultiBinary": 10**12}), "has shape"),
    (setting("observation_space", {"Dict": [["a", 3]]}), "damaged"),
    (setting("observation_space", None), "observation_space is 'None'"),
    (setting("action_space", {"Discrete": [10**12, 0, "<i8"]}), "has shape"),
    (setting("action_space", {"Discrete": [2, 5, "<i8"]}), "actions start at 5"),
    (setting("action_space", {"Box": [0, 1, [2], "<f4"]}), "action_space is"),
    (setting("_last_obs", {"array": ["<f4", [10**12], ""]}), "damaged"),
    (setting("_stats_window_size", 10**15), "_stats_window_size is"),
    (setting("os\nsystem", 1), "unknown attribute"),
    (without("attributes", "observation_space"), "no observation_space"),
    (without("attributes"), "no attributes"),
    (without("optimizer"), "no optimiser"),
    (without("episodes"), "records of episodes"),
    (top("episodes", [[5], []]), "records of episodes"),
    (top("episodes", 7), "records of episodes"),
    (top("kind", "policy"), "not 'agent'"),
    (top("kind", {"a\n": ["b"] * 10**4}), "not 'agent'"),
    (top("format", "other"), "not a snnrl archive"),
    (top("version", 99), "format version"),
    (optimizer_groups, "optimiser does not fit"),
    (optimizer_parameters, "optimiser does not fit"),
    (optimizer_shape, "optimiser does not fit"),
    (top("optimizer", {"state": 1, "param_groups": 2}), "optimizer"),
    (without("policy.safetensors"), "0 tensors"),
    (without("policy.safetensors", HEAD), "is missing"),
    (put("policy.safetensors", HEAD, torch.zeros(2, 7)), "has shape"),
    (put("policy.safetensors", "extra", torch.zeros(2)), "unexpected tensor"),
    (put("policy.safetensors", HEAD, torch.full((2, 6), torch.nan)), "NaN"),
    (without("optimizer.safetensors"), "optimizer"),
]


@pytest.mark.parametrize(("change", "message"), TAMPERED_AGENTS)
def test_a_tampered_agent_is_refused_in_one_line(members, tmp_path, no_pickle, change, message):
    rewrite(members["agent"], tmp_path / "agent.zip", change)
    with pytest.raises(UserError, match=message):
        SpikingDQN.load(tmp_path / "agent.zip")
    refused(SpikingDQN.load, tmp_path / "agent")


def test_dangerous_thresholds_are_put_back_into_their_range(members, tmp_path):
    name = "q_net.q_net.fc1.act"

    def change(metadata, tensors):
        tensors["policy.safetensors"][f"{name}.threshold"] = torch.tensor(-1.0)
        tensors["policy.safetensors"][f"{name}.leak"] = torch.tensor(7.0)

    rewrite(members["agent"], tmp_path / "agent.zip", change)
    (neuron,) = neurons_of(SpikingDQN.load(tmp_path / "agent.zip").q_net).values()
    assert (neuron.threshold > 0, neuron.leak == 1) == (True, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("arguments", "dict", 3), "damaged"),
        (without("arguments"), "no arguments"),
        (top("arguments", {"missing": "a"}), "custom_objects"),
        (top("kind", "agent"), "not 'policy'"),
        (lambda metadata, tensors: metadata["arguments"]["dict"].update(net_arch=[10**9]), "has shape"),
        (lambda metadata, tensors: metadata["arguments"]["dict"].update(T=10**6), "T must be"),
        (lambda metadata, tensors: metadata["arguments"]["dict"].update(carry=1, x=1), "policy cannot be made"),
        (without("policy.safetensors"), "0 tensors"),
        (put("policy.safetensors", HEAD, torch.zeros(1)), "has shape"),
    ],
)
def test_a_tampered_policy_is_refused_in_one_line(members, tmp_path, no_pickle, change, message):
    rewrite(members["policy"], tmp_path / "policy.zip", change)
    with pytest.raises(UserError, match=message):
        SpikingMlpPolicy.load(tmp_path / "policy.zip")
    refused(SpikingMlpPolicy.load, tmp_path / "policy.zip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (top("pos", 10**6), "out of range"),
        (top("pos", -1), "out of range"),
        (top("pos", "1"), "sizes are damaged"),
        (top("pos", 7), "does not hold 7 rows"),
        (top("full", 1), "sizes are damaged"),
        (top("full", True), "does not hold 50 rows"),
        (top("buffer_size", 10**12), "out of range"),
        (top("buffer_size", 3), "out of range"),
        (top("envs", 3), "this agent has 2"),
        (top("kind", "agent"), "not 'replay'"),
        (without("pos"), "sizes are damaged"),
        (without("rows.safetensors"), "another kind of buffer"),
        (without("rows.safetensors", "rewards"), "rewards belong to another kind"),
        (put("rows.safetensors", "extra", torch.zeros(20, 2)), "extra belong to another kind"),
        (put("rows.safetensors", "rewards", torch.zeros(20, 3)), "rewards .* do not fit"),
        (put("rows.safetensors", "rewards", torch.zeros(20, 2, dtype=torch.int64)), "rewards .* do not fit"),
        (put("rows.safetensors", "rewards", torch.zeros(())), "does not hold"),
        (put("rows.safetensors", "observations", torch.zeros(20, 2, 4)), "observations .* do not fit"),
    ],
)
def test_a_tampered_replay_buffer_is_refused_in_one_line(members, tmp_path, no_pickle, change, message):
    agent = make_agent(envs=2)
    rewrite(members["replay"], tmp_path / "buffer.zip", change)
    kept = agent.replay_buffer
    with pytest.raises(UserError, match=message):
        agent.load_replay_buffer(tmp_path / "buffer.zip")
    refused(agent.load_replay_buffer, tmp_path / "buffer.zip")
    assert agent.replay_buffer is kept


def test_files_of_sb3_itself_are_named_with_the_way_out(tmp_path, no_pickle):
    DQN("MlpPolicy", World(SPACES["MlpPolicy"]), **FAST).save(tmp_path / "theirs")
    message = refused(SpikingDQN.load, tmp_path / "theirs")
    assert "stable-baselines3" in message
    assert "snnrl convert" in message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps([1, 2]), b"\x00" * 1000])
def test_other_bytes_are_refused_in_one_line(tmp_path, no_pickle, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    agent = make_agent()
    for load in (SpikingDQN.load, SpikingCnnPolicy.load, agent.load_replay_buffer, agent.set_parameters):
        refused(load, path)
    refused(SpikingDQN.load, io.BytesIO(content))
