"""What SB3 promises of DQN holds of SpikingDQN."""

import inspect

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from stable_baselines3.dqn import policies as sb3_policies
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from snnrl.agents.spiking_dqn import (
    CnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    SpikingCnnPolicy,
    SpikingDQN,
    SpikingMlpPolicy,
    SpikingMultiInputPolicy,
)
from snnrl.errors import UserError
from snnrl.networks import neurons_of
from worlds import FAST, POLICIES, SMALL, World, batch_of, row, same, small_agent


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3, 2), np.float64),
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(5),
        spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.MultiBinary(2)}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_every_observation_space_of_sb3_trains_and_predicts(space):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    agent = SpikingDQN(policy, World(space), T=2, policy_kwargs=SMALL, **FAST).learn(40)
    assert agent._n_updates > 0
    batch = batch_of(space, 5)
    actions, state = agent.predict(batch, deterministic=True)
    assert actions.shape == (5,)
    assert state is None
    single, _ = agent.predict(row(batch, 2), deterministic=True)
    assert single.shape == ()
    assert single == actions[2]


def test_names_and_aliases_choose_the_policy():
    assert (MlpPolicy, CnnPolicy, MultiInputPolicy) == (SpikingMlpPolicy, SpikingCnnPolicy, SpikingMultiInputPolicy)
    for name, policy in (("MlpPolicy", SpikingMlpPolicy), ("CnnPolicy", SpikingCnnPolicy)):
        assert type(small_agent(name).policy) is policy
    env = World(POLICIES["MlpPolicy"][0])
    assert type(SpikingDQN("SpikingMlpPolicy", env, **FAST).policy) is SpikingMlpPolicy
    assert type(SpikingDQN(SpikingMlpPolicy, env, **FAST).policy) is SpikingMlpPolicy
    with pytest.raises(UserError, match="did you mean 'MlpPolicy'"):
        SpikingDQN("MplPolicy", env)


@pytest.mark.parametrize(
    ("theirs", "policy", "ours"),
    [
        (sb3_policies.MlpPolicy, "MlpPolicy", SpikingMlpPolicy),
        (sb3_policies.CnnPolicy, "CnnPolicy", SpikingCnnPolicy),
        (sb3_policies.MultiInputPolicy, "MultiInputPolicy", SpikingMultiInputPolicy),
    ],
)
def test_the_policy_classes_of_sb3_itself_are_taken_as_their_spiking_ones(theirs, policy, ours):
    agent = SpikingDQN(theirs, World(POLICIES[policy][0]), policy_kwargs=POLICIES[policy][1], **FAST)
    assert type(agent.policy) is ours
    assert neurons_of(agent.q_net)


def test_a_policy_that_cannot_spike_is_refused():
    class Own(sb3_policies.DQNPolicy):
        pass

    with pytest.raises(UserError, match="derive it from SpikingDQNPolicy"):
        SpikingDQN(Own, World(POLICIES["MlpPolicy"][0]))


@pytest.mark.parametrize("algorithm", [DQN, SpikingDQN])
def test_a_script_for_dqn_works_after_changing_the_class(algorithm, tmp_path):
    env = make_vec_env("CartPole-v1", n_envs=2, seed=0)
    model = algorithm("MlpPolicy", env, 1e-3, 500, 20, 8, verbose=0, tensorboard_log=None, seed=1, device="cpu")
    model.learn(total_timesteps=64, log_interval=2, progress_bar=False)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = algorithm.load(tmp_path / "model", env=env)
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert loaded.replay_buffer.size() == 32
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps == 104
    mean, _ = evaluate_policy(loaded, env, n_eval_episodes=2, warn=False)
    assert mean > 0
    assert loaded.get_env() is loaded.env
    assert set(loaded.get_parameters()) == {"policy", "policy.optimizer"}


