"""Greedy evaluation against plain loops: rewards, carried potentials, spike rates, random streams."""

import random
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from snnrl.agents.evaluate import (
    Evaluation,
    Seen,
    episode_seeds,
    evaluate,
    fingerprints,
    mean_rate,
    play,
)
from snnrl.agents.metrics import layer_name
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.energy import count_operations, energy_ratio
from snnrl.envs import PROTOCOLS, AtariGame, make_playable
from snnrl.errors import UserError
from snnrl.networks import NetworkState, neurons_of
from snnrl.neurons import LIF

ENV = "CartPole-v1"
SEEDS = episode_seeds(0, "report", 5)
PURPOSES = ("train", "gate", "report", "play", "disturb")


def agent(T: int | None, carry: bool = False, seed: int = 2) -> SpikingDQN:
    """An untrained agent with thresholds low enough to spike often."""
    policy = {"net_arch": [16, 8], "carry": carry}
    made = SpikingDQN("MlpPolicy", ENV, T=T, buffer_size=1, policy_kwargs=policy, device="cpu", seed=seed)
    for neuron in neurons_of(made.q_net).values():
        assert isinstance(neuron, LIF)
        neuron.threshold.data.fill_(0.1)
    return made


class Lean:
    """Pushes to where the pole leans, and notes what it was given."""

    def __init__(self) -> None:
        self.starts: list[list[bool]] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        assert deterministic
        assert len(observation) == len(episode_start)
        self.starts.append(list(episode_start))
        return (observation[:, 2] > 0).astype(int), state


def loop(actor: Any, seed: int, most_steps: int | None = None) -> tuple[float, list[NDArray[Any]]]:
    env, reward, state, seen = gym.make(ENV), 0.0, None, []
    observation, _ = env.reset(seed=seed)
    while most_steps is None or len(seen) < most_steps:
        seen.append(observation)
        actions, state = actor.predict(observation[None], state, np.array([len(seen) == 1]), deterministic=True)
        observation, gained, terminated, truncated, _ = env.step(actions[0])
        reward += float(gained)
        if terminated or truncated:
            break
    return reward, seen


def test_play_is_one_episode_per_seed() -> None:
    actor = Lean()
    rewards = play(actor, ENV, SEEDS)
    assert rewards == [loop(Lean(), seed)[0] for seed in SEEDS]
    assert len(set(rewards)) > 1
    assert play(Lean(), ENV, SEEDS[::-1]) == rewards[::-1]
    assert actor.starts[0] == [True] * 5
    assert not any(any(starts) for starts in actor.starts[1:])


def test_on_step_sees_every_observation() -> None:
    batches: list[NDArray[Any]] = []
    play(Lean(), ENV, SEEDS, on_step=lambda _, batch: batches.append(batch.copy()))
    expected = np.concatenate([loop(Lean(), seed)[1] for seed in SEEDS])
    found = np.concatenate(batches)
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


def test_most_steps() -> None:
    assert play(Lean(), ENV, SEEDS, most_steps=3) == [3.0] * 5


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_seeds_of_different_purposes_do_not_meet(seed: int, other: int) -> None:
    drawn = {purpose: episode_seeds(seed, purpose, 20) for purpose in PURPOSES}
    everything = [value for values in drawn.values() for value in values]
    assert len(set(everything)) == len(everything)
    assert all(0 <= value < 2**32 for value in everything)
    assert episode_seeds(seed, "gate", 5) == drawn["gate"][:5]
    if other != seed:
        assert episode_seeds(other, "gate", 20) != drawn["gate"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 50))
def test_a_sample_holds_different_observations(batches: list[int], most: int) -> None:
    seen, met = Seen(most, 9), 0
    for size in batches:
        seen.add(range(size), np.arange(met, met + size))
        met += size
    assert len({int(observation) for observation in seen.sample}) == len(seen.sample) == min(most, met)
    assert max(int(observation) for observation in seen.sample) < met


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_fingerprints_are_those_of_the_bytes(dtype: type) -> None:
    batch = np.random.default_rng(0).integers(0, 200, (6, 3, 5)).astype(dtype)
    batch[4] = batch[1]
    found = fingerprints(batch)
    assert len(set(found.tolist())) == 5
    assert found[4] == found[1]
    assert np.array_equal(fingerprints(batch[2:]), found[2:])
    for place in np.ndindex(3, 5):
        changed = batch.copy()
        changed[0][place] += 1
        assert fingerprints(changed)[0] != found[0]
    seen = Seen(10, 3)
    for rows in (batch[[1, 4, 0]], batch[[2, 2, 2]]):
        seen.add([0, 1, 2], rows)
    assert len(set(seen.fingerprints.tolist())) == 2


def test_every_observation_is_as_likely_to_be_sampled() -> None:
    kept = np.zeros(100)
    for draw in range(2000):
        seen = Seen(10, 5)
        seen.generator = np.random.default_rng(draw)
        for start in range(0, 100, 5):
            seen.add(range(5), np.arange(start, start + 5))
        kept[np.array(seen.sample)] += 1
    assert kept.sum() == 20_000
    # 200 expected each; the standard deviation of a count is 13.4
    assert np.abs(kept - 200).max() < 5 * 13.4
    assert abs(kept[:5].mean() - 200) < 30


