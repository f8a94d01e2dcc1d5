"""The main job for images: an ordinary classifier, its spiking conversion, and one stage after another at fewer T."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from snnrl.agents import metrics
from snnrl.agents.chain import Chain, Reporter
from snnrl.agents.classifier.agent import Classifier, Description
from snnrl.agents.classifier.config import ImageRecipe, Reduction, Training
from snnrl.agents.classifier.conversion import calibration_images, convert_classifier
from snnrl.agents.classifier.evaluate import evaluate, predictions
from snnrl.agents.classifier.followers import announce
from snnrl.agents.classifier.training import Epochs
from snnrl.envs.images import ImageSet, Normalization
from snnrl.networks import calibrating, prune_weights
from snnrl.pipeline import Result, StageFolder
from snnrl.reduction import Attempt, best_attempt
from snnrl.report.data import right_or_wrong
from snnrl.runs import RunFolder

NEAR_CHANCE = 0.02


class ImageJob(Chain[Classifier]):
    """One run of an image recipe; see :class:`Chain`."""

    score = "accuracy"

    def __init__(
        self,
        recipe: ImageRecipe,
        images: ImageSet,
        run: RunFolder,
        reporter: Reporter,
        say: Callable[[str], None],
        *,
        start: Classifier | None = None,
        scratch: bool = False,
        thresholds_of: Classifier | None = None,
    ) -> None:
        super().__init__(recipe, recipe.gate.tolerance, run, reporter, say, start=start, scratch=scratch)
        self.recipe = recipe
        self.images = images
        self.thresholds_of = thresholds_of

    def train_ordinary(self, folder: StageFolder) -> Result:
        """Train the ordinary network."""
        classifier = self.untrained("ann", None)
        return self.learn("ann", classifier, self.recipe.ann, folder) | self.finish("ann", classifier)

    def take_over(self, name: str, folder: StageFolder) -> Result:
        """Begin with a classifier that was trained elsewhere."""
        assert self.start is not None
        return {"gate_accuracy": self.validated(self.start)} | self.finish(name, self.start)

    def train_spiking(self, name: str, T: int, done: list[Attempt], folder: StageFolder) -> Result:
        """Start from the stage before, or from the ordinary network's conversion, and train at ``T`` timesteps."""
        before = min((attempt for attempt in done if attempt.T > T), key=lambda attempt: attempt.T, default=None)
        result: Result = {}
        if before is not None:
            classifier = self.load(best_attempt(done, before.T).name)
            classifier.drop(self.recipe.reduction.dropout)
            self.reduce(classifier, T)
        elif self.scratch:
            classifier = self.from_scratch(name, T)
        else:
            classifier = self.converted(name, T, result)
        result["before"] = self.before(classifier)
        teacher = self.load("ann") if "ann" in self.results else None
        training = self.recipe.ann if teacher is None and before is None else self.recipe.reduction
        if isinstance(training, Reduction) and self.steps[-1] != T:
            training = training.model_copy(update={"epochs": training.passing or training.epochs})
        result |= self.learn(name, classifier, training, folder, teacher) | self.finish(name, classifier)
        return self.marked(name, result)

    def marked(self, name: str, result: Result) -> Result:
        """Return the result of a spiking stage, and why it has learnt nothing, if so."""
        result["failed"] = failure(result, len(self.images.classes))
        if result["failed"]:
            self.say(f"{name}: failed to learn, {result['failed']}")
        return result

    def finishing(self, last: str) -> list[str]:
        """Prune the last stage's classifier, if asked to."""
        if not self.recipe.pruning.share:
            return []
        self.stage("pruned", functools.partial(self.train_pruned, last))
        return ["pruned"]

    def train_pruned(self, last: str, folder: StageFolder) -> Result:
        """Take away the smallest weights of the last stage's classifier, and train the others."""
        classifier = self.load(last)
        classifier.drop(self.recipe.reduction.dropout)
        prune_weights(classifier.network, self.recipe.pruning.share, by_layer=self.recipe.pruning.scope == "layer")
        self.lower_thresholds(classifier)
        result: Result = {"before": self.before(classifier)}
        teacher = self.load("ann") if "ann" in self.results else None
        result |= self.learn("pruned", classifier, self.recipe.reduction, folder, teacher)
        return self.marked("pruned", result | self.finish("pruned", classifier))

    def untrained(self, name: str, T: int | None) -> Classifier:
        """Return a classifier with random weights."""
        torch.manual_seed(self.seed(name))
        # what is imitated sees the same images
        normalization = self.start.normalization if self.start else Normalization.measured(self.images.train)
        recipe = self.recipe
        description = Description(
            kind=recipe.network.kind,
            image_shape=self.images.train.shape,
            labels=self.images.classes,
            mean=normalization.mean,
            std=normalization.std,
            images=recipe.images,
            width=recipe.network.width,
            hidden=recipe.network.hidden,
            batch_norm=recipe.network.batch_norm,
            neuron=recipe.neuron,
            window=recipe.network.window,
            # without a teacher a spiking network is the one that the labels teach first
            dropout=recipe.ann.dropout if T is None or "ann" not in self.results else recipe.reduction.dropout,
            T=T,
        )
        return Classifier(description, recipe.device)

    def converted(self, name: str, T: int, result: Result) -> Classifier:
        """Return the spiking conversion of the ordinary network."""
        ordinary = self.load("ann")
        spiking, report = convert_classifier(
            ordinary,
            self.calibration(ordinary),
            T=T,
            percentile=self.recipe.conversion.percentile,
            neuron=self.recipe.neuron,
            dropout=self.recipe.reduction.dropout,
            thresholds_of=self.thresholds_of,
        )
        result["conversion"] = report.as_dict()
        self.say_conversion(name, report)
        return spiking

    @torch.no_grad()
    def from_scratch(self, name: str, T: int) -> Classifier:
        """Return a spiking classifier with random weights, whose thresholds let its layers fire."""
        classifier = self.untrained(name, T)
        with calibrating(classifier.network.train(), self.recipe.conversion.percentile):
            classifier.network(self.calibration(classifier))
        return classifier

    @torch.no_grad()
    def reduce(self, classifier: Classifier, T: int) -> None:
        """Let a trained classifier decide in ``T`` steps: its weights, leaks and thresholds."""
        classifier.reduce_to(T)
        self.lower_thresholds(classifier)

    @torch.no_grad()
    def lower_thresholds(self, classifier: Classifier) -> None:
        """Let those thresholds fall that would silence a layer, unless the recipe keeps them as they are."""
        if self.recipe.reduction.thresholds == "lowered":
            with calibrating(classifier.network, self.recipe.conversion.percentile, lower_only=True):
                classifier.network(self.calibration(classifier))

    def calibration(self, classifier: Classifier) -> torch.Tensor:
        """Return the training images on which thresholds are set."""
        return calibration_images(classifier, self.images.train, self.recipe.conversion.images, self.recipe.seed)

    @torch.no_grad()
    def before(self, classifier: Classifier) -> Result:
        """Return spike rates and accuracy of a network yet to be trained, on the images that set thresholds."""
        with metrics.watching(classifier.body) as seen:
            classifier.network.eval()(self.calibration(classifier))
        return {"spike_rate": seen.spike_rate, "accuracy": self.validated(classifier)}

    def validated(self, classifier: Classifier) -> float:
        """Return the accuracy on the validation images."""
        return float(np.mean(predictions(classifier, self.images.validation) == self.images.validation.labels))

    def learn(
        self,
        name: str,
        classifier: Classifier,
        training: Training,
        folder: StageFolder,
        teacher: Classifier | None = None,
    ) -> Result:
        """Train, and tell of it."""
        batches = len(self.images.train) // min(training.batch_size, len(self.images.train))
        report = self.reporter(name, training.epochs * batches)
        seed, precision = self.seed(name), self.recipe.precision
        log = self.logger(name)
        epochs = Epochs(classifier, self.images, training, folder, report, log, seed, precision, teacher)
        announce(epochs)
        trained = epochs.run()
        curves = {"curve": trained.curve, "training_curve": trained.training_curve}
        return {"gate_accuracy": trained.accuracy, **curves}

    def finish(self, name: str, classifier: Classifier) -> Result:
        """Write the stage's classifier and report on it, on images that were used for nothing else."""
        classifier.save(self.run.agent(name))
        found = evaluate(classifier, self.images.test)
        log = self.log or self.logger(name)
        log.record("report/accuracy", found.accuracy)
        metrics.record_spikes(log, "report", found.activity, found.layers)
        log.dump(0)
        self.say(f"{name}: accuracy {found.accuracy:.2%}, energy ratio {found.energy_ratio:.2f}")
        return {"name": name, "T": classifier.T, "agent": f"{name}.zip"} | found.as_dict()

    def load(self, name: str) -> Classifier:
        """Return the classifier that a stage left."""
        return Classifier.load(self.run.agent(name), self.recipe.device)

    def outcomes(self, result: Result) -> Sequence[float]:
        """Return 1 for each test image that was named rightly, else 0."""
        return right_or_wrong(result)

    def about(self) -> dict[str, Any]:
        """Return what is to be said of the data."""
        sizes = {part: len(getattr(self.images, part)) for part in ("train", "validation", "test")}
        return {"images": sizes | {"note": self.images.note}}


def failure(result: Result, classes: int) -> str:
    """Say why a spiking stage has learnt nothing: a layer without spikes, or answers as good as chance; else nothing.

    As good as chance: within :data:`NEAR_CHANCE` of it on the training images of the last epoch.
    """
    if silent := [name for name, rate in result["spike_rate"].items() if not rate]:
        return f"no spikes in {', '.join(silent)}"
    learnt = result["training_curve"][-1]
    return f"training accuracy {learnt:.1%}" if learnt < 1 / classes + NEAR_CHANCE else ""