def test_policy_kwargs_take_effect():
    class Half(BaseFeaturesExtractor):
        def __init__(self, observation_space, width=3):
            super().__init__(observation_space, width)
            self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Tanh())

        def forward(self, observations):
            return self.net(observations)

    kwargs = {
        "net_arch": [7, 6],
        "activation_fn": torch.nn.Tanh,
        "optimizer_class": torch.optim.SGD,
        "optimizer_kwargs": {"momentum": 0.5},
        "features_extractor_class": Half,
        "features_extractor_kwargs": {"width": 5},
    }
    agent = small_agent(T=2, policy_kwargs=kwargs).learn(30)
    assert isinstance(agent.policy.optimizer, torch.optim.SGD)
    assert agent.policy.optimizer.param_groups[0]["momentum"] == 0.5
    assert agent.q_net.q_net.fc1.weights.weight.shape == (7, 5)
    assert list(neurons_of(agent.q_net)) == ["q_net.fc1", "q_net.fc2"]  # a custom extractor counts as dense
    ordinary = small_agent(T=None, policy_kwargs=kwargs)
    assert isinstance(ordinary.q_net.q_net.fc2.act, torch.nn.Tanh)


@pytest.mark.parametrize(("normalize", "largest"), [(True, 1.0), (False, 255.0)])
def test_images_are_divided_by_255_unless_told_otherwise(normalize, largest):
    agent = small_agent("CnnPolicy", policy_kwargs={"normalize_images": normalize})
    seen = []
    agent.q_net.features_extractor.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].max()))
    agent.predict(np.full((1, 36, 36), 255, np.uint8), deterministic=True)
    assert seen == [largest]


def test_without_normalisation_float_images_in_a_dict_are_images():
    space = spaces.Dict({"image": spaces.Box(0, 1, (1, 36, 36), np.float32)})
    kwargs = POLICIES["MultiInputPolicy"][1] | {"normalize_images": False}
    agent = SpikingDQN("MultiInputPolicy", World(space), policy_kwargs=kwargs, **FAST)
    assert "features_extractor.extractors.image.cnn.conv1" in neurons_of(agent.q_net)
    assert "normalized_image" not in kwargs["features_extractor_kwargs"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_vectorised_environments(policy):
    makers = [lambda: World(POLICIES[policy][0])] * 2
    for env in (DummyVecEnv(makers), SubprocVecEnv(makers, start_method="fork")):
        agent = small_agent(policy, env=env).learn(40)
        assert agent.num_timesteps == 40
        assert agent.replay_buffer.n_envs == 2
        env.close()


def test_with_vecnormalize_training_sees_normalised_observations():
    env = VecNormalize(DummyVecEnv([lambda: World(spaces.Box(900, 1100, (4,), np.float32))]))
    agent = small_agent(env=env)
    seen = []
    agent.q_net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].abs().max().item()))
    agent.learn(60)
    assert agent.replay_buffer.observations[:60].min() >= 900
    assert max(seen) <= 10


def test_n_step_returns_use_the_buffer_of_sb3():
    agent = small_agent(n_steps=3).learn(40)
    assert isinstance(agent.replay_buffer, NStepReplayBuffer)
    assert agent.replay_buffer.sample(4).discounts is not None


def test_hindsight_replay_trains_and_its_buffer_survives(tmp_path):
    env = BitFlippingEnv(n_bits=3, continuous=False, max_steps=3)
    kwargs = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": {"goal_selection_strategy": "future"}}
    agent = SpikingDQN("MultiInputPolicy", env, policy_kwargs=SMALL, **FAST, **kwargs).learn(61)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer")
    loaded = SpikingDQN.load(tmp_path / "agent", env=env)
    loaded.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
    for name in ("ep_start", "ep_length", "_current_ep_start", "rewards"):
        np.testing.assert_array_equal(getattr(loaded.replay_buffer, name), getattr(agent.replay_buffer, name))
    loaded.learn(30, reset_num_timesteps=False)
    if (agent.replay_buffer._current_ep_start != agent.replay_buffer.pos).any():
        with pytest.warns(UserWarning, match="truncated"):
            loaded.load_replay_buffer(tmp_path / "buffer")
        assert (loaded.replay_buffer._current_ep_start == loaded.replay_buffer.pos).all()


