"""What a Q-network does in forwards that are made anyway, and how SB3's logger calls it (docs/metrics.md)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from snnrl.energy import LayerOperations, energy_ratio
from snnrl.networks import spike_counts
from snnrl.neurons import SpikeCount

TENSORBOARD_ALONE = ("stdout", "log", "json", "csv")
"""Outputs of SB3's logger that cannot show a histogram."""


class Activity:
    """Spikes of every neuron, layer by layer, and Q-values of all decisions that were watched."""

    def __init__(self, counts: Mapping[str, SpikeCount]) -> None:
        self.counts = {layer_name(name): count for name, count in counts.items()}
        self.answers: list[Tensor] = []

    @property
    def q_values(self) -> Tensor:
        """Q-values ``(decisions, actions)``, on the CPU."""
        return torch.cat(self.answers).float().cpu()

    @property
    def spike_rate(self) -> dict[str, float]:
        """Spikes per neuron and decision, summed over T, by layer."""
        return {name: count.rate for name, count in self.counts.items()}


@contextmanager
def watching(q_net: nn.Module) -> Iterator[Activity]:
    """Watch the forwards of a Q-network inside the block."""
    with spike_counts(q_net) as counts:
        seen = Activity(counts)
        hook = q_net.register_forward_hook(lambda _, __, q_values: seen.answers.append(q_values.detach()))
        try:
            yield seen
        finally:
            hook.remove()


def record(logger: Logger, group: str, seen: Activity, layers: Sequence[LayerOperations]) -> None:
    """Hand spikes, energy ratio and Q-values to SB3's logger; ``layers`` are the operations of the same network."""
    record_spikes(logger, group, seen, layers)
    q_values = seen.q_values
    logger.record(f"{group}/q_mean", float(q_values.mean()))
    logger.record(f"{group}/q_chosen", q_values.amax(1), exclude=TENSORBOARD_ALONE)


def record_spikes(logger: Logger, group: str, seen: Activity, layers: Sequence[LayerOperations]) -> None:
    """Hand spikes and energy ratio to SB3's logger."""
    logger.record(f"{group}/energy_ratio", ratio(seen, layers))
    for name, count in seen.counts.items():
        logger.record(f"{group}/spikes_{name}", count.rate)
        logger.record(f"{group}/neurons_{name}", count.rates.cpu(), exclude=TENSORBOARD_ALONE)


def ratio(seen: Activity, layers: Sequence[LayerOperations]) -> float:
    """Return the ordinary network's energy over that of the network watched, by arXiv 2110.05929, Eq. 4."""
    return energy_ratio(layers) if seen.counts else 1.0


def short_names(layers: Sequence[LayerOperations]) -> tuple[LayerOperations, ...]:
    """Return counts under the layers' short names."""
    return tuple(replace(layer, name=layer_name(layer.name)) for layer in layers)


def layer_name(name: str) -> str:
    """Return the short name of a layer of a Q-network, such as ``conv1`` or ``fc1``."""
    for whole in ("body.", "features_extractor.", "cnn.", "q_net.", "features.", "decision."):
        name = name.removeprefix(whole)
    return name
