"""SpikingDQN behind SB3's interface: what SB3 promises of DQN, what was added, and the traps between the two."""

import copy
import inspect

import gymnasium
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
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from stable_baselines3.dqn import policies as sb3_policies
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from snnrl.agents.spiking_dqn import (
    CnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    SlottedCNN,
    SlottedCombined,
    SpikingCnnPolicy,
    SpikingDQN,
    SpikingMlpPolicy,
    SpikingMultiInputPolicy,
)
from snnrl.agents.spiking_dqn.conversion import convert_agent
from snnrl.envs import make
from snnrl.errors import UserError
from snnrl.networks import NetworkState, neurons_of

FAST = {"learning_starts": 20, "batch_size": 8, "buffer_size": 300, "train_freq": 4, "seed": 0}
SMALL = {"net_arch": [12]}
SMALL_CNN = {"features_extractor_kwargs": {"network": "small", "features_dim": 12}}
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
POLICIES = {
    "MlpPolicy": (spaces.Box(-1, 1, (4,), np.float32), SMALL),
    "CnnPolicy": (IMAGE, SMALL_CNN),
    "MultiInputPolicy": (
        spaces.Dict({"image": IMAGE, "number": spaces.Discrete(3), "vector": spaces.Box(-1, 1, (2,), np.float32)}),
        {"net_arch": [12], "features_extractor_kwargs": {"network": "small", "cnn_output_dim": 12}},
    ),
}


class World(gymnasium.Env):
    """Random observations of any space, three actions, the reward is the action, five steps."""

    def __init__(self, observation_space, action_space=None):
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(3) if action_space is None else action_space
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


def small_agent(policy="MlpPolicy", T=1, **changes):
    space, kwargs = POLICIES[policy]
    kwargs = kwargs | changes.pop("policy_kwargs", {})
    env = changes.pop("env", None) or World(copy.deepcopy(space))
    return SpikingDQN(policy, env, T=T, policy_kwargs=kwargs, **FAST | changes)


