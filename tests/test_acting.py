"""An agent that acts: it explores, carries potentials between decisions, and learns."""

import copy

import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.envs import make
from snnrl.networks import NetworkState, neurons_of
from worlds import POLICIES, World, batch_of, row, same, small_agent

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
        makers = [lambda: World(POLICIES[policy][0])] * 2
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


@pytest.mark.parametrize(("T", "precision"), [(1, "fp32"), (3, "fp32"), (1, "bf16"), (None, "bf16")])
def test_the_pixel_probe_is_learnt_by_the_cnn_policy(T, precision):
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
        precision=precision,
        seed=0,
    ).learn(480)
    images = np.zeros((2, 1, 36, 36), np.uint8)
    images[0, :, :, :18] = images[1, :, :, 18:] = 255
    q_values = agent.q_net(torch.as_tensor(images))
    torch.testing.assert_close(q_values, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), atol=0.15, rtol=0)
    assert {value.dtype for value in agent.q_net.parameters()} == {torch.float32}
    assert agent.predict(images, deterministic=True)[0].tolist() == [0, 1]
