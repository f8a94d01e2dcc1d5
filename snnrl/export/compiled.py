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


def compiler() -> str | None:
    """Return the path of the C compiler: that of the variable CC, or cc, gcc or clang; None if there is none."""
    candidates = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


class Compiled:
    """The agent in the folder ``source`` as a shared library.

    Raises:
        RuntimeError: there is no compiler, or it refuses the code.
    """

    def __init__(self, source: Path, flags: Sequence[str] = ("-O2",), command: str | None = None) -> None:
        command = command or compiler()
        if command is None:
            raise RuntimeError("there is no C compiler: install gcc or clang, or let CC name one")
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "agent.so"
            words = [command, *STRICT, *flags, "-DSNNRL_TRACE", "-shared", "-fPIC", "-o", str(library)]
            done = subprocess.run([*words, str(source / "snnrl_agent.c")], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{command} refuses snnrl_agent.c: {done.stderr.strip().splitlines()[0]}")
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


def expected(**arrays: NDArray[Any]) -> bytes:
    """Return the content of ``expected.npz``: observations, actions, Q-values and numbers of spikes by layer."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def main() -> int:
    """Compare the agent beside this file with ``expected.npz``; return 1 if an action or a number of spikes differs."""
    here = Path(__file__).parent
    expected = np.load(here / "expected.npz", allow_pickle=False)
    agent = Compiled(here)
    actions = spikes = 0
    largest = 0.0
    for row, observation in enumerate(expected["observations"]):
        actions += agent.act(observation) != expected["actions"][row]
        spikes += not np.array_equal(agent.spikes, expected["spikes"][row])
        largest = max(largest, float(np.abs(agent.q_values - expected["q_values"][row]).max()))
    print(
        f"{len(expected['observations'])} observations: {actions} actions differ, the numbers of spikes of {spikes}, "
        f"Q-values by at most {largest:.2g}"
    )
    return int(actions + spikes > 0)


if __name__ == "__main__":
    sys.exit(main())