def batch_of(space, size=5):
    space = copy.deepcopy(space)
    space.seed(3)
    samples = [space.sample() for _ in range(size)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
    return np.stack(samples)


def row(batch, index):
    return {key: value[index] for key, value in batch.items()} if isinstance(batch, dict) else batch[index]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- what SB3 promises of DQN


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
    batch = batch_of(space)
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
    makers = [lambda: World(copy.deepcopy(POLICIES[policy][0]))] * 2
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


# --- the policies


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_hidden_value_is_a_spike_and_rows_do_not_mix(policy, T):
    agent = small_agent(policy, T).learn(40)
    values = []
    for neuron in neurons_of(agent.q_net).values():
        neuron.register_forward_hook(lambda module, inputs, output: values.append(output.unique().tolist()))
    batch = batch_of(agent.observation_space, 7)
    tensor, _ = agent.policy.obs_to_tensor(batch)
    with torch.no_grad():
        together = agent.q_net(tensor)
        alone = torch.cat([agent.q_net(agent.policy.obs_to_tensor(row(batch, i))[0]) for i in range(7)])
    assert {value for unique in values for value in unique} == {0.0, 1.0}
    torch.testing.assert_close(together, alone)
    actions, _ = agent.predict(batch, deterministic=True)
    assert [agent.predict(row(batch, i), deterministic=True)[0] for i in range(7)] == actions.tolist()


def test_in_the_cnn_policy_the_extractor_itself_spikes():
    agent = SpikingDQN("CnnPolicy", World(spaces.Box(0, 255, (2, 36, 36), np.uint8)), **FAST)
    layers = [f"features_extractor.cnn.{name}" for name in ("conv1", "conv2", "conv3", "fc1")]
    assert list(neurons_of(agent.q_net)) == layers
    assert agent.q_net.net_arch == []
    assert agent.q_net.q_net.head.weight.shape == (3, 512)


@pytest.mark.parametrize(
    ("policy", "theirs", "ours"),
    [("CnnPolicy", NatureCNN, SlottedCNN), ("MultiInputPolicy", CombinedExtractor, SlottedCombined)],
)
def test_sb3s_own_extractors_are_taken_as_those_that_spike(policy, theirs, ours):
    space = POLICIES[policy][0]
    agent = SpikingDQN(policy, World(space), policy_kwargs={"features_extractor_class": theirs}, **FAST)
    assert type(agent.q_net.features_extractor) is ours
    assert "features_extractor" in next(iter(neurons_of(agent.q_net)))


def test_without_a_dense_layer_the_flattened_maps_are_the_features():
    space = POLICIES["MultiInputPolicy"][0]
    extractor = SlottedCombined(space, cnn_output_dim=0, network="small")
    zeros = {"image": torch.zeros(2, 1, 36, 36), "number": torch.zeros(2, 3), "vector": torch.zeros(2, 2)}
    assert extractor(zeros).shape == (2, extractor.features_dim) == (2, 32 + 3 + 2)


def test_a_network_without_spikes_says_so():
    with pytest.warns(UserWarning, match="nothing spikes"):
        agent = small_agent(policy_kwargs={"net_arch": []})
    assert agent.T is None
    assert agent.learn(30)._n_updates > 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"T": 0}, "from 1 to 1000"),
        ({"T": 1001}, "from 1 to 1000"),
        ({"T": "2"}, "from 1 to 1000"),
        ({"policy_kwargs": {"neuron": "life"}}, "did you mean 'lif'"),
        ({"env": World(spaces.Dict({"a": spaces.Discrete(2)})), "policy": SpikingMlpPolicy}, "MultiInputPolicy"),
        ({"env": World(spaces.Discrete(2)), "policy": "MultiInputPolicy"}, "needs Dict observations"),
        ({"env": World(spaces.Box(0, 1, (4,))), "policy": "CnnPolicy"}, "needs images"),
        ({"env": World(spaces.Box(0, 255, (1, 20, 20), np.uint8)), "policy": "CnnPolicy"}, "too small"),
        ({"env": World(spaces.Discrete(2), spaces.Discrete(3, start=1))}, "actions start at 1"),
    ],
)
def test_mistakes_are_told_in_one_line(kwargs, message):
    kwargs = {"policy": "MlpPolicy", "env": World(spaces.Discrete(2))} | kwargs
    with pytest.raises(UserError, match=message) as error:
        SpikingDQN(**kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dueling", [False, True])
def test_reduction_lowers_T_and_keeps_the_scale_in_both_networks(dueling):
    agent = small_agent(T=6, policy_kwargs={"dueling": dueling}).learn(40)
    networks = (agent.q_net, agent.q_net_target)
    before = [[branch.head.weight.clone() for branch in network.branches()] for network in networks]
    agent.reduce_to(2)
    assert agent.T == 2
    for network, heads in zip(networks, before, strict=True):
        assert (network.T, {neuron.steps for neuron in neurons_of(network).values()}) == (2, {2})
        for branch, head in zip(network.branches(), heads, strict=True):
            torch.testing.assert_close(branch.head.weight, 3 * head)


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, "1"])
def test_reduction_to_nonsense_is_refused(steps):
    with pytest.raises(UserError, match="from 1 to 1000"):
        small_agent(T=3).reduce_to(steps)
    with pytest.raises(UserError, match="ordinary network"):
        small_agent(T=None).reduce_to(1)


# --- the target network, the optimiser


@pytest.mark.parametrize("policy", POLICIES)
def test_after_a_hard_update_the_target_holds_every_parameter_and_state(policy):
    agent = small_agent(policy, T=2, tau=1.0, target_update_interval=48, policy_kwargs={"dueling": True}).learn(44)
    states = agent.q_net.state_dict()
    assert len([name for name in states if name.endswith(("threshold", "leak"))]) == 2 * len(neurons_of(agent.q_net))
    for _ in range(4):
        assert not same(states, agent.q_net_target.state_dict())
        agent._on_step()
    assert same(agent.q_net.state_dict(), agent.q_net_target.state_dict())


