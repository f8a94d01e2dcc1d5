"""``snnrl convert AGENT.zip``: a spiking agent from one that stable-baselines3's DQN trained, by distillation alone."""

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from snnrl.agents.library import open_agent
from snnrl.agents.spiking_dqn.config import Recipe, env_settings
from snnrl.arguments import parse, positional
from snnrl.commands.train import run_job
from snnrl.config import read_recipe
from snnrl.display import print_json
from snnrl.errors import UserError
from snnrl.files import write_atomically
from snnrl.runs import RunFolder


class ConvertOptions(Recipe):
    """Convert an agent trained with stable-baselines3's DQN; nothing in its file is unpickled.

    It plays to gather states, its network is converted at T timesteps, and T is lowered to --reduce-to by distillation.
    """

    env: str = ""
    """Gymnasium id; default: the environment that the agent's file tells, which stable-baselines3's do not."""
    out: Path = Path("spiking.zip")
    """The new agent; an existing file is not overwritten."""
    run: Path | None = None
    """Folder of the stages on the way; the same command goes on with it. Default: --out without .zip."""
    activation: str | None = None
    """The network's activation, such as relu or tanh, where the file does not tell."""
    vecnormalize: Path | None = None
    """VecNormalize statistics; default: vecnormalize.pkl beside the agent or in a folder named like ENV beside it."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the summary as one JSON object on the last line of stdout; its paths are relative to that of --out."""


def convert(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    name, rest = positional(ConvertOptions, arguments, "convert", "AGENT.zip")
    defaults = read_recipe("convert", Recipe)
    options = parse(ConvertOptions, rest, f"convert {name}", ConvertOptions(**defaults.model_dump() | {"env": ""}))
    if options.out.suffix != ".zip":
        raise UserError(f"--out {options.out} must end in .zip")
    if options.out.exists():
        raise UserError(f"{options.out} exists: give another --out")
    if not options.out.parent.is_dir():
        raise UserError(f"there is no folder {options.out.parent} for --out")
    device, activation = options.device, options.activation
    opened = open_agent(
        name,
        options.env or None,
        env_kwargs=options.env_kwargs or None,
        device=device,
        activation=activation,
        vecnormalize=options.vecnormalize,
    )
    settings = {field: getattr(options, field) for field in Recipe.model_fields}
    recipe = Recipe(**settings | env_settings(opened.env_id, opened.env_kwargs))
    run = RunFolder(options.run or options.out.with_suffix(""))
    summary, code = run_job(recipe, run, {"from": Path(name).name}, opened.agent, scratch=False, quiet=options.as_json)
    *others, last = summary["stages"]
    write_atomically(options.out, (run.path / last["agent"]).read_bytes())
    for stage in others:
        stage["agent"] = os.path.relpath(run.path / stage["agent"], options.out.parent)
    last["agent"] = options.out.name
    if options.as_json:
        print_json(summary)
    return code
