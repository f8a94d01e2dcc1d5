"""``snnrl list``: recipes, environments and shipped agents."""

from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from snnrl.agents.library import shipped_agents
from snnrl.agents.settings import Settings
from snnrl.arguments import parse
from snnrl.config import recipe_names
from snnrl.display import Display, print_json
from snnrl.envs import ENVIRONMENTS, games


class ListOptions(Settings):
    """Show what there is by name."""

    kind: tyro.conf.Positional[Literal["all", "recipes", "envs", "agents"]] = "all"
    """Everything, or one kind only."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print everything as one JSON object on the last line of stdout."""


def listing(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parse(ListOptions, arguments, "list")
    everything: dict[str, dict[str, str]] = {
        "recipes": recipe_names(),
        "envs": {
            **ENVIRONMENTS,
            "CartPole-v1": "and every other gymnasium environment with discrete actions",
            "pong": f"and all {len(games())} games of the Arcade Learning Environment: {', '.join(games())}",
        },
        "agents": shipped_agents(),
    }
    chosen = {kind: names for kind, names in everything.items() if options.kind in ("all", kind)}
    display = Display(options.as_json)
    for kind, names in chosen.items():
        display.table(kind, ["name", ""], list(names.items()))
    if options.as_json:
        print_json(chosen)
    return 0