def test_callbacks_stop_evaluate_and_write_files_that_load(tmp_path):
    stop = StopTrainingOnRewardThreshold(-100, verbose=0)
    evaluation = EvalCallback(
        DummyVecEnv([lambda: World(POLICIES["MlpPolicy"][0])]),
        callback_on_new_best=stop,
        eval_freq=50,
        best_model_save_path=str(tmp_path),
        verbose=0,
        warn=False,
    )
    checkpoints = CheckpointCallback(20, str(tmp_path), "agent", save_replay_buffer=True)
    agent = small_agent().learn(500, [checkpoints, evaluation])
    assert agent.num_timesteps == 50
    assert SpikingDQN.load(tmp_path / "best_model").num_timesteps == 50
    resumed = SpikingDQN.load(tmp_path / "agent_20_steps", env=agent.env)
    resumed.load_replay_buffer(tmp_path / "agent_replay_buffer_20_steps.pkl")
    assert resumed.replay_buffer.pos == 19  # SB3 stores the transition after the callbacks
    assert resumed.learn(20, reset_num_timesteps=False).num_timesteps == 40


def test_the_logger_gets_the_values_of_dqn(tmp_path):
    agent = small_agent()
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(60, log_interval=1)
    agent.logger.close()
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    for name in ("train/loss", "train/learning_rate", "train/n_updates", "rollout/exploration_rate", "time/fps"):
        assert name in header


def test_training_goes_on_where_it_stopped():
    agent = small_agent().learn(40)
    agent.learn(32, reset_num_timesteps=False)
    assert agent.num_timesteps == 72
    assert agent.learn(32).num_timesteps == 32


def test_parameters_are_returned_and_put_in_and_then_not_calibrated_away(tmp_path):
    trained, fresh = small_agent().learn(60), small_agent(seed=7)
    fresh.set_parameters(trained.get_parameters())
    assert same(fresh.policy.state_dict(), trained.policy.state_dict())
    thresholds = [neuron.threshold.item() for neuron in neurons_of(fresh.q_net).values()]
    fresh.learning_rate = 0.0
    fresh._setup_lr_schedule()
    fresh.learn(40)
    assert [neuron.threshold.item() for neuron in neurons_of(fresh.q_net).values()] == thresholds
    trained.save(tmp_path / "agent")
    other = small_agent(seed=8)
    other.set_parameters(str(tmp_path / "agent"))
    assert same(other.policy.state_dict(), trained.policy.state_dict())
    with pytest.raises(UserError, match="another network"):
        small_agent(policy_kwargs={"net_arch": [5]}).set_parameters(tmp_path / "agent")


def test_sb3s_own_functions_do_the_work():
    own = ("collect_rollouts", "_setup_model", "_sample_action", "_store_transition", "_on_step", "get_parameters")
    own += ("set_env", "set_logger", "_setup_learn", "_wrap_env", "dump_logs")
    for name in own:
        assert name not in vars(SpikingDQN)
        assert inspect.getattr_static(SpikingDQN, name) is inspect.getattr_static(DQN, name)


def test_without_spikes_and_double_q_it_is_sb3s_dqn_weight_for_weight():
    def env():
        return World(spaces.Box(-1, 1, (4,), np.float32))

    kwargs = FAST | {"policy_kwargs": {"net_arch": [9, 8]}, "target_update_interval": 16, "exploration_fraction": 0.5}
    theirs = DQN("MlpPolicy", env(), **kwargs)
    ours = SpikingDQN("MlpPolicy", env(), T=None, double_q=False, **kwargs)
    for mine, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        mine.data.copy_(other.data)
    for agent in (theirs, ours):
        agent.set_random_seed(5)
        agent.learn(80)
    for mine, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(mine, other)
