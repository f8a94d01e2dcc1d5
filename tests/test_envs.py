"""The environments: checkers, physics, hand-computed pixels, known Q-values, exact resumption."""

import itertools
import json
import math
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as stable_baselines3_check
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from snnrl import envs, errors

DRAWN = [envs.PixelCartPole, envs.PixelCartPolePaper, envs.MaskedCartPole]
actions_of = st.lists(st.integers(0, 1), min_size=1, max_size=60)
seeds = st.integers(0, 2**32 - 1)
angles = st.floats(-0.2, 0.2)
positions = st.floats(-2.4, 2.4)


def placed(env, position, angle):
    """Return the environment's next frame as if its cart had come to ``position`` and its pole to ``angle``."""
    env.reset(seed=0)
    env.state = np.array([position, 0.0, angle, 0.0])
    return env._next_observation()


def balance(env):
    """Return the action of a linear controller that keeps the pole up and the cart on the track for ever."""
    return int(np.dot([0.05, 0.2, 1.0, 0.5], env.unwrapped.state) > 0)


# --- registration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", envs.ENVIRONMENTS)
def test_every_environment_passes_both_checkers(env_id):
    gymnasium_check(gymnasium.make(env_id, render_mode="rgb_array").unwrapped)
    # stable-baselines3 warns of any image that is not uint8, which signed differences cannot be.
    warn = env_id != "snnrl/PixelCartPolePaper-v0"
    stable_baselines3_check(gymnasium.make(env_id, render_mode="rgb_array"), warn=warn, skip_render_check=False)


@pytest.mark.parametrize("env_id", envs.ENVIRONMENTS)
def test_stable_baselines3_makes_every_environment_without_a_warning(env_id):
    vec_env = make_vec_env(env_id, n_envs=2, seed=1)
    assert vec_env.reset().shape == (2, *vec_env.observation_space.shape)
    assert vec_env.render("rgb_array").ndim == 3


def test_a_foreign_script_needs_one_line_and_gets_neither_stable_baselines3_nor_pygame():
    script = (
        "import sys, gymnasium\n"
        "env = gymnasium.make('snnrl.envs:snnrl/PixelCartPole-v0', render_mode='rgb_array')\n"
        "env.reset(seed=0); env.step(1); assert env.render().shape == (360, 810, 3)\n"
        "print(sorted({'stable_baselines3', 'pygame', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr


def test_registering_again_changes_nothing():
    before = dict(gymnasium.registry)
    envs.registration.register()
    assert dict(gymnasium.registry) == before
    assert set(envs.ENVIRONMENTS) == {env_id for env_id in before if env_id.startswith("snnrl/")}
    assert all(text and "\n" not in text for text in envs.ENVIRONMENTS.values())


def test_all_but_the_papers_cartpole_are_cut_at_500_steps():
    lengths = {}
    for env_id in ("snnrl/CartPoleMasked-v1", "snnrl/PixelCartPole-v0", "snnrl/PixelCartPolePaper-v0"):
        env = envs.make(env_id)
        env.reset(seed=3)
        length, truncated = 0, False
        while not truncated and length < 600:
            _, _, terminated, truncated, _ = env.step(balance(env))
            assert not terminated
            length += 1
        lengths[env_id] = length
    assert lengths == {
        "snnrl/CartPoleMasked-v1": 500,
        "snnrl/PixelCartPole-v0": 500,
        "snnrl/PixelCartPolePaper-v0": 600,
    }


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("snnrl/PixelCartpole-v0", "did you mean 'snnrl/PixelCartPole-v0'?"),
        ("PixelCartPole-v0", "did you mean 'snnrl/PixelCartPole-v0'?"),
        ("CartPol-v1", "did you mean 'CartPole-v1'?"),
        ("CartPole-v7", "did you mean 'CartPole-v1'?"),
        ("ALE/Pongg-v5", "did you mean 'ALE/Pong-v5'?"),
        ("no_such_module:CartPol-v1", "No module named 'no_such_module'"),
        ("not an id!", "known: snnrl/CartPoleMasked-v1, snnrl/PixelCartPole-v0, snnrl/PixelCartPolePaper-v0"),
    ],
)
def test_unknown_ids_are_a_user_error_of_one_line(wrong, right):
    with pytest.raises(errors.UserError) as caught:
        envs.make(wrong)
    assert wrong in str(caught.value)
    assert right in str(caught.value)
    assert "\n" not in str(caught.value)


