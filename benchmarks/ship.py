"""Put the agents of a finished run into ``agents/zoo``, with a card that says how they play.

usage: python benchmarks/ship.py RUN NAME "snnrl train ..." [--stages ann,T5,T1] [--commit REVISION]

The card, ``summary.json``, is like a run's: `snnrl eval NAME --T 1 --episodes 30` plays the episodes that it tells of.
Of an Atari agent it also tells those with 1 % random actions, and those under the protocol v5.
"""

import argparse
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from snnrl.agents.evaluate import episode_seeds, evaluate
from snnrl.agents.library import Opened, open_agent
from snnrl.envs import games
from snnrl.files import write_json
from snnrl.runs import RunFolder

ZOO = Path(__file__).parent.parent / "agents" / "zoo"
EPISODES = 30


def played(opened: Opened, epsilon: float = 0.0) -> dict[str, Any]:
    """Return the figures of the card's episodes."""
    seeds = episode_seeds(0, "report", EPISODES)
    return evaluate(opened.agent, opened.env_id, seeds, env_kwargs=opened.env_kwargs, epsilon=epsilon).as_dict()


def stage(path: Path, T: int | None) -> dict[str, Any]:
    """Return a stage's part of the card."""
    opened = open_agent(str(path))
    found = {"name": path.stem, "T": T, "agent": path.name, **played(opened)}
    if opened.env_id in games():
        under_v5 = open_agent(str(path), protocol="v5")
        found["also"] = [
            {"protocol": "v4", "epsilon": 0.01, **played(opened, 0.01)},
            {"protocol": "v5", "epsilon": 0.0, **played(under_v5)},
        ]
    return found


def main() -> None:
    """Write the card and copy the agents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("command", help="that makes the run again")
    parser.add_argument("--stages", default="ann,T5,T1")
    parser.add_argument("--commit", help="that the run was made with; default: the newest")
    given = parser.parse_args()
    summary = RunFolder(given.run).summary()
    stages = {one["name"]: one for one in summary["stages"]}
    newest = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    recipe = summary["recipe"]
    card = {
        "description": f"{recipe['env']}: an ordinary network and spiking ones, T = 1 last",
        "command": given.command,
        "commit": given.commit or newest.strip(),
        "hours": round(summary["minutes"] / 60, 2),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU; {summary['threads']} threads",
        "seed": summary["seed"],
        "env_kwargs": summary.get("env_kwargs", {}),
        "recipe": recipe,
        "stages": [stage(given.run / stages[name]["agent"], stages[name]["T"]) for name in given.stages.split(",")],
    }
    folder = ZOO / given.name
    for one in card["stages"]:
        opened = open_agent(str(given.run / one["agent"])).agent
        opened.policy.optimizer.state.clear()
        (folder / one["agent"]).parent.mkdir(parents=True, exist_ok=True)
        opened.save(folder / one["agent"], exclude=["_last_obs"])
        print(
            one["name"], f"{one['reward_mean']:.1f} +- {one['reward_std']:.1f}", (folder / one["agent"]).stat().st_size
        )
    write_json(folder / "summary.json", card)


if __name__ == "__main__":
    main()
