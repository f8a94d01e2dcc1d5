"""The runs that tables and figures of arXiv 2110.05929 are made of: trained when they are needed, then read."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from snnrl.agents.classifier import Classifier
from snnrl.agents.classifier.config import ImageRecipe
from snnrl.agents.classifier.paper import Budget, Paper, Plan
from snnrl.agents.settings import Device, Seed, Settings
from snnrl.allocation import keep_freed_memory
from snnrl.checkpoint import fingerprint
from snnrl.commands.recipes import without_seed
from snnrl.commands.train_images import train_run
from snnrl.display import Display
from snnrl.envs.images import ImageSet, read_images
from snnrl.errors import UserError
from snnrl.runs import RunFolder, differences


class PaperOptions(Settings):
    """What tables and figures have in common."""

    data: Path | None = None
    """Folder of the images, in the layouts of docs/images.md; what takes a set that is not in it is left open."""
    budget: Budget = "small"
    """small: a quarter of the channels and a few epochs; full: the paper's schedule."""
    runs: Path = Path("runs")
    """Where the run folders are."""
    seed: Seed = 0
    """Of the runs."""
    device: Device = "auto"
    """cpu, cuda, or auto."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print what is shown as one JSON object on the last line of stdout."""


class PaperRuns:
    """Runs at one budget, each in a folder of its own."""

    def __init__(self, paper: Paper, options: PaperOptions) -> None:
        keep_freed_memory()
        self.paper = paper
        self.options = options
        self.folder = options.runs / f"paper-{options.budget}-seed{options.seed}"
        self.sets: dict[tuple[str, int], ImageSet | UserError] = {}

    def train(self, names: list[str], display: Display) -> None:
        """Train the runs that are not finished, and those that they begin with, except where images are missing.

        Raises:
            UserError: the images of none of them are there, or a finished run has other settings or images, or began
                with other weights than the run before it has now.
        """
        missing: dict[str, UserError] = {}
        for name in self.paper.in_order(names):
            recipe = self.recipe(name)
            images = self.images(recipe)
            plan = self.paper.runs[name]
            if self.run(name).finished:
                check_settings(self.run(name), recipe, images, self.beginning(plan))
                continue
            if isinstance(images, UserError):
                missing[recipe.images] = images
                continue
            start = plan.start if "/" not in plan.start else str(self.stage(plan.start))
            thresholds_of = None if plan.thresholds_of is None else self.stage(plan.thresholds_of)
            display.say(f"run {name}")
            teacher = None if plan.teacher is None else self.stage(plan.teacher)
            train_run(
                recipe, images, self.run(name), start, display.quiet, teacher=teacher, thresholds_of=thresholds_of
            )
        if missing and not any(self.run(name).finished for name in names):
            raise next(iter(missing.values()))
        for error in missing.values():
            display.say(f"left open: {error}")

    def recipe(self, name: str) -> ImageRecipe:
        """Return a run's recipe."""
        return self.paper.recipe(name, self.options.budget, seed=self.options.seed, device=self.options.device)

    def run(self, name: str) -> RunFolder:
        """Return a run's folder."""
        return RunFolder(self.folder / name)

    def stage(self, place: str) -> Path:
        """Return the file of a RUN/STAGE."""
        run, stage = place.split("/")
        return self.run(run).agent(stage)

    def beginning(self, plan: Plan) -> dict[str, str]:
        """Return what a run's configuration says of the weights that it begins with, as they are now."""
        begins = plan.teacher or plan.start
        places = {"weights": begins if "/" in begins else None, "thresholds_of": plan.thresholds_of}
        files = {key: self.stage(place) for key, place in places.items() if place}
        return {
            key: fingerprint(Classifier.load(file, "cpu").body.state_dict())
            for key, file in files.items()
            if file.is_file()
        }

    def stages(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the stages of a run by name; none where it is not finished."""
        run = self.run(name)
        return {stage["name"]: stage for stage in run.summary()["stages"]} if run.finished else {}

    def result(self, place: str) -> dict[str, Any]:
        """Return what is stored of a RUN/STAGE.

        Raises:
            UserError: the run is not finished, or has no such stage.
        """
        run, stage = place.split("/")
        stages = self.stages(run)
        if stage not in stages:
            raise UserError(f"{self.run(run).path} has no stage {stage}: give --data DIR to train it")
        return stages[stage]

    def images(self, recipe: ImageRecipe) -> ImageSet | UserError:
        """Return the images of a recipe, or why they cannot be read."""
        key = recipe.images, recipe.size
        if key not in self.sets:
            try:
                if self.options.data is None:
                    raise UserError("give --data DIR, the folder of the images")
                self.sets[key] = read_images(recipe.images, self.options.data, recipe.size)
            except UserError as error:
                self.sets[key] = error
        return self.sets[key]


def check_settings(
    run: RunFolder, recipe: ImageRecipe, images: ImageSet | UserError, beginning: dict[str, str]
) -> None:
    """Raise UserError if a finished run was trained with other settings, on other images, or from other weights."""
    wanted, stored = without_seed(recipe.model_dump(mode="json")) | beginning, run.config()
    if isinstance(images, ImageSet):
        wanted["data"] = images.fingerprint()
    if differing := sorted(differences({key: stored.get(key) for key in wanted}, wanted)):
        raise UserError(
            f"{run.path} was trained with other settings ({', '.join(differing)}): remove it, or give another --runs"
        )
