"""Operations as snnrl counts them beside NeuroBench's, on an MLP, a convolutional network and shipped agents.

NeuroBench (https://neurobench.ai) declares audio packages that the check does not need:
``pip install --no-deps neurobench && pip install snntorch tqdm``. Prints one JSON object a row.

Equal by definition: products with a zero input and biases do not count, padding does not count, and an input of zeros
and ones alone makes accumulates. Different: a layer behind average pooling makes multiply-accumulates in NeuroBench.
"""

from importlib.metadata import version
from typing import Any

import torch
from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
from neurobench.models import TorchModel
from rows import Rows, parser
from torch import nn

from snnrl.agents.evaluate import episode_seeds, evaluate
from snnrl.agents.library import open_agent
from snnrl.energy import count_operations
from snnrl.networks import block, fill_slots, mlp
from snnrl.neurons import SpikingNeuron


def spiking(network: nn.Sequential, steps: int) -> nn.Sequential:
    """Return the network with neurons in its slots."""
    fill_slots(network, "lif", steps, encoder=True)
    return network


def contestants() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Return networks by name, each with observations."""
    torch.manual_seed(0)
    padded = nn.Sequential(
        block(nn.Conv2d(2, 8, 3, stride=2, padding=1)),
        block(nn.Conv2d(8, 6, 3, padding=1, groups=2)),
        nn.Flatten(),
        nn.Linear(6 * 10 * 10, 4),
    )
    found: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "MLP, T=4": (spiking(mlp(6, [64, 32], 3, nn.ReLU), 4), 3 * torch.randn(64, 6)),
        "padded and grouped convolutions, T=2": (spiking(padded, 2), 3 * torch.randn(16, 2, 20, 20)),
    }
    for name in ("cartpole-state/ann", "cartpole-state/T1", "cartpole/T5", "cartpole/T1", "pong/ann", "pong/T1"):
        opened = open_agent(name, device="cpu")
        seeds = episode_seeds(0, "report", 1)
        seen = evaluate(opened.agent, opened.env_id, seeds, env_kwargs=opened.env_kwargs).observations
        found[f"agent {name}"] = opened.agent.q_net, opened.agent.policy.obs_to_tensor(seen)[0]
    return found


def neurobench(network: nn.Module, observations: torch.Tensor) -> dict[str, float]:
    """Return NeuroBench's figures for one batch."""
    model = TorchModel(network)
    model.add_activation_module(SpikingNeuron)
    operations, sparsity = SynapticOperations(), ActivationSparsity()
    model.register_hooks()
    with torch.no_grad():
        answers = model(observations)
    data: Any = (observations, None)
    found = {"activation sparsity": sparsity(model, answers, data), **operations(model, answers, data)}
    model.cleanup_hooks()
    if not any(isinstance(module, SpikingNeuron) for module in network.modules()):
        found["activation sparsity"] = 0.0  # we count the zeros of spiking neurons alone
    return {name: float(value) for name, value in found.items()}


def ours(network: nn.Module, observations: torch.Tensor) -> dict[str, float]:
    """Return our figures for the same batch, in the same terms."""
    layers = count_operations(network, observations, len(observations))
    neurons = sum(layer.neurons * layer.steps * layer.decisions for layer in layers)
    return {
        "Effective_MACs": sum(layer.active for layer in layers if not layer.spiking) / len(observations),
        "Effective_ACs": sum(layer.active for layer in layers if layer.spiking) / len(observations),
        "activation sparsity": 1 - sum(layer.spikes for layer in layers) / neurons if neurons else 0.0,
    }


def main() -> None:
    """Compare, and print a row for each network and figure."""
    options = parser(__doc__, rounds=1, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    rows = Rows(options.threads)
    peer = f"neurobench {version('neurobench')}"
    for name, (network, observations) in contestants().items():
        network.eval()
        theirs = neurobench(network, observations)
        for figure, value in ours(network, observations).items():
            if value or theirs[figure]:
                rows.add(f"{name}, {figure}", value, "a decision", peer, theirs[figure])
    rows.write(options.output)


if __name__ == "__main__":
    main()
