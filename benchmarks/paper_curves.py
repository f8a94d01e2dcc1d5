"""Draw the training curves of ``cartpole-paper``: reward by episode at every stage, beside the paper's figures."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot
from tables import PAPER, seeds, stages

FIGURE = Path(__file__).parent.parent / "docs" / "cartpole-paper.png"
WINDOW = 20
"""Episodes of the running mean."""


def main() -> None:
    """Write the figure: one panel a stage, a line for the mean over seeds and a band from the worst to the best."""
    summaries = [stages(summary) for summary in seeds("cartpole-paper")]
    figure, panels = pyplot.subplots(1, len(PAPER), figsize=(11, 2.8), sharey=True, layout="constrained")
    for panel, (name, printed) in zip(panels, PAPER.items(), strict=True):
        curves = [summary[name]["episode_rewards"] for summary in summaries]
        shortest = min(map(len, curves))
        kernel = np.ones(WINDOW) / WINDOW
        smooth = np.array([np.convolve(curve[:shortest], kernel, mode="valid") for curve in curves])
        episodes = np.arange(WINDOW, shortest + 1)
        panel.fill_between(episodes, smooth.min(0), smooth.max(0), alpha=0.25, linewidth=0)
        panel.plot(episodes, smooth.mean(0), label=f"snnrl, {len(curves)} seeds")
        panel.axhline(printed, color="black", linestyle=":", label=f"paper: {printed}")
        panel.set(title="ordinary DQN" if name == "ann" else f"T = {name[1:]}", xlabel="episode")
        panel.legend(frameon=False, fontsize="small")
    panels[0].set_ylabel(f"reward, mean of {WINDOW} episodes")
    figure.savefig(FIGURE, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
