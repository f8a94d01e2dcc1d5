"""Opening agents by what a user calls them: every way gives the agent that was meant, or one line."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize
from torch import nn

from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.library import open_agent, shipped_agents
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.envs import PROTOCOLS, make
from snnrl.errors import UserError
from snnrl.networks import neurons_of
from snnrl.runs import RunFolder
from worlds import game_agent, small_agent

EXAMPLE = Path(__file__).parents[2] / "shared" / "data" / "sb3" / "dqn-CartPole-v1.zip"


class Pixels(gym.Env[NDArray[np.uint8], np.int64]):
    """Random images, channels last, two actions, three steps."""

    observation_space = gym.spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.integers(0, 255, (36, 40, 3), dtype=np.uint8), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self.np_random.integers(0, 255, (36, 40, 3), dtype=np.uint8), 1.0, self.time >= 3, False, {}


@pytest.fixture(autouse=True)
def pixels() -> Iterator[None]:
    gym.register("Pixels-v0", entry_point=Pixels)
    yield
    gym.registry.pop("Pixels-v0")


def ours(path: Path, T: int | None, seed: int = 0) -> SpikingDQN:
    policy = {"net_arch": [8]}
    agent = SpikingDQN("MlpPolicy", "CartPole-v1", T=T, buffer_size=1, policy_kwargs=policy, device="cpu", seed=seed)
    agent.save(path)
    return agent


def foreign(path: Path, **arguments: Any) -> DQN:
    agent = DQN("MlpPolicy", "CartPole-v1", buffer_size=1, device="cpu", seed=0, policy_kwargs=arguments or None)
    agent.save(path)
    return agent


def states(count: int = 32) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


def q_values(agent: DQN, observations: NDArray[Any]) -> NDArray[Any]:
    tensor, _ = agent.policy.obs_to_tensor(observations)
    with torch.no_grad():
        found: NDArray[Any] = agent.q_net(tensor).numpy()
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = RunFolder(tmp_path / "run")
    folder.open({})
    for seed, T in enumerate([None, 5, 2]):
        ours(folder.agent("ann" if T is None else f"T{T}"), T, seed)
    stages = [{"T": None, "agent": "ann.zip"}, {"T": 5, "agent": "T5.zip"}, {"T": 2, "agent": "T2.zip"}]
    folder.finish({"stages": stages})
    return folder.path


@pytest.mark.parametrize(
    ("T", "source", "found"),
    [(None, "T2", 2), (1, "T2", 1), (2, "T2", 2), (3, "T5", 3), (5, "T5", 5), (100, "T5", 100)],
)
def test_run_folders(run: Path, T: int | None, source: str, found: int) -> None:
    opened = open_agent(str(run), T=T)
    assert (opened.source, opened.agent.T, opened.env_id) == (f"{source}.zip", found, "CartPole-v1")
    meant = SpikingDQN.load(run / source)
    meant.reduce_to(found)
    np.testing.assert_array_equal(q_values(opened.agent, states()), q_values(meant, states()))


def test_run_folders_that_are_of_no_use(run: Path) -> None:
    (run / "summary.json").write_text(json.dumps({"stages": [{"name": "ann"}]}))
    with pytest.raises(UserError, match=r"the summary in .* is damaged"):
        open_agent(str(run))
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="holds no finished run"):
        open_agent(str(run))


def test_files(tmp_path: Path) -> None:
    agent = ours(tmp_path / "v1.5.zip", 3)
    for name in ("v1.5.zip", "v1.5"):
        opened = open_agent(str(tmp_path / name))
        assert (opened.source, opened.env_id, opened.agent.T) == ("v1.5.zip", "CartPole-v1", 3)
        np.testing.assert_array_equal(q_values(opened.agent, states()), q_values(agent, states()))
    assert open_agent(str(tmp_path / "v1.5"), T=1).agent.T == 1


def test_names() -> None:
    shipped = shipped_agents()
    for name in shipped:
        assert open_agent(name).source == "T1.zip"
    with pytest.raises(UserError, match="no agent 'nobody': not a run folder, not a file"):
        open_agent("nobody")


@pytest.mark.parametrize("arguments", [{}, {"net_arch": [8], "activation_fn": nn.Tanh}, {"net_arch": [8, 4]}])
def test_sb3(tmp_path: Path, arguments: dict[str, Any]) -> None:
    agent = foreign(tmp_path / "agent.zip", **arguments)
    opened = open_agent(str(tmp_path / "agent"), "CartPole-v1")
    assert (opened.agent.T, opened.source) == (None, "agent.zip")
    np.testing.assert_allclose(q_values(opened.agent, states()), q_values(agent, states()), rtol=1e-5, atol=1e-6)
    actions = opened.agent.predict(states(), deterministic=True)[0]
    np.testing.assert_array_equal(actions, agent.predict(states(), deterministic=True)[0])
    targets = zip(opened.agent.q_net.parameters(), opened.agent.q_net_target.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in targets)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the example agent is not there")
def test_an_agent_of_the_hub(tmp_path: Path) -> None:
    opened = open_agent(str(EXAMPLE), "CartPole-v1")
    observation, reward = np.zeros(4, np.float32), 0.0
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        action, _ = opened.agent.predict(observation, deterministic=True)
        observation, gained, terminated, truncated, _ = env.step(action)
        reward, over = reward + float(gained), terminated or truncated
    assert reward == 500


def test_pixels(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: gym.make("Pixels-v0")])
    policy = {"features_extractor_kwargs": {"features_dim": 16}, "net_arch": [8]}
    agent = DQN("CnnPolicy", env, buffer_size=1, device="cpu", seed=0, policy_kwargs=policy)
    agent.save(tmp_path / "cnn.zip")
    opened = open_agent(str(tmp_path / "cnn"), "Pixels-v0")
    images = np.random.default_rng(0).integers(0, 255, (6, 36, 40, 3), dtype=np.uint8)
    np.testing.assert_allclose(q_values(opened.agent, images), q_values(agent, images), rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="folded into a linear first layer"):
        open_agent(str(tmp_path / "cnn"), "Pixels-v0", vecnormalize=normalization(tmp_path / "n.pkl")[1])


@pytest.mark.parametrize("normalize", [True, False])
def test_pixels_without_convolutions(tmp_path: Path, normalize: bool) -> None:
    policy = {"net_arch": [8], "normalize_images": normalize}
    env = DummyVecEnv([lambda: gym.make("Pixels-v0")])
    agent = DQN("MlpPolicy", env, buffer_size=1, device="cpu", seed=0, policy_kwargs=policy)
    agent.save(tmp_path / "mlp.zip")
    opened = open_agent(str(tmp_path / "mlp"), "Pixels-v0")
    images = np.random.default_rng(0).integers(0, 255, (6, 36, 40, 3), dtype=np.uint8)
    np.testing.assert_allclose(q_values(opened.agent, images), q_values(agent, images), rtol=1e-4, atol=1e-4)


def test_statistics_of_rewards_alone_are_passed_over(tmp_path: Path) -> None:
    agent = foreign(tmp_path / "agent.zip")
    env = VecNormalize(make_vec_env("CartPole-v1"), norm_obs=False)
    env.save(str(tmp_path / "vecnormalize.pkl"))
    opened = open_agent(str(tmp_path / "agent"), "CartPole-v1")
    np.testing.assert_allclose(q_values(opened.agent, states()), q_values(agent, states()), rtol=1e-5, atol=1e-6)


def normalization(path: Path) -> tuple[VecNormalize, Path]:
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=2, seed=0), clip_obs=1e6)
    env.reset()
    env.action_space.seed(0)
    for _ in range(50):
        env.step(np.array([env.action_space.sample() for _ in range(2)]))
    env.save(str(path))
    return env, path


@pytest.mark.parametrize("place", ["given", "vecnormalize.pkl", "CartPole-v1/vecnormalize.pkl"])
def test_normalization_is_folded(tmp_path: Path, place: str) -> None:
    agent = foreign(tmp_path / "agent.zip")
    env, file = normalization(tmp_path / "statistics.pkl")
    if place != "given":
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.move(file, tmp_path / place)
    opened = open_agent(str(tmp_path / "agent"), "CartPole-v1", vecnormalize=file if place == "given" else None)
    raw = states() * np.array([1, 2, 0.2, 3], np.float32)
    normalized = env.normalize_obs(raw)
    assert isinstance(normalized, np.ndarray)
    assert np.abs(normalized - raw).max() > 0.5
    np.testing.assert_allclose(q_values(opened.agent, raw), q_values(agent, normalized), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_another_environment(tmp_path: Path, kind: str) -> None:
    ours(tmp_path / "agent.zip", 1) if kind == "ours" else foreign(tmp_path / "agent.zip")
    for env_id, hint in {
        "Acrobot-v1": r"sees observations of shape \(4,\), Acrobot-v1 gives \(6,\): give another --env",
        "Pixels-v0": r"sees observations of shape \(4,\), Pixels-v0 gives \(36, 40, 3\)",
        "CartPloe-v1": "unknown environment 'CartPloe-v1'; did you mean 'CartPole-v1'",
        "Pendulum-v1": "a DQN needs discrete ones",
    }.items():
        with pytest.raises(UserError, match=hint) as caught:
            open_agent(str(tmp_path / "agent"), env_id)
        assert "\n" not in str(caught.value)


def test_other_actions(tmp_path: Path) -> None:
    class Wide(gym.ActionWrapper[Any, Any, Any]):
        action_space = gym.spaces.Discrete(5)

        def action(self, action: Any) -> Any:
            return action % 2

    gym.register("Wide-v0", entry_point=lambda: Wide(gym.make("CartPole-v1")))
    ours(tmp_path / "agent.zip", 1)
    try:
        with pytest.raises(UserError, match="chooses among 2 actions, Wide-v0 has 5: give another --env"):
            open_agent(str(tmp_path / "agent"), "Wide-v0")
    finally:
        gym.registry.pop("Wide-v0")


def test_an_sb3_file_does_not_tell_its_environment(tmp_path: Path) -> None:
    foreign(tmp_path / "agent.zip")
    with pytest.raises(UserError, match="does not tell its environment: give --env"):
        open_agent(str(tmp_path / "agent"))


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_an_ordinary_agent_is_converted_untrained(tmp_path: Path, kind: str) -> None:
    ours(tmp_path / "agent.zip", None) if kind == "ours" else foreign(tmp_path / "agent.zip")
    thresholds = []
    for percentile, name in ((None, "90th"), (90.0, "90th"), (99.7, "99.7th")):
        opened = open_agent(str(tmp_path / "agent"), "CartPole-v1", T=3, percentile=percentile)
        assert (opened.agent.T, opened.source) == (3, f"agent.zip, converted at the {name} percentile")
        thresholds.append([neuron.spike_value for neuron in neurons_of(opened.agent.q_net).values()])
    assert thresholds[0] == thresholds[1]
    assert thresholds[0][0] < thresholds[2][0]
    ordinary = open_agent(str(tmp_path / "agent"), "CartPole-v1").agent
    many = open_agent(str(tmp_path / "agent"), "CartPole-v1", T=1000, percentile=100).agent
    met = 0.02 * states()  # within what was played
    np.testing.assert_allclose(q_values(many, met), q_values(ordinary, met), atol=0.01)


def test_a_percentile_without_a_conversion_is_refused(tmp_path: Path) -> None:
    ours(tmp_path / "ann.zip", None)
    ours(tmp_path / "T3.zip", 3)
    for name, T in (("ann", None), ("T3", 1), ("T3", None)):
        with pytest.raises(UserError, match="sets the thresholds of an ordinary agent that is converted"):
            open_agent(str(tmp_path / name), T=T, percentile=99.0)


def test_an_atari_agent_is_converted_on_what_it_sees(tmp_path: Path) -> None:
    protocol = PROTOCOLS["v4"].changed(stack=1, size=42)
    env = AtariVecEnv("pong", 1, protocol, seed=0)
    network = {"network": "small", "features_dim": 8}
    kwargs = {"features_extractor_kwargs": network, "bias": False, "neuron": "if"}
    SpikingDQN("CnnPolicy", env, T=None, buffer_size=1, policy_kwargs=kwargs, device="cpu").save(tmp_path / "ann")
    env.close()
    opened = open_agent(str(tmp_path / "ann"), T=2)
    assert opened.agent.observation_space.shape == (1, 42, 42)
    assert opened.title == "pong v4, stack 1, size 42"
    assert opened.agent.T == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + 18 * b"\0", b"\0" * 1000])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent.zip").write_bytes(content)
    with pytest.raises(UserError, match="cannot read"):
        open_agent(str(tmp_path / "agent"))


# games

LITTLE = PROTOCOLS["v4"].changed(stack=1, size=44, frame_skip=3, noops=5)


def test_an_agent_remembers_its_game_and_protocol(tmp_path: Path) -> None:
    for name, agent in {
        "vectorised": game_agent(2, protocol=LITTLE),
        "alone": small_agent("CnnPolicy", 2, env=make("pong", protocol=LITTLE)),
    }.items():
        assert (agent.env_id, agent.env_kwargs) == ("pong", {"protocol": LITTLE.model_dump()})
        agent.save(tmp_path / name)
        opened = open_agent(str(tmp_path / name))
        assert (opened.env_id, opened.env_kwargs) == (agent.env_id, agent.env_kwargs)
        assert (opened.agent.env_id, opened.agent.env_kwargs) == (agent.env_id, agent.env_kwargs)
        assert opened.title == "pong v4, frame_skip 3, stack 1, size 44, noops 5"


def test_under_another_protocol_an_agent_keeps_what_it_sees(tmp_path: Path) -> None:
    game_agent(protocol=LITTLE).save(tmp_path / "agent")
    opened = open_agent(str(tmp_path / "agent"), protocol="v5")
    assert opened.env_kwargs == {"protocol": PROTOCOLS["v5"].changed(stack=1, size=44, frame_skip=3).model_dump()}
    assert opened.title == "pong v5, frame_skip 3, stack 1, size 44"
    with pytest.raises(UserError, match="unknown protocol 'v6'"):
        open_agent(str(tmp_path / "agent"), protocol="v6")
    with pytest.raises(UserError, match="chooses among 6 actions, breakout has 4: give another --env"):
        open_agent(str(tmp_path / "agent"), "breakout")
    with pytest.raises(UserError, match=r"sees .* \(1, 44, 44\), pong gives \(4, 84, 84\): .* or --atari.size"):
        open_agent(str(tmp_path / "agent"), "pong", env_kwargs={"protocol": "v4"})


def test_a_protocol_is_for_games_alone(tmp_path: Path) -> None:
    ours(tmp_path / "agent.zip", 1)
    with pytest.raises(UserError, match="CartPole-v1 is no Atari game: it has no --protocol"):
        open_agent(str(tmp_path / "agent"), protocol="v5")


def wrapped_by_sb3() -> VecEnv:
    return VecFrameStack(make_atari_env("ale_py:PongNoFrameskip-v4"), n_stack=4)


@pytest.mark.parametrize("env", [wrapped_by_sb3, lambda: AtariVecEnv("pong", 1, PROTOCOLS["v4"], seed=0)])
def test_sb3s_agents_of_games(tmp_path: Path, env: Callable[[], VecEnv]) -> None:
    policy = {"features_extractor_kwargs": {"features_dim": 16}}
    agent = DQN("CnnPolicy", env(), buffer_size=1, device="cpu", seed=0, policy_kwargs=policy)
    agent.save(tmp_path / "pong.zip")
    opened = open_agent(str(tmp_path / "pong"), "pong")
    assert (opened.agent.T, opened.env_kwargs) == (None, {"protocol": PROTOCOLS["v4"].model_dump()})
    images = np.random.default_rng(0).integers(0, 255, (4, 4, 84, 84), dtype=np.uint8)
    np.testing.assert_allclose(q_values(opened.agent, images), q_values(agent, images), rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="chooses among 6 actions, breakout has 4"):
        open_agent(str(tmp_path / "pong"), "breakout")
    with pytest.raises(UserError, match=r"sees observations of shape \(4, 84, 84\), pong gives \(1, 84, 84\)"):
        open_agent(str(tmp_path / "pong"), "pong", env_kwargs={"protocol": {"stack": 1}})
    agent.env.close()