def test_make_passes_keywords_on_and_knows_atari():
    assert envs.make("CartPole-v1", max_episode_steps=7).spec.max_episode_steps == 7
    assert envs.make("ALE/Pong-v5").observation_space.shape == (210, 160, 3)


@pytest.mark.parametrize("env_id", envs.ENVIRONMENTS)
def test_render_without_its_mode_is_a_user_error(env_id):
    env = envs.make(env_id).unwrapped
    env.reset(seed=0)
    with pytest.raises(errors.UserError, match="render_mode='rgb_array'"):
        env.render()


# --- CartPole -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=seeds, actions=actions_of)
@pytest.mark.parametrize("drawn", DRAWN)
def test_physics_reward_and_termination_are_cartpole_v1s(drawn, seed, actions):
    env, oracle = drawn(), CartPoleEnv()
    env.reset(seed=seed)
    oracle.reset(seed=seed)
    for action in actions:
        _, *rest = env.step(np.int64(action))
        _, *expected = oracle.step(action)
        assert rest == expected
        np.testing.assert_array_equal(env.state, oracle.state)
        if rest[1]:
            break


@settings(max_examples=30, deadline=None)
@given(seed=seeds, actions=actions_of)
@pytest.mark.parametrize("drawn", DRAWN)
def test_a_seed_reproduces_every_observation(drawn, seed, actions):
    one, two = drawn(), drawn(render_mode="rgb_array")
    two.reset(seed=seed + 1)
    np.testing.assert_array_equal(one.reset(seed=seed)[0], two.reset(seed=seed)[0])
    for action in actions[:8]:  # before the pole can have fallen
        two.render()
        np.testing.assert_array_equal(one.step(action)[0], two.step(action)[0])


def test_another_seed_shows_another_frame():
    env = envs.PixelCartPole()
    assert not np.array_equal(env.reset(seed=1)[0], env.reset(seed=2)[0])


@settings(max_examples=20, deadline=None)
@given(seed=seeds, actions=actions_of)
def test_frames_are_stacked_oldest_first_and_belong_to_the_caller(seed, actions):
    env = envs.PixelCartPole()
    observation, _ = env.reset(seed=seed)
    np.testing.assert_array_equal(observation, observation[[2, 2, 2]])
    for action in actions[:8]:
        before = observation.copy()
        observation[:] = 77
        observation = env.step(action)[0]
        np.testing.assert_array_equal(observation[:2], before[1:])
        np.testing.assert_array_equal(observation[2], placed_frame(env))


def placed_frame(env):
    """Return the newest frame of a second environment in the same state."""
    position, _, angle, _ = env.state
    return placed(envs.PixelCartPole(), position, angle)[2]


def test_golden_pixels_of_an_upright_pole_in_the_middle():
    # Middle column 44.5. Cart 8x5 around row 33: columns 41-48, rows 31-35. Axle in row 31.5, pole 28 long: tip 3.5.
    frame = placed(envs.PixelCartPole(), 0.0, 0.0)[2]
    assert set(frame[35, 41:49]) == {128}
    assert frame[31:36, :39].max() == frame[31:36, 51:].max() == 0
    assert frame[5:32, 44:46].min() == 255
    assert frame[5:28, :42].max() == frame[5:28, 48:].max() == 0
    assert frame[:2].max() == frame[38:].max() == 0
    assert np.abs(frame.astype(int) - frame[:, ::-1]).max() <= 16  # OpenCV's anti-aliasing is not quite symmetric


def centroid(row):
    """Return the brightness-weighted mean column of a row of pixels."""
    return np.average(np.arange(len(row)), weights=row)


