"""Agents and replay buffers as files: safetensors and JSON in a zip, never pickle."""

import io
import pathlib
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info

from snnrl.agents.encoding import decode, encode
from snnrl.agents.spiking_dqn import replay
from snnrl.checkpoint import (
    Archive,
    flatten_optimizer,
    match_shapes,
    read_archive,
    unflatten_optimizer,
    write_archive,
)
from snnrl.errors import UserError

if TYPE_CHECKING:
    from snnrl.agents.spiking_dqn.agent import SpikingDQN

Source = str | pathlib.Path | io.BufferedIOBase

SETTINGS = (
    *("policy_class", "observation_space", "action_space", "n_envs", "policy_kwargs", "learning_rate", "buffer_size"),
    *("learning_starts", "batch_size", "tau", "gamma", "train_freq", "gradient_steps", "replay_buffer_class"),
    *("replay_buffer_kwargs", "optimize_memory_usage", "n_steps", "target_update_interval", "exploration_fraction"),
    *("exploration_initial_eps", "exploration_final_eps", "max_grad_norm", "_stats_window_size", "tensorboard_log"),
    *("verbose", "seed", "double_q", "calibrated"),
)
"""What the agent was made with."""

PROGRESS = (
    *("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_n_updates", "_n_calls", "_episode_num"),
    *("exploration_rate", "_current_progress_remaining", "_last_obs", "_last_episode_starts", "_last_original_obs"),
)
"""How far its training has come."""


def save_agent(agent: "SpikingDQN", path: Source, exclude: set[str]) -> None:
    """Write the agent; a path without a suffix gets ``.zip``, missing folders are made."""
    metadata, tensors = describe(agent, exclude)
    write_archive(_with_suffix(path), metadata, tensors)


