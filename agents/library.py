"""Open an agent by what a user calls it: a run folder, a file of ours or of stable-baselines3, or a shipped name."""

import re
import zipfile
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from snnrl.agents.foreign import ACTIVATIONS, ObservationStatistics, build_q_network, read_sb3_dqn, read_vecnormalize
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.config import Recipe, env_settings
from snnrl.agents.spiking_dqn.conversion import convert_agent, copy_in_order, load_weights
from snnrl.agents.spiking_dqn.distil import calibration_play
from snnrl.checkpoint import open_zip_safely
from snnrl.conversion import PERCENTILE
from snnrl.envs import games, make, make_playable, read_protocol
from snnrl.errors import UserError, did_you_mean
from snnrl.files import quoted
from snnrl.runs import RunFolder

ZOO = Path(str(resources.files("snnrl.agents.zoo")))


class Timed(Protocol):
    """What decides in T timesteps, or is an ordinary network."""

    @property
    def T(self) -> int | None:
        """Timesteps per decision; None for the ordinary network."""

    def reduce_to(self, steps: int) -> None:
        """Decide in ``steps`` timesteps from now on."""


Network = TypeVar("Network", bound=Timed)


class Opened(NamedTuple):
    """An agent, the environment it plays, and what its weights come from: the file, and how they were converted."""

    agent: SpikingDQN
    env_id: str
    env_kwargs: dict[str, Any]
    source: str

    @property
    def title(self) -> str:
        """The environment's name, and the protocol of an Atari game."""
        return title(self.env_id, self.env_kwargs)


def title(env_id: str, env_kwargs: Mapping[str, Any]) -> str:
    """Return an environment's name for tables, with the protocol of an Atari game."""
    return f"{env_id} {read_protocol(env_kwargs['protocol'])}" if "protocol" in env_kwargs else env_id


def shipped_agents() -> dict[str, str]:
    """Return the agents that come with the package, each a folder like a run's: name to its description."""
    cards = sorted(ZOO.glob("*/summary.json"))
    return {card.parent.name: str(RunFolder(card.parent).summary().get("description", "")) for card in cards}


def open_agent(
    name: str,
    env_id: str | None = None,
    *,
    protocol: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    T: int | None = None,
    percentile: float | None = None,
    device: str = "auto",
    activation: str | None = None,
    vecnormalize: Path | None = None,
) -> Opened:
    """Return the agent, deciding in ``T`` timesteps if that is given.

    From a run folder the stage trained at ``T`` is taken, or else the one trained at the nearest larger T. An ordinary
    agent is converted to ``T`` and not trained, its thresholds at ``percentile`` (default: the 90th) of the
    pre-activations on its own play. An Atari agent plays under the named ``protocol``, seeing and doing what it was
    trained to; ``env_kwargs`` replace all that its file tells.

    Raises:
        UserError: there is no such agent, its environment is not known or another one, its network cannot be
            converted, or ``percentile`` is given where nothing is.
    """
    path = find(name, T)
    if is_classifier(str(path)):
        raise UserError(f"{path} is an image classifier, which plays nothing: snnrl eval {path} --data DIR tests it")
    agent = None if _is_sb3(path) else SpikingDQN.load(path, device=device)
    if env_kwargs is None:
        env_kwargs = {} if agent is None else agent.env_kwargs
    if env_id is None and agent is not None:
        env_id = agent.env_id
        if env_id is not None and ":" in env_id:  # gymnasium would import the module in front of it
            raise UserError(f"{path} asks for code of its own, {quoted(env_id)}: give --env if you trust it")
    if env_id is None:
        raise UserError(f"{path} does not tell its environment: give --env")
    env_kwargs = _env_kwargs(env_id, env_kwargs, protocol, path)
    if agent is None:
        agent = _read_foreign(path, env_id, env_kwargs, device, activation, vecnormalize)
    else:
        _check_spaces(env_id, env_kwargs, agent.observation_space.shape, getattr(agent.action_space, "n", None), path)
    recipe = Recipe(**env_settings(env_id, env_kwargs))

    def convert(agent: SpikingDQN, steps: int, percentile: float) -> SpikingDQN:
        play = calibration_play(agent, recipe, steps)
        return convert_agent(agent, play.numpy(), T=steps, percentile=percentile)[0]

    agent, source = at_steps(agent, path.name, T, percentile, convert)
    return Opened(agent, env_id, env_kwargs, source)


