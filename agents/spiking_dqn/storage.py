"""Agents and replay buffers as files: safetensors and JSON in a zip, never pickle."""

import io
import pathlib
import zipfile
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from snnrl.agents.encoding import decode, encode
from snnrl.agents.frame_replay import LOOSE
from snnrl.agents.spiking_dqn import replay
from snnrl.agents.spiking_dqn.checks import (
    MOST_ROWS,
    check_architecture,
    check_episodes,
    check_kind,
    check_optimizer,
    check_setting,
)
from snnrl.checkpoint import (
    Archive,
    flatten_optimizer,
    match_shapes,
    read_archive,
    unflatten_optimizer,
    write_archive,
)
from snnrl.errors import UserError
from snnrl.files import first_line, quoted
from snnrl.networks import constrain

if TYPE_CHECKING:
    from snnrl.agents.spiking_dqn.agent import SpikingDQN

Source = str | pathlib.Path | io.BufferedIOBase

SETTINGS = (
    *("policy_class", "observation_space", "action_space", "n_envs", "policy_kwargs", "learning_rate", "buffer_size"),
    *("learning_starts", "batch_size", "tau", "gamma", "train_freq", "gradient_steps", "replay_buffer_class"),
    *("replay_buffer_kwargs", "optimize_memory_usage", "n_steps", "target_update_interval", "exploration_fraction"),
    *("exploration_initial_eps", "exploration_final_eps", "max_grad_norm", "_stats_window_size", "tensorboard_log"),
    *("verbose", "seed", "double_q", "precision", "spike_penalty", "hoyer_penalty", "reward_scale"),
    *("calibrated", "env_id", "env_kwargs"),
)
"""What the agent was made with."""

PROGRESS = (
    *("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_n_updates", "_n_calls", "_episode_num"),
    *("exploration_rate", "_current_progress_remaining", "_last_obs", "_last_episode_starts", "_last_original_obs"),
)
"""How far its training has come."""

ONLINE, TARGET = "q_net.", "q_net_target."
"""How the names of the two networks' tensors begin."""

_NEEDED = ("policy_class", "observation_space", "action_space", "n_envs", "policy_kwargs")


def save_agent(agent: "SpikingDQN", path: Source, exclude: set[str]) -> None:
    """Write the agent; a path without a suffix gets ``.zip``, missing folders are made."""
    metadata, tensors = describe(agent, exclude)
    write_archive(_with_suffix(path), metadata, tensors)


def settings_of(agent: DQN) -> dict[str, Any]:
    """Return the settings of an agent, from which its like can be made."""
    settings = {name: getattr(agent, name) for name in SETTINGS if hasattr(agent, name)}
    if agent.n_steps > 1 and agent.replay_buffer_class is NStepReplayBuffer:
        # SB3 chose it for n_steps > 1; naming it would make SB3 believe that the caller did, and warn
        kwargs = {key: item for key, item in agent.replay_buffer_kwargs.items() if key not in ("n_steps", "gamma")}
        settings |= {"replay_buffer_class": None, "replay_buffer_kwargs": kwargs}
    return settings


def describe(agent: "SpikingDQN", exclude: set[str]) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Return metadata and tensors that hold the agent without its replay buffer."""
    attributes = settings_of(agent) | {name: getattr(agent, name) for name in PROGRESS}
    optimizer, layout = flatten_optimizer(agent.policy.optimizer.state_dict())
    episodes = [list(buffer or ()) for buffer in (agent.ep_info_buffer, agent.ep_success_buffer)]
    metadata = {
        "kind": agent.kind,
        "attributes": {name: encode(value, name) for name, value in attributes.items() if name not in exclude},
        "episodes": [encode([_plain(item) for item in items]) for items in episodes],
        "optimizer": layout,
    }
    policy = agent.policy.state_dict()
    online = _as_target(policy)
    if all(torch.equal(policy[name], tensor) for name, tensor in online.items()):
        policy = {name: tensor for name, tensor in policy.items() if name not in online}
    return metadata, {"policy": policy, "optimizer": optimizer}


def _as_target(policy: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the online network's tensors by the names that they have in the target network."""
    online = {name.removeprefix(ONLINE): tensor for name, tensor in policy.items() if name.startswith(ONLINE)}
    return {TARGET + name: tensor for name, tensor in online.items()}