@given(position=positions, angle=angles)
def test_cart_and_pole_are_drawn_where_they_are_to_a_fraction_of_a_pixel(position, angle):
    frame = placed(envs.PixelCartPole(), position, angle)[2]
    column = 44.5 + 16 * position
    assert centroid(frame[35]) == pytest.approx(column, abs=0.15)
    for row in (10, 15, 20, 25):
        assert centroid(frame[row]) == pytest.approx(column + (31.5 - row) * math.tan(angle), abs=0.15)


@given(position=positions, angle=angles)
def test_a_mirrored_state_is_a_mirrored_image(position, angle):
    frame = placed(envs.PixelCartPole(), position, angle)[2]
    mirrored = placed(envs.PixelCartPole(), -position, -angle)[2][:, ::-1]
    rows = np.abs(frame.astype(int) - mirrored).sum(axis=1)
    assert rows.max() <= 128  # half a pixel's brightness in any row: OpenCV rounds fractions towards one side


@pytest.mark.parametrize(("position", "angle"), [(0.001, 0.0), (0.0, 0.001), (1.001, 0.1), (1.0, 0.101)])
def test_a_millimetre_or_a_milliradian_is_visible(position, angle):
    env = envs.PixelCartPole()
    before = placed(env, round(position), round(angle, 1))[2]
    assert not np.array_equal(before, placed(env, position, angle)[2])


@pytest.mark.parametrize("position", [-2.4, 2.4])
def test_the_ends_of_the_track_are_in_view(position):
    frame = placed(envs.PixelCartPole(), position, math.copysign(0.2, position))[2]
    assert frame[35, 0] == frame[35, -1] == 0
    assert frame[4:31].max(axis=1).min() == 255


def test_the_picture_for_videos_is_the_frame_nine_times_as_large():
    env = envs.PixelCartPole(render_mode="rgb_array")
    frame = placed(env, 0.7, -0.1)[2]
    picture = env.render()
    assert picture.shape == (360, 810, 3)
    ink = (picture.min(axis=2) < 255).reshape(40, 9, 90, 9).mean(axis=(1, 3))
    for row in (5, 10, 20, 30, 31, 35):
        assert centroid(ink[row]) == pytest.approx(centroid(frame[row]), abs=0.15)
    assert ink[31:36, 54:58].min() == 1  # the cart's rows, to the last one
    assert ink[36].max() < 0.3
    assert not ink[:2].any()
    assert not ink[38:].any()


def test_golden_pixels_of_the_classic_screen():
    env = envs.PixelCartPolePaper(render_mode="rgb_array")
    placed(env, 0.0, 0.0)
    screen = env.render()
    assert screen.shape == (400, 600, 3)
    assert screen[10, 10].tolist() == [255, 255, 255]
    assert screen[299, 10].tolist() == [0, 0, 0]  # track
    assert screen[310, 300].tolist() == [0, 0, 0]  # cart
    assert screen[200, 300].tolist() == [202, 152, 101]  # pole
    assert screen[291, 300].tolist() == [129, 132, 203]  # axle
    assert screen[168].min() == 255  # the tip is at row 299 - 7.5 - 120 = 171.5


def cropped_and_shrunk(screen, position):
    """Return rows 160-319 and the 360 columns around the cart, averaged over 4x4 pixels, in [0, 1]."""
    cart = int(position * 125 + 300)
    if cart < 180:
        columns = slice(0, 360)
    elif cart > 420:
        columns = slice(240, 600)
    else:
        columns = slice(cart - 180, cart + 180)
    return screen[160:320, columns].reshape(40, 4, 90, 4, 3).mean(axis=(1, 3)).transpose(2, 0, 1) / 255


@settings(deadline=None)
@given(position=positions, velocity=st.floats(-3, 3), angle=angles)
def test_the_papers_observation_is_the_difference_of_two_cropped_screens(position, velocity, angle):
    env = envs.PixelCartPolePaper(render_mode="rgb_array")
    first, _ = env.reset(seed=0)
    assert not first.any()
    env.state = np.array([position, velocity, angle, 1.0])
    env._first_observation()
    before = cropped_and_shrunk(env.render(), env.state[0])
    observation = env.step(1)[0]
    after = cropped_and_shrunk(env.render(), env.state[0])
    assert observation in env.observation_space
    np.testing.assert_allclose(observation, after - before, atol=2 / 255)


