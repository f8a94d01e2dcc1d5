"""Train little classifiers on few images, in the processes that torchrun started or in this one alone.

usage: shared_training.py FOLDER TASK...; a task is ``CASE``, ``CASE@stop`` (the second process is asked to stop after
two batches) or ``CASE@fail`` (it runs into a mistake). The first process writes what it ends with to ``CASE.zip``.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from stable_baselines3.common.logger import KVWriter, Logger
from torch import Tensor, nn

from snnrl import processes
from snnrl.agents.classifier import Classifier
from snnrl.agents.classifier.agent import Description
from snnrl.agents.classifier.config import Reduction, Training
from snnrl.agents.classifier.followers import announce, follow
from snnrl.agents.classifier.training import Epochs
from snnrl.checkpoint import write_archive
from snnrl.envs.images import ImageSet, read_images
from snnrl.errors import UserError
from snnrl.networks import calibrating, constrain
from snnrl.pipeline import STOP, StageFolder

SGD: dict[str, Any] = {"epochs": 2, "batch_size": 8, "optimizer": "SGD", "learning_rate": 0.01, "checkpoint_every": 2}
CASES: dict[str, tuple[int | None, Training]] = {
    "ordinary": (None, Training(**SGD)),
    "frozen": (None, Training(**SGD)),
    "T2": (2, Reduction(**SGD, distillation=0.5, spike_penalty=0.1)),
    "T1": (1, Reduction(**SGD, weight_decay=0.01)),
}


class Losses(KVWriter):
    """Collects what is logged."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.found += [key_values["train/loss"]] if "train/loss" in key_values else []

    def close(self) -> None:
        pass


def few_images() -> ImageSet:
    whole = read_images("cifar10", Path(__file__).parent / "data" / "cifar10")
    few = {part: getattr(whole, part).subset(np.arange(24)) for part in ("train", "validation", "test")}
    return ImageSet(whole.classes, **few, note=None)


def little(T: int | None) -> Classifier:
    torch.manual_seed(0)
    description = Description(
        kind="vgg6",
        image_shape=(3, 32, 32),
        labels=tuple("0123456789"),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        images="cifar10",
        hidden=(16,),
        batch_norm=T is None,
        T=T,
    )
    classifier = Classifier(description, "cpu")
    with torch.no_grad(), calibrating(classifier.network, 90.0):
        classifier.network(torch.randn(64, 3, 32, 32))
    return classifier


def train(case: str, folder: Path) -> dict[str, Tensor]:
    """Return the weights and losses that a training ends with."""
    T, settings = CASES[case]
    classifier, teacher = little(T), None if T is None else little(None)
    losses, stage = Losses(), StageFolder(folder / case)
    log = Logger(None, [losses])
    training = Epochs(classifier, few_images(), settings, stage, lambda *_: None, log, 7, "fp32", teacher)
    with frozen(case):
        announce(training)
        training.run()
    return {**classifier.body.state_dict(), "losses": torch.tensor(losses.found)}


@contextmanager
def stopping_after(batches: int) -> Iterator[None]:
    """Ask this process to stop, in the middle of an epoch."""
    left = batches

    def counted(network: nn.Module) -> None:
        nonlocal left
        left -= 1
        if not left:
            STOP.set()
        constrain(network)

    with mock.patch("snnrl.agents.classifier.training.constrain", counted), suppress(KeyboardInterrupt):
        yield
    STOP.clear()


def frozen(case: str) -> AbstractContextManager[Any]:
    """In the case of that name let batch-norm use its running statistics, in training too."""
    if case != "frozen":
        return nullcontext()
    return mock.patch.object(nn.BatchNorm2d, "train", lambda norm, mode=True: nn.Module.train(norm, False))


def take_part(folder: Path, task: str) -> None:
    case, _, event = task.partition("@")
    if processes.rank() == 0:
        with suppress(KeyboardInterrupt):
            write_archive(folder / f"{case}.zip", {}, {"found": train(case, folder)})
            processes.tell(None)
        STOP.clear()
    elif event == "fail":
        raise UserError("this process cannot go on")
    else:
        with frozen(case), stopping_after(2) if event else nullcontext():
            follow(few_images(), "cpu")


if __name__ == "__main__":
    with processes.joined():
        for task in sys.argv[2:]:
            take_part(Path(sys.argv[1]), task)
