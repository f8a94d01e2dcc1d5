"""What an agent looks at; importing this package registers the environments under ``snnrl/`` with gymnasium."""

from .atari import PROTOCOLS, AtariGame, AtariProtocol, games, near_game, read_protocol
from .cartpole import MaskedCartPole, PixelCartPole, PixelCartPolePaper
from .episodes import make_playable, open_episodes
from .registration import ENVIRONMENTS, action_names, make, register
from .seeded_episodes import Progress, SeededEpisodes

__all__ = [
    "ENVIRONMENTS",
    "PROTOCOLS",
    "AtariGame",
    "AtariProtocol",
    "MaskedCartPole",
    "PixelCartPole",
    "PixelCartPolePaper",
    "Progress",
    "SeededEpisodes",
    "action_names",
    "games",
    "make",
    "make_playable",
    "near_game",
    "open_episodes",
    "read_protocol",
]

register()
