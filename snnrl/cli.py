"""The command line, ``snnrl COMMAND ...``."""

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from snnrl.errors import UserError, did_you_mean

COMMANDS = {
    "train": ("train", "RECIPE: an ordinary network, its spiking conversion, and T lowered stage by stage"),
    "eval": ("evaluate", "AGENT: reward or accuracy, spike rates and energy, at one T or several"),
    "convert": ("convert", "AGENT.zip: turn an agent trained with stable-baselines3's DQN into a spiking one"),
    "energy": ("energy", "AGENT: operations and energy of a decision, layer by layer, against the ordinary network's"),
    "robustness": (
        "robustness",
        "AGENT: reward against noise, lost spikes, flipped bits and fewer bits, with the ordinary network's",
    ),
    "report": ("report", "RUN...: a page on a run, or on several of one recipe with different seeds"),
    "table": ("table", "NAME: a table of arXiv 2110.05929 on images, the paper's figures beside those of runs here"),
    "figure": ("figure", "NAME: a figure of arXiv 2110.05929 on images, from the same runs"),
    "play": ("play", "AGENT: write a video of greedy episodes"),
    "export": ("export", "AGENT: C99, ONNX or NIR of an agent at T = 1, for machines without Python"),
    "list": ("listing", "recipes, environments and shipped agents"),
}
"""What a user calls a command, the module and function that are it, and what it is for."""

NO_MEMORY = re.compile("can't allocate memory|CUDA out of memory")
"""What torch says when memory ends; on a CPU its error is of no kind of its own."""

USAGE = "usage: snnrl COMMAND ...\n\n" + "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    0 done, 2 the user's mistake, 3 a gate was not met (the best agent is kept), 130 interrupted and resumable.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in ("-h", "--help"):
        print(f"{USAGE}\n\nsnnrl COMMAND --help shows a command's options.")
        return 0
    try:
        if not words:
            raise UserError(f"usage: snnrl {'|'.join(COMMANDS)} ...; see snnrl --help")
        if words[0] not in COMMANDS:
            raise UserError(f"unknown command {words[0]!r}{did_you_mean(words[0], COMMANDS)}")
        if words[0] != "train" and "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE") != "1":
            raise UserError(f"torchrun is for snnrl train, {words[0]} runs in one process: leave torchrun out")
        name = COMMANDS[words[0]][0]
        # imported here, so that an interrupt while torch is loading ends like any other
        code: int = getattr(import_module(f"snnrl.commands.{name}"), name)(words[1:])
        return code
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:  # tyro has printed a command's help
        return int(stop.code or 0)
    except (UserError, OSError, MemoryError) as error:
        return _end(f"{type(error).__name__}: {error}" if isinstance(error, MemoryError) else str(error), 2)
    except RuntimeError as error:
        if NO_MEMORY.search(str(error)) is None:
            raise
        return _end("out of memory: lower the batch size, or what a recipe does at once such as conversion.images", 2)
    except KeyboardInterrupt as stop:
        return _end(str(stop) or "interrupted", 130)


def _end(message: str, code: int) -> int:
    print("snnrl:", " ".join(message.splitlines()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
