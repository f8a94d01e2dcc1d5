"""Command-line flags from typed objects, by tyro; its errors condensed to one line."""

import contextlib
import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

import tyro

from snnrl.errors import UserError

Options = TypeVar("Options")


def parse(options: type[Options], arguments: Sequence[str], command: str, default: Options | None = None) -> Options:
    """Return the options given by ``arguments``; ``--help`` prints every field and exits.

    Lists may be written with commas: ``--schedule 5,3,1``.

    Raises:
        UserError: a flag is unknown, or its value wrong.
    """
    words: list[str] = []
    for argument in arguments:
        words += argument.split(",") if re.fullmatch(r"\d+(,\d+)+", argument) else [argument]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(options, args=words, prog=f"snnrl {command}", default=default)  # type: ignore[arg-type]
    except SystemExit as stop:
        if stop.code in (0, None):
            sys.stderr.write(errors.getvalue())
            raise
        raise UserError(f"snnrl {command}: {condense(errors.getvalue())}") from stop


def condense(box: str) -> str:
    """Return the first message of tyro's framed error, with its first suggestion, on one line."""
    lines = [line.strip("│╭╰╮╯─ ").strip() for line in box.splitlines()[1:]]
    text = " ".join(line for line in lines if line)
    message = re.split(r"Argument helptext:|Perhaps you meant:|For full helptext|Similar arguments", text)[0].strip()
    message = re.sub(r"\s*(Value error, )?For further information visit \S+", "", message)
    message = re.sub(r"^Error parsing \w+: \d+ validation errors? for \w+ (?!Value)(\S+) ", r"\1: ", message)
    message = re.sub(r"^Error parsing \w+: \d+ validation errors? for \w+ ", "", message)
    message = re.sub(r" ?\[type=value_error.*\]|Value error, ", "", message)
    message = re.sub(r" ?\[type=\w+, input_value=(.*?), input_type=\w+\]", r", not \1", message).strip()
    meant = re.search(r"(?:Perhaps you meant:|Similar arguments:?) (--\S+)", text)
    return message + (f"; did you mean {meant[1]}?" if meant else "") + "; see --help"


def positional(arguments: Sequence[str], command: str, what: str, known: Iterable[str]) -> tuple[str, list[str]]:
    """Split off the first argument, what the command is about.

    Raises:
        UserError: it is missing; the names that could stand there are given.
    """
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], list(arguments[1:])
    names = ", ".join(sorted(known))
    raise UserError(f"usage: snnrl {command} {what} [options]" + (f"; {what} is a path or one of {names}" if names else ""))