def test_the_paper_observation_sees_the_pole_fall():
    env = envs.PixelCartPolePaper()
    env.reset(seed=0)
    env.state = np.array([0.0, 0.0, 0.05, 1.0])
    env._first_observation()
    observation = env.step(1)[0]
    assert observation.max() > 0.1 > -0.1 > observation.min()
    columns = observation[:, 5:20].sum(axis=(0, 1))
    assert columns.argmax() < columns.argmin()  # white where the pole was, brown to the right of it


# --- probes ---------------------------------------------------------------------------------------------------------

GAMMA = 0.9
# id -> {start: (return of action 0, return of action 1)}, by hand from the docstrings
RETURNS = {
    "snnrl/ProbeConstant-v0": {0: (1, 1)},
    "snnrl/ProbeObservation-v0": {-1: (-1, -1), 1: (1, 1)},
    "snnrl/ProbeDelayed-v0": {0: (0.9, 0.9)},
    "snnrl/ProbeAction-v0": {0: (-1, 1)},
    "snnrl/ProbePolicy-v0": {-1: (1, -1), 1: (-1, 1)},
    "snnrl/ProbePixels-v0": {-1: (1, -1), 1: (-1, 1)},
    "snnrl/ProbeMemory-v0": {-1: (0.81, -0.81), 1: (-0.81, 0.81)},
}


def value_of(observation):
    """Return the number that a probe shows; an image's is -1 if its left half is bright and 1 if its right half is."""
    if observation.dtype == np.float32:
        return observation.item()
    left, right = observation[0, :, :18], observation[0, :, 18:]
    assert {left.min(), left.max(), right.min(), right.max()} == {0, 255}
    return int(right.mean() > left.mean()) * 2 - 1


def test_every_probe_is_listed():
    assert set(RETURNS) == {env_id for env_id in envs.ENVIRONMENTS if "Probe" in env_id}


@pytest.mark.parametrize("env_id", RETURNS)
def test_probes_pay_what_their_docstrings_say(env_id):
    env = envs.make(env_id)
    found = {}
    for seed, action in itertools.product(range(20), (0, 1)):
        observation, _ = env.reset(seed=seed)
        start, discounted, discount, terminated = value_of(observation), 0.0, 1.0, False
        while not terminated:
            _, reward, terminated, _, _ = env.step(action)
            discounted += discount * reward
            discount *= GAMMA
        found.setdefault(start, {})[action] = discounted
    assert {start: (of[0], of[1]) for start, of in found.items()} == RETURNS[env_id]


def test_the_memory_probe_shows_its_cue_once():
    env = envs.make("snnrl/ProbeMemory-v0")
    cue = env.reset(seed=1)[0].item()
    assert cue in (-1.0, 1.0)
    steps = [env.step(action) for action in (1, 0, 1)]
    assert [(step[0].item(), step[1], step[2]) for step in steps] == [(0, 0, False), (0, 0, False), (0, cue, True)]


def test_the_delayed_probe_shows_0_then_1_and_pays_at_the_end():
    env = envs.make("snnrl/ProbeDelayed-v0")
    assert env.reset(seed=0)[0] == [0.0]
    observation, reward, terminated, _, _ = env.step(0)
    assert (observation.item(), reward, terminated) == (1.0, 0.0, False)
    _, reward, terminated, _, _ = env.step(0)
    assert (reward, terminated) == (1.0, True)


# --- resumption -----------------------------------------------------------------------------------------------------

RESUMABLE = ["CartPole-v1", *envs.ENVIRONMENTS]


def play(env, actions):
    """Return what every action gives, resetting as a training loop does, ``time`` left out of episode statistics."""
    history = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        info.get("episode", {}).pop("t", None)
        history.append((observation.tolist(), reward, terminated, truncated, info))
        if terminated or truncated:
            history.append(env.reset()[0].tolist())
    return history