def _read_policy(archive: Archive) -> dict[str, torch.Tensor]:
    """Return the policy's tensors; a file without target network stands for one that is equal to the online one."""
    policy = archive.tensors.get("policy", {})
    has_target = any(name.startswith(TARGET) for name in policy)
    return policy if has_target else {**policy, **_as_target(policy)}


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
    archive, where = _read(path)
    if print_system_info:
        get_system_info()
    check_kind(archive, cls.kind, where)
    attributes = _attributes(archive, custom_objects, overrides, where)
    steps = attributes["policy_kwargs"].get("T")
    if attributes.pop("T", steps) != steps:
        raise UserError(f"T is {steps} in {where}: load it so, then lower it with reduce_to")
    if env is not None:
        env = cls._wrap_env(env, attributes.get("verbose", 0))
        check_for_correct_spaces(env, attributes["observation_space"], attributes["action_space"])
        attributes["n_envs"] = env.num_envs
        if force_reset:
            attributes["_last_obs"] = None
    precision = attributes.get("precision", "fp32")
    agent = cls(attributes["policy_class"], env, precision=precision, device=device, _init_setup_model=False)
    agent.__dict__.update(attributes)
    arguments = {name: attributes[name] for name in ("observation_space", "action_space")} | attributes["policy_kwargs"]
    check_architecture(agent.policy_class, arguments, _read_policy(archive), where)
    try:
        agent._setup_model()
    except UserError:
        raise
    except Exception as error:  # whatever the file's settings provoke
        raise UserError(f"cannot make the agent that {where} describes: {first_line(error)}") from error
    restore(agent, archive, where)
    return agent


