"""Training on labelled images, resumable to the bit: the ordinary network, and spiking ones from there."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor
from torch.nn import functional

from snnrl import processes
from snnrl.agents.classifier.agent import Classifier
from snnrl.agents.classifier.config import Reduction, Training
from snnrl.agents.classifier.evaluate import predictions
from snnrl.checkpoint import flatten_optimizer, restore_optimizer
from snnrl.envs.images import Batch, ImageSet, TrainingBatches
from snnrl.networks import Pruned, constrain, penalized
from snnrl.neurons.compiled import compiled_scans
from snnrl.pipeline import STOP, StageFolder
from snnrl.precision import mixed_precision

Report = Callable[[int, str], None]
"""Called with batches done and a text on how it goes."""

MOMENTUM = 0.9
RISE = 0.3
"""Share of a one-cycle schedule in which the learning rate rises, from a 25th (arXiv 1708.07120, as in torch)."""
ADAM_EPSILON = 1e-20
"""Added to the root of the squared gradients. Each surrogate takes about two thirds off a gradient: behind the sixteen
layers of VGG16 at T = 1 it is of the order of 1e-16, and torch's 1e-8 would keep the first layers as they are."""
REPORT_EVERY = 20
"""Batches between looks at the loss."""


class Trained(NamedTuple):
    """The best accuracy on the validation images, that of every epoch, and that on the training images as they came."""

    accuracy: float
    curve: list[float]
    training_curve: list[float]


