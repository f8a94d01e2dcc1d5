"""Replay buffers as plain tensors: what is stored, row by row, without pickle."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from snnrl.errors import UserError

_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "ep_start", "ep_length")


def rows_stored(buffer: ReplayBuffer) -> int:
    """Return how many rows (one step of every environment) the buffer holds.

    With ``optimize_memory_usage`` the next observation of the last step is in a row of its own, which counts.
    """
    return buffer.buffer_size if buffer.full else buffer.pos + (buffer.optimize_memory_usage and buffer.pos > 0)


def read_rows(buffer: ReplayBuffer, start: int, stop: int) -> dict[str, torch.Tensor]:
    """Return rows ``start`` to ``stop`` of every array, each ``(rows, envs, ...)``; dict observations by ``name.key``.

    Raises:
        UserError: the buffer also keeps the infos of each step, which no file can hold.
    """
    return {name: torch.from_numpy(array[start:stop]) for name, array in _arrays(buffer).items()}


def write_rows(buffer: ReplayBuffer, start: int, rows: dict[str, torch.Tensor]) -> None:
    """Put rows read by :func:`read_rows` back at ``start``.

    Raises:
        UserError: the rows were written by a buffer of another kind or shape.
    """
    arrays = _arrays(buffer)
    if strange := sorted(set(rows) ^ set(arrays)):
        raise UserError(f"the replay buffer's {strange[0]} belong to another kind of buffer than this agent's")
    for name, array in arrays.items():
        found, wanted = rows[name], torch.from_numpy(array)
        if found.dtype != wanted.dtype or found.shape[1:] != wanted.shape[1:] or start + len(found) > len(wanted):
            found_shape, wanted_shape = tuple(found.shape), tuple(wanted.shape)
            raise UserError(f"the replay buffer's {name} {found_shape} do not fit this agent's {wanted_shape}")
    for name, array in arrays.items():
        array[start : start + len(rows[name])] = rows[name].numpy()


def _arrays(buffer: ReplayBuffer) -> dict[str, NDArray[Any]]:
    if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict:
        raise UserError("a HerReplayBuffer with copy_info_dict=True cannot be saved: its infos are objects")
    found: dict[str, NDArray[Any]] = {}
    for name in _ARRAYS:
        value = getattr(buffer, name, None)
        if isinstance(value, dict):
            found |= {f"{name}.{key}": array for key, array in value.items()}
        elif isinstance(value, np.ndarray):
            found[name] = value
    return found
