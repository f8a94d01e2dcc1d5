"""Replay buffers as plain tensors: what is stored, row by row, without pickle."""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from snnrl.errors import UserError

_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def rows_stored(buffer: ReplayBuffer) -> int:
    """Return how many rows (one step of every environment) the buffer holds."""
    return buffer.buffer_size if buffer.full else buffer.pos


def read_rows(buffer: ReplayBuffer, start: int, stop: int) -> dict[str, torch.Tensor]:
    """Return rows ``start`` to ``stop`` of every array, each ``(rows, envs, ...)``; dict observations by ``name.key``."""
    return {name: torch.from_numpy(array[start:stop]) for name, array in _arrays(buffer).items()}


def write_rows(buffer: ReplayBuffer, start: int, rows: dict[str, torch.Tensor]) -> None:
    """Put rows read by :func:`read_rows` back at ``start``.

    Raises:
        UserError: the rows were written by a buffer of another shape.
    """
    arrays = _arrays(buffer)
    for name, array in arrays.items():
        found = rows.get(name)
        if found is None or tuple(found.shape[1:]) != array.shape[1:] or start + len(found) > len(array):
            shape = None if found is None else tuple(found.shape)
            raise UserError(f"the replay buffer's {name} {shape} do not fit this agent's {array.shape}")
    for name, array in arrays.items():
        array[start : start + len(rows[name])] = rows[name].numpy()


def _arrays(buffer: ReplayBuffer) -> dict[str, np.ndarray[Any, Any]]:
    if isinstance(buffer, HerReplayBuffer):
        raise UserError("HerReplayBuffer cannot be saved without pickle: choose another replay_buffer_class")
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name in _ARRAYS:
        value = getattr(buffer, name, None)
        if isinstance(value, dict):
            found |= {f"{name}.{key}": array for key, array in value.items()}
        elif isinstance(value, np.ndarray):
            found[name] = value
    return found
