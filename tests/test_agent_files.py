"""Files of agents, policies and replay buffers: what comes back, and what needs ``custom_objects``."""

import copy
import io
import zipfile

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import LinearSchedule

from snnrl.agents.spiking_dqn import SpikingDQN, SpikingDQNPolicy, SpikingMlpPolicy, SpikingMultiInputPolicy
from snnrl.errors import UserError
from snnrl.networks import neurons_of
from worlds import FAST, KWARGS, SPACES, World, batch_of, make_agent


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


def assert_equal_agents(first, second):
    for ours, theirs in (
        (first.policy.state_dict(), second.policy.state_dict()),
        (first.q_net.state_dict(), second.q_net.state_dict()),
    ):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
    tensor, _ = first.policy.obs_to_tensor(batch_of(first.observation_space))
    with torch.no_grad():
        first.policy.set_training_mode(False)
        second.policy.set_training_mode(False)
        assert torch.equal(first.q_net(tensor), second.q_net(tensor))


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


def test_a_loaded_optimiser_goes_on_as_the_one_that_was_saved(tmp_path):
    agent = make_agent("CnnPolicy", T=3).learn(48)
    agent.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent", env=agent.env, device="cpu")
    for one in (agent, loaded):
        for parameter in one.q_net.parameters():
            # each value another gradient, laid out in memory as the parameter is
            parameter.grad = torch.empty_like(parameter).copy_(torch.arange(parameter.numel()).view(parameter.shape))
        one.policy.optimizer.step()
    assert_equal_agents(agent, loaded)


def test_an_agent_without_bias_and_leak_comes_back(tmp_path):
    agent = make_agent("CnnPolicy", policy_kwargs={"bias": False, "neuron": "if"}).learn(48)
    agent.save(tmp_path / "agent")
    agent.policy.save(tmp_path / "policy.zip")
    assert_equal_agents(agent, SpikingDQN.load(tmp_path / "agent", device="cpu"))
    loaded = SpikingDQNPolicy.load(tmp_path / "policy.zip", device="cpu")
    assert loaded.state_dict().keys() == agent.policy.state_dict().keys()
    assert not any(name.endswith(("bias", "leak")) for name in loaded.state_dict())


@pytest.mark.parametrize("policy", SPACES)
def test_a_policy_comes_back_whole_without_unpickling(policy, tmp_path, no_pickle):
    agent = make_agent(policy, T=3, policy_kwargs={"dueling": True, "carry": True}).learn(28)
    agent.policy.save(tmp_path / "policy.zip")
    loaded = type(agent.policy).load(tmp_path / "policy.zip")
    assert (loaded.T, loaded.carry) == (3, True)
    assert loaded.spiking == {"T": 3, "neuron": "lif", "dueling": True, "bias": True}
    batch = batch_of(agent.observation_space)
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
    batch = batch_of(agent.observation_space)
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
        SpikingDQN.load(tmp_path / "agent", env=World(spaces.Discrete(2), spaces.Discrete(2)))


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
    batch = batch_of(agent.observation_space)
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
