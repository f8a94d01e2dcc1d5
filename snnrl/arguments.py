"""Command-line flags from typed objects, by tyro; its errors condensed to one line."""

import contextlib
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

import tyro
from pydantic import BaseModel, ValidationError

from snnrl.config import explain
from snnrl.errors import UserError, did_you_mean

Options = TypeVar("Options", bound=BaseModel)


def parse(options: type[Options], arguments: Sequence[str], command: str, default: Options | None = None) -> Options:
    """Return the options given by ``arguments``; ``--help`` prints every field and exits.

    Lists may be written with commas: ``--schedule 5,3,1``.

    Raises:
        UserError: a flag is unknown, or its value wrong.
    """
    words = _split_lists(arguments, set(_list_flags(options)))
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            if default is None:
                return tyro.cli(options, args=words, prog=f"snnrl {command}")
            return tyro.cli(options, args=words, prog=f"snnrl {command}", default=default)
    except SystemExit as stop:
        if stop.code in (0, None):
            sys.stderr.write(errors.getvalue())
            raise
        message = condense(errors.getvalue())
        invalid = _cause(stop)
        if invalid is not None:  # tyro names the group that the wrong value is in, pydantic the value
            group = re.match(r"Error parsing ([a-z_.]+):", message)
            message = (f"{group[1]}." if group else "") + explain(invalid, options)
        raise UserError(f"{command}: {message}; see --help") from stop


def _list_flags(options: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Return the names of the fields that take several numbers, those of inner groups included."""
    for name, field in options.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        if any(get_origin(kind) is tuple for kind in kinds):
            yield f"{prefix}{name}"
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _list_flags(field.annotation, f"{prefix}{name}.")


def _split_lists(arguments: Sequence[str], lists: set[str]) -> list[str]:
    """Split the values of these flags at commas and spaces, whether they follow the flag or its ``=``."""
    words: list[str] = []
    inside = False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if argument.startswith("--"):
            inside = flag[2:].replace("-", "_") in lists
        if inside and equals:
            words += [flag, *re.findall(r"[^,\s]+", value)]
        elif inside and not argument.startswith("--"):
            words += re.findall(r"[^,\s]+", argument)
        else:
            words.append(argument)
    return words


def _cause(error: BaseException | None) -> ValidationError | None:
    while error is not None and not isinstance(error, ValidationError):
        error = error.__context__
    return error


def condense(box: str) -> str:
    """Return the message of tyro's framed error, with its first suggestion, on one line."""
    lines = [line.strip("│╭╰╮╯ ") for line in box.splitlines()[1:]]
    rules = [number for number, line in enumerate(lines) if line and not line.strip("─-")]
    if rules and rules[0] == 0:  # without the characters of a frame its title is ruled off
        lines, rules = lines[1:], [number - 1 for number in rules[1:]]
    end = rules[0] if rules else len(lines)
    message, rest = " ".join(line for line in lines[:end] if line), " ".join(lines[end:])
    message = re.sub(r" Got errors:.*| Expected 1 values\.", "", message).rstrip(".")
    message = re.sub(r"no type matching (.*) could be instantiated from \[(.*)\]$", r"not \1 but \2", message)
    message = re.sub(r"^Error parsing (-\S+)", r"\1", message)
    near = re.search(r"(?:Perhaps you meant|Similar arguments\S*):? (--[\w.-]+)", rest)
    choice = re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)$", message)
    if choice:
        known = re.findall(r"'(.*?)'", choice[3])
        return f"{choice[2]} {choice[1]!r} is none of {', '.join(known)}{did_you_mean(choice[1], known)}"
    return message + (f"; did you mean {near[1]}?" if near else "")


def flags(values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the flags that turn ``defaults`` into ``values``, group by group; what has no default is left out."""
    words: list[str] = []
    for key, default in defaults.items():
        value, name = values.get(key, default), f"{prefix}{key}".replace("_", "-")
        if isinstance(default, Mapping):
            words += flags(value, default, f"{prefix}{key}.")
        elif value != default and isinstance(value, bool) and isinstance(default, bool):
            group, dot, last = name.rpartition(".")
            words.append(f"--{name}" if value else f"--{group}{dot}no-{last}")
        elif value != default:
            words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


def positional(
    options: type[BaseModel], arguments: Sequence[str], command: str, what: str, known: Iterable[str] = ()
) -> tuple[str, list[str]]:
    """Split off the first argument, what the command is about.

    Raises:
        UserError: it is missing; the names that could stand there are given.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], list(arguments[1:])
    if arguments and arguments[0] in ("-h", "--help"):
        parse(options, ["--help"], f"{command} {what}")
    names = ", ".join(sorted(known))
    hint = f"; {what} is a path or one of {names}" if names else ""
    raise UserError(f"usage: snnrl {command} {what} [options]{hint}")
