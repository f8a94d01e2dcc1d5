"""The cart-pole of docs/edge: decision times, seconds balanced, and the emulated microcontroller; chrt needs root."""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from snnrl.cli import main as snnrl

EDGE = Path(__file__).parent.parent / "docs" / "edge"
QEMU = (
    *("qemu-system-arm", "-M", "netduino2", "-icount", "shift=0", "-semihosting"),
    *("-nographic", "-monitor", "none", "-serial", "none", "-kernel"),
)


def output(*words: str | Path) -> str:
    """Return what a command writes."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def built(source: Path, out: Path, *options: str) -> Path:
    """Return the folder of a CMake project's programs."""
    output("cmake", "-S", source, "-B", out, *options)
    output("cmake", "--build", out)
    return out


def decision_times(*words: str | Path) -> list[dict[str, float]]:
    """Return a row for each seed: microseconds of a decision and, if paced, from a deadline to waking up."""
    _, names, *rows = output(*words).splitlines()
    _, _, _, *columns = names.split()
    columns = [*columns[:6], *(f"late {name}" for name in columns[6:])]
    found = []
    for row in rows:
        seed, seconds, _, *numbers = row.split()
        measured = dict(zip(columns, map(float, numbers), strict=True))
        found.append({"seed": int(seed), "seconds": float(seconds)} | measured)
    return found


def balanced(sweep: Path) -> list[dict[str, float]]:
    """Return seconds balanced, mean and shortest, by period, noise and delay."""
    _, names, *rows = output(sweep).splitlines()
    delays = [int(delay) for delay in re.findall(r"(\d+) ms", names)]
    found = []
    for row in rows:
        period, noise, *cells = row.replace(" ms", " ").split()
        for delay, cell in zip(delays, re.findall(r"[\d.]+/\s*[\d.]+", " ".join(cells)), strict=True):
            mean, shortest = map(float, cell.split("/"))
            setting = {"period": int(period), "noise": float(noise), "delay": delay}
            found.append(setting | {"mean": mean, "shortest": shortest})
    return found


def numbers(text: str) -> dict[str, int]:
    """Return what the firmware prints."""
    return {name: int(number) for name, number in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}


def size(file: Path) -> dict[str, int]:
    """Return bytes of code and constants, of variables with values, and of other variables and the stack."""
    text, data, bss = output("arm-none-eabi-size", file).splitlines()[1].split()[:3]
    return {"text": int(text), "data": int(data), "bss": int(bss)}


def traced(firmware: Path, log: Path) -> int:
    """Return how many instructions qemu's trace shows in the first decision: snnrl_act and what it calls."""
    output(*QEMU, firmware, "-singlestep", "-d", "exec,nochain", "-D", log)
    functions = [line.split()[-1] for line in log.read_text().splitlines() if line.startswith("Trace")]
    start = functions.index("snnrl_act")
    return functions.index("decide", start) - start


def microcontroller(agent: Path, folder: Path) -> dict[str, Any]:
    """Return the figures of the firmware, and the trace of one decision beside what was counted for it."""
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={EDGE / 'microcontroller' / 'arm.cmake'}"
    options = (toolchain, f"-DAGENT={agent}")
    whole = built(EDGE / "microcontroller", folder / "whole", *options)
    one = built(EDGE / "microcontroller", folder / "one", *options, "-DMILLISECONDS=1") / "firmware.elf"
    (object_file,) = whole.rglob("snnrl_agent.c.obj")
    return {
        "episode": numbers(output(*QEMU, whole / "firmware.elf")),
        "firmware_bytes": size(whole / "firmware.elf"),
        "agent_bytes": size(object_file),
        "first_decision": {
            "counted": numbers(output(*QEMU, one))["instructions_per_decision_worst"],
            "traced": traced(one, folder / "log"),
        },
    }


def main() -> None:
    """Measure everything and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--machine", default="two cores of an AMD EPYC, other programs beside")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        agent = folder / "agent"
        assert snnrl(["export", "cartpole-state", "--weights", "int8", "--out", str(agent)]) == 0
        pc = built(EDGE, folder / "pc", f"-DAGENT={agent}", "-DCMAKE_C_COMPILER=gcc")
        clang = built(EDGE, folder / "clang", f"-DAGENT={agent}", "-DCMAKE_C_COMPILER=clang")
        paced = (pc / "loop", "--seeds", "3", "--paced", "1")
        result = {
            "machine": options.machine,
            "compilers": [output(name, "--version").splitlines()[0] for name in ("gcc", "clang", "arm-none-eabi-gcc")],
            "microseconds": decision_times(pc / "loop"),
            "microseconds_clang": decision_times(clang / "loop"),
            "microseconds_paced": decision_times(*paced),
            "microseconds_paced_real_time_priority": decision_times("chrt", "--fifo", "50", *paced),
            "seconds_balanced": balanced(pc / "sweep"),
            "microcontroller": microcontroller(agent, folder),
        }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
