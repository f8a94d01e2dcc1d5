"""Reinforcement-learning agents whose Q-network spikes and decides in one timestep."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("snnrl")
__all__ = ["SpikingDQN", "__version__", "convert"]

_LAZY = {"SpikingDQN": "snnrl.agents.spiking_dqn", "convert": "snnrl.conversion"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'snnrl' has no attribute {name!r}")