@settings(max_examples=15, deadline=None)
@given(seed=seeds, rank=st.integers(0, 7), before=st.lists(st.integers(0, 1), max_size=60), after=actions_of)
@pytest.mark.parametrize("env_id", RESUMABLE)
@pytest.mark.parametrize("inner", [lambda env: env, Monitor], ids=["bare", "monitor"])
def test_a_restored_environment_continues_as_if_never_stopped(inner, env_id, seed, rank, before, after):
    def new():
        return envs.SeededEpisodes(inner(gymnasium.make(env_id, max_episode_steps=25)), seed, rank)

    env = new()
    last = env.reset()[0].tolist()
    for observation in play(env, before)[-1:]:
        last = observation[0] if isinstance(observation, tuple) else observation
    progress = json.loads(json.dumps(env.progress()))
    restored = new()
    assert restored.restore(progress).tolist() == last
    assert restored.progress() == progress
    assert play(restored, after) == play(env, after)


def test_monitor_reports_the_whole_episode_after_a_restore():
    env = envs.SeededEpisodes(Monitor(gymnasium.make("CartPole-v1")), seed=5, rank=0)
    env.restore({"episode": 2, "actions": [0, 1] * 3})
    done, steps = False, 6
    while not done:
        _, _, done, _, info = env.step(0)
        steps += 1
    assert (info["episode"]["r"], info["episode"]["l"]) == (steps, steps)


def test_restore_through_a_vectorised_environment():
    def new():
        return make_vec_env(
            "snnrl/PixelCartPole-v0", n_envs=1, wrapper_class=envs.SeededEpisodes, wrapper_kwargs={"seed": 4, "rank": 0}
        )

    vec_env = new()
    vec_env.seed(123)  # ignored
    vec_env.reset()
    for _ in range(30):
        observation, *_ = vec_env.step([1])
    [progress] = vec_env.env_method("progress")
    assert progress["episode"] >= 2
    other = new()
    np.testing.assert_array_equal(other.env_method("restore", progress), observation)
    for ours, theirs in zip(vec_env.step([0])[:3], other.step([0])[:3], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_seed_rank_and_episode_starts_differently_and_outer_seeds_do_nothing():
    starts = set()
    for seed, rank in itertools.product(range(3), range(3)):
        env = envs.SeededEpisodes(gymnasium.make("CartPole-v1"), seed, rank)
        same = envs.SeededEpisodes(gymnasium.make("CartPole-v1"), seed, rank)
        for outer in range(3):
            start = env.reset()[0].tolist()
            assert same.reset(seed=outer)[0].tolist() == start
            starts.add(tuple(start))
    assert len(starts) == 27


def test_progress_is_a_copy_and_counts_from_zero():
    env = envs.SeededEpisodes(gymnasium.make("CartPole-v1"), 0, 0)
    assert env.progress() == {"episode": -1, "actions": []}
    env.reset()
    progress = env.progress()
    env.step(np.int64(1))
    assert progress == {"episode": 0, "actions": []}
    assert env.progress() == {"episode": 0, "actions": [1]}


@pytest.mark.parametrize(
    ("progress", "message"),
    [
        ({"episode": -1, "actions": []}, "before the first reset"),
        ({"episode": 0, "actions": [0, 2]}, "action 2 is not in Discrete"),
        ({"episode": 0, "actions": [1] * 100}, "of 100 actions"),
    ],
)
def test_progress_that_does_not_fit_is_a_user_error(progress, message):
    with pytest.raises(errors.UserError, match=message):
        envs.SeededEpisodes(gymnasium.make("CartPole-v1"), 0, 0).restore(progress)


def test_what_cannot_be_replayed_is_refused():
    cartpole = gymnasium.make("CartPole-v1")
    with pytest.raises(errors.UserError, match="discrete actions"):
        envs.SeededEpisodes(gymnasium.make("Pendulum-v1"), 0, 0)
    with pytest.raises(errors.UserError, match="rank must be"):
        envs.SeededEpisodes(cartpole, 0, -1)
    with pytest.raises(errors.UserError, match="seed must be"):
        envs.SeededEpisodes(cartpole, 2**32, 0)
    with pytest.raises(errors.UserError, match="options"):
        envs.SeededEpisodes(cartpole, 0, 0).reset(options={"low": 0.0})
