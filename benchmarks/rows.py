"""What the benchmarks share: one JSON object a row, printed as it is measured and written in the end."""

import argparse
import json
from typing import Any

from snnrl.files import write_atomically


class Rows:
    """Rows ``name, value, unit, peer, peer_value, ratio``; the ratio is value / peer_value."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lines: list[str] = []

    def add(self, name: str, value: float, unit: str, peer: str, peer_value: float, **more: Any) -> None:
        """Print one row and keep it."""
        row = {"name": name, "value": round(value, 3), "unit": unit, "peer": peer, "peer_value": round(peer_value, 3)}
        self.lines.append(json.dumps(row | {"ratio": round(value / peer_value, 3)} | more | {"threads": self.threads}))
        print(self.lines[-1], flush=True)

    def write(self, path: str | None) -> None:
        """Write all rows to a file in one step, if there is a path."""
        if path:
            write_atomically(path, "".join(f"{line}\n" for line in self.lines).encode())


def parser(description: str | None, rounds: int, threads: int) -> argparse.ArgumentParser:
    """Return the options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--rounds", type=int, default=rounds, help="measurements of each contestant")
    options.add_argument("--threads", type=int, default=threads, help="threads of torch")
    options.add_argument("--output", help="file to write the rows to, as JSON lines")
    return options
