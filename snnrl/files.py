"""Files and bytes that are not to be trusted: atomic writes, strict JSON, pickles read as data, errors of one line."""

import json
import math
import os
import pickletools
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snnrl.errors import UserError

MIB = 1024**2
MAX_JSON_BYTES = 16 * MIB
MAX_JSON_DEPTH = 64
MAX_PICKLE_OPCODES = 100_000
_LITERALS = re.compile(
    r"NONE|BININT[12]?|LONG[14]|BINFLOAT|(SHORT_)?BINUNICODE|(SHORT_)?BINBYTES|BINUNICODE8|BINBYTES8|BYTEARRAY8"
)
_FRESH: dict[str, Callable[[], Any]] = {
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
# How many values an opcode takes off the stack; of the marked ones, how many below the mark.
_OPERANDS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 2, "SETITEM": 3, "STACK_GLOBAL": 2}
_OPERANDS |= {"REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "BUILD": 2}
_MARKED_OPERANDS = {"TUPLE": 0, "FROZENSET": 0, "APPENDS": 1, "ADDITEMS": 1, "SETITEMS": 1}


def quoted(name: object) -> str:
    """Return a name or path in quotes on one line, shortened in the middle if it is longer than 200 characters."""
    text = str(name)
    return repr(text if len(text) <= 200 else f"{text[:98]}...{text[-98:]}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters, or the error's kind if it has none."""
    lines = str(error).strip().splitlines()
    return "".join(c if c.isprintable() else " " for c in lines[0][:200]) if lines else type(error).__name__


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace a file in one step: after an error or a crash it holds the old bytes or the new ones, never a mixture.

    Raises:
        UserError: the folder is missing or not writable, the path is a folder, or the disk is full.
    """
    destination = Path(path)
    temporary = destination.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, destination)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_folder(destination.parent)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise UserError(f"cannot write {quoted(path)}: {problem}; choose a writable folder with free space") from error


def _flush_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder; there the rename itself is durable
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes.

    Raises:
        UserError: the file is missing, a folder, a device, unreadable or larger than ``most``.
    """
    check_regular_file(path)
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UserError(f"cannot read {quoted(path)}: {error.strerror}; check the file's permissions") from error
    if len(data) > most:
        raise UserError(f"cannot read {quoted(path)}: larger than {most} bytes; check that it is the file you meant")
    return data


def check_regular_file(path: str | Path) -> None:
    """Raise UserError unless the path leads to a regular file; a pipe or a device would block or never end."""
    try:
        file = Path(path)
        if file.is_file():
            return
        problem = "it is a folder" if file.is_dir() else "not a regular file" if file.exists() else "no such file"
    except (OSError, ValueError) as error:
        problem = first_line(error)
    raise UserError(f"cannot read {quoted(path)}: {problem}; check the path")


def to_json(value: Any, where: str) -> bytes:
    """Return canonical JSON: keys sorted, two spaces of indent, ASCII, a newline at the end, no NaN or infinity.

    Raises:
        UserError: a number is NaN or infinite.
    """
    try:
        return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
    except ValueError as error:
        raise UserError(f"cannot write {where}: {first_line(error)}; check the values for NaN and infinity") from error


def parse_json(data: bytes, where: str, *, finite: bool = True) -> Any:
    """Return the value of a JSON text of at most 16 MiB and 64 levels whose objects repeat no key.

    Args:
        finite: Refuse NaN and infinity, also as a literal too large for a float; they are not JSON.

    Raises:
        UserError: the text breaks one of these rules.
    """
    try:
        if len(data) > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES // MIB} MiB")
        hooks: dict[str, Any] = {"parse_constant": _finite, "parse_float": _finite} if finite else {}
        value = json.loads(data, object_pairs_hook=_without_repeats, **hooks)
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise UserError(
            f"cannot read {where}: not valid JSON: {problem}; restore the file or write it again"
        ) from error
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {quoted(key)} appears twice")
        result[key] = value
    return result


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        nested = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as canonical JSON (see ``to_json``), atomically.

    Raises:
        UserError: a number is NaN or infinite, or the file cannot be written.
    """
    write_atomically(path, to_json(value, quoted(path)))


def read_json(path: str | Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: the file is missing, not valid JSON, too large or too deeply nested.
    """
    return parse_json(read_bytes(path, MAX_JSON_BYTES), quoted(path))


@dataclass(eq=False, repr=False)
class Inert:
    """What a pickle asks to import (``module.name``) or to call (``module.name()``), recorded and never acted upon."""

    name: str
    arguments: Any = None
    state: Any = None


def read_pickle_as_data(content: bytes) -> Any:
    """Return what a pickle of protocol 2 to 5 describes, as plain values and ``Inert`` records, without unpickling it.

    Sets become lists, and only the text keys of a dict are kept. Nothing is imported and nothing is called.

    Raises:
        ValueError, or another built-in exception that garbled bytes provoke.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        name = opcode.name
        if count >= MAX_PICKLE_OPCODES:
            raise ValueError(f"more than {MAX_PICKLE_OPCODES} pickle opcodes")
        if _LITERALS.fullmatch(name):
            stack.append(argument)
        elif name in _FRESH:
            stack.append(_FRESH[name]())
        elif name in _OPERANDS or name in _MARKED_OPERANDS:
            size = _OPERANDS[name] if name in _OPERANDS else len(stack) - marks.pop() + _MARKED_OPERANDS[name]
            if not 0 <= size <= len(stack):
                raise ValueError("the pickle takes more than it has")
            items = stack[len(stack) - size :]
            del stack[len(stack) - size :]
            stack.append(_combine(name, items))
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_combine("STACK_GLOBAL", str(argument).split(" ", 1)))
        elif name == "STOP":
            return stack[-1]
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"unexpected pickle opcode {name}")
    raise ValueError("the pickle has no end")


def _combine(opcode: str, items: list[Any]) -> Any:
    target = items[0] if items else None
    match opcode:
        case "STACK_GLOBAL":
            if not all(isinstance(part, str) and len(part) <= 200 for part in items):
                raise ValueError("the pickle imports something without a proper name")
            return Inert(".".join(items))
        case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
            callee = target.name if isinstance(target, Inert) and not target.name.endswith("()") else ""
            return Inert(f"{callee}()", items[1])
        case "BUILD":
            if isinstance(target, Inert):
                target.state = items[1]
            return target
        case "APPEND" | "APPENDS" | "ADDITEMS":
            if isinstance(target, list):
                target.extend(items[1:])
            return target
        case "SETITEM" | "SETITEMS":
            if isinstance(target, dict):  # only text keys: hashing a deeply nested tuple overflows the C stack
                target.update(
                    (key, value) for key, value in zip(items[1::2], items[2::2], strict=True) if type(key) is str
                )
            return target
        case "FROZENSET":
            return items
        case _:
            return tuple(items)


def pickle_imports(content: bytes, most_opcodes: int) -> set[str]:
    """Return what a pickle of protocol 2 asks to import, as ``module.name``, without unpickling it.

    Raises:
        ValueError: the pickle has more than ``most_opcodes`` opcodes, imports in the manner of another protocol, or is
            garbled.
    """
    names = set()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if count >= most_opcodes or opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"more than {most_opcodes} pickle opcodes, or unexpected opcode {opcode.name}")
        if opcode.name == "GLOBAL":
            names.add(str(argument).replace(" ", "."))
    return names
