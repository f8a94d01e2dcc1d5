"""Python values as JSON and back, without pickle: what an agent's constructor takes.

Classes are named by import path and resolved only inside snnrl, stable_baselines3 and torch.nn; optimisers by their
name in torch.optim. Anything else that JSON cannot hold is left to the caller (``custom_objects``).
"""

import base64
import importlib
import inspect
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from torch import nn

from snnrl.errors import UserError, did_you_mean
from snnrl.files import quoted

TRUSTED_PACKAGES = ("snnrl", "stable_baselines3", "torch.nn")
"""Where a class named in a file may come from."""

MOST_VALUES = 2**22
"""Largest observation, in numbers, that a file may describe, all of its parts together: bounds are kept in memory."""

_CONSTRUCTIBLE = (nn.Module, torch.optim.Optimizer, ReplayBuffer)


def encode(value: Any, where: str = "value") -> Any:
    """Return ``value`` as JSON; what JSON cannot hold becomes a note that it must be passed by the caller.

    ``where`` is the name under which the caller would pass it.

    Raises:
        UserError: a space of a type that stable-baselines3 has no observations of.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        value = value.item()
    if isinstance(value, bool | int):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, TrainFreq):
        return {"train_freq": [value.frequency, value.unit.value]}
    if isinstance(value, GoalSelectionStrategy):
        return value.name.lower()
    if isinstance(value, tuple):
        return {"tuple": [encode(item, where) for item in value]}
    if isinstance(value, list):
        return [encode(item, where) for item in value]
    if isinstance(value, spaces.Space):  # before mappings: Dict is one
        return _encode_space(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(item, key) for key, item in value.items()}}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": [value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]}
    if isinstance(value, ConstantSchedule):
        return encode(value.val, where)
    if isinstance(value, FloatSchedule):
        return encode(value.value_schedule, where)
    if isinstance(value, LinearSchedule):
        return {"linear": [float(number) for number in (value.start, value.end, value.end_fraction)]}
    return _encode_class(value, where) if isinstance(value, type) else {"missing": where}


def decode(value: Any, where: str, given: Mapping[str, Any] | None = None) -> Any:
    """Return the Python value that :func:`encode` wrote; in dicts, entries of ``given`` replace those of their name.

    Raises:
        UserError: the description is damaged, or names something that must be passed in ``custom_objects``.
    """
    if _described_values(value) > MOST_VALUES:
        raise UserError(f"the description of {quoted(where)} asks for observations of more than {MOST_VALUES} numbers")
    return _decode(value, where, given or {})


def _described_values(value: Any) -> int:
    """Return how many numbers the boxes of a description hold together."""
    if isinstance(value, list):
        return sum(map(_described_values, value))
    if not isinstance(value, dict):
        return 0
    box = value.get("Box")
    shape = box[2] if isinstance(box, list) and len(box) == 4 and isinstance(box[2], list) else []
    own = math.prod(size for size in shape if type(size) is int and size > 0) if shape else 0
    return own + sum(map(_described_values, value.values()))


def _decode(value: Any, where: str, given: Mapping[str, Any]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_decode(item, where, given) for item in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise _damaged(where)
    ((kind, content),) = value.items()
    if kind == "missing":
        name = quoted(content)
        raise UserError(f"{name} is code of your own, which no file holds: pass it as custom_objects={{{name}: ...}}")
    if kind == "dict" and isinstance(content, dict):
        return {key: given[key] if key in given else _decode(item, key, given) for key, item in content.items()}
    if kind == "tuple" and isinstance(content, list):
        return tuple(_decode(item, where, given) for item in content)
    try:
        return _DECODERS[kind](content, where)
    except UserError:
        raise
    except Exception as error:  # whatever the content provokes in numpy, gymnasium and torch
        raise _damaged(where) from error


def resolve_class(path: str, where: str) -> type:
    """Return the network, optimiser or replay buffer class with this import path, which must lie in a trusted package.

    Raises:
        UserError: it lies elsewhere, there is no such class, or it is of another kind.
    """
    module_name, _, name = path.rpartition(".")
    if not _is_trusted(module_name):
        raise UserError(
            f"{quoted(where)} names the class {quoted(path)}, which is not loaded from a file: "
            f"pass it as custom_objects={{{quoted(where)}: ...}} if you trust it"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # importing an arbitrary module of theirs
        raise UserError(f"{quoted(where)} names the class {quoted(path)}, which this version lacks") from error
    if not (inspect.isclass(found) and _is_trusted(found.__module__) and issubclass(found, _CONSTRUCTIBLE)):
        raise UserError(f"{quoted(where)} names {quoted(path)}, which is no class that an agent is made of")
    return found


def _damaged(where: str) -> UserError:
    return UserError(f"the description of {quoted(where)} is damaged: fetch the file again, or save the agent again")


def _is_trusted(module: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in TRUSTED_PACKAGES)


def _encode_class(value: type, where: str) -> Any:
    if getattr(torch.optim, value.__name__, None) is value:
        return {"optimizer": value.__name__}
    path = f"{value.__module__}.{value.__qualname__}"
    try:
        return {"class": path} if resolve_class(path, where) is value else {"missing": where}
    except UserError:
        return {"missing": where}


def _encode_space(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Box):
        return {"Box": [_encode_bound(space.low), _encode_bound(space.high), list(space.shape), space.dtype.str]}
    if isinstance(space, spaces.Discrete):
        return {"Discrete": [int(space.n), int(space.start), np.dtype(space.dtype).str]}
    if isinstance(space, spaces.MultiDiscrete):
        return {"MultiDiscrete": [encode(space.nvec), encode(space.start), np.dtype(space.dtype).str]}
    if isinstance(space, spaces.MultiBinary):
        return {"MultiBinary": encode(space.n)}
    if isinstance(space, spaces.Dict):  # as pairs: their order is that of the features
        return {"Dict": [[key, _encode_space(part)] for key, part in space.spaces.items()]}
    raise UserError(f"observations of type {type(space).__name__} cannot be saved: stable-baselines3 has none such")


def _encode_bound(values: NDArray[Any]) -> Any:
    """One number for a constant bound, as images have, else all of them."""
    return encode(values.flat[0] if values.size and (values == values.flat[0]).all() else values)


def _array(content: Any, where: str) -> NDArray[Any]:
    dtype, shape, data = content
    if np.dtype(dtype).kind not in "biuf":
        raise _damaged(where)
    values: NDArray[Any] = np.frombuffer(base64.b64decode(data, validate=True), dtype).reshape(shape)
    return values.astype(values.dtype.newbyteorder("="))


def _box(content: Any, where: str) -> spaces.Box:
    low, high, shape, dtype = content
    if np.dtype(dtype).kind not in "biuf":
        raise _damaged(where)
    low, high = (np.full(shape, _decode(bound, where, {}), dtype) for bound in (low, high))
    return spaces.Box(low, high, tuple(shape), np.dtype(dtype).type)


def _discrete(content: Any, where: str) -> spaces.Discrete[Any]:
    n, start, dtype = content
    return spaces.Discrete(int(n), start=int(start), dtype=np.dtype(dtype).type)


def _multi_discrete(content: Any, where: str) -> spaces.MultiDiscrete[Any]:
    nvec, start, dtype = content
    values = (_decode(part, where, {}) for part in (nvec, start))
    return spaces.MultiDiscrete(next(values), start=next(values), dtype=np.dtype(dtype).type)


def _dict(content: Any, where: str) -> spaces.Dict:
    return spaces.Dict([(str(key), _decode(part, where, {})) for key, part in content])


def _optimizer(name: str, where: str) -> type:
    found = getattr(torch.optim, name, None)
    if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)):
        known = [key for key, value in vars(torch.optim).items() if inspect.isclass(value)]
        raise UserError(f"{quoted(where)} names the unknown optimiser {quoted(name)}{did_you_mean(name, known)}")
    return found


_DECODERS: dict[str, Any] = {
    "float": lambda content, where: float(content),
    "array": _array,
    "train_freq": lambda content, where: TrainFreq(int(content[0]), TrainFrequencyUnit(content[1])),
    "linear": lambda content, where: LinearSchedule(*(float(number) for number in content)),
    "optimizer": _optimizer,
    "class": resolve_class,
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": lambda content, where: spaces.MultiBinary(_decode(content, where, {})),
    "Dict": _dict,
}
