"""The paper's tables and figures on images, by runs that take a second each."""

from typing import Any

import pytest

import snnrl.commands.figure
import snnrl.commands.table
from snnrl.agents.classifier.paper import Paper, read_paper

TINY: dict[str, Any] = {
    "network": {"width": 0.05},
    "ann": {"epochs": 1, "batch_size": 64, "learning_rate": 0.05, "schedule": "one-cycle", "dropout": 0.0},
    "reduction": {"epochs": 1, "batch_size": 64, "schedule": "one-cycle", "dropout": 0.0},
    "conversion": {"images": 64},
}


def use_tiny(monkeypatch: pytest.MonkeyPatch) -> Paper:
    """Let the commands train tiny networks at the small budget."""
    paper = read_paper()
    figure = paper.figures.accuracy_vs_T.model_copy(update={"converted": (1, 4)})
    figures = paper.figures.model_copy(update={"accuracy_vs_T": figure})
    paper = paper.model_copy(update={"budgets": {"small": {"all": TINY}, "full": {}}, "figures": figures})
    for command in (snnrl.commands.table, snnrl.commands.figure):
        monkeypatch.setattr(command, "read_paper", lambda: paper)
    return paper
