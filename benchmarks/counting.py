"""What it costs to watch the network: CPU time of evaluate(), which counts spikes and operations, against play()'s."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from rows import Rows, parser

from snnrl.agents.evaluate import episode_seeds, evaluate, play
from snnrl.agents.library import open_agent
from snnrl.allocation import keep_freed_memory


class Contest(NamedTuple):
    """A shipped agent, and how much it plays in a round."""

    agent: str
    episodes: int
    most_steps: int


CONTESTS = (
    Contest("cartpole-state/T1", 20, 500),
    Contest("cartpole-state/T5", 20, 500),
    Contest("cartpole/T1", 20, 500),
    Contest("cartpole/T5", 20, 500),
    Contest("pong/T1", 8, 2000),
    Contest("pong/T5", 8, 2000),
)


def seconds(action: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    """Return the processor time of a call: other programs beside it do not count."""
    start = time.process_time()
    action(*args, **kwargs)
    return time.process_time() - start


def main() -> None:
    """Let both take turns on equal episodes, and print the medians; a ratio of 1 is watching for nothing."""
    options = parser(__doc__, rounds=7, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows = Rows(options.threads)
    for contest in CONTESTS:
        opened = open_agent(contest.agent, device="cpu")
        seeds = episode_seeds(0, "report", contest.episodes)
        kwargs = {"env_kwargs": opened.env_kwargs, "most_steps": contest.most_steps}
        measured: dict[Callable[..., Any], list[float]] = {evaluate: [], play: []}
        play(opened.agent, opened.env_id, seeds, **kwargs)
        for number in range(options.rounds):
            for action in (evaluate, play) if number % 2 else (play, evaluate):
                measured[action].append(seconds(action, opened.agent, opened.env_id, seeds, **kwargs))
        ours, theirs = measured[evaluate], measured[play]
        best = {"best": round(min(ours), 3), "peer_best": round(min(theirs), 3)}
        name = f"evaluate(), {contest.agent}, {contest.episodes} episodes of at most {contest.most_steps} steps"
        rows.add(name, statistics.median(ours), "s", "play()", statistics.median(theirs), **best)
    rows.write(options.output)


if __name__ == "__main__":
    main()
