"""What the settings of a run say: the shipped recipe that they are nearest to, and the command that trains it again."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snnrl.agents.classifier.config import ImageRecipe
from snnrl.agents.library import title
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.arguments import flags
from snnrl.config import merge, read_recipe, recipe_names, recipe_values

OF_A_SEED = ("seed", "device", "weights", "data")
"""Settings in which runs of one recipe may differ."""


def of_images(config: Mapping[str, Any]) -> bool:
    """Say whether these are settings of an image classifier."""
    return "images" in config


def whole_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting of a run, with the defaults of those that it was begun without."""
    empty = ImageRecipe(images="folder") if of_images(stored) else Recipe(env="")
    return merge(empty.model_dump(mode="json"), stored)


def title_of(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Return what a run with this configuration is about, in a word or two."""
    if of_images(config):
        return f"{config['network']['kind']} on {config['images']}"
    return title(str(config["env"]), summary.get("env_kwargs", {}))


def without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that runs of one recipe share."""
    return {key: value for key, value in config.items() if key not in OF_A_SEED}


def nearest_recipe(config: Mapping[str, Any]) -> tuple[str, int]:
    """Return the shipped recipe from which the fewest settings differ, and how many do, the seed left out."""
    names = [name for name in recipe_names() if of_images(recipe_values(name)[0]) == of_images(config)]
    distances = {name: sum(word.startswith("--") for word in _changes(config, name)) for name in names}
    return min(distances.items(), key=lambda item: item[1])


def _changes(config: Mapping[str, Any], name: str) -> list[str]:
    model = ImageRecipe if of_images(config) else Recipe
    shipped = read_recipe(name, model, scratch=config.get("from") == "scratch").model_dump(mode="json")
    return flags(without_seed(config), without_seed(shipped))


def command_line(config: Mapping[str, Any], folder: Path) -> str:
    """Return a command that trains a run with this configuration, as far as the shipped recipes and flags can tell."""
    name, _ = nearest_recipe(config)
    start, seed = config.get("from", "ann"), ["--seed", str(config["seed"])]
    if name == "convert":
        words = ["snnrl", "convert", start, *seed]
    else:
        data = ["--data", "DIR"] if of_images(config) else []
        begin = [] if start == "ann" and "weights" not in config else ["--from", start]
        taught = ["--teacher", config["teacher"]] if "teacher" in config else []
        given = ["--thresholds-of", "FILE.zip"] if "thresholds_of" in config else []
        words = ["snnrl", "train", name, *data, *seed, *begin, *taught, *given]
    return shlex.join([*words, *_changes(config, name), "--run", f"runs/{folder.name}"])