def restore(agent: "SpikingDQN", archive: Archive, where: str) -> None:
    """Put weights, optimiser and episode statistics back into an agent of the same shape.

    Raises:
        UserError: the file's do not fit the agent.
    """
    agent.set_parameters(_parameters(agent, archive, where), device=agent.device)
    constrain(agent.q_net)
    constrain(agent.q_net_target)
    try:
        infos, successes = (decode(items, "episodes") for items in archive.metadata["episodes"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read {where}: its records of episodes are damaged; save the agent again") from error
    check_episodes(infos, successes, where)
    agent.ep_info_buffer = deque(infos, maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(successes, maxlen=agent._stats_window_size)


def read_parameters(agent: "SpikingDQN", path: Source) -> dict[str, dict[str, Any]]:
    """Return the weights and the optimiser's state of a saved agent, by SB3's names.

    Raises:
        UserError: the file is missing or damaged, or holds another network than the agent's.
    """
    archive, where = _read(path)
    check_kind(archive, agent.kind, where)
    return _parameters(agent, archive, where)


def save_replay(agent: "SpikingDQN", path: Source) -> None:
    """Write the replay buffer."""
    buffer = agent.replay_buffer
    assert buffer is not None
    metadata = {
        "kind": "replay",
        "pos": buffer.pos,
        "full": buffer.full,
        "buffer_size": buffer.buffer_size,
        "envs": buffer.n_envs,
    }
    tensors = {"rows": replay.read_rows(buffer, 0, replay.rows_stored(buffer))}
    if isinstance(buffer, HerReplayBuffer):
        tensors["episode"] = {"start": torch.from_numpy(buffer._current_ep_start)}
    write_archive(_with_suffix(path), metadata, tensors)


def load_replay(agent: "SpikingDQN", path: Source, truncate_last_trajectory: bool) -> None:
    """Fill the agent's replay buffer from a file; the buffer takes on the file's size."""
    archive, where = _read(path)
    check_kind(archive, "replay", where)
    pos, full, size, envs = (archive.metadata.get(name, "") for name in ("pos", "full", "buffer_size", "envs"))
    if not (type(full) is bool and all(type(number) is int for number in (pos, size, envs))):
        raise UserError(f"cannot read {where}: its sizes are damaged; save the replay buffer again")
    if envs != agent.n_envs:
        raise UserError(f"{where} was written with {quoted(envs)} environments; this agent has {agent.n_envs}")
    if not 0 <= pos < size <= MOST_ROWS // envs:
        raise UserError(f"cannot read {where}: row {quoted(pos)} of {quoted(size)} is out of range")
    rows = archive.tensors.get("rows", {})
    actions = rows.get("actions", torch.zeros(0))
    if actions.numel() and not (0 <= int(actions.min()) <= int(actions.max()) < agent.action_space.n):  # type: ignore[attr-defined]
        raise UserError(f"{where} holds actions that this agent does not have; load it into the agent that wrote it")
    try:
        buffer = _new_buffer(agent, size)
    except (MemoryError, ValueError) as error:
        raise UserError(f"cannot read {where}: no memory for {size} rows: {first_line(error)}") from error
    buffer.pos, buffer.full = pos, full
    stored = replay.rows_stored(buffer)
    if any(value.dim() == 0 or len(value) != stored for name, value in rows.items() if name not in LOOSE):
        raise UserError(f"cannot read {where}: it does not hold {stored} rows; save the replay buffer again")
    replay.write_rows(buffer, 0, rows)
    if isinstance(buffer, HerReplayBuffer):
        start = archive.tensors.get("episode", {}).get("start", torch.zeros(0))
        if start.shape != (envs,) or not ((start >= 0) & (start < size)).all():
            raise UserError(f"cannot read {where}: its episodes' starts are damaged; save the replay buffer again")
        buffer._current_ep_start = start.numpy().astype(np.int64)
        if truncate_last_trajectory:
            buffer.truncate_last_trajectory()
    agent.replay_buffer = buffer


def _new_buffer(agent: "SpikingDQN", rows: int) -> ReplayBuffer:
    assert agent.replay_buffer_class is not None
    kwargs = dict(agent.replay_buffer_kwargs)
    if issubclass(agent.replay_buffer_class, HerReplayBuffer):
        kwargs["env"] = agent.env
    return agent.replay_buffer_class(
        rows * agent.n_envs,
        agent.observation_space,
        agent.action_space,
        device=agent.device,
        n_envs=agent.n_envs,
        optimize_memory_usage=agent.optimize_memory_usage,
        **kwargs,
    )


def _parameters(agent: "SpikingDQN", archive: Archive, where: str) -> dict[str, dict[str, Any]]:
    layout, tensors = archive.metadata.get("optimizer"), _read_policy(archive)
    if not isinstance(layout, dict):
        raise UserError(f"cannot read {where}: it has no optimiser; save the agent again")
    match_shapes(agent.policy, tensors, where)
    optimizer = unflatten_optimizer(archive.tensors.get("optimizer", {}), layout)
    return {"policy": tensors, "policy.optimizer": check_optimizer(optimizer, agent.policy.optimizer, where)}


def _attributes(
    archive: Archive, custom_objects: Mapping[str, Any], overrides: Mapping[str, Any], where: str
) -> dict[str, Any]:
    stored = archive.metadata.get("attributes")
    if not isinstance(stored, dict):
        raise UserError(f"cannot read {where}: it has no attributes; save the agent again")
    if unknown := set(stored) - {*SETTINGS, *PROGRESS}:
        raise UserError(f"cannot read {where}: unknown attribute {quoted(min(unknown))}; update snnrl")
    for name in _NEEDED:
        if name not in stored:
            raise UserError(f"cannot read {where}: it has no {name}; save the agent again")
    attributes: dict[str, Any] = {}
    for name, value in stored.items():
        if name == "policy_kwargs":
            attributes[name] = _policy_kwargs(value, custom_objects, overrides, where)
        elif name in overrides or name in custom_objects:
            attributes[name] = overrides.get(name, custom_objects.get(name))
        else:
            attributes[name] = decode(value, name, custom_objects)
            check_setting(name, attributes[name], where)
    return dict(overrides) | attributes


def _policy_kwargs(
    stored: Any, custom_objects: Mapping[str, Any], overrides: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The policy's arguments, those with code from ``custom_objects``, all at once or one by one; T is the file's."""
    described = stored.get("dict") if isinstance(stored, dict) else None
    T = described.get("T") if isinstance(described, dict) else None
    if "policy_kwargs" in custom_objects:
        kwargs: dict[str, Any] = {"T": T} | custom_objects["policy_kwargs"]
    else:
        kwargs = decode(stored, "policy_kwargs", custom_objects)
        check_setting("policy_kwargs", kwargs, where)
    if "policy_kwargs" in overrides and {"T": T} | overrides["policy_kwargs"] != kwargs:
        raise UserError(f"the policy_kwargs of {where} cannot be changed: they are {quoted(kwargs)}")
    return kwargs


def _plain(item: Any) -> Any:
    """An episode's record as SB3's Monitor makes it, without what a wrapper of the user's may have added."""
    if isinstance(item, dict):
        return {key: value for key, value in item.items() if isinstance(value, int | float | str | np.generic)}
    return item


def _with_suffix(path: Source) -> Any:
    if isinstance(path, str | pathlib.Path):
        path = pathlib.Path(path if pathlib.Path(path).suffix else f"{path}.zip")
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _read(path: Source) -> tuple[Archive, str]:
    """Return the archive at ``path``, or at ``path`` with ``.zip``, and what to call it in errors."""
    if not isinstance(path, str | pathlib.Path):
        return read_archive(path), "the given stream"  # type: ignore[arg-type]
    if not pathlib.Path(path).is_file() and pathlib.Path(f"{path}.zip").is_file():
        path = f"{path}.zip"
    try:
        return read_archive(path), quoted(path)
    except UserError as error:
        if _is_of_sb3(path):
            raise UserError(
                f"{quoted(path)} was saved by stable-baselines3's own DQN, with pickle: turn it into a spiking agent "
                "with `snnrl convert`"
            ) from error
        raise


def _is_of_sb3(path: str | pathlib.Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "policy.pth" in archive.namelist()
    except Exception:  # the bytes may be anything
        return False
