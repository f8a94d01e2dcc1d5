"""Frames stored once give the transitions that a buffer of whole observations gives."""

from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer

from snnrl import SpikingDQN
from snnrl.agents.frame_replay import FrameReplayBuffer
from snnrl.agents.spiking_dqn.replay import read_rows, rows_stored, write_rows
from snnrl.errors import UserError

SIZE = 2
SPACE = spaces.Box(0, 255, (3, SIZE, SIZE), np.uint8)
ACTIONS = spaces.Discrete(5)


class Step(NamedTuple):
    """One step of one environment."""

    obs: np.ndarray[Any, Any]
    next_obs: np.ndarray[Any, Any]
    action: int
    reward: float
    done: bool
    truncated: bool


def stream(draws: np.random.Generator, length: int, stack: int, padding: str) -> list[Step]:
    """Play in a world of random frames, whose episodes end, are cut off, lose lives or are reset from outside."""

    def frame() -> np.ndarray[Any, Any]:
        return draws.integers(1, 256, (SIZE, SIZE), np.uint8)

    def first() -> deque[np.ndarray[Any, Any]]:
        newest = frame()
        older = {"black": np.zeros_like(newest), "repeated": newest, "random": frame()}[padding]
        return deque([older] * (stack - 1) + [newest], maxlen=stack)

    frames, steps = first(), []
    for _ in range(length):
        obs = np.stack(frames)
        frames.append(frame())
        event = draws.choice(["on", "over", "cut off", "life", "reset"], p=[0.7, 0.1, 0.08, 0.07, 0.05])
        done = event in ("over", "cut off", "life")
        cut = event in ("cut off", "reset")
        step = Step(obs, np.stack(frames), int(draws.integers(5)), float(draws.normal()), done, cut)
        steps.append(step)
        if event in ("over", "cut off", "reset"):
            frames = first()
    return steps


def expected(steps: list[Step], start: int, n_steps: int, gamma: float) -> tuple[Any, ...]:
    """Walk the n steps one by one."""
    total, weight = 0.0, 1.0
    for step in steps[start : start + n_steps]:
        total, weight = total + weight * step.reward, weight * gamma
        if step.done or step.truncated:
            break
    return steps[start].obs, steps[start].action, step.next_obs, step.done and not step.truncated, total, weight


@given(
    seed=st.integers(0, 10**6),
    envs=st.integers(1, 3),
    length=st.integers(1, 60),
    size=st.integers(1, 90),
    stack=st.integers(1, 4),
    n_steps=st.integers(1, 5),
    padding=st.sampled_from(["black", "repeated", "random"]),
)
def test_transitions_are_those_of_a_naive_buffer(
    seed: int, envs: int, length: int, size: int, stack: int, n_steps: int, padding: str
) -> None:
    draws = np.random.default_rng(seed)
    space = spaces.Box(0, 255, (stack, SIZE, SIZE), np.uint8)
    buffer = FrameReplayBuffer(size, space, ACTIONS, "cpu", envs, n_steps=n_steps, gamma=0.9)
    streams = [stream(draws, length, stack, padding) for _ in range(envs)]
    for steps in zip(*streams, strict=True):
        obs, next_obs, action, reward, done, truncated = map(np.array, zip(*steps, strict=True))
        infos = [
            {"TimeLimit.truncated": bool(cut)} for cut in truncated & done
        ]  # a reset from outside is not announced
        buffer.add(obs, next_obs, action, reward, done, infos)
    rows = buffer.buffer_size
    kept = range(max(0, length - rows + stack) if length >= rows else 0, length)
    places = [(time, env) for time in kept for env in range(envs)]
    times, of_env = (np.array(part) for part in zip(*places, strict=True))
    found = buffer.at(times % rows, of_env)
    for index, (time, env) in enumerate(places):
        obs, action, next_obs, done, reward, discount = expected(streams[env], time, n_steps, 0.9)
        assert np.array_equal(found.observations[index], obs)
        assert np.array_equal(found.next_observations[index], next_obs)
        assert int(found.actions[index]) == action
        assert bool(found.dones[index]) == done
        assert float(found.rewards[index]) == pytest.approx(reward, abs=1e-5)
        assert found.discounts is not None
        assert float(found.discounts[index]) == pytest.approx(discount, rel=1e-6)
    everywhere = {observation.numpy().tobytes() for observation in found.observations}
    sampled = {observation.numpy().tobytes() for observation in buffer.sample(64).observations}
    assert sampled <= everywhere


def test_every_kept_transition_is_drawn() -> None:
    buffer = FrameReplayBuffer(8, SPACE, ACTIONS, "cpu")
    for step in stream(np.random.default_rng(0), 20, 3, "black"):
        buffer.add(step.obs[None], step.next_obs[None], np.array([step.action]), np.array([0.0]), np.array([0]), [{}])
    drawn = {observation.numpy().tobytes() for observation in buffer.sample(500).observations}
    assert len(drawn) == 8 - 3


def test_frames_take_a_stack_of_the_memory() -> None:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = FrameReplayBuffer(1000, space, ACTIONS, "cpu")
    arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 0.75e9 / 100_000 * 1000