def describe(agent: "SpikingDQN", exclude: set[str]) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Return metadata and tensors that hold the agent without its replay buffer."""
    attributes = {name: getattr(agent, name) for name in (*SETTINGS, *PROGRESS) if name not in exclude}
    if agent.replay_buffer_class is NStepReplayBuffer:
        # SB3 chose it for n_steps > 1; naming it would make SB3 believe that the caller did, and warn
        attributes |= {"replay_buffer_class": None, "replay_buffer_kwargs": {}}
    optimizer, layout = flatten_optimizer(agent.policy.optimizer.state_dict())
    episodes = [list(buffer or ()) for buffer in (agent.ep_info_buffer, agent.ep_success_buffer)]
    metadata = {
        "kind": "agent",
        "attributes": {name: encode(value, name) for name, value in attributes.items()},
        "episodes": [encode([_plain(item) for item in items]) for items in episodes],
        "optimizer": layout,
    }
    return metadata, {"policy": agent.policy.state_dict(), "optimizer": optimizer}


def load_agent(
    cls: type["SpikingDQN"],
    path: Source,
    env: Any,
    device: torch.device | str,
    custom_objects: Mapping[str, Any],
    print_system_info: bool,
    force_reset: bool,
    overrides: Mapping[str, Any],
) -> "SpikingDQN":
    """Make the agent anew and put its weights back; ``overrides`` replace settings of the file, as in SB3."""
    where = str(path) if isinstance(path, str | pathlib.Path) else "the file"
    archive = read_archive(_existing(path))
    if print_system_info:
        get_system_info()
    attributes = _attributes(archive, custom_objects | overrides, where)
    if dict(overrides.get("policy_kwargs", attributes["policy_kwargs"])) != attributes["policy_kwargs"]:
        raise UserError(f"{where}: its policy_kwargs cannot be changed: {attributes['policy_kwargs']}")
    if env is not None:
        env = cls._wrap_env(env, attributes["verbose"])
        check_for_correct_spaces(env, attributes["observation_space"], attributes["action_space"])
        attributes["n_envs"] = env.num_envs
        if force_reset:
            attributes["_last_obs"] = None
    agent = cls(attributes["policy_class"], env, device=device, _init_setup_model=False)
    agent.__dict__.update(attributes | overrides)
    _set_up(agent, where)
    restore(agent, archive, where)
    return agent


def restore(agent: "SpikingDQN", archive: Archive, where: str) -> None:
    """Put weights, optimiser and episode statistics back into an agent of the same shape."""
    try:
        tensors, optimizer = archive.tensors["policy"], archive.tensors["optimizer"]
        layout, episodes = archive.metadata["optimizer"], archive.metadata["episodes"]
    except KeyError as error:
        raise UserError(f"{where}: damaged, it has no {error.args[0]}") from error
    match_shapes(agent.policy, tensors, where)
    agent.policy.load_state_dict(tensors)
    try:
        agent.policy.optimizer.load_state_dict(unflatten_optimizer(optimizer, layout))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: its optimiser does not fit its network; the file is damaged") from error
    infos, successes = (decode(items, "episodes") for items in episodes)
    agent.ep_info_buffer = deque(infos, maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(successes, maxlen=agent._stats_window_size)


def save_replay(agent: "SpikingDQN", path: Source) -> None:
    """Write the replay buffer."""
    buffer = agent.replay_buffer
    assert buffer is not None
    rows = replay.rows_stored(buffer)
    metadata = {"kind": "replay", "rows": rows, "pos": buffer.pos, "buffer_size": buffer.buffer_size, "envs": buffer.n_envs}
    write_archive(_with_suffix(path), metadata, {"rows": replay.read_rows(buffer, 0, rows)})


def load_replay(agent: "SpikingDQN", path: Source) -> None:
    """Fill the agent's replay buffer from a file; the buffer takes on the file's size."""
    where = str(path) if isinstance(path, str | pathlib.Path) else "the file"
    archive = read_archive(_existing(path))
    metadata, buffer = archive.metadata, agent.replay_buffer
    assert buffer is not None
    if metadata.get("kind") != "replay":
        raise UserError(f"{where} holds {metadata.get('kind', 'something else')!r}, not a replay buffer")
    sizes = [metadata.get(name) for name in ("rows", "pos", "buffer_size", "envs")]
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise UserError(f"{where}: damaged, its sizes are {sizes}")
    rows, pos, size, envs = sizes
    if rows > size or pos > size or envs != buffer.n_envs:
        raise UserError(f"{where} was written with {envs} environments and {rows} of {size} rows; this agent has {buffer.n_envs}")
    if size != buffer.buffer_size:
        if size > max(rows, agent.buffer_size):
            raise UserError(f"{where} asks for {size} rows; this agent's buffer_size is {agent.buffer_size}")
        buffer = type(buffer)(
            size * envs, agent.observation_space, agent.action_space, agent.device, n_envs=envs,
            optimize_memory_usage=agent.optimize_memory_usage, **agent.replay_buffer_kwargs,
        )
    replay.write_rows(buffer, 0, archive.tensors.get("rows", {}))
    buffer.pos, buffer.full = pos, rows == size
    agent.replay_buffer = buffer


def _attributes(archive: Archive, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    if archive.metadata.get("kind") != "agent":
        raise UserError(f"{where} holds {archive.metadata.get('kind', 'something else')!r}, not an agent")
    stored = archive.metadata.get("attributes")
    if not isinstance(stored, dict):
        raise UserError(f"{where}: damaged, it has no attributes")
    unknown = set(stored) - {*SETTINGS, *PROGRESS}
    if unknown:
        raise UserError(f"{where}: unknown attribute {min(unknown)!r}; it was written by a newer version")
    attributes = {name: given[name] if name in given else decode(value, name) for name, value in stored.items()}
    missing = [name for name in ("policy_class", "observation_space", "action_space", "policy_kwargs") if name not in attributes]
    if missing:
        raise UserError(f"{where}: damaged, it has no {missing[0]}")
    return attributes


def _set_up(agent: "SpikingDQN", where: str) -> None:
    try:
        agent._setup_model()
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, AssertionError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: its settings do not make an agent ({reason}); the file is damaged") from error


def _plain(item: Any) -> Any:
    """An episode's record as SB3's Monitor makes it, without what a wrapper of the user's may have added."""
    if isinstance(item, dict):
        return {key: value for key, value in item.items() if isinstance(value, int | float | str)}
    return item


def _with_suffix(path: Source) -> Any:
    if isinstance(path, str | pathlib.Path):
        path = pathlib.Path(path)
        path = path if path.suffix else path.with_suffix(".zip")
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _existing(path: Source) -> Any:
    if isinstance(path, str | pathlib.Path) and not pathlib.Path(path).exists():
        return pathlib.Path(path).with_suffix(".zip")
    return path
