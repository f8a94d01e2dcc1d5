"""What Adam's epsilon does to deep spiking networks: gradients by layer, and accuracy after one short epoch."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.logger import Logger

from snnrl.agents.classifier import Classifier, training
from snnrl.agents.classifier.config import Reduction
from snnrl.agents.classifier.conversion import convert_classifier
from snnrl.allocation import keep_freed_memory
from snnrl.envs.images import ImageSet, in_order, read_images
from snnrl.files import write_atomically
from snnrl.pipeline import StageFolder
from snnrl.tables import to_csv

EPSILONS = (1e-8, training.ADAM_EPSILON)
BATCH = 128
CALIBRATION = 512
VALIDATION = 1000


def gradients(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return the mean absolute gradient of each layer's weights on a batch."""
    torch.nn.functional.cross_entropy(classifier.network(images), labels).backward()
    weights = {name.split(".")[1]: value.grad for name, value in classifier.body.named_parameters() if value.dim() > 1}
    classifier.network.zero_grad()
    return {name: float(grad.abs().mean()) for name, grad in weights.items() if grad is not None}


def short_epoch(classifier: Classifier, images: ImageSet, settings: Reduction, epsilon: float) -> training.Trained:
    """Train for one epoch."""
    training.ADAM_EPSILON = epsilon
    with tempfile.TemporaryDirectory() as folder:
        place, log = StageFolder(Path(folder)), Logger(None, [])
        return training.Epochs(classifier, images, settings, place, lambda *_: None, log, 0, "fp32").run()


def main() -> None:
    """Print and write a row for each T and epsilon."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ann", type=Path, help="an ordinary classifier for CIFAR-10, such as VGG16")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--T", type=int, nargs="+", default=[5, 1])
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--percentile", type=float, default=97.0)
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    ordinary = Classifier.load(options.ann)
    whole = read_images("cifar10", options.data)
    train = whole.train.subset(np.arange(BATCH * options.batches))
    images = ImageSet(whole.classes, train, whole.validation.subset(np.arange(VALIDATION)), whole.test, None)
    calibration = next(in_order(whole.train, CALIBRATION, ordinary.normalization))
    lines = []
    for T in options.T:
        for rate in options.learning_rate:
            for epsilon in EPSILONS:
                made, _ = convert_classifier(
                    ordinary, calibration.images, T=T, percentile=options.percentile, dropout=0.1
                )
                found = gradients(made, *(part[:BATCH] for part in calibration))
                settings = Reduction(epochs=1, batch_size=BATCH, learning_rate=rate, schedule="one-cycle", dropout=0.1)
                trained = short_epoch(made, images, settings, epsilon)
                by_layer = " ".join(f"{name} {size:.1e}" for name, size in found.items())
                lines.append([T, rate, epsilon, trained.training_curve[0], trained.accuracy, by_layer])
                print(*lines[-1], flush=True)
    columns = ["T", "learning rate", "epsilon", "training accuracy", "validation accuracy", "gradients at the start"]
    write_atomically(options.output, to_csv(columns, lines).encode())


if __name__ == "__main__":
    main()
