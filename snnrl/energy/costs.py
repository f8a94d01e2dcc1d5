"""Energy of single operations, in picojoules: tables in YAML, each figure with its source."""

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from snnrl.config import read_recipe, recipe_names

TABLES = "snnrl.energy.tables"


class Cost(NamedTuple):
    """What an operation costs, and who says so: ``[0.9, "Horowitz 2014"]`` in YAML."""

    pJ: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    source: Annotated[str, Field(min_length=1)]


class Operations(BaseModel):
    """The operations that are priced; what a model leaves out costs 0 and says why in ``source``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    multiply_accumulate: Cost
    """A product added to a sum."""
    accumulate: Cost
    """A weight added to a sum, because of a spike."""
    multiply: Cost
    """A potential times its leak."""
    add: Cost
    """A bias, a current or a reset added to a potential; a ReLU's comparison with zero."""
    compare: Cost
    """A potential compared with its threshold: a neuron's update."""
    weight_read: Cost
    value_read: Cost
    """A real-valued activation or pixel."""
    value_write: Cost
    spike_read: Cost
    """One bit, whether it is set or not."""
    spike_write: Cost
    potential_read: Cost
    potential_write: Cost


class CostTable(BaseModel):
    """A model of the energy of a decision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    products: Literal["rate", "events"]
    """Products of a layer with spiking input: its mean rate times all products, or those that the spikes enter."""
    operations: Operations


def cost_tables() -> dict[str, str]:
    """Return the tables that come with the package: name to what it is."""
    return recipe_names(TABLES)


def read_costs(name: str) -> CostTable:
    """Return the table with this name, or in the YAML file at this path.

    Raises:
        UserError: there is none, or an entry is missing, negative or unknown.
    """
    return read_recipe(name, CostTable, package=TABLES, kind="cost table")
