"""Tables and figures of arXiv 2110.05929 on images as plain data: runs, budgets, and what the paper tells of them."""

from functools import reduce
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from snnrl.agents.classifier.config import ImageRecipe
from snnrl.agents.settings import Percentile, Positive, Settings, Steps
from snnrl.config import merge, read_recipe

Budget = Literal["small", "full"]
"""A quarter of the channels and a few epochs; or the paper's networks and schedule."""


class Plan(Settings):
    """A run: a recipe, what it begins with, and what is changed in it."""

    recipe: str
    start: str = "ann"
    """ann, scratch, or RUN/STAGE."""
    teacher: str | None = None
    """RUN/STAGE that a network from scratch imitates."""
    thresholds_of: str | None = None
    """RUN/STAGE whose thresholds the conversion takes."""
    changes: dict[str, Any] = Field(default_factory=dict)

    @property
    def needs(self) -> list[str]:
        """The runs that must be finished before this one."""
        return [name.split("/")[0] for name in (self.start, self.teacher, self.thresholds_of) if name and "/" in name]


class Row(Settings):
    """A line of a table: the stages of a run, and the paper's accuracy in per cent of each."""

    name: str
    run: str | None = None
    """None: figures of others, which are not run."""
    paper: dict[str, float | Literal["fails"] | None]
    """By stage; None where the paper has no figure."""


class Table(Settings):
    """A table."""

    title: str
    rows: tuple[Row, ...]


class Handover(Settings):
    """Where T is lowered: the stage that hands its weights over, and the stage that takes them, both RUN/STAGE."""

    name: str
    source: str
    target: str


class Rates(Settings):
    """The figure of layers' spike rates at handovers."""

    title: str
    handovers: tuple[Handover, ...]


class Published(Settings):
    """A result that a paper tells."""

    name: str
    T: Positive
    accuracy: float
    """In per cent."""


class AccuracyAgainstT(Settings):
    """The figure of accuracy against timesteps: trained stages, conversions of the ordinary network, other papers'."""

    title: str
    trained: str
    """The run."""
    converted: tuple[Steps, ...]
    """Timesteps of the conversions."""
    percentile: Percentile
    """Of the pre-activations, for their thresholds."""
    images: dict[Budget, Positive]
    """Test images, evenly spread, that the conversions name: T = 100 takes a hundred times as long as T = 1."""
    published: tuple[Published, ...]


class Figures(Settings):
    """All figures."""

    rates: Rates
    accuracy_vs_T: AccuracyAgainstT


class Paper(Settings):
    """All tables and figures."""

    budgets: dict[Budget, dict[str, dict[str, Any]]]
    """What is changed in all recipes, and in some by their name."""
    runs: dict[str, Plan]
    tables: dict[str, Table]
    figures: Figures

    @model_validator(mode="after")
    def _complete(self) -> "Paper":
        used = {row.run for table in self.tables.values() for row in table.rows if row.run is not None}
        needed = used.union(*(plan.needs for plan in self.runs.values()))
        if missing := sorted(needed - self.runs.keys()):
            raise ValueError(f"tables: no such run: {', '.join(missing)}")
        if set(self.budgets) != set(get_args(Budget)):
            raise ValueError(f"budgets: give {', '.join(get_args(Budget))}")
        return self

    def recipe(self, run: str, budget: Budget, **fields: Any) -> ImageRecipe:
        """Return the recipe of a run at a budget, with some ``fields`` set."""
        plan = self.runs[run]
        of = self.budgets[budget]
        changes = reduce(merge, (of.get("all", {}), of.get(plan.recipe, {}), plan.changes, fields))
        return read_recipe(plan.recipe, ImageRecipe, changes)

    def in_order(self, runs: list[str]) -> list[str]:
        """Return the runs and those that they need, every one behind those it needs."""
        found: dict[str, None] = {}
        for run in runs:
            found |= dict.fromkeys([*self.in_order(self.runs[run].needs), run])
        return list(found)


def read_paper() -> Paper:
    """Return the tables that come with the package."""
    return read_recipe("paper", Paper, package="snnrl.configs.tables", kind="set of tables")
