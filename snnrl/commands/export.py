"""``snnrl export AGENT``: an agent or a classifier at one timestep as C99, ONNX or NIR."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray

import snnrl
from snnrl.agents.classifier.library import open_classifier, open_images
from snnrl.agents.evaluate import Seen, episode_seeds, play
from snnrl.agents.exported import agent_chain, classifier_chain
from snnrl.agents.library import is_classifier, open_agent, shipped_agents
from snnrl.agents.settings import Percentile, Seed, Settings
from snnrl.arguments import parse, positional
from snnrl.display import Display, print_json
from snnrl.errors import UserError
from snnrl.export import Chain, Program, Trace, compiled, lower, nir_bytes, rounded, run, to_c, to_nir, to_onnx
from snnrl.files import quoted

OBSERVATIONS = 4000
"""At most: of a quarter, whole numbers are compared with floats; the others tell what inputs of layers are like."""
FEWEST = 40
EXPECTED = 64
"""Of those compared, which go with the C code, with what should come of them."""
TOLERANCE = 1e-4
"""Of a Q-value in floats, or a hundredth of that in units of the largest."""
TIE = 1e-5
"""In units of the threshold: so near to its level the order of a sum of floats decides a spike."""
EPISODES = 10
MOST_STEPS = 500


class ExportOptions(Settings):
    """Write what an agent does at one timestep for machines without Python."""

    to: Literal["c", "onnx", "nir"] = "c"
    """C99 without libraries, ONNX or NIR."""
    out: Path = Path("exported")
    """Folder of the files; one that holds anything is not written to."""
    weights: Literal["float32", "int16", "int8"] = "float32"
    """Of the C code: floats, or whole numbers throughout; with int8, layers with few weights keep 16 bits."""
    T: Literal[1] | None = None
    """Timesteps; default: the agent's own. An ordinary agent is converted, untrained."""
    percentile: Percentile | None = None
    """Of the pre-activations, for the thresholds of an ordinary agent that is converted; default: 90."""
    check: bool = True
    """Compile the C code and compare it with Python; without, no compiler is needed."""
    seed: Seed = 0
    """Of the starts whose observations serve as examples."""
    env: str | None = None
    """Gymnasium id or Atari game; default: the environment that the agent was trained in."""
    protocol: Literal["v4", "v5"] | None = None
    """Of an Atari game; default: the one that the agent was trained under."""
    data: Path | None = None
    """Folder of the images of a classifier."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the figures as one JSON object on the last line of stdout."""


class Subject(NamedTuple):
    """What is exported, and observations ``(N, ...)`` that it meets."""

    chain: Chain
    title: str
    source: str
    observations: NDArray[Any]


