"""Replay buffers as plain tensors: what is stored, row by row, without pickle."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from snnrl.agents.frame_replay import FrameReplayBuffer
from snnrl.errors import UserError

_ARRAYS = (
    *("observations", "next_observations", "actions", "rewards", "dones", "timeouts"),
    *("ep_start", "ep_length"),  # of a HerReplayBuffer
    *("frames", "depth"),  # of a FrameReplayBuffer
    "elapsed",  # of a SequenceReplayBuffer
)


def rows_stored(buffer: ReplayBuffer) -> int:
    """Return how many rows (one step of every environment) the buffer holds.

    With ``optimize_memory_usage`` the next observation of the last step is in a row of its own, which counts.
    """
    return buffer.buffer_size if buffer.full else buffer.pos + (buffer.optimize_memory_usage and buffer.pos > 0)


def read_rows(buffer: ReplayBuffer, start: int, stop: int) -> dict[str, torch.Tensor]:
    """Return rows ``start`` to ``stop`` of every array, each ``(rows, envs, ...)``; dict observations by ``name.key``.

    Of a FrameReplayBuffer also the frames that it keeps aside for these rows.

    Raises:
        UserError: the buffer also keeps the infos of each step, which no file can hold.
    """
    arrays = {name: array[start:stop] for name, array in _arrays(buffer).items()}
    return {name: torch.from_numpy(array) for name, array in (arrays | _loose(buffer, start, stop)).items()}


def write_rows(buffer: ReplayBuffer, start: int, rows: dict[str, torch.Tensor]) -> None:
    """Put rows read by :func:`read_rows` back at ``start``.

    Raises:
        UserError: the rows were written by a buffer of another kind or shape.
    """
    arrays, loose = _arrays(buffer), _loose(buffer, 0, 0)
    if strange := sorted(set(rows) ^ set(arrays | loose)):
        raise UserError(f"the replay buffer's {strange[0]} belong to another kind of buffer than this agent's")
    for name, array in (arrays | loose).items():
        found, wanted = rows[name], torch.from_numpy(array)
        too_many = name in arrays and start + len(found) > len(wanted)
        if found.dtype != wanted.dtype or found.shape[1:] != wanted.shape[1:] or too_many:
            found_shape, wanted_shape = tuple(found.shape), tuple(wanted.shape)
            raise UserError(f"the replay buffer's {name} {found_shape} do not fit this agent's {wanted_shape}")
    if isinstance(buffer, FrameReplayBuffer):
        buffer.put_loose_frames({name: rows[name].numpy() for name in loose})
    for name, array in arrays.items():
        array[start : start + len(rows[name])] = rows[name].numpy()


def _loose(buffer: ReplayBuffer, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Return what a FrameReplayBuffer keeps aside for some of its rows, which is not as long as they are many."""
    return buffer.loose_frames(start, stop) if isinstance(buffer, FrameReplayBuffer) else {}


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