def test_polyak_update_is_the_mean_before_and_after_reduction_and_conversion():
    def step(agent):
        online = [p.clone() for p in agent.q_net.parameters()]
        target = [p.clone() for p in agent.q_net_target.parameters()]
        agent._on_step()
        for mean, p, q in zip(agent.q_net_target.parameters(), online, target, strict=True):
            torch.testing.assert_close(mean, (p + q) / 2)

    settings = {"tau": 0.5, "target_update_interval": 1}
    agent = small_agent(T=4, **settings).learn(40)
    step(agent)
    agent.reduce_to(1)
    step(agent)
    agent.learn(40, reset_num_timesteps=False)
    ordinary = small_agent(T=None, **settings).learn(40)
    converted, _ = convert_agent(ordinary, batch_of(ordinary.observation_space, 64), T=5)
    assert [*dict(converted.q_net.named_parameters())] == [*dict(converted.q_net_target.named_parameters())]
    converted.learn(40)
    step(converted)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_optimiser_holds_the_online_network_and_keeps_neurons_in_range(policy):
    agent = small_agent(policy, T=3, learning_rate=0.05, policy_kwargs={"dueling": True})
    held = {id(p) for group in agent.policy.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in agent.q_net.parameters()}
    neurons = neurons_of(agent.q_net).values()
    for neuron in neurons:
        neuron.leak.data.fill_(0.8)
    seen = []
    agent.policy.optimizer.register_step_post_hook(
        lambda *_: seen.append([(n.threshold.item(), n.leak.item()) for n in neurons])
    )
    agent.learn(60)
    assert (np.array(seen[0]) != seen[-1]).all()  # every threshold and every leak learns
    for neuron in neurons:
        neuron.leak.grad, neuron.threshold.grad = torch.tensor(-9.0), torch.tensor(9.0)
        neuron.threshold.data.fill_(0.01)
        neuron.leak.data.fill_(0.99)
    agent.policy.optimizer.step()
    assert max(leak for step in seen for _, leak in step) == 1
    assert min(threshold for step in seen for threshold, _ in step) > 0


def test_from_scratch_the_thresholds_come_from_the_first_batch_in_both_networks():
    agent = small_agent(T=2).learn(20)
    assert not agent.calibrated
    agent.learning_starts = 0
    agent.train(1, 8)
    assert agent.calibrated
    thresholds = [neuron.threshold.item() for neuron in neurons_of(agent.q_net_target).values()]
    assert thresholds[0] != 1.0
    agent._calibrate(8)
    assert [neuron.threshold.item() for neuron in neurons_of(agent.q_net_target).values()] == thresholds


