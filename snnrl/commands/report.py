"""``snnrl report RUN...``: what came of a run, or of one recipe with several seeds, as one HTML page."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro

from snnrl.agents.behaviour import observe
from snnrl.agents.library import open_agent, title
from snnrl.agents.settings import Settings
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.arguments import flags, parse
from snnrl.config import merge, read_recipe, recipe_names, recipe_values
from snnrl.display import Display, print_json
from snnrl.errors import UserError
from snnrl.files import write_atomically
from snnrl.logs import read_logs
from snnrl.report.data import Run, Stage, read_stage
from snnrl.runs import RunFolder, differences

PAGE = "report.html"

OF_A_SEED = ("seed", "device", "weights", "data")
"""Settings in which runs of one recipe may differ."""


class ReportOptions(Settings):
    """Write a page about a run; or about several of one recipe with different seeds, their scores taken together."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders."""
    out: Path | None = None
    """The page; an existing file is not overwritten. Default: report.html in the run's folder, which is."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the page's path as one JSON object on the last line of stdout."""


def report(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parse(ReportOptions, arguments, "report")
    if not options.runs:
        raise UserError("usage: snnrl report RUN... [--out FILE.html]; RUN is a folder that snnrl train has written")
    if options.out is not None:
        _check_out(options.out)
    elif len(options.runs) > 1:
        raise UserError("a report on several runs belongs to none of their folders: give --out FILE.html")
    out = options.out or options.runs[0] / PAGE
    with Display(options.as_json) as display:
        write_page(out, *map(RunFolder, options.runs))
        display.say(f"wrote {out}")
    if options.as_json:
        print_json({"out": str(out), "runs": [str(path) for path in options.runs]})
    return 0


def _check_out(out: Path) -> None:
    if out.suffix != ".html":
        raise UserError(f"--out {out} must end in .html")
    if out.exists():
        raise UserError(f"{out} exists: give another --out")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} for --out")


def write_page(out: Path, *folders: RunFolder) -> None:
    """Write the page of a run, whose agents play a little for it, or of several runs of one recipe.

    Raises:
        UserError: a folder holds no run, no stage is finished, a file is damaged, or an agent's environment is missing;
            of several runs, the recipes differ, or two seeds do not.
    """
    from snnrl.report.page import render, render_several  # not above: matplotlib takes its time

    runs = [read_run(folder) for folder in folders]
    if len(runs) > 1:
        check_seeds(folders, runs)
        page = render_several(runs)
    else:
        agents = {stage.name: open_agent(str(folders[0].agent(stage.name))) for stage in runs[0].stages}
        page = render(runs[0], observe(agents, runs[0].seed))
    write_atomically(out, page.encode())


def check_seeds(folders: Sequence[RunFolder], runs: Sequence[Run]) -> None:
    """Raise UserError unless the runs are of one recipe and have different seeds."""
    first, *others = [_without_seed(folder.config()) for folder in folders]
    for folder, other in zip(folders[1:], others, strict=True):
        if differing := sorted(differences(first, other)):
            raise UserError(
                f"{folder.path} is of another recipe than {folders[0].path} ({', '.join(differing)}): "
                "give runs that differ in their seed alone"
            )
    seeds = [run.seed for run in runs]
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UserError(f"two of the runs have seed {twice[0]}: give each run once")


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in OF_A_SEED}


def read_run(folder: RunFolder) -> Run:
    """Return a run as its folder tells it; of an unfinished one, the finished stages.

    Raises:
        UserError: it holds no run or no finished stage, or a file in it is damaged.
    """
    stored = folder.config()
    results = folder.results("reward")
    summary = folder.summary() if folder.finished else {}
    with reading(folder.path / "summary.json" if summary else folder.stages):
        stages = tuple(read_stage(result, "reward") for result in summary.get("stages", _best(results)))
        tries = [attempt["name"] for attempt in summary.get("attempts", ())]
        gate_met = bool(summary.get("gate_met", stages[-1].passed))
        env_kwargs = dict(summary.get("env_kwargs", {}))
    with reading(folder.path / "config.json"):
        config = merge(Recipe(env="").model_dump(mode="json"), stored)
        name = title(str(config["env"]), env_kwargs)
        facts = _facts(config, folder.versions(), summary, stages)
        seed, command = int(config["seed"]), command_line(config, folder.path)
    names = [*(name for name in results if name not in tries), *tries]
    logs = {name: log for name in names if (log := read_logs(folder.path / "logs", name))}
    return Run(name, "reward", seed, facts, command, stages, logs, bool(summary), gate_met)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what a wrong value in ``file`` provokes into one line."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged: remove it and run the same training again") from error


def _best(results: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the best try of each T, in falling order of T after the ordinary network."""
    best: dict[int | None, Mapping[str, Any]] = {}
    for result in results.values():
        if result["T"] not in best or result["gate_reward"] > best[result["T"]]["gate_reward"]:
            best[result["T"]] = result
    return list(best.values())


def _facts(
    config: Mapping[str, Any], versions: Mapping[str, str], summary: Mapping[str, Any], stages: Sequence[Stage]
) -> dict[str, str]:
    """Return what was run, line by line."""
    name, changed = nearest_recipe(config)
    minutes = sum(stage.minutes for stage in stages)
    facts = {
        "recipe": f"{name}, {changed} settings changed" if changed else name,
        "environment": str(config["env"]),
        "seed": str(config["seed"]),
        "stages": ", ".join(stage.name for stage in stages),
        "begun with": str(config.get("from", "ann")),
        "loss of the spiking stages": str(config["reduction"]["loss"]),
        "minutes": f"{summary.get('minutes', minutes):.1f}",
        "threads": str(summary.get("threads", "not told before the end")),
        "versions": ", ".join(f"{package} {number}" for package, number in versions.items()),
    }
    protocol = summary.get("env_kwargs", {}).get("protocol", {})
    if protocol:
        facts["protocol"] = ", ".join(f"{field} {value}" for field, value in protocol.items())
    return facts


def nearest_recipe(config: Mapping[str, Any]) -> tuple[str, int]:
    """Return the shipped recipe from which the fewest settings differ, and how many do, the seed left out."""
    names = [name for name in recipe_names() if "env" in recipe_values(name)[0]]
    distances = {name: sum(word.startswith("--") for word in _changes(config, name)) for name in names}
    return min(distances.items(), key=lambda item: item[1])


def _changes(config: Mapping[str, Any], name: str) -> list[str]:
    shipped = read_recipe(name, Recipe).model_dump(mode="json")
    return flags(_without_seed(config), _without_seed(shipped))


def command_line(config: Mapping[str, Any], folder: Path) -> str:
    """Return a command that trains a run with this configuration, as far as the shipped recipes and flags can tell."""
    name, _ = nearest_recipe(config)
    start = config.get("from", "ann")
    if name == "convert":
        words = ["snnrl", "convert", start, "--seed", str(config["seed"]), *_changes(config, name)]
    else:
        begin = [] if start == "ann" and "weights" not in config else ["--from", start]
        words = ["snnrl", "train", name, "--seed", str(config["seed"]), *begin, *_changes(config, name)]
    return shlex.join([*words, "--run", f"runs/{folder.name}"])
