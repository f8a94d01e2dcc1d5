"""What a file must fulfil before an agent is made of it, each breach one line."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.utils import LinearSchedule
from torch import Tensor, nn

from snnrl.agents.encoding import TRUSTED_PACKAGES
from snnrl.checkpoint import Archive, laid_out, match_shapes
from snnrl.errors import UserError
from snnrl.files import first_line, quoted

MOST_ROWS = 10**7
"""Largest replay buffer, in transitions, that is made because a file asks for it."""

_NUMBER = (int, float)
_ARRAYS = (np.ndarray, dict, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    "observation_space": (spaces.Space,),
    "action_space": (spaces.Discrete,),
    "policy_class": (type,),
    "replay_buffer_class": (type, type(None)),
    "policy_kwargs": (dict,),
    "replay_buffer_kwargs": (dict,),
    "learning_rate": (*_NUMBER, LinearSchedule),
    "train_freq": (int, tuple),
    "seed": (int, type(None)),
    "precision": (str,),
    "env_kwargs": (dict,),
    **dict.fromkeys(("tensorboard_log", "env_id"), (str, type(None))),
    **dict.fromkeys(("n_envs", "buffer_size", "batch_size", "n_steps", "gradient_steps", "_stats_window_size"), (int,)),
    **dict.fromkeys(("optimize_memory_usage", "double_q", "calibrated"), (bool,)),
    **dict.fromkeys(("_last_obs", "_last_episode_starts", "_last_original_obs"), _ARRAYS),
}
_RANGES: dict[str, tuple[float, float]] = {
    "buffer_size": (1, MOST_ROWS),
    "n_envs": (1, 10**5),
    "_stats_window_size": (1, 10**6),
    "batch_size": (1, MOST_ROWS),
    "n_steps": (1, MOST_ROWS),
    "train_freq": (1, 2**31),
    "spike_penalty": (0, math.inf),
    "hoyer_penalty": (0, math.inf),
    "reward_scale": (0, math.inf),
    **dict.fromkeys(("gamma", "tau", "exploration_rate"), (0, 1)),
}
_ANY_NUMBER = (-math.inf, math.inf)


def check_kind(archive: Archive, kind: str, where: str) -> None:
    """Raise UserError unless the archive says that it holds an agent, a policy or a replay buffer, as asked."""
    found = archive.metadata.get("kind", "something else")
    if found != kind:
        raise UserError(f"cannot read {where}: it holds {quoted(found)}, not {quoted(kind)}; choose another file")


def check_setting(name: str, value: Any, where: str) -> None:
    """Raise UserError if a setting is not of its type, or out of the range in which an agent can work."""
    if not isinstance(value, _TYPES.get(name, _NUMBER)):
        raise UserError(f"cannot read {where}: {name} is {quoted(value)}; save the agent again, or pass {name}=...")
    low, high = _RANGES.get(name, _ANY_NUMBER)
    number = value[0] if isinstance(value, TrainFreq) else value
    if isinstance(number, _NUMBER) and not low <= number <= high:
        raise UserError(f"cannot read {where}: {name} is {quoted(number)}, not from {low} to {high}; pass {name}=...")


def check_architecture(
    build: Callable[..., nn.Module], arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> None:
    """Refuse a description of another network than the stored tensors, before any memory is spent on it.

    The network is built without memory. If that fails in code of the caller's own, the real one is left to show why.

    Raises:
        UserError: the arguments make no network, or one of other tensors.
    """
    layers = arguments.get("net_arch")
    if isinstance(layers, list | tuple) and len(layers) > len(tensors):
        raise UserError(f"cannot read {where}: net_arch has {len(layers)} layers, the file {len(tensors)} tensors")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = build(lr_schedule=lambda _: 0.0, **arguments)
    except UserError:
        raise
    except Exception as error:  # whatever the arguments provoke
        if any(isinstance(value, type) and not _is_known(value) for value in (build, *arguments.values())):
            return
        raise UserError(f"cannot read {where}: its policy cannot be made: {first_line(error)}") from error
    match_shapes(network, tensors, where)


def _is_known(value: type) -> bool:
    return value.__module__.startswith((*TRUSTED_PACKAGES, "torch.optim"))


def check_optimizer(state_dict: dict[str, Any], optimizer: torch.optim.Optimizer, where: str) -> dict[str, Any]:
    """Return a state dict with the optimiser's own groups and hyperparameters, the file's values put in.

    Raises:
        UserError: other parameters, a hyperparameter of another type, or a state of another shape than its parameter.
    """
    problem = UserError(f"cannot read {where}: its optimiser does not fit its network; save the agent again")
    groups = []
    try:
        for ours, theirs in zip(optimizer.state_dict()["param_groups"], state_dict["param_groups"], strict=True):
            if ours["params"] != theirs["params"]:
                raise problem
            groups.append({key: _like(value, theirs.get(key, value)) for key, value in ours.items()})
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states = {
            index: {name: _checked(value, parameters[index]) for name, value in state.items()}
            for index, state in state_dict["state"].items()
        }
    except UserError:
        raise
    except Exception as error:  # whatever the file's values provoke
        raise problem from error
    return {"state": states, "param_groups": groups}


def _checked(value: Any, parameter: Tensor) -> Any:
    """Return a part of the state, in the memory layout of its parameter.

    Raises:
        ValueError: it has another shape.
    """
    if not isinstance(value, Tensor):
        return value
    if not _fits(value.shape, parameter.shape):
        raise ValueError
    return laid_out(value, parameter) if value.shape == parameter.shape else value


def _fits(state: torch.Size, parameter: torch.Size) -> bool:
    """Whether a tensor of the state is as large as its parameter, in each dimension or overall summed up to 1."""
    return len(state) == 0 or (
        len(state) == len(parameter) and all(s in (1, p) for s, p in zip(state, parameter, strict=True))
    )


def _like(ours: Any, theirs: Any) -> Any:
    """Return ``theirs`` if it is of the same kind as ``ours``: a number, a flag or None, or a sequence of such."""
    if isinstance(ours, tuple | list) and isinstance(theirs, tuple | list):
        return type(ours)(_like(mine, other) for mine, other in zip(ours, theirs, strict=True))
    scalars = (bool, type(None)) if ours is None or isinstance(ours, bool) else _NUMBER
    if isinstance(ours, Tensor | str) and type(theirs) is type(ours):
        return theirs
    if not isinstance(theirs, scalars):
        raise TypeError
    return theirs


def check_episodes(infos: Any, successes: Any, where: str) -> None:
    """Raise UserError unless these are records of episodes as SB3's Monitor makes them."""
    plain = isinstance(infos, list) and isinstance(successes, list)
    if plain and all(isinstance(info, dict) for info in infos) and all(isinstance(s, _NUMBER) for s in successes):
        return
    raise UserError(f"cannot read {where}: its records of episodes are damaged; save the agent again")
