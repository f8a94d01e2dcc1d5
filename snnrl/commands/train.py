"""``snnrl train RECIPE``: the whole way from an ordinary network to a spiking one at few timesteps."""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from snnrl import processes
from snnrl.agents.library import open_agent
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.build import build_agent, checkpoint_bytes, training_envs
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.agents.spiking_dqn.stages import Job
from snnrl.arguments import parse, positional
from snnrl.checkpoint import fingerprint
from snnrl.commands.running import beginning, check_beginning, check_lowers, from_scratch, run_chain
from snnrl.commands.train_images import train_images
from snnrl.config import read_recipe, recipe_names, recipe_values
from snnrl.display import print_json
from snnrl.envs import games, make_playable, near_game
from snnrl.errors import UserError, did_you_mean
from snnrl.runs import RunFolder


class TrainOptions(Recipe):
    """Train an ordinary DQN, convert it to a spiking one at T timesteps, and lower T stage by stage to --reduce-to."""

    start: Annotated[str, tyro.conf.arg(name="from")] = "ann"
    """ann: train the ordinary network first, where there is one of that kind; scratch: train at T from scratch; or an
    agent to begin with (of a run folder the last one; T5.zip in it is another)."""
    teacher: str | None = None
    """An ordinary agent that a network from scratch imitates; None: it learns from rewards alone."""
    run: Path | None = None
    """Folder of the run; the same command goes on with it. Default: runs/RECIPE-seedSEED."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the summary as one JSON object on the last line of stdout."""


@processes.joined()
def train(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    name, rest = positional(TrainOptions, arguments, "train", "RECIPE", recipe_names())
    if _is_file(name) and "images" in recipe_values(name)[0]:
        return train_images(name, rest)
    if processes.count() > 1:
        raise UserError(
            f"{name} trains an agent, in one process: torchrun is for image classifiers; run several seeds side by side"
        )
    defaults = TrainOptions(**_recipe(name, from_scratch(rest)).model_dump())
    options = parse(TrainOptions, rest, f"train {name}", defaults)
    recipe = Recipe(**{field: getattr(options, field) for field in Recipe.model_fields})
    scratch, origin = beginning(options.start, options.teacher, recipe.network.kind)
    start = None
    if origin is not None:
        start = open_agent(origin, recipe.env, env_kwargs=recipe.env_kwargs, device=recipe.device).agent
    run = RunFolder(options.run or Path("runs") / f"{Path(name).stem}-seed{recipe.seed}")
    named = {"from": "scratch" if scratch else Path(options.start).name}
    if options.teacher is not None:
        named["teacher"] = Path(options.teacher).name
    summary, code = run_job(recipe, run, named, start, scratch, options.as_json)
    if options.as_json:
        print_json(summary)
    return code


def _is_file(name: str) -> bool:
    return name in recipe_names() or Path(name).suffix in (".yaml", ".yml")


def _recipe(name: str, scratch: bool) -> Recipe:
    """Return a recipe by its name or file, or the one of all games for an Atari game without one of its own."""
    if _is_file(name):
        return read_recipe(name, Recipe, scratch=scratch)
    if name not in games():
        raise UserError(f"unknown recipe {name!r}{did_you_mean(near_game(name), recipe_names(), games())}")
    return read_recipe("atari", Recipe, {"env": name}, scratch=scratch)


def run_job(
    recipe: Recipe, run: RunFolder, named: Mapping[str, str], start: SpikingDQN | None, scratch: bool, quiet: bool
) -> tuple[dict[str, Any], int]:
    """Run or take up a job, show its table, and return the summary and the exit code.

    ``named``: what the run begins with, for its configuration.
    """
    check(recipe, start, scratch)
    if not run.finished:
        check_disk(recipe, run, start)
    config = {**recipe.model_dump(mode="json"), **named}
    if start is not None:
        config["weights"] = fingerprint(start.q_net.state_dict())
    return run_chain(
        lambda display: Job(recipe, run, display.stage, display.say, start=start, scratch=scratch), run, config, quiet
    )


def check(recipe: Recipe, start: SpikingDQN | None, scratch: bool = False) -> None:
    """Build the first spiking agent, so that a recipe that cannot work is refused before anything is written.

    Raises:
        UserError: there is no such environment, an agent cannot play it, nothing in its network would spike, it
            decides in as few timesteps already, it spikes and sees other frames, or it cannot be converted.
    """
    check_beginning(recipe.network.kind, recipe.neuron, scratch, start)
    trial = recipe.model_copy(update={"dqn": recipe.dqn.model_copy(update={"buffer_size": 1})})
    make_playable(recipe.env, **recipe.env_kwargs).close()
    envs = training_envs(trial, trial.seed, 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nothing spikes")
        like = None if scratch else start
        agent = build_agent(trial, trial.steps[0], envs, trial.seed, like=like, scratch=scratch)
    envs.close()
    if start is not None and start.T is not None:
        check_lowers(start.T, recipe.steps[-1])
        ours, theirs = (
            (one.policy_kwargs.get("features_extractor_kwargs") or {}).get("view", "grey") for one in (agent, start)
        )
        if ours != theirs:
            raise UserError(
                f"the agent to begin with spikes and sees {theirs} frames, reduction.view is {ours}: begin with an "
                "ordinary one, such as ann.zip in its run folder"
            )
    if agent.T is None:
        raise UserError("nothing would spike, there is no hidden layer: give network.net_arch, such as [128, 128]")


def check_disk(recipe: Recipe, run: RunFolder, start: SpikingDQN | None) -> None:
    """Refuse a run whose checkpoints would not find room.

    Raises:
        UserError: the disk has less room than the replay buffer or the play to be imitated needs.
    """
    needed = checkpoint_bytes(recipe, learns_by_td=start is None or recipe.reduction.loss == "td")
    there = next(parent for parent in (run.path, *run.path.absolute().parents) if parent.is_dir())
    written = sum(file.stat().st_size for file in run.stages.rglob("*.zip"))
    free = shutil.disk_usage(there).free
    if needed > free + written:
        raise UserError(
            f"checkpoints of this run need up to {needed / 1e9:.1f} GB, the disk of {run.path} has {free / 1e9:.1f} "
            "GB: give --run a folder elsewhere, or lower --dqn.buffer_size or --reduction.frames"
        )