# games, and random actions


class Cycler:
    """Takes the six actions of Pong in turn, each for some steps."""

    def __init__(self) -> None:
        self.time = 0

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        self.time += 1
        return np.full(len(observation), self.time // 7 % 6), state


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_games_played_side_by_side_are_those_played_alone(protocol: str) -> None:
    short = PROTOCOLS[protocol].changed(most_frames=700)
    batches: list[tuple[list[int], NDArray[Any]]] = []
    kwargs = {"protocol": short.model_dump()}
    rewards = play(
        Cycler(), "pong", SEEDS, env_kwargs=kwargs, on_step=lambda running, seen: batches.append(([*running], seen))
    )
    assert len(set(rewards)) > 1
    for index, seed in enumerate(SEEDS):
        game, actor, total, over = AtariGame("pong", short), Cycler(), 0.0, False
        observation, _ = game.reset(seed=seed)
        for running, seen in batches:
            assert (index in running) != over
            if over:
                break
            assert np.array_equal(seen[running.index(index)], observation)
            action = actor.predict(observation[None])[0][0]
            observation, reward, terminated, truncated, _ = game.step(action)
            total, over = total + reward, terminated or truncated
        assert total == rewards[index]
        game.close()


@pytest.mark.parametrize(("env_id", "kwargs"), [(ENV, {}), ("pong", {"protocol": {"most_frames": 400}})])
def test_random_actions_come_from_the_seed_of_their_episode(env_id: str, kwargs: dict[str, Any]) -> None:
    def episodes(seeds: list[int], epsilon: float) -> list[tuple[float, list[bytes]]]:
        seen: dict[int, list[bytes]] = {index: [] for index in range(len(seeds))}

        def add(running: Sequence[int], batch: NDArray[Any]) -> None:
            for index, observation in zip(running, batch, strict=True):
                seen[index].append(observation.tobytes())

        actor = Lean() if env_id == ENV else Cycler()
        rewards = play(actor, env_id, seeds, env_kwargs=kwargs, epsilon=epsilon, on_step=add)
        return list(zip(rewards, seen.values(), strict=True))

    greedy, random = episodes(SEEDS, 0.0), episodes(SEEDS, 0.5)
    assert random == episodes(SEEDS, 0.5)
    assert random[::-1] == episodes(SEEDS[::-1], 0.5)
    assert random[2:3] == episodes(SEEDS[2:3], 0.5)
    assert all(ours != theirs for ours, theirs in zip(random, greedy, strict=True))
    assert greedy == episodes(SEEDS, 1e-12)


def test_equal_episodes_are_counted_once() -> None:
    seeds = [*SEEDS, SEEDS[0], SEEDS[0]]
    found = evaluate(agent(1), ENV, seeds)
    assert (found.distinct, found.as_dict()["distinct_episodes"]) == (5, 5)


# carrying potentials


def by_hand(spiking: SpikingDQN, observations: list[NDArray[Any]]) -> list[int]:
    """Actions of one episode, the potentials taken from decision to decision by ``decide``."""
    state, actions = None, []
    for observation in observations:
        q_values, state = spiking.q_net.decide(torch.as_tensor(observation[None]), state)
        actions.append(int(q_values.argmax()))
    return actions


def test_carried_potentials() -> None:
    spiking = agent(2, carry=True)
    rewards = play(spiking, ENV, SEEDS)
    for seed, reward in zip(SEEDS, rewards, strict=True):
        expected, seen = loop(spiking, seed)
        assert reward == expected
        # an episode of its own starts from zero, whatever was played before it
        state, taken = None, []
        for number, observation in enumerate(seen):
            actions, state = spiking.predict(observation[None], state, np.array([number == 0]), deterministic=True)
            taken.append(int(actions[0]))
        assert taken == by_hand(spiking, seen)


class Integrator:
    """Pushes by the sign of everything seen so far, which it keeps in its state."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, NetworkState]:
        total = torch.as_tensor(observation).double()
        if state is not None:
            total = total + torch.where(torch.as_tensor(episode_start)[:, None], 0.0, state.potentials[0])
        return (total[:, 2] + 0.3 * total[:, 3] > 0).int().numpy(), NetworkState((total,))


def test_every_row_keeps_its_own_state() -> None:
    seeds = episode_seeds(0, "play", 12)
    rewards = play(Integrator(), ENV, seeds)
    assert rewards == [loop(Integrator(), seed)[0] for seed in seeds]
    assert len(set(rewards)) > 3


def test_carrying_changes_decisions_and_leaves_nothing_behind() -> None:
    spiking = agent(1, carry=True)
    observations = [np.full(4, value, np.float32) for value in np.linspace(-0.5, 0.5, 12)]
    tensors = [torch.as_tensor(o[None]) for o in observations]
    state, carried = None, []
    for tensor in tensors:
        q_values, state = spiking.q_net.decide(tensor, state)
        carried.append(q_values)
    assert state is not None
    assert any(float(p.abs().max()) > 0 for p in state.potentials)
    fresh = [spiking.q_net(tensor).detach() for tensor in tensors]
    assert torch.equal(carried[0], fresh[0])
    assert not torch.equal(torch.cat(carried), torch.cat(fresh))
    assert torch.equal(spiking.q_net.decide(tensors[0], None)[0], fresh[0])


def test_an_episode_start_resets_its_row() -> None:
    spiking = agent(2, carry=True)
    batch = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    _, state = spiking.predict(batch, None, np.array([True] * 3), deterministic=True)
    _, mixed = spiking.predict(batch, state, np.array([False, True, False]), deterministic=True)
    _, fresh = spiking.predict(batch, None, np.array([True] * 3), deterministic=True)
    _, kept = spiking.predict(batch, state, np.array([False] * 3), deterministic=True)
    for row, source in ((0, kept), (1, fresh), (2, kept)):
        for ours, theirs in zip(mixed.potentials, source.potentials, strict=True):
            torch.testing.assert_close(ours[row], theirs[row])


# the whole evaluation


def test_spike_rates_are_those_of_hooks() -> None:
    spiking = agent(3)
    spikes: dict[str, list[float]] = {}
    rows: dict[str, int] = {}

    def hook(name: str) -> Any:
        def count(_: Any, __: Any, output: torch.Tensor) -> None:
            spikes.setdefault(name, []).append(float((output != 0).sum()))
            rows[name] = rows.get(name, 0) + output[0].numel() * len(output) // 3

        return count

    handles = [neuron.register_forward_hook(hook(name)) for name, neuron in neurons_of(spiking.q_net).items()]
    rewards = play(spiking, ENV, SEEDS)
    for handle in handles:
        handle.remove()
    found = evaluate(spiking, ENV, SEEDS)
    assert list(found.rewards) == rewards
    assert found.spike_rate == pytest.approx({layer_name(name): sum(spikes[name]) / rows[name] for name in spikes})
    assert min(found.spike_rate.values()) > 0.05
    assert all(neuron.count is None for neuron in neurons_of(spiking.q_net).values())


def test_figures() -> None:
    spiking = agent(3)
    found = evaluate(spiking, ENV, SEEDS)
    assert found.mean == pytest.approx(sum(found.rewards) / 5)
    assert found.std == pytest.approx(np.std(found.rewards))
    assert len(found.observations) == min(256, int(sum(found.rewards)))
    tensor = torch.as_tensor(found.observations)
    layers = count_operations(spiking.q_net, tensor, len(tensor))
    assert [layer.macs for layer in layers] == [4 * 16, 16 * 8, 8 * 2]
    assert found.energy_ratio == energy_ratio(layers)
    assert found.as_dict() == {
        "reward_mean": found.mean,
        "reward_std": found.std,
        "episodes": 5,
        "distinct_episodes": 5,
        "rewards": list(found.rewards),
        "spike_rate": found.spike_rate,
        "energy_ratio": found.energy_ratio,
    }


def test_the_ordinary_network_is_the_measure() -> None:
    found = evaluate(agent(None), ENV, SEEDS)
    assert (found.energy_ratio, found.spike_rate) == (1.0, {})
    assert mean_rate(found.spike_rate) == ""
    assert mean_rate({"a": 0.1, "b": 0.3}) == ", 0.20 spikes per neuron"


def test_long_evaluations_keep_a_sample() -> None:
    found = evaluate(agent(None), ENV, episode_seeds(0, "report", 150))
    assert sum(found.rewards) > 1024
    assert len(found.observations) == 256
    assert len(np.unique(found.observations, axis=0)) == len(found.observations)


def states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one is what is tested
    return random.getstate(), [str(part) for part in numpy_state], torch.get_rng_state().tolist()


@pytest.mark.parametrize("T", [None, 2])
def test_evaluation_draws_nothing_and_can_be_repeated(T: int | None) -> None:
    player = agent(T, carry=T is not None)
    before = states()
    first = evaluate(player, ENV, SEEDS)
    assert states() == before
    again: Evaluation = evaluate(player, ENV, SEEDS)
    assert again.as_dict() == first.as_dict()
    assert not player.q_net.training


@pytest.mark.parametrize(
    ("env_id", "hint"),
    [("Pendulum-v1", "needs discrete"), ("Blackjack-v1", "only arrays"), ("Nothing-v0", "unknown environment")],
)
def test_environments_that_cannot_be_played(env_id: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        make_playable(env_id)


@pytest.mark.parametrize(
    ("name", "short"),
    [("features_extractor.cnn.conv1", "conv1"), ("q_net.fc1", "fc1"), ("q_net.advantage.fc1", "advantage.fc1")],
)
def test_layer_names(name: str, short: str) -> None:
    assert layer_name(name) == short
