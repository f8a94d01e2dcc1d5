"""The command line: ``snnrl train | eval | convert | play | list``."""

import sys
from collections.abc import Callable, Sequence

from snnrl.commands.convert import convert
from snnrl.commands.evaluate import evaluate
from snnrl.commands.listing import listing
from snnrl.commands.play import play
from snnrl.commands.train import train
from snnrl.errors import UserError, did_you_mean

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (train, "RECIPE: an ordinary DQN, its spiking conversion, and T lowered stage by stage"),
    "eval": (evaluate, "AGENT: reward, spike rates and energy over greedy episodes, at one T or several"),
    "convert": (convert, "AGENT.zip: turn an agent trained with stable-baselines3's DQN into a spiking one"),
    "play": (play, "AGENT: write a video of greedy episodes"),
    "list": (listing, "recipes, environments and shipped agents"),
}

USAGE = "usage: snnrl COMMAND ...\n\n" + "\n".join(f"  {name:<8} {text}" for name, (_, text) in COMMANDS.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    0 done, 2 the user's mistake, 3 a gate was not met (the best agent is kept), 130 interrupted and resumable.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(f"{USAGE}\n\nsnnrl COMMAND --help shows a command's options.")
        return 0 if words else 2
    name, rest = words[0], words[1:]
    try:
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}{did_you_mean(name, COMMANDS)}")
        return COMMANDS[name][0](rest)
    except UserError as error:
        print(f"snnrl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("snnrl: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
