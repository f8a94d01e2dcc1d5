"""Games of the Arcade Learning Environment, many at once in ale-py's C++ environment, resumable to the frame."""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import gymnasium
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from snnrl.config import validate
from snnrl.errors import UserError, did_you_mean
from snnrl.files import quoted


class AtariProtocol(BaseModel):
    """What is between an agent and a game; two figures compare only under one protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Literal["v4", "v5"] = "v4"
    """The protocol from which the other fields come, or differ."""
    frame_skip: Annotated[int, Field(ge=1, le=60)] = 4
    """Frames for which an action is held; the observation is the brighter of the last two, pixel by pixel."""
    stack: Annotated[int, Field(ge=1, le=16)] = 4
    """Observations that are shown together, the oldest first; black ones before the first."""
    size: Annotated[int, Field(ge=8, le=512)] = 84
    """Height and width in pixels, grey."""
    noops: Annotated[int, Field(ge=0, le=3600)] = 30
    """A game begins with up to this many frames of doing nothing, drawn from the episode's seed."""
    sticky: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance by which a frame repeats the action before instead of the chosen one."""
    fire_reset: bool = True
    """Where FIRE starts the game, press it at the beginning and after every lost life."""
    full_actions: bool = False
    """All 18 actions instead of those that the game knows."""
    most_frames: Annotated[int, Field(ge=1, lt=2**31)] = 108_000
    """A game ends after this many frames: half an hour."""
    life_loss: bool = True
    """In training, a lost life ends the episode, as the agent sees it; the game goes on."""
    clip_rewards: bool = True
    """In training, rewards are -1, 0 or 1; returns are reported as the game counts."""

    def changed(self, **fields: Any) -> "AtariProtocol":
        """Return the protocol with other values for some fields."""
        return AtariProtocol(**self.model_dump() | fields)

    def seen_under(self, name: str) -> "AtariProtocol":
        """Return the named protocol with the same observations and actions, for an agent trained under this one."""
        return read_protocol(name).changed(**{field: getattr(self, field) for field in _VIEW})

    @property
    def changes(self) -> dict[str, Any]:
        """The fields that differ from the protocol of this name."""
        named = PROTOCOLS[self.name].model_dump()
        return {field: value for field, value in self.model_dump().items() if value != named[field]}

    def __str__(self) -> str:
        """The name, and what differs from the protocol of that name."""
        return ", ".join([self.name, *(f"{field} {value}" for field, value in self.changes.items())])


_VIEW = ("frame_skip", "stack", "size", "full_actions")

PROTOCOLS = {
    "v4": AtariProtocol(),
    "v5": AtariProtocol(name="v5", noops=0, sticky=0.25, fire_reset=False, life_loss=False),
}
"""v4: as for NoFrameskip-v4 with stable-baselines3's AtariWrapper (Mnih et al. 2015). v5: sticky actions, as in Machado
et al. 2018 (arXiv 1709.06009, Sec. 5), with ALE's frame skip of 4 and the game's own actions."""


UNPLAYABLE = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""Games that ale-py lists but its emulator refuses, ending the process."""

KEEPS_STATE = frozenset(
    {
        "crossbow",
        "hangman",
        "haunted_house",
        "ice_hockey",
        "kung_fu_master",
        "pooyan",
        "sir_lancelot",
        "space_war",
        "surround",
        "time_pilot",
        "yars_revenge",
    }
)
"""Games that keep something over a reset without a seed: of two emulators with one seed, one played and one did not;
after as many resets, their RAM differed."""


def read_protocol(given: str | AtariProtocol | Mapping[str, Any]) -> AtariProtocol:
    """Return a protocol by its name or from its fields; those left out are as under its ``name``.

    Raises:
        UserError: there is none of this name, or a field is unknown or out of range.
    """
    if isinstance(given, AtariProtocol):
        return given
    if isinstance(given, str):
        if given not in PROTOCOLS:
            raise UserError(f"unknown protocol {quoted(given)}{did_you_mean(given, PROTOCOLS)}")
        return PROTOCOLS[given]
    if not isinstance(given, Mapping):
        raise UserError(f"a protocol is a name, such as 'v4', or a mapping of its fields, not {quoted(given)}")
    name = given.get("name")
    named = PROTOCOLS[name].model_dump() if isinstance(name, str) and name in PROTOCOLS else {}
    return validate(AtariProtocol, {**named, **given}, "protocol")


@cache
def games() -> tuple[str, ...]:
    """Return the names of all games that ale-py can play, such as ``pong`` and ``ms_pacman``."""
    return tuple(sorted(set(roms.get_all_rom_ids()) - UNPLAYABLE))


def find_game(name: str) -> str:
    """Return the name if there is such a game.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    if name not in games():
        raise UserError(f"unknown Atari game {name!r}{did_you_mean(near_game(name), games())}")
    return name


def near_game(name: str) -> str:
    """Return a game's name, such as ``ALE/SpaceInvaders-v5``, as it would be written here."""
    bare = re.sub(r"^ALE/|(NoFrameskip|Deterministic)?(-v\d+)?$", "", name)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", bare).lower().replace("-", "_")


class Frames(NamedTuple):
    """What a step of all games gives, the first axis being the game; ``rewards`` are unclipped.

    ``observations`` are uint8 ``(N, stack, size, size)``. A game is ``over`` or ``truncated`` (too long), or a life of
    it was lost.
    """

    observations: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    over: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    life_lost: NDArray[np.bool_]