def export(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    name, rest = positional(ExportOptions, arguments, "export", "AGENT", shipped_agents())
    options = parse(ExportOptions, rest, f"export {name}")
    _check_options(options)
    with Display(options.as_json) as display:
        report = display.stage("export", 3)
        report(0, "playing")
        subject = _classifier(name, options) if is_classifier(name) else _agent(name, options)
        result = {"agent": subject.source, "to": options.to, "out": str(options.out), "seed": options.seed}
        if options.to == "c":
            report(1, "rounding" if options.weights != "float32" else "writing")
            examples, others = np.split(subject.observations, [-(len(subject.observations) // 4)])
            program = float_program = lower(subject.chain, examples)
            if options.weights != "float32":
                program = rounded(float_program, 8 if options.weights == "int8" else 16, examples)
            traces = [run(program, part) for part in np.array_split(others, 10)]
            files = _c_files(program, subject, traces, others)
            report(2, "checking")
            result["checked"] = _checked(files) if options.check else None
            _write(options.out, files)
            result |= _facts(program, traces, float_program, others)
            _show(display, subject, program, traces, result)
        else:
            _write(options.out, _exchange_file(options.to, subject))
            display.say(f"wrote {options.out}")
    if options.as_json:
        print_json(result)
    return 0


def _check_options(options: ExportOptions) -> None:
    out = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty: give another --out")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} for --out")
    if options.to != "c" and options.weights != "float32":
        raise UserError(f"--weights {options.weights} is for --to c: {options.to.upper()} files hold floats")
    if options.to == "c" and options.check:
        try:
            compiled.compiler()
        except RuntimeError as error:
            raise UserError(f"{error}; --no-check does without") from error


def _agent(name: str, options: ExportOptions) -> Subject:
    opened = open_agent(name, options.env, protocol=options.protocol, T=options.T, percentile=options.percentile)
    chain = agent_chain(opened.agent.q_net)
    seen = Seen(OBSERVATIONS, EPISODES)
    seeds = episode_seeds(options.seed, "play", EPISODES)
    play(opened.agent, opened.env_id, seeds, env_kwargs=opened.env_kwargs, most_steps=MOST_STEPS, on_step=seen.add)
    if len(seen.sample) < FEWEST:
        raise UserError(f"{EPISODES} episodes had {len(seen.sample)} observations, too few for examples ({FEWEST})")
    observations = np.random.default_rng(options.seed).permutation(np.stack(seen.sample))
    return Subject(chain, opened.title, opened.source, observations)


def _classifier(name: str, options: ExportOptions) -> Subject:
    images = open_images(name, options.data)
    opened = open_classifier(name, images, T=options.T, percentile=options.percentile, seed=options.seed)
    chain = classifier_chain(opened.classifier)
    if len(images.train) < FEWEST:
        raise UserError(f"{options.data} has {len(images.train)} training images, too few for examples ({FEWEST})")
    rows = np.random.default_rng(options.seed).permutation(len(images.train))[:OBSERVATIONS]
    return Subject(chain, opened.title, opened.source, images.train.read(rows))


def _c_files(program: Program, subject: Subject, traces: Sequence[Trace], others: NDArray[Any]) -> dict[str, bytes]:
    title = f"{subject.title}, {subject.source}"
    files = {name: text.encode() for name, text in to_c(program, title, snnrl.__version__).items()}
    files["check.py"] = Path(compiled.__file__).read_bytes()
    q_values = np.concatenate([trace.q_values for trace in traces])
    clear = np.concatenate([program.whole | (trace.closest >= TIE) for trace in traces])
    few = np.flatnonzero(clear)[:EXPECTED]
    files["expected.npz"] = compiled.expected(
        observations=others[few],
        q_values=q_values[few],
        spikes=_spikes(traces)[few],
        tolerance=0.0 if program.whole else TOLERANCE * max(1.0, float(np.abs(q_values).max()) / 100),
    )
    return files


def _spikes(traces: Sequence[Trace]) -> NDArray[np.int64]:
    """Return how many spikes each layer sent for each observation, ``(N, layers)``."""
    counts = [[spikes.reshape(len(spikes), -1).sum(1) for spikes in trace.spikes] for trace in traces]
    return np.concatenate([np.stack(by_layer, axis=1) for by_layer in counts])


def _facts(program: Program, traces: Sequence[Trace], float_program: Program, others: NDArray[Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "layers": {layer.name: layer.weight.dtype.name for layer in program.layers},
        "weight_bytes": sum(layer.weight.nbytes for layer in program.layers),
    }
    if program.whole:
        actions = np.concatenate([trace.actions for trace in traces])
        exact = np.concatenate([run(float_program, part).actions for part in np.array_split(others, 10)])
        facts["actions_that_differ_from_float32"] = float((actions != exact).mean())
    return facts


def _checked(files: Mapping[str, bytes]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), files)
        try:
            found, same = compiled.compare(Path(folder))
        except RuntimeError as error:
            raise UserError(f"{error}; nothing was written") from error
    if not same:
        raise UserError(f"the C code is not what Python does, nothing was written: {found}")
    return found


def _show(
    display: Display, subject: Subject, program: Program, traces: Sequence[Trace], result: Mapping[str, Any]
) -> None:
    spikes = _spikes(traces).mean(axis=0)
    rows = [
        [
            layer.name,
            layer.weight.dtype.name,
            f"{layer.weight.size:,}",
            f"{layer.weight.nbytes:,}",
            "-" if number == len(spikes) else f"{spikes[number]:,.1f} of {int(np.prod(layer.shape_spikes)):,}",
        ]
        for number, layer in enumerate(program.layers)
    ]
    title = f"{subject.title}, {subject.source}, as C"
    display.table(title, ["layer", "weights", "of them", "bytes", "spikes a decision"], rows)
    if (differing := result.get("actions_that_differ_from_float32")) is not None:
        checked = sum(len(trace.actions) for trace in traces)
        display.say(f"{differing:.2%} of actions differ from those of float32 weights on {checked:,} observations")
    if result["checked"]:
        display.say(f"compiled, against Python on {result['checked']}")
    display.say(f"wrote {result['out']}")


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder in one step: after an error there is none."""
    temporary = out.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        _fill(temporary, files)
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"cannot write {quoted(out)}: {error.strerror}; give another --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _exchange_file(kind: str, subject: Subject) -> dict[str, bytes]:
    title = f"{subject.title}, {subject.source}"
    if kind == "onnx":
        return {"agent.onnx": to_onnx(subject.chain, title)}
    return {"agent.nir": nir_bytes(to_nir(subject.chain, title))}
