"""Networks exported to NIR, read by four simulators: spike for spike, in one timestep from rest.

Needs ``pip install -e ".[bench]"``. Writes ``results/export/nir_readers.csv``: a row for every network and simulator,
also where one cannot read the file.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import nir
import norse.torch
import numpy as np
import sinabs.nir
import torch
from numpy.typing import NDArray
from snntorch.import_nir import _nir_to_snntorch_module
from spikingjelly.activation_based import nir_exchange
from torch import Tensor, nn

from snnrl.agents.evaluate import play
from snnrl.agents.exported import agent_chain
from snnrl.agents.library import open_agent
from snnrl.export import Chain, Observation, chain_of
from snnrl.export.agreement import agreement
from snnrl.export.nir import nir_bytes, to_nir
from snnrl.files import first_line, write_atomically
from snnrl.networks import calibrating, classifier, fill_slots
from snnrl.tables import to_csv

AGENTS = ("cartpole-state/T1", "cartpole/T1", "pong/T1")
EPISODES, MOST_STEPS, EPSILON = 4, 50, 0.3
RESULT = Path(__file__).parent / "results" / "export" / "nir_readers.csv"
COLUMNS = (
    *("network", "reader", "version", "observations", "neurons_compared", "differing", "farthest_in_thresholds"),
    *("actions_differing", "q_difference_given_its_spikes", "note"),
)

Found = tuple[list[NDArray[Any]], NDArray[Any]]
"""Spikes of each layer ``(B, ...)`` and Q-values ``(B, K)``."""


class Subject(NamedTuple):
    """A network that is exported, what it sees, and what it then does."""

    chain: Chain
    observations: NDArray[Any]
    actions: NDArray[Any]


def played(name: str) -> Subject:
    """Return a shipped agent and what it meets."""
    opened = open_agent(name, device="cpu")
    seen: list[NDArray[Any]] = []
    play(
        opened.agent,
        opened.env_id,
        range(EPISODES),
        env_kwargs=opened.env_kwargs,
        most_steps=MOST_STEPS,
        epsilon=EPSILON,
        on_step=lambda running, observations: seen.append(observations.copy()),
    )
    observations = np.concatenate(seen)
    return Subject(agent_chain(opened.agent.q_net), observations, opened.agent.predict(observations)[0])


@torch.no_grad()
def untrained() -> Subject:
    """Return an untrained VGG6 of a sixteenth of the width: padding, and averages of spikes."""
    torch.manual_seed(0)
    shape = (3, 32, 32)
    network = classifier("vgg6", shape, 10, hidden=(16,), width=1 / 16, batch_norm=False)
    fill_slots(network, "lif", 1, encoder=True)
    seen = Observation(shape, True, np.full((3, 1, 1), 1 / 64), np.full((3, 1, 1), -2.0))
    images = np.random.default_rng(0).integers(0, 256, (200, *shape)).astype(np.uint8)
    given = seen.real(images).float()
    with calibrating(network, 90.0):
        network(given)
    return Subject(chain_of(network.eval(), seen), images, network(given).argmax(1).numpy())


SUBJECTS: dict[str, Callable[[], Subject]] = {name: partial(played, name) for name in AGENTS} | {
    "vgg6, width 1/16, untrained": untrained
}


def watched(network: nn.Module, batches: Sequence[Tensor]) -> Found:
    """Return the spikes that the neurons of a network send, and its output."""
    spikes: dict[str, list[Tensor]] = {}

    def keep(name: str, module: nn.Module, inputs: Any, result: Any) -> None:
        spikes.setdefault(name, []).append(result if isinstance(result, Tensor) else result[0])

    for name, module in network.named_modules():
        if name.endswith("_neurons"):
            module.register_forward_hook(partial(keep, name))
    outputs = [network(batch)[0] for batch in batches]
    q_values = torch.cat([output.reshape(len(batch), -1) for output, batch in zip(outputs, batches, strict=True)])
    return [torch.cat(of_layer).numpy() for of_layer in spikes.values()], q_values.numpy()


def spikingjelly(graph: nir.NIRGraph, observations: Tensor) -> Found:
    """Read with SpikingJelly, dt = 1."""
    return watched(nir_exchange.import_from_nir(graph, dt=1.0), [observations])


def norse_(graph: nir.NIRGraph, observations: Tensor) -> Found:
    """Read with Norse, whose Flatten takes the batch for a side of the maps: one observation at a time."""
    return watched(norse.torch.from_nir(graph, dt=1.0), list(observations.split(1)))


def sinabs_(graph: nir.NIRGraph, observations: Tensor) -> Found:
    """Read with sinabs, whose neurons fire as often in a timestep as the threshold fits into the potential."""
    return watched(sinabs.nir.from_nir(graph, batch_size=len(observations)), [observations])


def snntorch(graph: nir.NIRGraph, observations: Tensor) -> Found:
    """Read with snnTorch, its nodes called one after another, one observation at a time."""
    nodes = {name: _nir_to_snntorch_module(graph.nodes[name]) for _, name in graph.edges[:-1]}
    spikes: dict[str, list[Tensor]] = {}
    outputs = []
    for values in observations.split(1):
        for name, module in nodes.items():
            if name.endswith("_neurons"):
                values, _ = module(values, torch.zeros_like(values))
                spikes.setdefault(name, []).append(values)
            else:
                values = module(values)
        outputs.append(values.reshape(1, -1))
    return [torch.cat(of_layer).numpy() for of_layer in spikes.values()], torch.cat(outputs).numpy()


READERS: dict[str, tuple[Callable[[nir.NIRGraph, Tensor], Found], str]] = {
    "spikingjelly": (spikingjelly, "fires at v >= v_threshold"),
    "norse": (norse_, "Flatten takes the batch for a side: one observation at a time"),
    "snntorch": (snntorch, "nodes called one by one: its own graph passes on pairs of spikes and potentials"),
    "sinabs": (sinabs_, "several spikes a timestep"),
}


@torch.no_grad()
def row(name: str, subject: Subject, path: Path, reader: str) -> list[Any]:
    """Return what a simulator does with a file."""
    read, note = READERS[reader]
    start = [name, reader, version(reader), len(subject.observations)]
    try:
        spikes, q_values = read(nir.read(path), torch.from_numpy(subject.observations.astype(np.float32)))
    except Exception as error:  # whatever a library raises about a node it does not know
        return [*start, None, None, None, None, None, f"cannot read it: {first_line(error)}"]
    hidden, count = subject.chain.layers[:-1], len(subject.observations)
    spikes = [sent.reshape(count, *layer.shape_out) for sent, layer in zip(spikes, hidden, strict=True)]
    found = agreement(subject.chain, subject.observations, spikes, q_values)
    wrong = int((q_values.argmax(1) != subject.actions).sum())
    return [*start, found.compared, found.differing, f"{found.farthest:.2g}", wrong, f"{found.q_error:.2g}", note]


def main() -> None:
    """Compare all simulators on all networks."""
    logging.disable(logging.WARNING)
    rows = []
    with TemporaryDirectory() as folder:
        for name, make in SUBJECTS.items():
            subject = make()
            path = Path(folder) / "network.nir"
            path.write_bytes(nir_bytes(to_nir(subject.chain, name)))
            for reader in READERS:
                rows.append(row(name, subject, path, reader))
                print(*rows[-1], sep=", ", flush=True)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULT, to_csv(COLUMNS, rows).encode())


if __name__ == "__main__":
    main()
