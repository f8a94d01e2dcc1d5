"""Training in several processes: what the first one tells the others, and how they take part."""

from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.logger import Logger

from snnrl import processes
from snnrl.agents.classifier.agent import Classifier, Description
from snnrl.agents.classifier.config import Reduction, Training
from snnrl.agents.classifier.training import Epochs
from snnrl.checkpoint import Archive
from snnrl.envs.images import ImageSet
from snnrl.pipeline import STOP, StageFolder


class ToldFolder(StageFolder):
    """Stands in for a stage's folder where another process writes it: holds the checkpoint that it told of."""

    def __init__(self, checkpoint: Archive | None) -> None:
        self.checkpoint = checkpoint

    def load(self) -> Archive | None:
        """Return the checkpoint to go on from, or None at the stage's beginning."""
        return self.checkpoint

    def save(self, metadata: Mapping[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Write nothing; stop if the user asked to.

        Raises:
            KeyboardInterrupt: the user had asked to stop.
        """
        if STOP.is_set():
            raise KeyboardInterrupt


def announce(training: Epochs) -> None:
    """Let the other processes take part in a training that is about to run."""
    if processes.count() == 1:
        return
    tensors = {"start": training.classifier.body.state_dict()}
    if training.teacher is not None:
        tensors["teacher"] = training.teacher.body.state_dict()
    checkpoint = training.folder.load()
    metadata = {
        "classifier": training.classifier.description.model_dump(mode="json"),
        "teacher": training.teacher and training.teacher.description.model_dump(mode="json"),
        "reduction": isinstance(training.settings, Reduction),
        "settings": training.settings.model_dump(mode="json"),
        "seed": training.seed,
        "precision": training.precision,
        "checkpoint": checkpoint and checkpoint.metadata,
    }
    processes.tell(Archive(metadata, tensors | (checkpoint.tensors if checkpoint else {})))


def follow(images: ImageSet, device: str) -> None:
    """Take part in every training that the first process announces, until it has done with them."""
    while (told := processes.hear()) is not None:
        about, tensors = told
        teacher = about["teacher"] and classifier(about["teacher"], tensors["teacher"], device)
        Epochs(
            classifier(about["classifier"], tensors["start"], device),
            images,
            (Reduction if about["reduction"] else Training)(**about["settings"]),
            ToldFolder(about["checkpoint"] and Archive(about["checkpoint"], tensors)),
            lambda *_: None,
            Logger(None, []),
            about["seed"],
            about["precision"],
            teacher,
        ).run()


def classifier(description: Mapping[str, Any], weights: Mapping[str, torch.Tensor], device: str) -> Classifier:
    """Return the classifier that was told of."""
    told = Classifier(Description(**description), device)
    told.body.load_state_dict(weights)
    return told