class AtariGames:
    """``count`` games of one kind, stepped together; each is determined by its seed and its actions.

    Raises:
        UserError: there is no game of this name, or its ROM is missing.
    """

    def __init__(self, game: str, count: int, protocol: AtariProtocol) -> None:
        self.game = find_game(game)
        self.count = count
        self.protocol = protocol
        self._emulators = _emulators(game, count, protocol)
        self.observation_space = self._emulators.single_observation_space
        actions = self._emulators.single_action_space
        assert isinstance(actions, spaces.Discrete)
        self.action_space = actions
        self._fires = protocol.fire_reset and "FIRE" in self.action_names[:2]
        self._fire_next = np.zeros(count, bool)

    @property
    def action_names(self) -> list[str]:
        """ALE's names of the actions, in their order."""
        return [action.name for action in self._emulators.ale.get_action_set()]

    @property
    def repeatable(self) -> bool:
        """Whether a reset without a seed depends only on the last seed and the resets since, not on what was played."""
        # sticky actions are drawn from a generator that every frame advances
        return not self.protocol.sticky and self.game not in KEEPS_STATE

    def reset(self, seeds: Sequence[int | None], chosen: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Begin the ``chosen`` games anew, or all of them, and return all observations ``(N, stack, size, size)``.

        ``seeds``, below 2**32, has one entry for each game that begins; None goes on from the seed before. A seed makes
        the emulator load its game anew, which takes ten times as long.
        """
        chosen = np.ones(self.count, bool) if chosen is None else chosen
        self._fire_next &= ~chosen
        lowest = np.array([-1 if seed is None else seed % 2**31 for seed in seeds])  # the emulator takes 31 bits
        observations: NDArray[np.uint8] = self._emulators.reset(seed=lowest, options={"reset_mask": chosen})[0]
        return observations

    def step(self, actions: NDArray[np.integer[Any]]) -> Frames:
        """Take one action in every game; one that is over must be reset before the next step."""
        pressed = np.where(self._fire_next, 1, actions) if self._fire_next.any() else actions
        observations, rewards, terminated, truncated, info = self._emulators.step(pressed)
        over = terminated & (info["lives"] == 0)
        life_lost = terminated & ~over & ~truncated
        self._fire_next = life_lost & self._fires
        return Frames(observations, rewards.astype(np.float32), over, truncated & ~over, life_lost)

    def close(self) -> None:
        """Stop the emulators' threads."""
        self._emulators.close()


def _emulators(game: str, count: int, protocol: AtariProtocol) -> AtariVectorEnv:
    try:
        with redirect_stdout(io.StringIO()):  # ale-py prints where ALE_ROMS_DIR leads
            return AtariVectorEnv(
                game,
                count,
                max_num_frames_per_episode=protocol.most_frames,
                repeat_action_probability=protocol.sticky,
                full_action_space=protocol.full_actions,
                img_height=protocol.size,
                img_width=protocol.size,
                stack_num=protocol.stack,
                frameskip=protocol.frame_skip,
                maxpool=protocol.frame_skip > 1,
                noop_max=protocol.noops,
                life_loss_info=True,
                reward_clipping=False,
                use_fire_reset=protocol.fire_reset,
            )
    except OSError as error:
        raise UserError(
            f"the ROM of {game} is missing or altered; ale-py brings it: reinstall ale-py, or unset ALE_ROMS_DIR"
        ) from error


class AtariGame(gymnasium.Env[NDArray[np.uint8], int]):
    """One game as a gymnasium environment: whole games with unclipped rewards, as they are evaluated and played.

    Args:
        game: such as ``pong``.
        protocol: ``v4``, ``v5``, or one of your own as an :class:`AtariProtocol` or its fields.
        render_mode: None, or ``"rgb_array"`` to make ``render()`` available.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - gymnasium's way

    def __init__(
        self,
        game: str,
        protocol: str | AtariProtocol | Mapping[str, Any] = "v4",
        render_mode: str | None = None,
    ) -> None:
        self.game, self.protocol = game, read_protocol(protocol)
        self._games = AtariGames(game, 1, self.protocol)
        self.observation_space = self._games.observation_space
        self.action_space = self._games.action_space
        self.render_mode = render_mode
        self._observation: NDArray[np.uint8] = np.zeros(self.observation_space.shape or (), np.uint8)

    def get_action_meanings(self) -> list[str]:
        """Return the names of the actions, as ale-py's own environments do."""
        return self._games.action_names

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin a game, the same one for the same seed."""
        super().reset(seed=seed)
        begin = int(self.np_random.integers(2**32)) if seed is None else seed
        self._observation = self._games.reset([begin])[0]
        return self._observation, {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hold an action for the protocol's number of frames."""
        frames = self._games.step(np.array([action]))
        self._observation = frames.observations[0]
        return self._observation, float(frames.rewards[0]), bool(frames.over[0]), bool(frames.truncated[0]), {}

    def render(self) -> NDArray[np.uint8]:
        """Return the newest frame as the agent sees it, grey as RGB and four times as large."""
        large = self._observation[-1].repeat(4, axis=0).repeat(4, axis=1)
        return np.stack([large] * 3, axis=-1)

    def close(self) -> None:
        """Stop the emulator's thread."""
        self._games.close()
