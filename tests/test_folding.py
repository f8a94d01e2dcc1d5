"""Folding: a network of weights and comparisons sends the spikes of the network with batch-norm and thresholds."""

import pytest
import torch
from torch import Tensor, nn

from modules import settled
from snnrl.errors import UserError
from snnrl.networks import Comparison, SpikingNetwork, classifier, fill_slots, folded, nature_cnn, neurons_of
from snnrl.networks.layers import block
from snnrl.neurons import NEURONS, Hoyer, SpikingNeuron

IMAGE = (3, 16, 16)
TIE = 1e-5
"""Relative distance to the level below which rounding may decide."""


def spikes_of(network: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return current, level and spikes of every layer of neurons, or of the comparisons in their place."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> None:
        level = layer.level
        assert isinstance(level, Tensor)
        if isinstance(layer, SpikingNeuron) and level.dim() and spikes.dim() == 4:
            level = level.view(-1, 1, 1)
        found.append((inputs[0], level, spikes))

    for module in network.modules():
        if isinstance(module, SpikingNeuron | Comparison):
            module.register_forward_hook(keep)
    with torch.no_grad():
        network(images)
    return found


def test_batch_norm_by_hand() -> None:
    # 2 x - 3 through mean 1, variance 4, gain -1, shift 0.5: -(2 x - 4) / 2 + 0.5 >= 1.5 where x <= 1
    layer = block(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0), pool=None)
    fill_slots(network := nn.Sequential(layer), "hoyer", 1, encoder=True)
    with torch.no_grad():
        for name, value in {"weights.weight": 2, "weights.bias": -3, "norm.weight": -1, "norm.bias": 0.5}.items():
            layer.get_parameter(name).fill_(value)
        layer.get_buffer("norm.running_mean").fill_(1.0)
        layer.get_buffer("norm.running_var").fill_(4.0)
        layer.get_parameter("act.threshold").fill_(2.0)
        layer.get_buffer("act.running_extremum").fill_(0.75)
    inputs = torch.tensor([0.5, 1.0, 1.5]).view(3, 1, 1, 1)
    compared = folded(network)
    assert network.eval()(inputs).flatten().tolist() == [1, 1, 0]
    assert compared(inputs).flatten().tolist() == [1, 1, 0]
    weights, comparison = compared[0].weights, compared[0].act
    # the weights are turned round: -2 x >= -2
    assert (weights.weight.item(), weights.bias, comparison.level.item()) == (-2.0, None, -2.0)


def check_spikes(network: nn.Module, images: Tensor) -> None:
    """Compare layer by layer; the first with a tie is the last one, for what follows sees other spikes."""
    for (current, level, spikes), (_, _, found) in zip(
        spikes_of(network, images), spikes_of(folded(network), images), strict=True
    ):
        assert 0 < float(spikes.mean()) < 1
        differ = spikes != found
        near = ((current - level).abs() / level.abs().clamp(min=1e-30) < TIE).expand_as(spikes)
        assert bool(near[differ].all())
        assert int(differ.sum()) <= 2
        if differ.any():
            break


@pytest.mark.parametrize("neuron", [name for name in NEURONS if name != "binary"])
@pytest.mark.parametrize("kind", ["hoyer-vgg6", "hoyer-resnet20", "vgg6"])
def test_folded_networks_send_the_same_spikes(kind: str, neuron: str) -> None:
    network, images = settled(classifier(kind, IMAGE, 10, hidden=(32,), dropout=0.1, width=0.125), IMAGE, neuron)
    check_spikes(network, images)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_nothing_but_weights_and_comparisons_is_left() -> None:
    network, _ = settled(classifier("hoyer-vgg6", IMAGE, 10, hidden=(32,), width=0.125), IMAGE, "hoyer")
    kinds = {type(module) for module in folded(network).modules() if not list(module.children())}
    assert kinds == {nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.Flatten, nn.Identity, Comparison} | {
        type(network.get_submodule("decision.head"))
    }
    assert len(neurons_of(network)) == 4  # the network itself is as it was


def test_a_gain_of_zero_leaves_the_shift_alone() -> None:
    layer = block(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    fill_slots(network := nn.Sequential(layer), "hoyer", 1, encoder=True)
    with torch.no_grad():
        layer.get_parameter("norm.weight").zero_()
        layer.get_parameter("norm.bias").copy_(torch.tensor([2.0, 0.5]))
    inputs = torch.randn(4, 1, 3, 3)
    assert torch.equal(network.eval()(inputs), folded(network)(inputs))
    assert folded(network)(inputs).mean((0, 2, 3)).tolist() == [1, 0]


def test_q_networks_fold_without_batch_norm_too() -> None:
    network, images = settled(nature_cnn((4, 84, 84), 64), (4, 84, 84), "lif")
    check_spikes(network, images)


def test_several_timesteps_are_refused() -> None:
    network = SpikingNetwork(nn.Sequential(block(nn.Linear(2, 2))), 2, [])
    fill_slots(network.body, "hoyer", 2, encoder=True)
    with pytest.raises(UserError, match=r"2 timesteps cannot be folded: lower T to 1"):
        folded(network)


def test_the_ablation_fires_at_its_threshold() -> None:
    neuron = NEURONS["hoyer-fixed"].behind(2, 1, encoder=True).train()
    assert isinstance(neuron, Hoyer)
    current = torch.tensor([[0.9, 1.0], [1.1, 0.2]]).view(2, 2, 1, 1)
    assert neuron(current).flatten().tolist() == [0, 1, 1, 0]
    assert neuron.running_extremum.tolist() == [1, 1]
