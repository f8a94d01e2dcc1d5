"""What the recipes of all kinds of agents have in common."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from snnrl.config import check_device
from snnrl.errors import UserError, did_you_mean
from snnrl.networks import WINDOWS
from snnrl.networks.window import DEPTHS
from snnrl.neurons import NEURONS, Hoyer
from snnrl.neurons.window import THETA
from snnrl.reduction import MOST_STEPS, check_schedule, schedule


def _known_neuron(name: str) -> str:
    if name not in NEURONS:
        raise UserError(f"neuron {name!r} is not known{did_you_mean(name, NEURONS)}")
    return name


Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Percentile = Annotated[float, Field(gt=0, le=100)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Device = Annotated[str, AfterValidator(check_device)]
ScratchKind = Literal["hoyer-vgg6", "hoyer-vgg16", "hoyer-resnet20", "window-conv", "window-lstm"]
"""Kinds of network of :data:`snnrl.networks.FROM_SCRATCH`."""
Neuron = Annotated[str, AfterValidator(_known_neuron)]
"""A kind of :data:`snnrl.neurons.NEURONS`."""


class Settings(BaseModel):
    """A frozen group of fields; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Windows(Settings):
    """What the networks window-conv and window-lstm are made with (arXiv 2401.10843)."""

    depths: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=4)] = DEPTHS
    """Blocks of each stage."""
    dilated: bool = True
    """Whether the windows of every other block overlap."""
    merge: Literal["omega", "mean"] = "omega"
    """How two potentials become one that is handed to the next window."""
    theta: Annotated[float, Field(gt=0)] = THETA
    """Radian factor of omega."""
    binary: Literal["half", "bernoulli"] = "half"
    """What becomes 1 when nothing is learnt: values above a half, or by chance, as in training."""

    @model_validator(mode="after")
    def _possible(self) -> "Windows":
        if self.merge == "mean" and self.theta != THETA:
            raise UserError("network.window.theta is the factor of omega, the mean has none: leave one of them out")
        return self


def options_of(kind: str, windows: Windows) -> dict[str, Any]:
    """Return the options that a kind of network is made with beside those that all have."""
    return windows.model_dump() if kind in WINDOWS else {}


class StagedRecipe(Settings):
    """One experiment, from the ordinary network to the spiking one at ``reduce_to`` timesteps."""

    T: Steps = 5
    """Timesteps of the first spiking network."""
    reduce_to: Steps = 1
    """Timesteps of the last one."""
    step: Positive = 1
    """How much T falls from stage to stage."""
    schedule: tuple[Steps, ...] | None = None
    """The stages' T by hand, such as 5,3,1; instead of T, reduce_to and step."""
    neuron: Neuron = "lif"
    """lif (leaky integrate-and-fire, the leak trained), if (without leak), hoyer (its threshold follows the
    currents), hoyer-fixed (it does not: the ablation), or binary (0 and 1 by sign, for T = 1)."""
    seed: Seed = 0
    """Of everything that is drawn: weights, order of the data, exploration."""
    device: Device = "auto"
    """cpu, cuda, or auto."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the products while networks learn; bf16 is autocast's. What is measured is always computed in fp32."""

    @field_validator("schedule")
    @classmethod
    def _falls(cls, steps: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if steps is not None:
            check_schedule(steps)
        return steps

    @model_validator(mode="after")
    def _lowers(self) -> "StagedRecipe":
        if self.reduce_to > self.T:
            raise UserError(f"reduce_to {self.reduce_to} is above T {self.T}: give 1 <= reduce_to <= T")
        return self

    @property
    def steps(self) -> tuple[int, ...]:
        """The stages' T."""
        return self.schedule or schedule(self.T, self.reduce_to, self.step)

    def check_kinds(self, kind: str, windows: Windows, hoyer_penalty: float) -> None:
        """Raise UserError if a kind of network, or its neurons, cannot do what is asked for."""
        if kind not in WINDOWS and windows != Windows():
            raise UserError(f"network.window is of {' and '.join(WINDOWS)}, not of {kind}: leave it out")
        if hoyer_penalty and not issubclass(NEURONS[self.neuron], Hoyer):
            raise UserError(
                f"hoyer_penalty is for hoyer neurons, neuron is {self.neuron}: give hoyer, or a penalty of 0"
            )
        one_step = {f"network.kind {kind}": kind in WINDOWS, f"neuron {self.neuron}": NEURONS[self.neuron].one_step}
        for name in filter(one_step.get, one_step):
            if self.steps != (1,):
                raise UserError(f"{name} decides in one timestep: give T 1, and no other schedule than 1")
