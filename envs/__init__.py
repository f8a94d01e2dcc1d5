"""What an agent looks at; importing this package registers the environments under ``snnrl/`` with gymnasium."""

from .atari import AtariGame
from .cartpole import PixelCartPole, PixelCartPolePaper
from .registration import ENVIRONMENTS, make, register
from .seeded_episodes import Progress, SeededEpisodes

__all__ = ["ENVIRONMENTS", "AtariGame", "PixelCartPole", "PixelCartPolePaper", "Progress", "SeededEpisodes", "make"]

register()
