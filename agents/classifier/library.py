"""Open a classifier by what a user calls it, and the images that it is to name."""

from pathlib import Path
from typing import NamedTuple

from snnrl.agents.classifier.agent import Classifier
from snnrl.agents.classifier.conversion import bounded, calibration_images, convert_classifier
from snnrl.agents.library import at_steps, find
from snnrl.envs.images import ImageSet, read_images
from snnrl.errors import UserError
from snnrl.files import quoted


class OpenedClassifier(NamedTuple):
    """A classifier, and what its weights come from: the file, and how they were converted."""

    classifier: Classifier
    source: str

    @property
    def title(self) -> str:
        """The network's kind and the images it was trained on."""
        return f"{self.classifier.description.kind} on {self.classifier.description.images}"


def open_images(name: str, data: Path | None, device: str = "auto") -> ImageSet:
    """Return the images in the folder ``data`` that the classifier called ``name`` was trained on, or of their kind.

    Raises:
        UserError: no folder is given, it holds no such images, or the classifier was made for others.
    """
    classifier = Classifier.load(find(name), device)
    layout = classifier.description.images
    if data is None:
        raise UserError(f"{name} names images: give --data DIR, the folder that holds {layout}")
    images = read_images(layout, data, classifier.description.image_shape[1])
    check_fit(classifier, images, quoted(data), name, "give other --data")
    return images


def check_fit(classifier: Classifier, images: ImageSet, layout: str, who: str, advice: str) -> None:
    """Raise UserError unless the classifier, called ``who``, was made for images of this shape and these classes.

    Where classes are but numbered, as the files with their names may be missing, any names will do.
    """
    ours, theirs = classifier.description.labels, images.classes
    if classifier.description.image_shape != images.train.shape:
        raise UserError(
            f"{who} sees images of shape {classifier.description.image_shape}, {layout} has {images.train.shape}: "
            f"{advice}"
        )
    if len(ours) != len(theirs):
        raise UserError(f"{who} knows {len(ours)} classes, {layout} has {len(theirs)}: {advice}")
    if ours != theirs and tuple(map(str, range(len(ours)))) not in (ours, theirs):
        mine, other = next(pair for pair in zip(ours, theirs, strict=True) if len({*pair}) > 1)
        raise UserError(f"{who} knows {mine!r} where {layout} has {other!r}: {advice}")


def open_classifier(
    name: str,
    images: ImageSet,
    *,
    T: int | None = None,
    percentile: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> OpenedClassifier:
    """Return the classifier, deciding in ``T`` timesteps if that is given.

    An ordinary one is converted and not trained, its thresholds at ``percentile`` (default: the 90th) of the
    pre-activations on training images, which ``seed`` chooses; a spiking one goes on with its weights.

    Raises:
        UserError: there is no such classifier, or ``percentile`` is given where nothing is converted.
    """
    path = find(name, T)

    def convert(classifier: Classifier, steps: int, percentile: float) -> Classifier:
        some = calibration_images(classifier, images.train, bounded(classifier, steps), seed)
        return convert_classifier(classifier, some, T=steps, percentile=percentile)[0]

    return OpenedClassifier(*at_steps(Classifier.load(path, device), path.name, T, percentile, convert))


def open_ordinary(name: str, opened: OpenedClassifier, device: str = "auto") -> Classifier | None:
    """Return the ordinary network of the file or run that ``opened`` is from, or None where there is none."""
    path = find(name, opened.classifier.T)
    for candidate in (path, path.with_name("ann.zip")):
        if candidate.is_file():
            found = Classifier.load(candidate, device)
            if found.T is None and found.description.image_shape == opened.classifier.description.image_shape:
                return found
    return None