def at_steps(
    agent: Network,
    source: str,
    T: int | None,
    percentile: float | None,
    convert: Callable[[Network, int, float], Network],
) -> tuple[Network, str]:
    """Return an agent or classifier that decides in ``T`` timesteps if that is given, and what its weights come from.

    ``convert`` makes an ordinary one spike, at a T and a percentile; a spiking one goes on with its weights.

    Raises:
        UserError: ``percentile`` is given where nothing is converted.
    """
    if T is not None and agent.T is None:
        percentile = percentile or PERCENTILE
        return convert(agent, T, percentile), f"{source}, converted at the {percentile:g}th percentile"
    if percentile is not None:
        raise UserError("a percentile sets the thresholds of an ordinary agent that is converted: give one, and --T")
    if T is not None and T != agent.T:
        agent.reduce_to(T)
    return agent, source


def is_classifier(name: str) -> bool:
    """Say whether an image classifier is called that; what cannot be read is none, and is left to its reader."""
    try:
        with open_zip_safely(find(name), re.compile(r".*")) as archive:
            metadata = archive.read_json("metadata.json")
    except UserError:
        return False
    return isinstance(metadata, dict) and metadata.get("kind") == "classifier"


def open_ordinary(name: str, opened: Opened, device: str = "auto") -> SpikingDQN | None:
    """Return the ordinary network of the run or shipped agent that ``opened`` is from, or None where it is not told."""
    path = find(name, opened.agent.T)
    for candidate in (path, path.with_name("ann.zip")):
        if candidate.is_file():
            found = open_agent(str(candidate), opened.env_id, env_kwargs=opened.env_kwargs, device=device).agent
            if found.T is None and found.observation_space == opened.agent.observation_space:
                return found
    return None


