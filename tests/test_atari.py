"""Atari games: frames as SB3's wrappers make them, lives and ends in SB3's terms, resumption to the frame."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from ale_py import ALEInterface, roms
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.atari_wrappers import MaxAndSkipEnv, WarpFrame
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from snnrl import SpikingDQN
from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.spiking_dqn.build import background
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.config import read_recipe
from snnrl.envs import AtariGame, make, near_game, read_protocol
from snnrl.envs.atari import KEEPS_STATE, PROTOCOLS, UNPLAYABLE, AtariGames, AtariProtocol, find_game, games
from snnrl.envs.seeded_games import EPISODES_PER_SEED, SeededGames
from snnrl.errors import UserError

SHORT = PROTOCOLS["v4"].model_copy(update={"most_frames": 600})


def actions(count: int, steps: int, games_of: int = 1, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(count, size=(steps, games_of))


# --- what a game looks like


@pytest.mark.parametrize(("game", "largest"), [("pong", 16), ("breakout", 0), ("space_invaders", 0)])
def test_frames_and_rewards_are_those_of_sb3s_wrappers(game: str, largest: int) -> None:
    """They differ where two colours of two frames meet: SB3 takes the brighter of each colour, ale-py of the greys."""
    protocol = AtariProtocol(noops=0, fire_reset=False)
    ours = AtariGames(game, 1, protocol)
    name = game.title().replace("_", "")
    theirs = WarpFrame(MaxAndSkipEnv(gymnasium.make(f"ale_py:{name}NoFrameskip-v4"), 4))
    frame, _ = theirs.reset(seed=3)
    seen = ours.reset([3])
    assert np.array_equal(seen[0, -1], frame[..., 0])
    assert not seen[0, :-1].any()
    unequal, rewarded = [], 0.0
    for action in actions(int(ours.action_space.n), 300)[:, 0]:
        previous = seen
        seen, rewards, over, _, _ = ours.step(np.array([action]))
        frame, reward, terminated, _, _ = theirs.step(action)
        assert np.array_equal(seen[0, :-1], previous[0, 1:])
        difference = np.abs(seen[0, -1].astype(int) - frame[..., 0])
        assert difference.max() <= largest
        unequal.append((difference > 0).mean())
        assert rewards[0] == reward
        assert over[0] == terminated
        rewarded += abs(float(reward))
        if terminated:
            break
    assert np.mean(unequal) < 0.003
    assert rewarded > 0
    theirs.close()


def test_sticky_actions_change_a_game_and_repeat_with_its_seed() -> None:
    chosen = actions(6, 200)
    played = []
    for sticky, seed in [(0.0, 3), (0.25, 3), (0.25, 3), (0.25, 4)]:
        game = AtariGames("pong", 1, AtariProtocol(noops=0, sticky=sticky))
        game.reset([seed])
        played.append(np.stack([game.step(action).observations for action in chosen]))
    assert np.array_equal(played[1], played[2])
    assert not np.array_equal(played[0], played[1])
    assert not np.array_equal(played[1], played[3])


def test_fire_is_pressed_after_a_lost_life_whatever_was_chosen() -> None:
    game = AtariGames("breakout", 1, AtariProtocol(noops=0))
    game.reset([0])
    nothing = np.array([0])
    while not game.step(nothing).life_lost[0]:
        pass
    moved = [game.step(nothing).observations[0, -1] for _ in range(8)]
    assert any(not np.array_equal(moved[0], frame) for frame in moved)  # a ball is in play

    game = AtariGames("breakout", 1, AtariProtocol(noops=0, fire_reset=False))
    game.reset([0])
    still = [game.step(nothing).observations[0, -1] for _ in range(8)]
    assert all(np.array_equal(still[0], frame) for frame in still)


def test_a_misspelt_game_is_named_with_the_right_one() -> None:
    assert "pong" in games()
    with pytest.raises(UserError, match="unknown Atari game 'Breakuot'; did you mean 'breakout'"):
        find_game("Breakuot")


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("Pong", "pong"),
        ("PONG", "pong"),
        ("ALE/SpaceInvaders-v5", "space_invaders"),
        ("MsPacmanNoFrameskip-v4", "ms_pacman"),
        ("space-invaders", "space_invaders"),
        ("cartpole", "cartpole"),
    ],
)
def test_games_as_others_write_them(name: str, game: str) -> None:
    assert near_game(name) == game


@pytest.mark.parametrize("name", ["Pong", "SpaceInvaders"])
def test_a_game_in_capitals_is_not_gymnasiums_old_one(name: str) -> None:
    with pytest.raises(UserError, match=f"unknown environment {name!r}; did you mean {near_game(name)!r}"):
        make(name)


def test_a_protocol_by_name_or_by_its_fields() -> None:
    assert read_protocol("v5") is PROTOCOLS["v5"]
    assert read_protocol({"name": "v5"}) == PROTOCOLS["v5"]
    assert read_protocol({}) == PROTOCOLS["v4"]
    assert read_protocol({"name": "v5", "stack": 1}) == PROTOCOLS["v5"].changed(stack=1)
    for protocol in PROTOCOLS.values():
        assert read_protocol(json.loads(protocol.model_dump_json())) == protocol


@pytest.mark.parametrize(
    ("protocol", "hint"),
    [
        ("v6", "unknown protocol 'v6'; did you mean"),
        (4, "a protocol is a name, such as 'v4', or a mapping of its fields, not '4'"),
        ({"name": "v6"}, "protocol: name: input should be 'v4' or 'v5', not 'v6'"),
        ({"stak": 1}, "protocol: unknown key 'stak'; did you mean 'stack'"),
        ({"stack": 0}, "protocol: stack: input should be greater than or equal to 1, not 0"),
        ({"size": 10**9}, "protocol: size: input should be less than or equal to 512"),
    ],
)
def test_a_wrong_protocol_is_one_clear_line(protocol: Any, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        make("pong", protocol=protocol)


def test_a_protocol_names_what_differs() -> None:
    assert [str(protocol) for protocol in PROTOCOLS.values()] == ["v4", "v5"]
    changed = PROTOCOLS["v5"].changed(stack=1, noops=30)
    assert str(changed) == "v5, stack 1, noops 30"
    assert changed.changes == {"stack": 1, "noops": 30}


def test_under_another_protocol_an_agent_sees_and_does_the_same() -> None:
    trained = PROTOCOLS["v4"].changed(frame_skip=3, stack=2, size=44, full_actions=True, noops=7, sticky=0.1)
    seen = trained.seen_under("v5")
    assert seen == PROTOCOLS["v5"].changed(frame_skip=3, stack=2, size=44, full_actions=True)
    spaces = [(game.observation_space, game.action_space) for game in (AtariGame("pong", p) for p in (trained, seen))]
    assert spaces[0] == spaces[1]


def test_games_that_the_emulator_refuses_are_no_games() -> None:
    refused = {game for game in roms.get_all_rom_ids() if ALEInterface.isSupportedROM(roms.get_rom_path(game)) is None}
    assert refused == UNPLAYABLE
    with pytest.raises(UserError, match="unknown Atari game 'joust'"):
        AtariGame("joust")


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_a_missing_rom_is_one_clear_line(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path / folder))
    with pytest.raises(UserError, match=r"^the ROM of pong is missing.*reinstall ale-py, or unset ALE_ROMS_DIR$"):
        AtariGame("pong")
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # advice, such as on the shape of images
def test_one_game_is_a_gymnasium_environment() -> None:
    env = AtariGame("pong", PROTOCOLS["v5"].changed(most_frames=400), render_mode="rgb_array")
    gymnasium_check(env, skip_render_check=True)
    sb3_check(env)
    first, _ = env.reset(seed=5)
    again, _ = env.reset(seed=5)
    assert np.array_equal(first, again)
    assert env.render().shape == (336, 336, 3)
    truncated = False
    for _ in range(100):
        *_, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            break
    assert truncated
    env.close()


# --- resumption


def assert_restored(
    game: str, protocol: AtariProtocol, steps: int, after: int, resets: tuple[int, ...] = ()
) -> list[int]:
    """Play, restore in a second one and play on in both; return the episodes that were restored."""

    def begin() -> SeededGames:
        return SeededGames(AtariGames(game, 3, protocol), seed=7)

    ours = begin()
    count = int(ours.games.action_space.n)
    observations = ours.reset()
    for step, chosen in enumerate(actions(count, steps, 3)):
        _, observations = ours.step(chosen)
        if step in resets:
            observations = ours.reset()
    progress = json.loads(json.dumps(ours.progress()))
    restored = begin()
    assert np.array_equal(restored.restore(progress), observations)
    assert restored.progress() == progress
    for chosen in actions(count, after, 3, seed=1):
        for one, other in zip(ours.step(chosen), restored.step(chosen), strict=True):
            for a, b in zip(one, other, strict=True):
                assert np.array_equal(a, b)
    return [of_game["episode"] for of_game in progress]


@pytest.mark.parametrize(
    ("game", "protocol"), [("pong", "v5"), ("breakout", "v4"), ("breakout", "v5"), ("yars_revenge", "v4")]
)
def test_restored_games_go_on_as_if_never_stopped(game: str, protocol: str) -> None:
    long = PROTOCOLS[protocol].model_copy(update={"most_frames": 700})
    assert min(assert_restored(game, long, 260, 200, resets=(30,))) >= 2


@pytest.mark.parametrize("before_seed", [1, 0])
def test_restored_games_go_on_beyond_the_next_seed(before_seed: int) -> None:
    """Each episode takes five steps: the last before a seed is restored, and the first after it."""
    short = PROTOCOLS["v4"].model_copy(update={"most_frames": 20})
    steps = 5 * (EPISODES_PER_SEED - before_seed) + 3
    assert set(assert_restored("breakout", short, steps, 40)) == {EPISODES_PER_SEED - before_seed}


def test_games_that_end_at_different_times_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snnrl.envs.seeded_games.EPISODES_PER_SEED", 3)
    assert len(set(assert_restored("breakout", PROTOCOLS["v4"], 900, 400))) > 1


def test_most_episodes_are_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int | None] = []
    games = AtariGames("breakout", 1, PROTOCOLS["v4"])
    reset = games.reset
    monkeypatch.setattr(games, "reset", lambda seeds, chosen: given.extend(seeds) or reset(seeds, chosen))
    begun = SeededGames(games, seed=0)
    first = np.stack([begun.reset() for _ in range(EPISODES_PER_SEED + 1)])
    assert [seed is not None for seed in given] == [True] + [False] * (EPISODES_PER_SEED - 1) + [True]
    assert len(np.unique(first, axis=0)) > 10  # the no-ops still differ


@pytest.mark.slow
@pytest.mark.parametrize("game", games())
def test_a_reset_repeats_whatever_was_played_except_in_the_games_listed(game: str) -> None:
    emulators = [ALEInterface(), ALEInterface()]
    for emulator in emulators:
        emulator.setFloat("repeat_action_probability", 0.0)
        emulator.setInt("random_seed", 5)
        emulator.loadROM(roms.get_rom_path(game))
    idle, played = emulators
    legal = played.getMinimalActionSet()
    alike = []
    for steps in [0, 1, 7, 30, 100, 400]:
        for action in actions(len(legal), steps)[:, 0]:
            for _ in range(4):
                if not played.game_over():
                    played.act(legal[action])
        idle.reset_game()
        played.reset_game()
        alike.append(np.array_equal(idle.getRAM(), played.getRAM()))
    assert all(alike) == (game not in KEEPS_STATE)


def test_progress_that_does_not_fit_is_refused() -> None:
    two = SeededGames(AtariGames("pong", 2, SHORT), seed=0)
    with pytest.raises(UserError, match="nothing to restore"):
        two.restore(two.progress())
    with pytest.raises(UserError, match="progress of 1 games cannot be restored in 2"):
        two.restore([{"episode": 0, "actions": [], "seen": 0}])
    two.reset()
    one, other = two.progress()
    for wrong in [{**one, "seen": 0}, {**one, "actions": [0] * 200}]:  # a game has 150 steps
        with pytest.raises(UserError, match="the progress does not fit pong"):
            two.restore([wrong, other])  # type: ignore[list-item]


# --- in SB3's terms


@pytest.fixture
def breakout() -> Iterator[AtariVecEnv]:
    env = AtariVecEnv("breakout", 2, PROTOCOLS["v4"], seed=0)
    yield env
    env.close()


def test_lives_ends_and_returns_in_sb3s_terms(breakout: AtariVecEnv) -> None:
    raw = SeededGames(AtariGames("breakout", 2, PROTOCOLS["v4"]), seed=0)
    assert np.array_equal(breakout.reset(), raw.reset())
    returns, lengths, lives, ended = np.zeros(2), np.zeros(2, int), 0, 0
    for chosen in actions(4, 600, 2):
        seen, rewards, dones, infos = breakout.step(chosen)
        frames, expected = raw.step(chosen)
        assert np.array_equal(seen, expected)
        assert np.array_equal(rewards, np.sign(frames.rewards))
        assert np.array_equal(dones, frames.over | frames.life_lost)
        returns, lengths = returns + frames.rewards, lengths + 1
        for index, info in enumerate(infos):
            assert ("terminal_observation" in info) == dones[index]
            if dones[index]:
                assert np.array_equal(info["terminal_observation"], frames.observations[index])
                assert info["TimeLimit.truncated"] is False
            assert ("episode" in info) == frames.over[index]
            if frames.over[index]:
                assert (info["episode"]["r"], info["episode"]["l"]) == (returns[index], lengths[index])
                returns[index] = lengths[index] = 0
                ended += 1
        lives += int(frames.life_lost.sum())
    assert ended >= 2
    assert lives >= 4 * ended


def test_a_game_that_is_too_long_is_truncated() -> None:
    env = AtariVecEnv("pong", 1, SHORT, seed=0)
    env.reset()
    dones, length = np.zeros(1, bool), 0
    while not dones[0]:
        seen, _, dones, infos = env.step(np.zeros(1, int))
        length += 1
    assert infos[0]["TimeLimit.truncated"] is True
    assert infos[0]["episode"]["l"] == length <= 150
    assert not np.array_equal(infos[0]["terminal_observation"], seen[0])
    env.close()


def test_progress_counts_returns_too(breakout: AtariVecEnv) -> None:
    breakout.reset()
    for chosen in actions(4, 150, 2):
        seen, *_ = breakout.step(chosen)
    other = AtariVecEnv("breakout", 2, PROTOCOLS["v4"], seed=0)
    assert np.array_equal(other.restore(json.loads(json.dumps(breakout.progress()))), seen)
    assert other.progress() == breakout.progress()
    for chosen in actions(4, 600, 2, seed=1):
        ours, theirs = breakout.step(chosen)[3], other.step(chosen)[3]
        for one, another in zip(ours, theirs, strict=True):
            assert ("episode" in one) == ("episode" in another)
            if "episode" in one:
                assert [one["episode"][key] for key in "rl"] == [another["episode"][key] for key in "rl"]
    other.close()


def test_sb3_learns_watches_and_evaluates() -> None:
    agent = SpikingDQN(
        "CnnPolicy",
        AtariVecEnv("pong", 2, SHORT, seed=0),
        buffer_size=300,
        learning_starts=100,
        batch_size=8,
        train_freq=8,
        seed=0,
        device="cpu",
        policy_kwargs={"features_extractor_kwargs": {"network": "small", "features_dim": 16}},
    )
    agent.learn(400)
    assert agent.ep_info_buffer is not None
    assert {episode["l"] for episode in agent.ep_info_buffer} == {150}
    whole = SHORT.model_copy(update={"life_loss": False, "clip_rewards": False})
    env = AtariVecEnv("pong", 2, whole, seed=1)
    assert env.env_is_wrapped(Monitor) == [True, True]
    reward, _ = evaluate_policy(agent, env, n_eval_episodes=2)
    assert -21 <= reward <= 21
    assert [image is not None and image.shape for image in env.get_images()] == [(84, 84, 3)] * 2
    env.close()
    agent.env.close()


def test_the_background_of_pong_is_its_grey() -> None:
    assert background(read_recipe("pong", Recipe)) == round(87 / 255, 3)  # (144, 72, 17) in grey
