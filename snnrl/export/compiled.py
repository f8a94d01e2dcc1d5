"""Compile an exported snnrl_agent.c, call it, and compare it with what Python expects: ``python check.py``.

Needs numpy and a C compiler alone: an export holds a copy of this file.
"""

import ctypes
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror")


def compiler() -> str:
    """Return the path of the C compiler: that of the variable CC, else cc, gcc or clang.

    Raises:
        RuntimeError: there is none.
    """
    if chosen := os.environ.get("CC"):
        if found := shutil.which(chosen):
            return found
        raise RuntimeError(f"CC={chosen} is no program: let CC name a C compiler, or unset it")
    if found := next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None):
        return found
    raise RuntimeError("there is no C compiler: install gcc or clang, or let CC name one")


class Compiled:
    """The agent in the folder ``source`` as a shared library.

    Raises:
        RuntimeError: there is no compiler, or it refuses the code.
    """

    def __init__(self, source: Path, flags: Sequence[str] = ("-O2",), command: str | None = None) -> None:
        command = command or compiler()
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "agent.so"
            words = [command, *STRICT, *flags, "-DSNNRL_TRACE", "-shared", "-fPIC", "-o", str(library)]
            done = subprocess.run([*words, str(source / "snnrl_agent.c")], capture_output=True, text=True, check=False)
            if done.returncode or not library.exists():
                why = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
                raise RuntimeError(f"{command} refuses snnrl_agent.c: {why}")
            self._library = ctypes.CDLL(str(library))
        header = (source / "snnrl_agent.h").read_text()
        sizes = {name: int(size) for name, size in re.findall(r"#define SNNRL_(\w+) (\d+)", header)}
        self._of_bytes = "typedef uint8_t snnrl_input;" in header
        self.q_values = self._array("snnrl_q_values", ctypes.c_float, sizes["ACTIONS"])
        self.spikes = self._array("snnrl_spikes", ctypes.c_uint32, sizes["LAYERS"] - 1)
        self.additions = self._array("snnrl_additions", ctypes.c_uint32, sizes["LAYERS"])
        self.trace = self._array("snnrl_trace", ctypes.c_uint8, sizes["NEURONS"])

    def _array(self, name: str, kind: Any, size: int) -> NDArray[Any]:
        """Return what the latest decision left in a variable: it changes with every one."""
        return np.ctypeslib.as_array((kind * size).in_dll(self._library, name))

    def act(self, observation: NDArray[Any]) -> int:
        """Return the action for one observation."""
        numbers = np.ascontiguousarray(observation, np.uint8 if self._of_bytes else np.float32)
        return int(self._library.snnrl_act(numbers.ctypes.data_as(ctypes.c_void_p)))


def expected(**arrays: NDArray[Any] | float) -> bytes:
    """Return the content of ``expected.npz``.

    Observations with their Q-values and numbers of spikes by layer, and the ``tolerance`` of a Q-value.
    """
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def compare(source: Path) -> tuple[str, bool]:
    """Compare the agent in a folder with its ``expected.npz``; return what was found, and whether they are the same.

    An action is the same if no other has a Q-value that is larger by more than the tolerance.

    Raises:
        RuntimeError: there is no compiler, or it refuses the code.
    """
    expected = np.load(source / "expected.npz", allow_pickle=False)
    agent = Compiled(source)
    tolerance = float(expected["tolerance"])
    actions = spikes = 0
    largest = 0.0
    rows = (expected[name] for name in ("observations", "q_values", "spikes"))
    for observation, q_values, sent in zip(*rows, strict=True):
        actions += q_values[agent.act(observation)] < q_values.max() - tolerance
        spikes += not np.array_equal(agent.spikes, sent)
        largest = max(largest, float(np.abs(agent.q_values - q_values).max()))
    found = (
        f"{len(expected['observations'])} observations: {actions} actions differ, the numbers of spikes of {spikes}, "
        f"Q-values by at most {largest:.2g} (allowed: {tolerance:.2g})"
    )
    return found, not actions and not spikes and largest <= tolerance


def main() -> int:
    """Say how the agent beside this file compares; return 1 if it is another, 2 if it cannot be compiled."""
    try:
        found, same = compare(Path(__file__).parent)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    print(found)
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
