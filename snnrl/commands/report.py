"""``snnrl report RUN...``: what came of a run, or of one recipe with several seeds, as one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from snnrl.agents.behaviour import observe
from snnrl.agents.library import open_agent, title
from snnrl.agents.spiking_dqn.config import Recipe, Settings
from snnrl.arguments import flags, parse
from snnrl.config import read_recipe, recipe_names
from snnrl.display import Display, print_json
from snnrl.errors import UserError
from snnrl.files import write_atomically
from snnrl.logs import read_logs
from snnrl.report import Run, Stage, read_stage, render, render_several
from snnrl.runs import RunFolder, differences

PAGE = "report.html"

OF_A_SEED = ("seed", "device", "weights")
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
        if len(options.runs) == 1:
            page = page_of(RunFolder(options.runs[0]))
        else:
            page = page_of_several([RunFolder(path) for path in options.runs])
        write_atomically(out, page.encode())
        display.say(f"wrote {out}, {len(page) / 1e6:.1f} MB")
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


def page_of(folder: RunFolder) -> str:
    """Return the page of a run; its agents play a little for it.

    Raises:
        UserError: the folder holds no run, no stage is finished, a file is damaged, or an agent's environment missing.
    """
    run = read_run(folder)
    agents = {stage.name: open_agent(str(folder.agent(stage.name))) for stage in run.stages}
    return render(run, observe(agents, run.seed))


def page_of_several(folders: Sequence[RunFolder]) -> str:
    """Return the page of runs of one recipe.

    Raises:
        UserError: as for one run; or the recipes differ, or two seeds do not.
    """
    runs = [read_run(folder) for folder in folders]
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
    return render_several(runs)


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in OF_A_SEED}


def read_run(folder: RunFolder) -> Run:
    """Return a run as its folder tells it; of an unfinished one, the finished stages.

    Raises:
        UserError: it holds no run or no finished stage, or a file in it is damaged.
    """
    config = folder.config()
    results = folder.results()
    summary = folder.summary() if folder.finished else {}
    where = folder.path / "summary.json" if summary else folder.stages
    try:
        stages = tuple(read_stage(result, "reward") for result in summary.get("stages", _best(results)))
        names = [attempt["name"] for attempt in summary.get("attempts", ())]
        names = [name for name in results if name not in names] + names
        facts = _facts(config, folder.versions(), summary, stages)
        env = title(str(config["env"]), summary.get("env_kwargs", {}))
        seed, gate_met = int(config["seed"]), bool(summary.get("gate_met", stages[-1].passed))
        command = command_line(config, folder.path)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} is damaged: remove it and run the same training again") from error
    logs = {name: log for name in names if (log := read_logs(folder.path / "logs", name))}
    return Run(f"{env}, seed {seed}", "reward", seed, facts, command, stages, logs, bool(summary), gate_met)


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
    distances = {name: len(_changes(config, name)) for name in recipe_names()}
    return min(distances.items(), key=lambda item: item[1])


def _changes(config: Mapping[str, Any], name: str) -> list[str]:
    shipped = read_recipe(name, Recipe).model_dump(mode="json")
    return flags(_without_seed(config), _without_seed(shipped))


def command_line(config: Mapping[str, Any], folder: Path) -> str:
    """Return a command that trains a run with this configuration, as far as the shipped recipes and flags can tell."""
    name, _ = nearest_recipe(config)
    start = config.get("from", "ann")
    if name == "convert":
        words = ["snnrl convert", start, "--seed", str(config["seed"]), *_changes(config, name)]
    else:
        begin = [] if start == "ann" and "weights" not in config else ["--from", start]
        words = ["snnrl train", name, "--seed", str(config["seed"]), *begin, *_changes(config, name)]
    return " ".join([*words, "--run", f"runs/{folder.name}"])