class Epochs:
    """Training of a classifier in place, epoch by epoch; see :meth:`run`.

    What a batch draws (order, augmentation, dropout) depends on ``seed``, epoch and batch alone; several processes
    (:mod:`snnrl.processes`) take equal shares of each batch, which differ in their dropout.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: ImageSet,
        settings: Training,
        folder: StageFolder,
        report: Report,
        logger: Logger,
        seed: int,
        precision: str,
        teacher: Classifier | None = None,
    ) -> None:
        self.classifier, self.images, self.settings = classifier, images, settings
        self.folder, self.report, self.logger, self.seed = folder, report, logger, seed
        self.precision, self.teacher = precision, teacher
        normalization, device = classifier.normalization, classifier.device
        share = processes.rank(), processes.count()
        self.batches = TrainingBatches(images.train, settings.batch_size, seed, normalization, device, share)
        self.epoch = self.batch = 0
        self.right = 0.0
        self.curve: list[float] = []
        self.training_curve: list[float] = []
        self.best: dict[str, Tensor] = {}
        parameters = [parameter for parameter in classifier.network.parameters() if parameter.requires_grad]
        rate, decay = settings.learning_rate, settings.weight_decay
        self.pruned = Pruned(classifier.network)
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer == "SGD":
            self.optimizer = torch.optim.SGD(parameters, rate, MOMENTUM, weight_decay=decay, fused=True)
        else:
            self.optimizer = torch.optim.Adam(
                parameters, rate, eps=ADAM_EPSILON, amsgrad=True, weight_decay=decay, fused=True
            )

    def run(self) -> Trained:
        """Train, and leave the weights of the epoch that did best on the validation images.

        Goes on from the folder's checkpoint if there is one; the final weights are those of an unbroken run.
        """
        self.resume()
        self.replica = processes.replicated(self.classifier.network)
        while self.epoch < self.settings.epochs:
            self.train_epoch()
            self.judge()
        self.classifier.body.load_state_dict(self.best)
        return Trained(max(self.curve), self.curve, self.training_curve)

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        checkpoint = self.folder.load()
        if checkpoint is None:
            return
        metadata, tensors = checkpoint
        self.epoch, self.batch, self.right = metadata["epoch"], metadata["batch"], metadata["right"]
        self.curve, self.training_curve = metadata["curve"], metadata["training_curve"]
        self.classifier.body.load_state_dict(tensors["network"])
        restore_optimizer(self.optimizer, tensors["optimizer"], metadata["optimizer"])
        self.best = tensors["best"]

    def save(self) -> None:
        """Write a checkpoint."""
        optimizer, layout = flatten_optimizer(self.optimizer.state_dict())
        (self.right,) = processes.mean(self.right)
        progress = {"epoch": self.epoch, "batch": self.batch, "right": self.right}
        curves = {"curve": self.curve, "training_curve": self.training_curve}
        metadata = {**progress, **curves, "optimizer": layout}
        tensors = {"network": self.classifier.body.state_dict(), "optimizer": optimizer, "best": self.best}
        self.folder.save(metadata, tensors)

    def train_epoch(self) -> None:
        """Take the epoch's batches, a checkpoint now and then."""
        network = self.classifier.network.train()
        for batch in self.batches.epoch(self.epoch, self.batch):
            torch.manual_seed(self._draws())
            loss, right = self._step(batch)
            self.batch, self.right = self.batch + 1, self.right + right
            if self.batch % REPORT_EVERY == 0 or self.batch == len(self.batches):
                self._check(*processes.mean(loss.item(), right))
            if processes.is_set_anywhere(STOP) or self.batch % self.settings.checkpoint_every == 0:
                self.save()
        network.eval()

    def _step(self, batch: Batch) -> tuple[Tensor, float]:
        """Take one batch; return its loss, and the share of its images that were named rightly."""
        network, settings = self.classifier.network, self.settings
        share = share_of_rate(settings, self.epoch, self.batch / len(self.batches))
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * share
        with penalized(network, settings) as penalty, self._mixed_precision(), compiled_scans(settings.compile):
            logits = self.replica(batch.images)
        loss = functional.cross_entropy(logits.float(), batch.labels)
        if isinstance(settings, Reduction) and self.teacher is not None and settings.distillation:
            loss = loss + settings.distillation * (self._softened(batch, logits, settings.temperature) - loss)
        loss = penalty.add_to(loss)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        constrain(network)
        self.pruned.hold()
        return loss.detach(), float((logits.argmax(1) == batch.labels).double().mean())

    def _softened(self, batch: Batch, logits: Tensor, temperature: float) -> Tensor:
        """Return temperature^2 KL(teacher || student) of the softened answers (arXiv 1503.02531, Sec. 2)."""
        assert self.teacher is not None
        with torch.no_grad(), self._mixed_precision():
            answers = self.teacher.network.eval()(batch.images)
        soft, hard = (functional.log_softmax(part.float() / temperature, 1) for part in (logits, answers))
        return temperature**2 * functional.kl_div(soft, hard, reduction="batchmean", log_target=True)

    def _mixed_precision(self) -> torch.autocast:
        return mixed_precision(self.classifier.device, self.precision)

    def _draws(self) -> int:
        """Return the seed of what this process's forward of the batch draws: dropout."""
        place = [self.seed, self.epoch, self.batch, processes.rank()]
        return int(np.random.SeedSequence(place).generate_state(1)[0])

    def _check(self, loss: float, accuracy: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {self.epoch + 1}: lower the learning rate")
        done = self.epoch * len(self.batches) + self.batch
        self.logger.record("train/batches", done)
        self.logger.record("train/loss", loss)
        self.logger.record("train/accuracy", accuracy)
        self.logger.record("train/learning_rate", self.optimizer.param_groups[0]["lr"])
        self.logger.dump(done)
        best = f", validation {max(self.curve):.2%}" if self.curve else ""
        self.report(done, f"epoch {self.epoch + 1}, loss {loss:.3f}{best}")

    def judge(self) -> None:
        """Name the validation images, keep the weights if they are the best so far, and end the epoch."""
        named = predictions(self.classifier, self.images.validation)
        accuracy = float(np.mean(named == self.images.validation.labels))
        if not self.curve or accuracy > max(self.curve):
            self.best = {name: value.clone() for name, value in self.classifier.body.state_dict().items()}
        self.curve.append(accuracy)
        (right,) = processes.mean(self.right)
        self.training_curve.append(right / len(self.batches))
        self.epoch, self.batch, self.right = self.epoch + 1, 0, 0.0
        self.logger.record("train/batches", self.epoch * len(self.batches))
        self.logger.record("eval/accuracy", accuracy)
        self.logger.dump(self.epoch * len(self.batches))
        if self.epoch < self.settings.epochs:
            self.save()


def share_of_rate(settings: Training, epoch: int, part: float) -> float:
    """Return the learning rate as a share of the highest one, after so many whole epochs and part of another."""
    if settings.schedule == "steps":
        return float(0.2 ** sum(epoch >= drop * settings.epochs for drop in settings.drops))
    done = (epoch + part) / settings.epochs
    if done < RISE:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * done / RISE)) / 2
    return (1 + math.cos(math.pi * (done - RISE) / (1 - RISE))) / 2
