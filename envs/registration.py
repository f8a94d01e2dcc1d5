"""The table of our environments, their registration with gymnasium, and ``make`` with a helpful error."""

from typing import Any, NamedTuple

import gymnasium

from snnrl.errors import UserError, did_you_mean
from snnrl.files import first_line, quoted

from .atari import AtariGame, games, near_game


class _Entry(NamedTuple):
    entry_point: str
    description: str
    max_episode_steps: int | None = None
    reward_threshold: float | None = None


_TABLE = {
    "snnrl/PixelCartPole-v0": _Entry(
        "snnrl.envs.cartpole:PixelCartPole",
        "CartPole-v1 from its last three grey frames, uint8 (3, 40, 90)",
        500,
        475.0,
    ),
    "snnrl/PixelCartPolePaper-v0": _Entry(
        "snnrl.envs.cartpole:PixelCartPolePaper",
        "CartPole from the difference of two RGB screens, float32 (3, 40, 90), endless: the paper's protocol",
    ),
    "snnrl/CartPoleMasked-v1": _Entry(
        "snnrl.envs.cartpole:MaskedCartPole",
        "CartPole-v1 without the two velocities, float32 (2,): an agent has to remember",
        500,
        475.0,
    ),
    "snnrl/ProbeConstant-v0": _Entry("snnrl.envs.probe:ProbeConstant", "one step, reward 1: tests the loss"),
    "snnrl/ProbeObservation-v0": _Entry(
        "snnrl.envs.probe:ProbeObservation", "one step, reward by observation: tests the network's input"
    ),
    "snnrl/ProbeDelayed-v0": _Entry(
        "snnrl.envs.probe:ProbeDelayed", "two steps, reward at the end: tests the discount"
    ),
    "snnrl/ProbeAction-v0": _Entry(
        "snnrl.envs.probe:ProbeAction", "one step, reward by action: tests the choice of actions", reward_threshold=1.0
    ),
    "snnrl/ProbePolicy-v0": _Entry(
        "snnrl.envs.probe:ProbePolicy",
        "one step, reward by observation and action: tests the policy",
        reward_threshold=1.0,
    ),
    "snnrl/ProbePixels-v0": _Entry(
        "snnrl.envs.probe:ProbePixels",
        "one step, the bright half of an image decides: tests convolutions",
        reward_threshold=1.0,
    ),
    "snnrl/ProbeMemory-v0": _Entry(
        "snnrl.envs.probe:ProbeMemory",
        "three steps, the first observation decides on the last: tests a network's memory",
        reward_threshold=1.0,
    ),
}

ENVIRONMENTS: dict[str, str] = {env_id: entry.description for env_id, entry in _TABLE.items()}


def register() -> None:
    """Register every environment of the table with gymnasium, those already there excepted."""
    for env_id, entry in _TABLE.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point=entry.entry_point,
                max_episode_steps=entry.max_episode_steps,
                reward_threshold=entry.reward_threshold,
            )


def make(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Return ``gymnasium.make(env_id, **kwargs)``, or the Atari game of this name, such as ``pong``.

    Ids under ``snnrl/`` and ``ALE/`` need no import by the caller.

    Raises:
        UserError: no environment has this id, or a package that it needs is missing.
    """
    if env_id in games():
        return AtariGame(env_id, **kwargs)
    if near_game(env_id) in games() and "-v" not in env_id:  # gymnasium would take some old version of it
        raise UserError(f"unknown environment {quoted(env_id)}; did you mean {near_game(env_id)!r}?")
    if env_id.startswith("ALE/"):
        import ale_py  # noqa: F401 - registers its environments
    try:
        return gymnasium.make(env_id, **kwargs)
    except (gymnasium.error.Error, ImportError) as error:
        module, _, name = env_id.rpartition(":")  # after an optional module to import
        reason = first_line(error)
        if name in gymnasium.registry:
            raise UserError(f"{env_id} cannot be made: {reason}") from error
        if module and isinstance(error, ImportError):
            raise UserError(f"{env_id} cannot be made: its module cannot be imported: {reason}") from error
        near = did_you_mean(name, ENVIRONMENTS, [*games(), *gymnasium.registry])
        raise UserError(f"unknown environment {quoted(env_id)}{near}") from error


def action_names(env: gymnasium.Env[Any, Any]) -> tuple[str, ...]:
    """Return what an environment calls its actions, in small letters, or else their numbers."""
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    numbers = range(int(env.action_space.n))
    meanings = getattr(env.unwrapped, "get_action_meanings", lambda: numbers)
    return tuple(str(name).lower() for name in meanings())
