"""The agent that remembers: its neurons, its state, its replay of sequences, and what it learns."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from snnrl.agents.recurrent_dqn import RecurrentDQN, RecurrentPolicy, SequenceReplayBuffer
from snnrl.agents.spiking_dqn import SlottedCNN, SpikingDQN
from snnrl.envs import make
from snnrl.errors import UserError
from snnrl.networks import RecurrentLayer, neurons_of, reset_rows
from snnrl.neurons import LIF
from snnrl.neurons.constant import THRESHOLD, ConstantThreshold, constant_spike, integrate
from worlds import FAST, IMAGE, World, batch_of, same

VECTOR = spaces.Box(-1, 1, (2,), np.float32)
SHORT = {"length": 4, "burn_in": 3, "n_steps": 2}
BOTH = pytest.mark.parametrize("T", [1, None])


def recurrent_agent(T=1, *, envs=1, space=VECTOR, **changes):
    """An agent in worlds whose episodes are five steps long."""
    sequences = SHORT | changes.pop("sequences", {})
    given = {"policy_kwargs": {"net_arch": [6, 8]}, "replay_buffer_kwargs": sequences} | FAST | changes
    policy = given.pop("policy", "MlpPolicy")
    return RecurrentDQN(policy, DummyVecEnv([lambda: World(space)] * envs), T=T, **given)


def observed(agent, steps, rows):
    observations = torch.as_tensor(batch_of(agent.observation_space, steps * rows))
    return observations.view(steps, rows, *observations.shape[1:])


# --- neurons and layer ----------------------------------------------------------------------------------------------


def test_potentials_decay_and_fired_neurons_start_anew():
    currents = torch.tensor([0.4, 0.4, 0.3, -0.2, 0.5])[:, None]
    # 0.4; 0.4 + 0.16 fires; 0.3 from zero; -0.2 + 0.12; 0.5 - 0.032
    potentials = integrate(currents)
    torch.testing.assert_close(potentials, torch.tensor([0.4, 0.56, 0.3, -0.08, 0.468])[:, None])
    assert constant_spike(potentials).flatten().tolist() == [0, 1, 0, 0, 0]
    # what is carried is the potential before the reset
    torch.testing.assert_close(integrate(currents[2:], potentials[1]), potentials[2:])
    assert constant_spike(torch.tensor(0.5)) == 0


def test_the_gradient_is_a_box_and_stops_at_resets():
    potential = torch.tensor([-0.1, 0.0, 0.01, 0.5, 0.99, 1.0, 2.0], requires_grad=True)
    constant_spike(potential).sum().backward()
    assert potential.grad.tolist() == [0, 0, 1, 1, 1, 0, 0]
    currents = torch.tensor([0.4, 0.4, 0.3, 0.1], requires_grad=True)
    integrate(currents[:, None])[-1].sum().backward()
    torch.testing.assert_close(currents.grad, torch.tensor([0.0, 0.0, 0.4, 1.0]))


def test_the_layer_of_neurons_counts_and_carries():
    neurons = ConstantThreshold(3)
    neurons.keep_potential = True
    spikes = neurons(torch.tensor([0.4, 0.4, 0.3])[:, None])
    assert spikes.flatten().tolist() == [0, 1, 0]
    torch.testing.assert_close(neurons.potential, torch.tensor([[0.3]]))
    assert neurons.spike_value == 0.5
    assert neurons.calibrate(torch.tensor([0.6]), 90.0)
    assert not neurons.calibrate(torch.tensor([0.4]), 90.0)


@pytest.mark.parametrize("spiking", [True, False])
def test_resets_split_a_sequence_and_one_step_at_a_time_is_the_same(spiking):
    torch.manual_seed(0)
    layer = RecurrentLayer(3, 5, spiking=spiking)
    torch.nn.init.normal_(layer.lstm.weight_ih_l0, std=2.0)
    inputs = torch.randn(7, 4, 3)
    starts = torch.rand(7, 4) < 0.3
    whole, last = layer(inputs, starts, layer.begin(4))
    state = layer.begin(4)
    for step in range(7):
        state = reset_rows(state, starts[step])
        output, state = layer(inputs[step : step + 1], torch.zeros(1, 4, dtype=torch.bool), state)
        torch.testing.assert_close(output[0], whole[step])
    for one, other in zip(state.potentials, last.potentials, strict=True):
        torch.testing.assert_close(one, other)
    if spiking:
        assert set(whole.unique().tolist()) == {0.0, 1.0}


# --- acting ---------------------------------------------------------------------------------------------------------


@BOTH
def test_predict_step_by_step_answers_as_a_forward_over_the_whole_sequence(T):
    agent = recurrent_agent(T)
    torch.nn.init.normal_(agent.q_net.q_net.lstm.lstm.weight_ih_l0, std=2.0)
    observations = observed(agent, 6, 3)
    starts = torch.zeros(6, 3, dtype=torch.bool)
    starts[3, 1] = starts[4, 2] = True
    expected, _ = agent.q_net.unroll(observations, starts, agent.q_net.begin(3))
    state = None
    for step in range(6):
        before = state if state is None else reset_rows(state, starts[step])
        answers, _ = agent.q_net.decide(observations[step], before)
        torch.testing.assert_close(answers, expected[step])
        actions, state = agent.predict(observations[step].numpy(), state, starts[step].numpy(), deterministic=True)
        assert actions.tolist() == expected[step].argmax(1).tolist()
    # one observation, without a batch
    action, state = agent.predict(observations[0, 0].numpy(), deterministic=True)
    assert action.shape == ()
    torch.testing.assert_close(agent.q_net(observations[0]), expected[0])


@BOTH
def test_rows_do_not_mix_and_a_reset_row_forgets(T):
    agent = recurrent_agent(T)
    one, two = observed(agent, 2, 3)
    _, state = agent.predict(one.numpy(), deterministic=True)
    _, after = agent.predict(two.numpy(), state, np.array([True, False, False]), deterministic=True)
    _, fresh = agent.predict(two.numpy(), deterministic=True)
    _, alone = agent.predict(two[1:].numpy(), type(state)(tuple(part[1:] for part in state.potentials)))
    for part, forgotten, rest in zip(after.potentials, fresh.potentials, alone.potentials, strict=True):
        torch.testing.assert_close(part[0], forgotten[0])
        assert not torch.equal(part[1], forgotten[1])
        torch.testing.assert_close(part[1:], rest)


def test_training_acts_on_the_state_of_the_running_episodes():
    agent = recurrent_agent(envs=2, learning_starts=1000)
    seen = []
    predict = agent.predict

    def watched(observation, state=None, episode_start=None, deterministic=False):
        actions, after = predict(observation, state, episode_start, deterministic)
        seen.append((state, episode_start.copy(), after))
        return actions, after

    agent.predict = watched
    agent.learn(24)
    assert [starts.tolist() for _, starts, _ in seen] == [[step % 5 == 0] * 2 for step in range(12)]
    assert all(one[2] is other[0] for one, other in itertools.pairwise(seen))


@BOTH
def test_evaluate_policy_of_sb3_passes_the_state_on(T):
    agent = recurrent_agent(T, envs=2)
    mean, _ = evaluate_policy(agent, agent.get_env(), 4, warn=False)
    assert 0 <= mean <= 10


# --- replay ---------------------------------------------------------------------------------------------------------


def filled(lengths, size, *, terminated=lambda episode: True, **kwargs):
    """A buffer of two environments, in which an observation tells environment (from 1), episode and step."""
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    buffer = SequenceReplayBuffer(2 * size, space, spaces.Discrete(100), "cpu", 2, gamma=0.5, **kwargs)
    position = np.zeros((2, 2), int)
    for _ in range(sum(lengths)):
        now = np.array([[env + 1, *position[env]] for env in range(2)], np.float32)
        ends = [lengths[(episode + env) % len(lengths)] for env, episode in enumerate(position[:, 0])]
        over = position[:, 1] + 1 == ends
        after = now + np.array([0, 0, 1], np.float32)
        infos = [{"TimeLimit.truncated": bool(over[env]) and not terminated(position[env, 0])} for env in range(2)]
        buffer.add(now, after, position[:, 1], now[:, 2] + 1, over, infos)
        position = np.where(over[:, None], position * [1, 0] + np.array([1, 0]), position + np.array([0, 1]))
    return buffer


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    size=st.integers(4, 40),
    length=st.integers(1, 6),
    burn_in=st.integers(0, 5),
    n_steps=st.integers(1, 4),
)
def test_sequences_never_cross_episodes(lengths, size, length, burn_in, n_steps):
    buffer = filled(
        lengths, size, terminated=lambda episode: episode % 2 == 0, length=length, burn_in=burn_in, n_steps=n_steps
    )
    np.random.seed(0)  # noqa: NPY002 - the buffer draws from it, as SB3's do
    batch = buffer.sample(30)
    assert batch.observations.shape == (burn_in + length + 1, 30, 3)
    assert not batch.learnt[:burn_in].any()
    for row in range(30):
        observations, learnt = batch.observations[:, row], batch.learnt[:, row]
        (steps,) = torch.nonzero(learnt, as_tuple=True)
        assert steps[0] == burn_in
        assert steps.tolist() == list(range(burn_in, burn_in + len(steps)))
        env, episode, first = observations[burn_in].tolist()
        of_episode = lengths[(int(episode) + int(env) - 1) % len(lengths)]
        # before it the steps of the same episode, none if it is the episode's first, fewer only where the buffer ends
        before = [observations[index].tolist() for index in range(burn_in)]
        there = burn_in - before.count([env, episode, first])
        assert first == 0 or there == burn_in or buffer.full
        assert before[burn_in - there :] == [[env, episode, first - back] for back in range(there, 0, -1)]
        assert torch.nonzero(batch.starts[:, row]).flatten().tolist() == [burn_in - there]
        filled_in = observations[burn_in + len(steps) + 1 :].tolist()
        assert filled_in == [[env, episode, first]] * len(filled_in)
        for index in steps.tolist():
            now = int(first) + index - burn_in
            assert observations[index].tolist() == [env, episode, now]
            assert observations[index + 1].tolist() == [env, episode, now + 1]
            assert batch.actions[index, row] == now
            summed = int(batch.steps[index, row])
            assert 1 <= summed <= n_steps
            assert summed == min(n_steps, len(steps) - (index - burn_in))
            assert batch.returns[index, row] == sum(0.5**k * (now + k + 1) for k in range(summed))
            ended = now + summed == of_episode and episode % 2 == 0
            assert batch.discounts[index, row] == (0 if ended else 0.5**summed)


def test_every_step_of_an_episode_is_learnt():
    buffer = filled([30], 40, length=5, burn_in=2)
    batch = buffer.sample(4000)
    steps = batch.observations[:-1][batch.learnt][:, 2].long()
    counts = steps.bincount(minlength=30) / len(steps) * 30
    assert 0.4 < counts.min() < counts.max() < 2


def test_a_reset_from_outside_begins_an_episode():
    agent = recurrent_agent(learning_starts=100)
    agent.learn(4).learn(4)  # learn resets the world, in the middle of an episode of five
    assert agent.replay_buffer.elapsed[:8, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    agent.learn(4, reset_num_timesteps=False)
    assert agent.replay_buffer.elapsed[8:12, 0].tolist() == [4, 0, 1, 2]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sequences": {"length": 0}}, "length of replay_buffer_kwargs is 0"),
        ({"sequences": {"burn_in": -1}}, "burn_in of replay_buffer_kwargs is -1"),
        ({"optimize_memory_usage": True}, "leave optimize_memory_usage out"),
        ({"replay_buffer_class": ReplayBuffer}, "ReplayBuffer holds no sequences: derive it from SequenceReplayBuffer"),
        ({"T": 3}, "the next one is the next step of the episode"),
        ({"policy_kwargs": {"net_arch": []}}, "its last width is the LSTM's"),
        ({"policy_kwargs": {"dueling": True}}, "no dueling"),
        ({"policy": RecurrentPolicy, "space": spaces.Dict({"a": VECTOR})}, "not of Dict observations"),
    ],
)
def test_mistakes_are_told_in_one_line(kwargs, message):
    with pytest.raises(UserError, match=message) as caught:
        recurrent_agent(**kwargs)
    assert "\n" not in str(caught.value)


def test_a_state_of_other_episodes_is_refused():
    agent = recurrent_agent()
    observations = np.stack([agent.observation_space.sample()] * 3)
    _, state = agent.predict(observations)
    with pytest.raises(UserError, match="the state is that of 3 episodes, there are 2 observations"):
        agent.predict(observations[:2], state)


def test_the_discount_is_the_agents_or_the_replays():
    assert recurrent_agent(gamma=0.5).replay_buffer.gamma == 0.5
    assert recurrent_agent(sequences={"gamma": 0.7}).gamma == 0.7


# --- learning -------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("double_q", [True, False])
def test_the_loss_is_the_one_computed_by_hand(T, double_q):
    agent = recurrent_agent(T, double_q=double_q, envs=2).learn(80)
    agent.policy.set_training_mode(False)
    batch = agent.replay_buffer.sample(5)
    losses = []
    for row in range(5):
        # each sequence by itself, step by step, from a zero state where its burn-in begins
        answers = []
        for network in (agent.q_net, agent.q_net_target):
            state, found = network.begin(1), []
            for observation, start in zip(batch.observations[:, row], batch.starts[:, row], strict=True):
                q_values, state = network.decide(observation[None], network.begin(1) if start else state)
                found.append(q_values[0])
            answers.append(torch.stack(found))
        for step in torch.nonzero(batch.learnt[:, row]).flatten().tolist():
            after = step + batch.steps[step, row]
            chosen = answers[0 if double_q else 1][after].argmax()
            target = batch.returns[step, row] + batch.discounts[step, row] * answers[1][after, chosen]
            losses.append((answers[0][step, batch.actions[step, row]] - target) ** 2)
    torch.testing.assert_close(agent.loss(batch), torch.stack(losses).mean())


@BOTH
def test_the_burn_in_has_no_gradient(T):
    agent = recurrent_agent(T).learn(60)
    batch = agent.replay_buffer.sample(16)
    observations = batch.observations.requires_grad_()
    torch.nn.init.normal_(agent.q_net.q_net.lstm.lstm.weight_ih_l0, std=3.0)
    if T is not None:  # so that many neurons fire
        torch.nn.init.constant_(agent.q_net.q_net.fc1.act.threshold, 0.01)
    agent.loss(batch).backward()
    assert (observations.grad[:3] == 0).all()
    if T is None:  # a spike may have none
        assert (observations.grad[3] != 0).any()
    changed = observations.detach().clone()
    changed[:3] += 1.0
    assert not torch.equal(agent.loss(batch), agent.loss(batch._replace(observations=changed)))


def test_the_neurons_behind_the_lstm_have_a_constant_threshold():
    agent = recurrent_agent(1).learn(60)
    neurons = neurons_of(agent.q_net)
    assert {name: type(neuron) for name, neuron in neurons.items()} == {
        "q_net.fc1": LIF,
        "q_net.lstm": ConstantThreshold,
    }
    assert neurons["q_net.lstm"].spike_value == THRESHOLD


@BOTH
def test_a_cue_is_remembered(T):
    agent = RecurrentDQN(
        "MlpPolicy",
        make("snnrl/ProbeMemory-v0"),
        learning_rate=5e-3,
        gamma=0.9,
        buffer_size=1000,
        learning_starts=60,
        batch_size=32,
        train_freq=4,
        gradient_steps=2,
        target_update_interval=20,
        exploration_final_eps=0.5,
        policy_kwargs={"net_arch": [32, 32]},
        replay_buffer_kwargs={"length": 3, "burn_in": 1},
        T=T,
        seed=0,
    ).learn(1000)
    cues = torch.tensor([[-1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])[:, :, None]
    q_values, _ = agent.q_net.unroll(cues, torch.zeros(3, 2, dtype=torch.bool), agent.q_net.begin(2))
    expected = torch.tensor([[[0.81, 0.81]] * 2, [[0.9, 0.9]] * 2, [[1.0, -1.0], [-1.0, 1.0]]])
    torch.testing.assert_close(q_values, expected, atol=0.15, rtol=0)
    assert evaluate_policy(agent, make_vec_env("snnrl/ProbeMemory-v0", 3), 12) == (1.0, 0.0)


def test_without_memory_the_cue_is_lost():
    agent = SpikingDQN("MlpPolicy", make("snnrl/ProbeMemory-v0"), gamma=0.9, learning_starts=60, seed=0).learn(600)
    rewards, _ = evaluate_policy(
        agent, make_vec_env("snnrl/ProbeMemory-v0", 3, seed=0), 12, return_episode_rewards=True
    )
    assert {*rewards} == {-1.0, 1.0}


def test_spikes_can_have_a_price_and_images_can_be_remembered():
    extractor = {
        "features_extractor_class": SlottedCNN,
        "features_extractor_kwargs": {"features_dim": 8, "network": "small"},
    }
    kwargs = {"net_arch": [6]} | extractor
    agent = recurrent_agent(space=IMAGE, policy_kwargs=kwargs, spike_penalty=0.1).learn(40)
    assert agent._n_updates > 0


def test_normalised_observations_are_learnt():
    env = VecNormalize(DummyVecEnv([lambda: World(VECTOR)]))
    agent = RecurrentDQN("MlpPolicy", env, replay_buffer_kwargs=SHORT, **FAST).learn(60)
    assert agent._n_updates > 0


# --- files ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.usefixtures("no_pickle")
def test_a_saved_agent_answers_and_goes_on_alike(T, tmp_path):
    agent = recurrent_agent(T, envs=2).learn(60)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "replay")
    loaded = RecurrentDQN.load(tmp_path / "agent", env=agent.get_env())
    assert T == loaded.T
    assert same(agent.policy.state_dict(), loaded.policy.state_dict())
    observations = observed(agent, 4, 2)
    starts = torch.zeros(4, 2, dtype=torch.bool)
    ours, theirs = (one.q_net.unroll(observations, starts, one.q_net.begin(2))[0] for one in (agent, loaded))
    assert torch.equal(ours, theirs)
    loaded.load_replay_buffer(tmp_path / "replay")
    drawn = []
    for one in (agent, loaded):
        np.random.seed(1)  # noqa: NPY002 - the buffer draws from it, as SB3's do
        drawn.append(one.replay_buffer.sample(20))
    assert all(torch.equal(mine, other) for mine, other in zip(*drawn, strict=True))
    loaded.learn(40)
    agent.policy.save(tmp_path / "policy.zip")
    alone = RecurrentPolicy.load(tmp_path / "policy.zip")
    assert same(agent.policy.state_dict(), alone.state_dict())


def test_files_of_agents_with_and_without_memory_are_told_apart(tmp_path):
    recurrent_agent().save(tmp_path / "with")
    SpikingDQN("MlpPolicy", World(VECTOR), **FAST).save(tmp_path / "without")
    with pytest.raises(UserError, match="it holds 'recurrent agent', not 'agent'"):
        SpikingDQN.load(tmp_path / "with")
    with pytest.raises(UserError, match="it holds 'agent', not 'recurrent agent'"):
        RecurrentDQN.load(tmp_path / "without")
