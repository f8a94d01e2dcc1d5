"""The policies, the target network and the optimiser of SpikingDQN."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from snnrl.agents.spiking_dqn import SlottedCNN, SlottedCombined, SpikingDQN, SpikingMlpPolicy
from snnrl.agents.spiking_dqn.conversion import convert_agent
from snnrl.agents.spiking_dqn.distil import align_head, q_values
from snnrl.agents.spiking_dqn.extractors import channels_last
from snnrl.errors import UserError
from snnrl.networks import neurons_of, spike_counts
from worlds import FAST, POLICIES, World, batch_of, row, same, small_agent

# --- the policies


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channels_last_changes_the_layout_alone(channels, dtype):
    wide = torch.randint(0, 256, (3, channels + 1, 6, 7), dtype=torch.uint8).to(dtype)
    for images in (wide[:, :channels], wide[:, 1:], wide[:, 1:].contiguous(memory_format=torch.channels_last)):
        laid_out = channels_last(images)
        assert torch.equal(laid_out, images)
        assert laid_out.dtype == dtype
        assert laid_out.is_contiguous(memory_format=torch.channels_last)


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


def test_the_background_is_subtracted_before_and_after_conversion(tmp_path):
    space = spaces.Box(0, 255, (2, 36, 36), np.uint8)
    options = {"policy_kwargs": {"features_extractor_kwargs": {"background": 0.25}}}
    agent = SpikingDQN("CnnPolicy", World(space), T=None, **FAST | options)
    images = batch_of(space, 16)
    tensor = torch.as_tensor(images)
    answers = agent.q_net(tensor)
    spiking, report = convert_agent(agent, images, T=200, percentile=100)
    assert report.action_agreement > 0.9
    spiking.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent")
    assert torch.equal(loaded.q_net(tensor), spiking.q_net(tensor))
    layer = agent.q_net.features_extractor.cnn.conv1.weights
    with torch.no_grad():  # the same as a bias: the Nature network has no padding
        layer.bias -= 0.25 * layer.weight.sum(dim=(1, 2, 3))
    agent.q_net.features_extractor.background = 0.0
    torch.testing.assert_close(agent.q_net(tensor), answers, atol=1e-5, rtol=1e-4)


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
        (
            {
                "env": World(spaces.Box(0, 255, (1, 36, 36), np.uint8)),
                "policy": "CnnPolicy",
                "policy_kwargs": {"bias": False, "features_extractor_kwargs": {"batch_norm": True}},
            },
            "batch-norm becomes a bias when it is folded",
        ),
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


@pytest.mark.parametrize("policy", POLICIES)
def test_without_bias_and_leak_conversion_adds_none(policy):
    ordinary = small_agent(policy, None, policy_kwargs={"bias": False, "neuron": "if", "dueling": True}).learn(40)
    observations = batch_of(ordinary.observation_space, 64)
    if policy == "MultiInputPolicy":
        agent = small_agent(policy, 2, policy_kwargs={"bias": False, "neuron": "if"}).learn(40)
    else:
        agent, _ = convert_agent(ordinary, observations, T=2)
        agent.learn(40)
    for network in (ordinary.q_net, agent.q_net, agent.q_net_target):
        assert {name.rpartition(".")[2] for name in network.state_dict()} <= {"weight", "threshold"}
    assert len(neurons_of(agent.q_net)) == len([n for n in agent.q_net.state_dict() if n.endswith("threshold")])


@pytest.mark.parametrize("bias", [True, False])
def test_the_head_is_fitted_to_the_teachers_answers(bias):
    agent = small_agent(T=3, policy_kwargs={"bias": bias})
    observations = torch.from_numpy(batch_of(agent.observation_space, 400))
    with torch.no_grad():
        answers = 3 * agent.q_net(observations) + 2 * bias
    before = [name for name in agent.q_net.state_dict() if name.endswith("bias")]
    agent.q_net.q_net.head.reset_parameters()
    align_head(agent, observations, answers)
    torch.testing.assert_close(q_values(agent, observations), answers, rtol=0, atol=0.05 * float(answers.std()))
    assert [name for name in agent.q_net.state_dict() if name.endswith("bias")] == before


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


def test_spikes_cost_what_the_penalty_says(monkeypatch):
    agent = small_agent(learning_rate=0.0, T=3).learn(30)
    batch = agent.replay_buffer.sample(16)
    monkeypatch.setattr(agent.replay_buffer, "sample", lambda *args, **kwargs: batch)
    with spike_counts(agent.q_net) as counts:
        agent.q_net(batch.observations)
    losses = []
    for penalty in (0.0, 0.5):
        agent.spike_penalty = penalty
        agent.train(1, 16)
        losses.append(agent.logger.name_to_value["train/loss"])
    mean = sum(count.rate for count in counts.values()) / len(counts)
    assert mean > 0.01
    assert losses[1] - losses[0] == pytest.approx(0.5 * mean, rel=1e-4)


@pytest.mark.parametrize(("T", "penalty"), [(None, 0.1), (1, -0.1)])
def test_a_penalty_on_spikes_needs_spikes(T, penalty):
    with pytest.raises(UserError, match="give 0 or more, and a network that spikes"):
        small_agent(T=T, spike_penalty=penalty)


def test_a_loss_that_is_not_finite_stops_the_training():
    agent = small_agent().learn(30)
    agent.replay_buffer.rewards[:] = np.inf
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        agent.train(1, 8)


@pytest.mark.parametrize("kind", ["vgg6", "resnet20"])
def test_networks_for_images_play(kind, tmp_path):
    space = spaces.Box(0, 255, (1, 16, 16), np.uint8)
    extractor = {"network": kind, "features_dim": 12, "batch_norm": True}
    options = {"policy_kwargs": {"features_extractor_kwargs": extractor}}
    agent = SpikingDQN("CnnPolicy", World(space), T=None, **FAST | options).learn(24)
    images = batch_of(space, 6)
    spiking, report = convert_agent(agent, images, T=2)
    assert [layer.name for layer in report.layers] == list(neurons_of(spiking.q_net))
    before = {name: value.clone() for name, value in spiking.q_net.state_dict().items()}
    spiking.learn(24)
    moved = {name for name, value in spiking.q_net.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if name.endswith("weights.weight")} <= moved
    # what a spike stands for in a shortcut is fixed
    shortcuts = {name for name in before if name.endswith("shortcut.weight")}
    assert len(shortcuts) == (5 if kind == "resnet20" else 0)
    assert not shortcuts & moved
    spiking.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent")
    assert torch.equal(loaded.q_net(torch.as_tensor(images)), spiking.q_net(torch.as_tensor(images)))
