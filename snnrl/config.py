"""Recipes: YAML files, validated into typed objects; every mistake is one line that names the place."""

import functools
import reprlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from snnrl.errors import UserError, did_you_mean
from snnrl.files import quoted

Model = TypeVar("Model", bound=BaseModel)

NO_CHANGES: Mapping[str, Any] = {}

RECIPES = "snnrl.configs"

_SHORT = reprlib.Repr()  # a few lines of YAML can hold a value that is too large to print
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2


def recipe_names(package: str = RECIPES) -> dict[str, str]:
    """Return the YAML files that come in a package: name to the first line of its comment."""
    files = sorted(resources.files(package).iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        for file in files
        if file.name.endswith(".yaml")
    }


def read_recipe(
    name: str,
    model: type[Model],
    changes: Mapping[str, Any] = NO_CHANGES,
    *,
    scratch: bool = False,
    package: str = RECIPES,
    kind: str = "recipe",
) -> Model:
    """Return the recipe with this name, or in the YAML file at this path, with ``changes`` to it.

    A recipe with a ``base`` holds what differs from the recipe of that name; its group ``scratch`` what differs where a
    spiking network learns from scratch, which counts if that is asked for. Settings of another ``kind`` are read the
    same way, those that come with the package from another ``package``.

    Raises:
        UserError: there is none, its YAML is broken, or a key or value in it is wrong.
    """
    values, where = recipe_values(name, package=package, kind=kind)
    from_scratch = values.pop("scratch", {})
    if not isinstance(from_scratch, dict):
        raise UserError(f"{where}: scratch is a group of settings, not {_SHORT.repr(from_scratch)}")
    # checked wherever the recipe is read, also where it does not count
    changed = validate(model, merge(merge(values, from_scratch), changes), where)
    return changed if scratch else validate(model, merge(values, changes), where)


def recipe_values(name: str, *, package: str = RECIPES, kind: str = "recipe") -> tuple[dict[str, Any], str]:
    """Return what a recipe and the one that it is based on say, unchecked, and what to call it in messages.

    Raises:
        UserError: there is none, or its YAML is broken.
    """
    shipped = recipe_names(package)
    if name in shipped:
        text, where = (resources.files(package) / f"{name}.yaml").read_text(encoding="utf-8"), name
    else:
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise UserError(f"unknown {kind} {name!r}{did_you_mean(name, shipped)}")
        try:
            text, where = path.read_text(encoding="utf-8"), name
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or "not text"
            raise UserError(f"cannot read the {kind} {name}: {problem}") from error
    values = dict(_parse(text, where))
    if (base := values.pop("base", None)) is not None:
        if not isinstance(base, str) or base not in shipped or base == name:
            raise UserError(f"{where}: unknown base {_SHORT.repr(base)}{did_you_mean(str(base), shipped)}")
        values = merge(recipe_values(base, package=package, kind=kind)[0], values)
    return values, where


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with the changes put in, groups of fields one by one."""
    merged = dict(values)
    for key, change in changes.items():
        before = merged.get(key)
        groups = isinstance(before, Mapping) and isinstance(change, Mapping)
        merged[key] = merge(before or {}, change) if groups else change
    return merged


def validate(model: type[Model], values: dict[str, Any], where: str) -> Model:
    """Return the typed object.

    Raises:
        UserError: the first wrong key or value, with the nearest valid name.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, model)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one line for the first problem: where it is, what is wrong, what is near."""
    problem = error.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"unknown key {quoted('.'.join(path))}{did_you_mean(path[-1], _fields(model, path[:-1]))}"
    if "error" in problem.get("ctx", {}):
        return str(problem["ctx"]["error"])
    name = ".".join(path) or "the recipe"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name}: {message}" + ("" if problem["type"] == "missing" else f", not {_SHORT.repr(problem['input'])}")


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        inner = model.model_fields[part].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return list(model.model_fields)


@functools.cache  # one command reads the shipped recipes again and again
def _parse(text: str, where: str) -> Mapping[str, Any]:
    try:
        # no tags, YAML 1.2 numbers (1e-4 is one), and an error for a key given twice
        values = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        line = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}{line}: not valid YAML: {reason}") from error
    except RecursionError as error:
        raise UserError(f"{where}: not valid YAML: nested too deeply") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: a recipe is a mapping of keys to values, such as 'env: CartPole-v1'")
    return values


def check_device(name: str) -> str:
    """Return the name of a device: auto, cpu, cuda or cuda:NUMBER.

    Raises:
        UserError: it is another name, or this machine has no such device.
    """
    if name == "auto":
        return name
    import torch  # not above: environments, which have no need of it, read their settings here too

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: choose auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"no device {name!r} on this machine: choose auto or cpu")
    return name
