"""The recipe of an image classifier: a line per field, with its unit and, where it has one, its source."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from snnrl.agents.settings import Percentile, Positive, ScratchKind, Settings, Share, StagedRecipe, Windows
from snnrl.errors import UserError
from snnrl.networks import WINDOWS

Rate = Annotated[float, Field(gt=0)]


class Network(Settings):
    """The classifier (arXiv 2110.05929, App. A.2.1; arXiv 2401.10843)."""

    kind: Literal["vgg6", "vgg16", "resnet20", ScratchKind] = "vgg6"
    """Of arXiv 2110.05929; hoyer-: of arXiv 2212.10170; window-: of arXiv 2401.10843, both from scratch."""
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Share of the paper's channels, and of the units of its fully connected layers."""
    hidden: tuple[Positive, ...] | None = None
    """Units of the fully connected layers before the head; None: those of the kind."""
    batch_norm: bool = True
    """Whether the ordinary network has batch-norm, which conversion folds into the weights."""
    window: Windows = Windows()


class Training(Settings):
    """How a network learns from labelled images."""

    epochs: Positive = 60
    """Passes over the training images."""
    batch_size: Positive = 64
    optimizer: Literal["SGD", "Adam"] = "SGD"
    """SGD with momentum 0.9, or Adam (AMSGrad)."""
    learning_rate: Rate = 0.01
    """The highest one."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["steps", "one-cycle"] = "steps"
    """A fifth after each of the drops; or up to the highest rate and down to nothing (arXiv 1708.07120)."""
    drops: tuple[Share, ...] = (0.45, 0.70, 0.90)
    """Shares of the epochs."""
    dropout: Share = 0.5
    """Share of activations left out, where the network has dropout."""
    spike_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Weight in the loss of a spiking network of the spikes per neuron and decision, the mean over layers."""
    hoyer_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the Hoyer measures of a batch of 128, summed over layers of hoyer neurons (arXiv 2212.10170: 1e-8)."""
    compile: bool = False
    """Run the timesteps of lif and if neurons as one kernel that torch.compile makes, at several timesteps."""
    checkpoint_every: Positive = 200
    """Batches between checkpoints."""


class Reduction(Training):
    """What a stage of a spiking network trains on: labels, and the ordinary network's answers if asked for."""

    epochs: Positive = 20
    """Of the last stage."""
    passing: Positive | None = None
    """Epochs of each stage before it; None: as many."""
    optimizer: Literal["SGD", "Adam"] = "Adam"
    learning_rate: Rate = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    drops: tuple[Share, ...] = (0.6, 0.8, 0.9)
    dropout: Share = 0.2
    distillation: Share = 0.0
    """Weight of the ordinary network's softened answers, the labels having the rest (arXiv 1503.02531)."""
    temperature: Rate = 4.0
    """By which logits are divided to soften them."""
    thresholds: Literal["lowered", "kept"] = "lowered"
    """Where T falls, thresholds that would silence a layer fall too (docs/deviations.md), or all stay (the paper)."""


class Pruning(Settings):
    """Taking away the weights of the smallest magnitude, after the last stage (arXiv 2110.05929, Sec. 5)."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the weights that are taken away; 0: no stage of pruning."""
    scope: Literal["global", "layer"] = "global"
    """The smallest of all weights, or the same share of each layer."""


class Conversion(Settings):
    """From the ordinary network to the first spiking one."""

    percentile: Percentile = 90.0
    """Of the pre-activations, for the thresholds (arXiv 2110.05929, Sec. 3)."""
    images: Positive = 512
    """Training images on which thresholds are set."""


class Gate(Settings):
    """When a stage is good enough to go on from."""

    tolerance: Share = 0.02
    """Share of the ordinary network's accuracy on the validation images that a stage may lose."""


class ImageRecipe(StagedRecipe):
    """One experiment with an image classifier, from the ordinary network to the spiking one."""

    images: Literal["cifar10", "cifar100", "mnist", "folder"]
    """The set: CIFAR's binary files, MNIST's, or a folder for each class."""
    size: Positive = 224
    """Pixels a side of the crops of images in folders."""
    network: Network = Network()
    ann: Training = Training()
    """The ordinary network's training; from scratch without a teacher, the spiking one's."""
    conversion: Conversion = Conversion()
    reduction: Reduction = Reduction()
    pruning: Pruning = Pruning()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _possible(self) -> "ImageRecipe":
        kind = self.network.kind
        self.check_kinds(kind, self.network.window, max(self.ann.hoyer_penalty, self.reduction.hoyer_penalty))
        if kind in WINDOWS and self.pruning.share:
            raise UserError(f"network.kind {kind} has thresholds that cannot be lowered for pruning: give share 0")
        return self
