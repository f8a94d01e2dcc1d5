"""Files that were tampered with, or are none of ours: refused in one line, nothing unpickled."""

import io
import json
import pickle
import re
import resource
import sys
import zipfile

import pytest
import safetensors.torch
import torch
from stable_baselines3 import DQN

from snnrl.agents.library import open_agent
from snnrl.agents.spiking_dqn import SpikingCnnPolicy, SpikingDQN, SpikingMlpPolicy
from snnrl.errors import UserError
from snnrl.networks import neurons_of
from worlds import FAST, SPACES, World, make_agent


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
    (setting("buffer_size", 10**12), "buffer_size is '1000000000000'"),
    (setting("buffer_size", -1), "buffer_size is '-1'"),
    (setting("buffer_size", 1.5), "buffer_size is '1.5'"),
    (setting("n_envs", 10**12), "n_envs is '1000000000000'"),
    (setting("n_envs", "2"), "n_envs is '2'"),
    (setting("gamma", "os.system('true')"), "gamma is"),
    (setting("seed", -5), "cannot make the agent"),
    (setting("train_freq", {"train_freq": [1, "year"]}), "damaged"),
    (setting("learning_rate", "fast"), "learning_rate is 'fast'"),
    (setting("learning_rate", {"missing": "a\nb"}), "custom_objects"),
    (setting("learning_rate", {"pickle": "gASV"}), "damaged"),
    (setting("replay_buffer_class", {"class": "torch.nn.Linear"}), "cannot make the agent"),
    (setting("replay_buffer_kwargs", {"dict": {"x": 1}}), "cannot make the agent"),
    (setting("observation_space", {"Box": [0, 1, [10**5, 10**5], "<f4"]}), "more than 4194304 numbers"),
    (
        setting("observation_space", {"Dict": [[str(n), {"Box": [0, 1, [2**20], "<f4"]}] for n in range(5)]}),
        "more than 4194304 numbers",
    ),
    (setting("gamma", 10**400), "gamma is"),
    (setting("batch_size", -1), "batch_size is '-1', not from 1"),
    (setting("n_steps", 0), "n_steps is '0', not from 1"),
    (setting("exploration_rate", {"float": "nan"}), "exploration_rate is 'nan'"),
    (setting("train_freq", {"train_freq": [-5, "step"]}), "train_freq is '-5'"),
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
    (setting("env_kwargs", 3), "env_kwargs is '3'"),
    (setting("env_kwargs", [1]), "env_kwargs is "),
    (setting("env_id", {"dict": {}}), "env_id is "),
    (setting("precision", "fp16" * 10**4), "unknown precision 'fp16"),
    (setting("precision", 16), "precision is '16'"),
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


def protocol(**fields):
    return {"env_id": "pong", "env_kwargs": {"dict": {"protocol": {"dict": fields}}}}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"env_id": "pong", "env_kwargs": {"dict": {"x" * 10**4: 3}}}, "made with a protocol alone, not with 'xxx"),
        ({"env_id": "pong", "env_kwargs": {"dict": {"protocol": 3}}}, "a protocol is a name, such as 'v4', or .* '3'"),
        ({"env_id": "pong", "env_kwargs": {"dict": {"protocol": [[1]]}}}, "a protocol is a name"),
        ({"env_id": "pong", "env_kwargs": {"dict": {"protocol": "v" * 10**5}}}, "unknown protocol 'vvv"),
        (protocol(name=[1]), "protocol: name: input should be 'v4' or 'v5'"),
        (protocol(stack="four"), "protocol: stack: input should be a valid integer"),
        (protocol(stack=10**9), "protocol: stack: input should be less than or equal to 16"),
        (protocol(size=10**9), "protocol: size: input should be less than or equal to 512"),
        (protocol(frame_skip=10**12), "protocol: frame_skip: input should be less"),
        (protocol(noops=10**12), "protocol: noops: input should be less"),
        (protocol(most_frames=10**12), "protocol: most_frames: input should be less"),
        (protocol(sticky={"float": "nan"}), "protocol: sticky: "),
        (protocol(**{"y" * 10**5: 1}), "protocol: unknown key 'yyy"),
        (protocol(stack=16, size=512), r"sees observations of shape \(3,\), pong gives \(16, 512, 512\)"),
        ({"env_id": "pongg"}, "unknown environment 'pongg'; did you mean 'pong'"),
        ({"env_id": "z" * 10**5}, "unknown environment 'zzz"),
        ({"env_id": "antigravity:CartPole-v1"}, "asks for code of its own, 'antigravity:CartPole-v1': give --env"),
    ],
)
def test_a_tampered_environment_is_refused_in_one_line(members, tmp_path, no_pickle, attributes, message):
    def change(metadata, tensors):
        metadata["attributes"].update(attributes)

    rewrite(members["agent"], tmp_path / "agent.zip", change)
    assert re.search(message, refused(lambda path: open_agent(str(path)), tmp_path / "agent.zip"))
    assert "antigravity" not in sys.modules


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
