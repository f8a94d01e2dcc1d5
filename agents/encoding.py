"""Python values as JSON and back, without pickle: what an agent's constructor takes.

Classes are named by import path and resolved only inside snnrl, stable_baselines3 and torch.nn; optimisers by their
name in torch.optim. Anything else that JSON cannot hold is left to the caller (``custom_objects``).
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from snnrl.errors import UserError

TRUSTED_PACKAGES = ("snnrl", "stable_baselines3", "torch.nn")
"""Where a class named in a file may come from."""

_LIMIT = 50_000_000  # values in one array of a file's description


def encode(value: Any, where: str = "value") -> Any:
    """Return ``value`` as JSON; what JSON cannot hold becomes a note that it must be passed by the caller."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return {"float": repr(float(value))}
    if isinstance(value, TrainFreq):
        return {"train_freq": [value.frequency, value.unit.value]}
    if isinstance(value, tuple):
        return {"tuple": [encode(item, where) for item in value]}
    if isinstance(value, list):
        return [encode(item, where) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(item, key) for key, item in value.items()}}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": [str(value.dtype), list(value.shape), [repr(item) for item in value.ravel().tolist()]]}
    if isinstance(value, spaces.Space):
        return _encode_space(value)
    if isinstance(value, ConstantSchedule):
        return {"float": repr(float(value.val))}
    if isinstance(value, FloatSchedule):
        return encode(value.value_schedule, where)
    if isinstance(value, LinearSchedule):
        return {"linear": [repr(float(x)) for x in (value.start, value.end, value.end_fraction)]}
    if isinstance(value, type):
        return _encode_class(value, where)
    return {"missing": where}


def decode(value: Any, where: str) -> Any:
    """Return the Python value that :func:`encode` wrote.

    Raises:
        UserError: the description is damaged, or names something that must be passed in ``custom_objects``.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [decode(item, where) for item in value]
    if isinstance(value, dict) and len(value) == 1:
        ((kind, content),) = value.items()
        if kind == "missing":
            raise UserError(
                f"{content!r} is code of your own that a file cannot hold: pass it as custom_objects={{{content!r}: ...}}"
            )
        if kind == "dict" and isinstance(content, dict):
            return {key: decode(item, key) for key, item in content.items()}
        try:
            return _DECODERS[kind](content, where)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError, IndexError) as error:
            raise UserError(f"the description of {where!r} is damaged: the file was written by something else") from error
    raise UserError(f"the description of {where!r} is damaged: the file was written by something else")


def resolve_class(path: str, where: str) -> type:
    """Return the class with this import path, which must lie in a trusted package.

    Raises:
        UserError: it lies elsewhere, or there is no such class.
    """
    module_name, _, name = path.rpartition(".")
    if not any(module_name == package or module_name.startswith(package + ".") for package in TRUSTED_PACKAGES):
        raise UserError(
            f"{where!r} names the class {path!r}, which is not loaded from a file: "
            f"pass it as custom_objects={{{where!r}: ...}} if you trust it"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{where!r} names the class {path!r}, which does not exist in this version") from error
    if not (inspect.isclass(found) and found.__module__.startswith(TRUSTED_PACKAGES)):
        raise UserError(f"{where!r} names {path!r}, which is not a class of {', '.join(TRUSTED_PACKAGES)}")
    return found


def _encode_class(value: type, where: str) -> Any:
    if issubclass(value, torch.optim.Optimizer) and getattr(torch.optim, value.__name__, None) is value:
        return {"optimizer": value.__name__}
    if value.__module__.startswith(TRUSTED_PACKAGES) and "<" not in value.__qualname__:
        return {"class": f"{value.__module__}.{value.__qualname__}"}
    return {"missing": where}


def _encode_space(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Box):
        bounds = [_bound(space.low), _bound(space.high)]
        return {"Box": [*bounds, list(space.shape), str(space.dtype)]}
    if isinstance(space, spaces.Discrete):
        return {"Discrete": [int(space.n), int(space.start)]}
    if isinstance(space, spaces.MultiDiscrete):
        return {"MultiDiscrete": encode(np.asarray(space.nvec))}
    if isinstance(space, spaces.MultiBinary):
        return {"MultiBinary": list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"Dict": {key: _encode_space(part) for key, part in space.spaces.items()}}
    raise UserError(f"observations of type {type(space).__name__} cannot be saved")


def _bound(values: np.ndarray[Any, Any]) -> Any:
    """One number for a constant bound, as images have, else all of them."""
    first = values.ravel()[0] if values.size else 0
    return repr(first.item()) if values.size and bool(np.all(values == first)) else encode(values)


def _array(content: Any, where: str) -> np.ndarray[Any, Any]:
    dtype, shape, items = content
    if len(items) > _LIMIT or np.dtype(dtype).kind not in "biuf":
        raise ValueError
    numbers = [{"True": True, "False": False}.get(item) if item in ("True", "False") else float(item) for item in items]
    if np.dtype(dtype).kind in "iu":
        numbers = [int(item) for item in items]
    return np.array(numbers, dtype=dtype).reshape(shape)


def _box(content: Any, where: str) -> spaces.Box:
    low, high, shape, dtype = content
    if int(np.prod(shape)) > _LIMIT or np.dtype(dtype).kind not in "biuf":
        raise ValueError
    number = np.dtype(dtype).type
    low, high = (
        np.full(shape, number(float(bound)) if isinstance(bound, str) else decode(bound, where), dtype)
        for bound in (low, high)
    )
    return spaces.Box(low, high, tuple(shape), number)


_DECODERS: dict[str, Any] = {
    "float": lambda content, where: float(content),
    "tuple": lambda content, where: tuple(decode(item, where) for item in content),
    "array": _array,
    "train_freq": lambda content, where: TrainFreq(int(content[0]), TrainFrequencyUnit(content[1])),
    "linear": lambda content, where: LinearSchedule(*(float(x) for x in content)),
    "optimizer": lambda content, where: _optimizer(content, where),
    "class": resolve_class,
    "Box": _box,
    "Discrete": lambda content, where: spaces.Discrete(int(content[0]), start=int(content[1])),
    "MultiDiscrete": lambda content, where: spaces.MultiDiscrete(decode(content, where)),
    "MultiBinary": lambda content, where: spaces.MultiBinary([int(n) for n in content] if len(content) > 1 else content[0]),
    "Dict": lambda content, where: spaces.Dict({key: decode(part, where) for key, part in content.items()}),
}


def _optimizer(name: str, where: str) -> type:
    found = getattr(torch.optim, name, None)
    if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)):
        raise UserError(f"{where!r} names the optimiser {name!r}, which torch.optim does not have")
    return found