class Table(torch.nn.Module):
    """Q-values by lookup, so that a target can be computed by hand."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values))

    def forward(self, observations):
        return self.values[observations.long().view(-1)]


@pytest.mark.parametrize(
    ("double_q", "discounts", "loss"),
    [
        # rewards 1, 2; the second transition ends its episode: target 2. Q(s, a) = 0.5 and 2.5, so its error is 0.5
        # plain: 1 + 0.9 * max(4, 7) = 7.3, error 6.8; double: 1 + 0.9 * Q_target[argmax(3, 1)] = 1 + 0.9 * 4, error 4.1
        (False, None, (6.8 - 0.5 + 0.5 * 0.5**2) / 2),
        (True, None, (4.1 - 0.5 + 0.5 * 0.5**2) / 2),
        # n steps: a discount for each row instead
        (True, [[0.5], [0.5]], (1 + 0.5 * 4 - 0.5 - 0.5 + 0.5 * 0.5**2) / 2),
    ],
)
def test_the_loss_is_the_one_computed_by_hand(monkeypatch, double_q, discounts, loss):
    agent = small_agent(double_q=double_q, gamma=0.9).learn(8)
    agent.calibrated = True
    agent.q_net = Table([[0.5, 0.0], [3.0, 1.0], [0.0, 2.5]])
    agent.q_net_target = Table([[9.0, 9.0], [4.0, 7.0], [8.0, 8.0]])
    batch = ReplayBufferSamples(
        observations=torch.tensor([[0], [2]]),
        actions=torch.tensor([[0], [1]]),
        next_observations=torch.tensor([[1], [1]]),
        dones=torch.tensor([[0.0], [1.0]]),
        rewards=torch.tensor([[1.0], [2.0]]),
        discounts=None if discounts is None else torch.tensor(discounts),
    )
    monkeypatch.setattr(agent.replay_buffer, "sample", lambda *args, **kwargs: batch)
    agent.train(1, 2)
    assert agent.logger.name_to_value["train/loss"] == pytest.approx(loss, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_training():
    agent = small_agent().learn(30)
    agent.replay_buffer.rewards[:] = np.inf
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        agent.train(1, 8)


# --- exploration, randomness


def test_each_row_tosses_its_own_coin_and_seeds_repeat_it():
    agent = small_agent()
    batch = np.repeat(batch_of(agent.observation_space, 1), 3000, axis=0)
    greedy, _ = agent.predict(batch[0], deterministic=True)
    agent.exploration_rate = 0.5
    agent.set_random_seed(4)
    actions, _ = agent.predict(batch)
    differing = (actions != greedy).mean()
    assert 0.28 < differing < 0.39  # half explore, two of three random actions are others
    agent.set_random_seed(4)
    np.testing.assert_array_equal(agent.predict(batch)[0], actions)
    assert (agent.predict(batch)[0] != actions).any()
    for rate, expected in ((0.0, {int(greedy)}), (1.0, {0, 1, 2})):
        agent.exploration_rate = rate
        assert set(agent.predict(batch)[0].tolist()) == expected
    assert agent.predict(batch[0])[0].shape == ()


@pytest.mark.parametrize("policy", POLICIES)
def test_the_seed_alone_decides_the_weights(policy):
    def weights(seed):
        makers = [lambda: World(copy.deepcopy(POLICIES[policy][0]))] * 2
        return small_agent(policy, 2, env=DummyVecEnv(makers), seed=seed).learn(40).policy.state_dict()

    first = weights(1)
    assert same(first, weights(1))
    assert not same(first, weights(2))


# --- carry


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("T", [1, 2])
def test_carried_potentials_pass_between_decisions_and_end_with_the_episode(policy, T):
    agent = small_agent(policy, T, policy_kwargs={"carry": True}).learn(40)
    batch = batch_of(agent.observation_space, 4)
    _, first = agent.predict(batch, None, np.ones(4, bool), deterministic=True)
    assert isinstance(first, NetworkState)
    assert any(potential.any() for potential in first.potentials)
    _, second = agent.predict(batch, first, np.array([True, False, True, False]), deterministic=True)
    for before, after in zip(first.potentials, second.potentials, strict=True):
        torch.testing.assert_close(after[[0, 2]], before[[0, 2]])  # the same decision from zero again
    assert any(
        (before[[1, 3]] != after[[1, 3]]).any()
        for before, after in zip(first.potentials, second.potentials, strict=True)
    )
    one, state = agent.predict(row(batch, 1), None, deterministic=True)
    assert one.shape == ()
    _, again = agent.predict(row(batch, 1), state, np.array([False]), deterministic=True)
    for alone, together in zip(again.potentials, second.potentials, strict=True):
        torch.testing.assert_close(alone[0], together[1])
    tensor, _ = agent.policy.obs_to_tensor(batch)
    q_values, after = agent.q_net.decide(tensor, first)
    carried, _ = agent.predict(batch, first, np.zeros(4, bool), deterministic=True)
    assert carried.tolist() == q_values.argmax(dim=1).tolist()
    assert all(neuron.potential is None for neuron in neurons_of(agent.q_net).values())
    assert len(after.potentials) == len(neurons_of(agent.q_net))


def test_evaluate_policy_passes_the_state_on(monkeypatch):
    agent = small_agent(T=2, policy_kwargs={"carry": True})
    states = []
    predict = agent.predict

    def watch(observation, state=None, episode_start=None, deterministic=False):
        states.append((state, episode_start.tolist()))
        return predict(observation, state, episode_start, deterministic)

    monkeypatch.setattr(agent, "predict", watch)
    evaluate_policy(agent, DummyVecEnv([lambda: World(POLICIES["MlpPolicy"][0])] * 2), 4, warn=False)
    assert states[0] == (None, [True, True])
    assert all(isinstance(state, NetworkState) for state, _ in states[1:])
    assert states[5][1] == [True, True]


def test_without_carry_decisions_do_not_depend_on_the_state():
    agent = small_agent(T=2).learn(30)
    batch = batch_of(agent.observation_space, 4)
    actions, state = agent.predict(batch, deterministic=True)
    assert state is None
    assert agent.predict(batch, "whatever", deterministic=True)[1] == "whatever"  # as SB3 hands it through
    np.testing.assert_array_equal(agent.predict(batch, deterministic=True)[0], actions)


def test_a_copied_policy_is_independent():
    agent = small_agent().learn(30)
    twin = copy.deepcopy(agent.policy)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    agent.learn(40)
    assert same(twin.state_dict(), before)


# --- learning


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize(
    ("world", "observations", "expected"),
    [
        ("Constant", [0.0], [[1.0, 1.0]]),
        ("Observation", [-1.0, 1.0], [[-1.0, -1.0], [1.0, 1.0]]),
        ("Delayed", [0.0, 1.0], [[0.9, 0.9], [1.0, 1.0]]),
        ("Action", [0.0], [[-1.0, 1.0]]),
        ("Policy", [-1.0, 1.0], [[1.0, -1.0], [-1.0, 1.0]]),
    ],
)
def test_the_optimal_q_values_of_the_probe_worlds_are_learnt(world, observations, expected, T):
    agent = SpikingDQN(
        "MlpPolicy",
        make(f"snnrl/Probe{world}-v0"),
        learning_rate=5e-3,
        gamma=0.9,
        buffer_size=500,
        learning_starts=40,
        train_freq=2,
        gradient_steps=2,
        target_update_interval=20,
        exploration_final_eps=0.5,
        policy_kwargs={"net_arch": [32]},
        T=T,
        seed=0,
    ).learn(440)
    q_values = agent.q_net(torch.tensor(observations)[:, None])
    torch.testing.assert_close(q_values, torch.tensor(expected), atol=0.1, rtol=0)


@pytest.mark.parametrize("T", [1, 3])
def test_the_pixel_probe_is_learnt_by_the_cnn_policy(T):
    agent = SpikingDQN(
        "CnnPolicy",
        make("snnrl/ProbePixels-v0"),
        learning_rate=2e-3,
        buffer_size=300,
        learning_starts=40,
        train_freq=2,
        gradient_steps=2,
        exploration_final_eps=0.5,
        policy_kwargs={"features_extractor_kwargs": {"network": "small", "features_dim": 32}},
        T=T,
        seed=0,
    ).learn(480)
    images = np.zeros((2, 1, 36, 36), np.uint8)
    images[0, :, :, :18] = images[1, :, :, 18:] = 255
    q_values = agent.q_net(torch.as_tensor(images))
    torch.testing.assert_close(q_values, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), atol=0.15, rtol=0)
    assert agent.predict(images, deterministic=True)[0].tolist() == [0, 1]
