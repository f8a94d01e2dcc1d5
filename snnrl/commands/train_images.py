"""``snnrl train RECIPE --data DIR`` for a recipe of an image classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from snnrl import processes
from snnrl.agents.classifier import Classifier
from snnrl.agents.classifier.agent import chosen_device
from snnrl.agents.classifier.config import ImageRecipe
from snnrl.agents.classifier.followers import follow
from snnrl.agents.classifier.library import check_fit
from snnrl.agents.classifier.stages import ImageJob
from snnrl.agents.settings import options_of
from snnrl.allocation import keep_freed_memory
from snnrl.arguments import parse
from snnrl.checkpoint import fingerprint
from snnrl.commands.running import (
    beginning,
    check_beginning,
    check_lowers,
    from_scratch,
    run_chain,
    saving_on_interrupt,
)
from snnrl.config import read_recipe
from snnrl.display import Display, print_json
from snnrl.envs.images import ImageSet, read_images
from snnrl.errors import UserError
from snnrl.networks import classifier
from snnrl.neurons.compiled import check_compiles
from snnrl.runs import RunFolder


class TrainImagesOptions(ImageRecipe):
    """Train an ordinary classifier, convert it to a spiking one at T timesteps, and lower T to --reduce-to."""

    data: Path | None = None
    """Folder of the images; nothing is downloaded."""
    start: Annotated[str, tyro.conf.arg(name="from")] = "ann"
    """ann: train the ordinary network first, where there is one of that kind; scratch: train at T from scratch; or the
    file of a classifier."""
    teacher: Path | None = None
    """File of an ordinary classifier that a network from scratch imitates; None: it learns from labels alone."""
    thresholds_of: Path | None = None
    """File of a spiking classifier whose thresholds and leaks the conversion takes, instead of a percentile."""
    run: Path | None = None
    """Folder of the run; the same command goes on with it. Default: runs/RECIPE-seedSEED."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the summary as one JSON object on the last line of stdout."""


def train_images(name: str, arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    recipe = read_recipe(name, ImageRecipe, scratch=from_scratch(arguments))
    defaults = TrainImagesOptions(**recipe.model_dump())
    options = parse(TrainImagesOptions, arguments, f"train {name}", defaults)
    recipe = ImageRecipe(**{field: getattr(options, field) for field in ImageRecipe.model_fields})
    if options.data is None:
        raise UserError(f"{name} learns from images: give --data DIR, the folder that holds {recipe.images}")
    keep_freed_memory()
    processes.take_device(recipe.device)
    images = read_images(recipe.images, options.data, recipe.size)
    check_shares(recipe, len(images.train))
    if processes.rank():
        with saving_on_interrupt(lambda _: None):
            follow(images, recipe.device)
        return 0
    run = RunFolder(options.run or Path("runs") / f"{Path(name).stem}-seed{recipe.seed}")
    summary, code = train_run(
        recipe,
        images,
        run,
        options.start,
        options.as_json,
        teacher=options.teacher,
        thresholds_of=options.thresholds_of,
    )
    processes.tell(None)
    if options.as_json:
        print_json(summary)
    return code


def train_run(
    recipe: ImageRecipe,
    images: ImageSet,
    run: RunFolder,
    begin: str,
    quiet: bool,
    *,
    teacher: Path | None = None,
    thresholds_of: Path | None = None,
) -> tuple[dict[str, Any], int]:
    """Run or take up the stages of a recipe, beginning as ``--from`` says; return the summary and the exit code.

    Raises:
        UserError: the images do not fit the classifier to begin with, that classifier cannot teach, the network cannot
            be converted, or the folder belongs to another run.
    """
    scratch, origin = beginning(begin, None if teacher is None else str(teacher), recipe.network.kind)
    start = None if origin is None else Classifier.load(Path(origin), recipe.device)
    check_beginning(recipe.network.kind, recipe.neuron, scratch, start)
    given = None if thresholds_of is None else Classifier.load(thresholds_of, recipe.device)
    check(start, images, recipe, scratch)
    if recipe.ann.compile or recipe.reduction.compile:
        check_compiles(chosen_device(recipe.device))
    if given is not None:
        check_given(given, recipe, scratch or (start is not None and start.T is not None))
    config = {
        **recipe.model_dump(mode="json"),
        "from": "scratch" if scratch else Path(begin).name,
        "data": images.fingerprint(),
    }
    if start is not None:
        config["weights"] = fingerprint(start.body.state_dict())
    if teacher is not None:
        config["teacher"] = teacher.name
    if given is not None:
        config["thresholds_of"] = fingerprint(given.body.state_dict())

    def make(display: Display) -> ImageJob:
        if images.note:
            display.say(images.note)
        if start is not None and start.T is not None and recipe.reduction.distillation:
            display.say("labels alone teach: no ordinary network is there whose answers could count")
        report, say = display.stage, display.say
        return ImageJob(recipe, images, run, report, say, start=start, scratch=scratch, thresholds_of=given)

    return run_chain(make, run, config, quiet, images)


def check_shares(recipe: ImageRecipe, images: int) -> None:
    """Raise UserError unless several processes can have equal shares of each batch."""
    for group, training in (("ann", recipe.ann), ("reduction", recipe.reduction)):
        size = min(training.batch_size, images)
        if size % processes.count():
            raise UserError(
                f"{processes.count()} processes cannot have equal shares of a batch of {size} images: give "
                f"--{group}.batch_size a multiple of {processes.count()}"
            )
    if recipe.network.batch_norm and min(recipe.ann.batch_size, images) < 2 * processes.count():
        raise UserError("batch-norm needs two images at a time in each process: give a larger --ann.batch_size")


def check(start: Classifier | None, images: ImageSet, recipe: ImageRecipe, scratch: bool) -> None:
    """Raise UserError unless the network fits the images, and, if it is given, something is left to lower."""
    network = recipe.network
    if start is None or scratch:
        with torch.device("meta"):
            options = options_of(network.kind, network.window) | {"batch_norm": network.batch_norm}
            shape, classes = images.train.shape, len(images.classes)
            classifier(network.kind, shape, classes, width=network.width, **options)
    if start is None:
        return
    check_fit(start, images, recipe.images, "the classifier to begin with", "give other --data or another --from")
    if scratch:
        return
    for field in ("kind", "width", "hidden"):
        theirs, ours = getattr(start.description, field), getattr(network, field)
        if theirs != ours:
            raise UserError(
                f"the classifier to begin with has network.{field} {words(theirs)}, not {words(ours)}: give "
                f"--network.{field} {words(theirs)}, or another --from"
            )
    if start.T is not None and not recipe.pruning.share:
        check_lowers(start.T, recipe.steps[-1])


def words(value: object) -> str:
    """Return a field's value as it is written on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check_given(given: Classifier, recipe: ImageRecipe, spikes: bool) -> None:
    """Raise UserError unless a conversion can take the thresholds of ``given``; ``spikes``: nothing is converted."""
    if spikes:
        raise UserError("--thresholds-of is for conversions: begin with an ordinary network, or leave it out")
    if given.T is None:
        raise UserError("--thresholds-of is an ordinary network, which has no thresholds: give a spiking one")
    theirs, ours = (given.description.kind, given.description.neuron), (recipe.network.kind, recipe.neuron)
    if theirs != ours:
        raise UserError(
            f"--thresholds-of is a {theirs[0]} of {theirs[1]} neurons, the conversion a {ours[0]} of {ours[1]}: give "
            "one of the same kinds"
        )