def _env_kwargs(env_id: str, stored: Mapping[str, Any], protocol: str | None, path: Path) -> dict[str, Any]:
    """Return what the environment is made with: an Atari game's protocol, as stored or as asked for."""
    if env_id not in games():
        if protocol is not None:
            raise UserError(f"{env_id} is no Atari game: it has no --protocol")
        return {}
    if unknown := set(stored) - {"protocol"}:
        raise UserError(f"{path}: an Atari game is made with a protocol alone, not with {quoted(min(unknown))}")
    try:
        found = read_protocol(stored.get("protocol", "v4"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return {"protocol": (found if protocol is None else found.seen_under(protocol)).model_dump()}


def find(name: str, T: int | None = None) -> Path:
    """Return the file of what is called ``name``: of a run the stage trained at ``T``, or the last one.

    Raises:
        UserError: there is none, or the run is not finished.
    """
    path = Path(name)
    if path.is_dir():
        return _stage_agent(path, T)
    if path.is_file():
        return path
    zipped = Path(f"{name}.zip")
    if zipped.is_file():
        return zipped
    shipped = shipped_agents()
    if name in shipped:
        return _stage_agent(ZOO / name, T)
    folder, _, stage = name.partition("/")
    if folder in shipped and (ZOO / folder / f"{stage}.zip").is_file():
        return ZOO / folder / f"{stage}.zip"
    raise UserError(f"no agent {name!r}: not a run folder, not a file{did_you_mean(name, shipped) if shipped else ''}")


def _stage_agent(folder: Path, T: int | None) -> Path:
    run = RunFolder(folder)
    if not run.finished:
        raise UserError(f"{folder} holds no finished run: train it to its end, or name one of its agents")
    try:
        stages: dict[int | None, Path] = {stage["T"]: folder / stage["agent"] for stage in run.summary()["stages"]}
        trained = sorted(steps for steps in stages if steps is not None)
        last = list(stages.values())[-1]
    except (IndexError, KeyError, TypeError) as error:
        raise UserError(f"the summary in {folder} is damaged: remove it and run the same training again") from error
    if T is None or not trained:
        return last
    return stages[min((steps for steps in trained if steps >= T), default=trained[-1])]


def _is_sb3(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "policy.pth" in archive.namelist()
    except Exception:  # the bytes may be anything; the reader of our own files says what is wrong with them
        return False


def _read_foreign(
    path: Path,
    env_id: str,
    env_kwargs: dict[str, Any],
    device: str,
    activation: str | None,
    vecnormalize: Path | None,
) -> SpikingDQN:
    foreign = read_sb3_dqn(path, activation=activation)
    _check_spaces(env_id, env_kwargs, foreign.observation_shape, foreign.n_actions, path)
    env = DummyVecEnv([lambda: make(env_id, **env_kwargs)])
    arguments: dict[str, Any] = {"net_arch": list(foreign.net_arch), "activation_fn": ACTIVATIONS[foreign.activation]}
    images = foreign.features == "nature_cnn"
    if foreign.observation_shape is not None and len(foreign.observation_shape) == 3:
        arguments["normalize_images"] = foreign.normalize_images
    if images:
        width = foreign.weights["features_extractor.linear.0.weight"].shape[0]
        arguments["features_extractor_kwargs"] = {"features_dim": width}
    agent = SpikingDQN(
        "CnnPolicy" if images else "MlpPolicy", env, T=None, buffer_size=1, policy_kwargs=arguments, device=device
    )
    copy_in_order(build_q_network(foreign), agent.q_net)
    statistics = vecnormalize or next((p for p in _statistics_beside(path, env_id) if p.exists()), None)
    if statistics is not None and (moments := read_vecnormalize(statistics)) is not None:
        fold_normalization(agent, moments)
    load_weights(agent, agent.q_net.state_dict())
    agent.env_id, agent.env_kwargs = env_id, env_kwargs
    return agent


def _check_spaces(
    env_id: str, env_kwargs: Mapping[str, Any], shape: tuple[int, ...] | None, actions: int | None, path: Path
) -> None:
    env = make_playable(env_id, **env_kwargs)
    found, choices = env.observation_space.shape, getattr(env.action_space, "n", None)
    env.close()
    advice = "give another --env" + (", --atari.stack or --atari.size" if env_kwargs else "")
    channels_last = (shape[1], shape[2], shape[0]) if shape is not None and len(shape) == 3 else None
    if shape is not None and found not in (shape, channels_last):
        raise UserError(f"{path} sees observations of shape {shape}, {env_id} gives {found}: {advice}")
    if choices != actions:
        raise UserError(f"{path} chooses among {actions} actions, {env_id} has {choices}: give another --env")


def _statistics_beside(path: Path, env_id: str) -> list[Path]:
    return [path.with_name("vecnormalize.pkl"), path.parent / env_id / "vecnormalize.pkl"]


@torch.no_grad()
def fold_normalization(agent: SpikingDQN, statistics: ObservationStatistics) -> None:
    """Fold VecNormalize's (o - mean) / std into the first layer, so that the agent takes raw observations.

    w' = w / std, b' = b - w' mean. Its clipping of far outliers is left out.

    Raises:
        UserError: the agent's first layer is not a linear one of the statistics' width.
    """
    first = next(module for module in agent.q_net.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d))
    if not isinstance(first, torch.nn.Linear) or first.in_features != statistics.mean.size:
        raise UserError("VecNormalize statistics can be folded into a linear first layer of their own width only")
    std, mean = (
        torch.as_tensor(values.reshape(-1), dtype=first.weight.dtype, device=first.weight.device)
        for values in (np.sqrt(statistics.variance + statistics.epsilon), statistics.mean)
    )
    first.weight.div_(std)
    first.bias.sub_(first.weight @ mean)
