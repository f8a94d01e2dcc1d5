"""``snnrl report RUN...``: what came of a run, or of one recipe with several seeds, as one HTML page."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro

from snnrl.agents.behaviour import observe
from snnrl.agents.classifier import Classifier
from snnrl.agents.classifier.behaviour import observe as observe_images
from snnrl.agents.classifier.library import open_images
from snnrl.agents.library import open_agent
from snnrl.agents.settings import Settings
from snnrl.arguments import parse
from snnrl.commands.recipes import command_line, nearest_recipe, of_images, title_of, whole_config, without_seed
from snnrl.display import Display, print_json
from snnrl.envs.images import ImageSet
from snnrl.errors import UserError
from snnrl.files import write_atomically
from snnrl.logs import read_logs
from snnrl.report.data import Behaviour, Run, Stage, read_stage
from snnrl.runs import RunFolder, differences

PAGE = "report.html"


class ReportOptions(Settings):
    """Write a page about a run; or about several of one recipe with different seeds, their scores taken together."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders."""
    data: Path | None = None
    """Folder of the images that a classifier was trained on, for energy by layer, and images with their spikes."""
    out: Path | None = None
    """The page; an existing file is not overwritten. Default: report.html in the run's folder, which is."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the page's path as one JSON object on the last line of stdout."""


def report(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parse(ReportOptions, arguments, "report")
    if not options.runs:
        raise UserError(
            "usage: snnrl report RUN... [--out FILE.html] [--data DIR]; RUN is a folder that snnrl train has written"
        )
    if options.out is not None:
        _check_out(options.out)
    elif len(options.runs) > 1:
        raise UserError("a report on several runs belongs to none of their folders: give --out FILE.html")
    out = options.out or options.runs[0] / PAGE
    folders = [RunFolder(path) for path in options.runs]
    with Display(options.as_json) as display:
        write_page(out, *folders, images=None if options.data is None else _images(folders, options.data))
        display.say(f"wrote {out}")
    if options.as_json:
        print_json({"out": str(out), "runs": [str(path) for path in options.runs]})
    return 0


def _images(folders: Sequence[RunFolder], data: Path) -> ImageSet:
    if not all(of_images(folder.config()) for folder in folders):
        raise UserError("--data is for runs of image classifiers, which this is none of")
    if len(folders) > 1:
        raise UserError("--data is for the report on one run: of several, nothing is named anew")
    folder, *_ = folders
    name = next(iter(folder.results("accuracy")))
    return open_images(str(folder.agent(name)), data)


def _check_out(out: Path) -> None:
    if out.suffix != ".html":
        raise UserError(f"--out {out} must end in .html")
    if out.exists():
        raise UserError(f"{out} exists: give another --out")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} for --out")


def write_page(out: Path, *folders: RunFolder, images: ImageSet | None = None) -> None:
    """Write the page of a run, whose agents play a little for it, or of several runs of one recipe.

    The classifiers of a run name some of the ``images`` for it, if they are given.

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
        files = {stage.name: folders[0].agent(stage.name) for stage in runs[0].stages}
        most_steps = folders[0].config().get("most_steps")
        page = render(runs[0], _behaviour(runs[0], files, most_steps, images))
    write_atomically(out, page.encode())


def _behaviour(
    run: Run, files: Mapping[str, Path], most_steps: int | None, images: ImageSet | None
) -> Behaviour | None:
    if run.measure == "reward":
        return observe({name: open_agent(str(file)) for name, file in files.items()}, run.seed, most_steps)
    if images is None:
        return None
    return observe_images({name: Classifier.load(file) for name, file in files.items()}, images.test)


def check_seeds(folders: Sequence[RunFolder], runs: Sequence[Run]) -> None:
    """Raise UserError unless the runs are of one recipe and have different seeds."""
    first, *others = [without_seed(folder.config()) for folder in folders]
    for folder, other in zip(folders[1:], others, strict=True):
        if differing := sorted(differences(first, other)):
            raise UserError(
                f"{folder.path} is of another recipe than {folders[0].path} ({', '.join(differing)}): "
                "give runs that differ in their seed alone"
            )
    seeds = [run.seed for run in runs]
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UserError(f"two of the runs have seed {twice[0]}: give each run once")


def read_run(folder: RunFolder) -> Run:
    """Return a run as its folder tells it; of an unfinished one, the finished stages.

    Raises:
        UserError: it holds no run or no finished stage, or a file in it is damaged.
    """
    stored = folder.config()
    measure = "accuracy" if of_images(stored) else "reward"
    results = folder.results(measure)
    summary = folder.summary() if folder.finished else {}
    with reading(folder.path / "summary.json" if summary else folder.stages):
        stages = tuple(read_stage(result, measure) for result in summary.get("stages", _best(results, measure)))
        tries = [attempt["name"] for attempt in summary.get("attempts", ())]
        gate_met = bool(summary.get("gate_met", stages[-1].passed))
        note = str(summary.get("images", {}).get("note") or "")
    with reading(folder.path / "config.json"):
        config = whole_config(stored)
        facts = _facts(config, folder.versions(), summary, stages)
        seed, command = int(config["seed"]), command_line(config, folder.path)
        name = title_of(config, summary)
    names = [*(name for name in results if name not in tries), *tries]
    logs = {name: log for name in names if (log := read_logs(folder.path / "logs", name))}
    return Run(name, measure, seed, facts, command, stages, logs, bool(summary), gate_met, note and f"Images: {note}.")


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what a wrong value in ``file`` provokes into one line."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged: remove it and run the same training again") from error


def _best(results: Mapping[str, Mapping[str, Any]], measure: str) -> list[Mapping[str, Any]]:
    """Return the best try of each T, in falling order of T after the ordinary network."""
    best: dict[int | None, Mapping[str, Any]] = {}
    for result in results.values():
        if result["T"] not in best or result[f"gate_{measure}"] > best[result["T"]][f"gate_{measure}"]:
            best[result["T"]] = result
    return list(best.values())


def _facts(
    config: Mapping[str, Any], versions: Mapping[str, str], summary: Mapping[str, Any], stages: Sequence[Stage]
) -> dict[str, str]:
    """Return what was run, line by line."""
    name, changed = nearest_recipe(config)
    minutes = sum(stage.minutes for stage in stages)
    return {
        "recipe": f"{name}, {changed} settings changed" if changed else name,
        **(_image_facts(config, summary) if of_images(config) else {"environment": str(config["env"])}),
        "seed": str(config["seed"]),
        "stages": ", ".join(stage.name for stage in stages),
        "begun with": str(config.get("from", "ann")),
        **({} if of_images(config) else {"loss of the spiking stages": str(config["reduction"]["loss"])}),
        "minutes": f"{summary.get('minutes', minutes):.1f}",
        "threads": str(summary.get("threads", "not told before the end")),
        "versions": ", ".join(f"{package} {number}" for package, number in versions.items()),
        **_protocol_facts(summary),
    }


def _image_facts(config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    sizes = summary.get("images", {})
    parts = {"train": "to train on", "validation": "to validate with", "test": "to test with"}
    told = ", ".join(f"{sizes[part]} {text}" for part, text in parts.items() if part in sizes)
    return {"images": f"{config['images']}, {told}" if told else str(config["images"])}


def _protocol_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    protocol = summary.get("env_kwargs", {}).get("protocol", {})
    return {"protocol": ", ".join(f"{field} {value}" for field, value in protocol.items())} if protocol else {}