def test_what_is_not_a_stack_of_frames_is_refused() -> None:
    for space in (spaces.Box(0, 1, (4,)), spaces.Box(0, 1, (3, 4, 4), np.float32)):
        with pytest.raises(UserError, match="needs uint8 stacks of frames"):
            FrameReplayBuffer(10, space, ACTIONS)
    buffer = FrameReplayBuffer(10, SPACE, ACTIONS, "cpu")
    one, other = np.zeros((1, 3, SIZE, SIZE), np.uint8), np.ones((1, 3, SIZE, SIZE), np.uint8)
    with pytest.raises(UserError, match="move on by one frame"):
        buffer.add(one, other, np.zeros(1), np.zeros(1), np.zeros(1), [{}])


def test_sb3s_dqn_learns_from_it_what_it_learns_from_its_own() -> None:
    agents = []
    for buffer_class in (FrameReplayBuffer, NStepReplayBuffer):
        agent = DQN(
            "CnnPolicy",
            "snnrl.envs:snnrl/PixelCartPole-v0",
            buffer_size=200,
            learning_starts=20,
            batch_size=8,
            train_freq=4,
            seed=0,
            device="cpu",
            replay_buffer_class=buffer_class,
            replay_buffer_kwargs={"n_steps": 3, "gamma": 0.99},
            policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}},
        )
        agents.append(agent.learn(60))
    ours, theirs = (agent.policy.state_dict() for agent in agents)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


# --- as a file


def filled(size: int = 40, steps: int = 55, stack: int = 3) -> FrameReplayBuffer:
    space = spaces.Box(0, 255, (stack, SIZE, SIZE), np.uint8)
    buffer = FrameReplayBuffer(size, space, ACTIONS, "cpu", n_steps=3)
    for step in stream(np.random.default_rng(1), steps, stack, "repeated"):
        infos = [{"TimeLimit.truncated": step.truncated and step.done}]
        action, reward, done = np.array([step.action]), np.array([step.reward]), np.array([step.done])
        buffer.add(step.obs[None], step.next_obs[None], action, reward, done, infos)
    return buffer


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("steps", [1, 30, 55])
def test_a_buffer_comes_back_from_its_rows(steps: int, stack: int) -> None:
    ours = filled(steps=steps, stack=stack)
    other = FrameReplayBuffer(40, ours.observation_space, ACTIONS, "cpu", n_steps=3)
    stored = rows_stored(ours)
    for start, stop in ((0, stored // 2), (stored // 2, stored)):
        write_rows(other, start, read_rows(ours, start, stop))
    other.pos, other.full = ours.pos, ours.full
    samples = []
    for buffer in (ours, other):
        np.random.seed(0)  # noqa: NPY002 - what SB3's buffers draw from
        samples.append(buffer.sample(200))
    for one, another in zip(*samples, strict=True):
        assert torch.equal(one, another)


@pytest.mark.parametrize("steps", [30, 55])
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_buffer_that_came_back_goes_on(steps: int, goes_on: bool) -> None:
    ours, other = filled(steps=steps), FrameReplayBuffer(40, SPACE, ACTIONS, "cpu", n_steps=3)
    write_rows(other, 0, read_rows(ours, 0, rows_stored(ours)))
    other.pos, other.full = ours.pos, ours.full
    obs = stream(np.random.default_rng(1), steps + 1, 3, "repeated")[-1].obs if goes_on else np.ones(SPACE.shape)
    step = obs[None], np.concatenate([obs[None, 1:], obs[None, :1]], axis=1), np.ones(1), np.ones(1), np.zeros(1), [{}]
    samples = []
    for buffer in (ours, other):
        buffer.add(*step)
        np.random.seed(0)  # noqa: NPY002 - what SB3's buffers draw from
        samples.append(buffer.sample(200))
    for one, another in zip(*samples, strict=True):
        assert torch.equal(one, another)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("before_at", lambda places: places - 10**6, "frames before its episodes belong to another buffer"),
        ("after_at", lambda places: places[:-1], "frames after its episodes belong to another buffer"),
        ("after_at", lambda places: places.float(), "after_at .* do not fit"),
        ("before", lambda frames: frames[:, :1], "before .* do not fit"),
        ("depth", None, "depth belong to another kind"),
    ],
)
def test_rows_of_another_buffer_are_refused(name: str, change: Any, message: str) -> None:
    ours = filled()
    rows = read_rows(ours, 0, 40)
    if change is None:
        del rows[name]
    else:
        rows[name] = change(rows[name])
    with pytest.raises(UserError, match=message):
        write_rows(FrameReplayBuffer(40, SPACE, ACTIONS, "cpu"), 0, rows)


def test_an_agents_buffer_is_saved_and_loaded(tmp_path: Path) -> None:
    def agent() -> SpikingDQN:
        return SpikingDQN(
            "CnnPolicy",
            "snnrl.envs:snnrl/PixelCartPole-v0",
            buffer_size=60,
            learning_starts=20,
            batch_size=8,
            seed=0,
            device="cpu",
            replay_buffer_class=FrameReplayBuffer,
            policy_kwargs={"features_extractor_kwargs": {"network": "small", "features_dim": 8}},
        )

    one, other = agent().learn(100), agent()
    one.save_replay_buffer(tmp_path / "replay")
    other.load_replay_buffer(tmp_path / "replay")
    samples = []
    for buffer in (one.replay_buffer, other.replay_buffer):
        assert isinstance(buffer, FrameReplayBuffer)
        np.random.seed(0)  # noqa: NPY002 - what SB3's buffers draw from
        samples.append(buffer.sample(100))
    for ours, theirs in zip(*samples, strict=True):
        assert torch.equal(ours, theirs)
    one.save(tmp_path / "agent")
    assert SpikingDQN.load(tmp_path / "agent").replay_buffer_class is FrameReplayBuffer
