"""The networks of arXiv 2212.10170: maxima of currents before batch-norm, shortcuts on currents, from scratch."""

import pytest
import torch
from torch import nn

from snnrl.conversion import convert
from snnrl.energy import count_operations
from snnrl.errors import UserError
from snnrl.networks import SpikingNetwork, classifier, convolutional, fill_slots, neurons_of, output_width
from snnrl.networks.resnet import CurrentBlock
from snnrl.neurons import Hoyer

IMAGE = (3, 32, 32)


def spiking(kind: str, dropout: float = 0.1) -> SpikingNetwork:
    torch.manual_seed(0)
    body = classifier(kind, IMAGE, 4, hidden=() if "resnet" in kind else (16,), dropout=dropout, width=0.125)
    fill_slots(body, "hoyer", 1, encoder=True)
    return SpikingNetwork(body, 1, ["decision.head"])


def test_maxima_come_before_batch_norm_and_dropout_behind_every_neuron() -> None:
    features = classifier("hoyer-vgg6", IMAGE, 10, hidden=(8,), dropout=0.1).get_submodule("features")
    names = ["conv1", "dropout1", "conv2", "dropout2", "conv3", "dropout3", "flatten"]
    assert [name for name, _ in features.named_children()] == names
    kinds = {name: [type(part) for part in features.get_submodule(name).children()] for name in names}
    assert kinds["conv1"] == kinds["conv3"] == [nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds["conv2"] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


@pytest.mark.parametrize("shape", [IMAGE, (4, 84, 84)])
@pytest.mark.parametrize("kind", ["vgg6", "vgg16"])
def test_they_have_the_weights_of_their_cousins(kind: str, shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        ours, theirs = classifier(f"hoyer-{kind}", shape, 10), classifier(kind, shape, 10)
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


def test_resnet20_by_hand() -> None:
    with torch.device("meta"):
        network = classifier("hoyer-resnet20", IMAGE, 10)
    sizes = [tuple(module.weight.shape) for module in network.modules() if isinstance(module, nn.Conv2d)]
    stem = [(64, 3, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3)]
    stages = [(64, 64, 3, 3)] * 4
    for before, width in ((64, 128), (128, 256), (256, 512)):
        # the strided block's own convolution, then its shortcut's
        stages += [(width, before, 3, 3), (width, before, 1, 1), *[(width, width, 3, 3)] * 3]
    assert sizes == stem + stages
    assert sum(k > 1 for *_, k in sizes) + 1 == 20  # with the head
    assert len([module for module in network.modules() if isinstance(module, CurrentBlock)]) == 16


@pytest.mark.parametrize(("side", "maps"), [(32, 2), (28, 2), (33, 3), (64, 4)])
def test_sizes_of_maps(side: int, maps: int) -> None:
    network = convolutional("hoyer-resnet20", (3, side, side), 0, width=0.125)
    seen: list[tuple[int, ...]] = []
    network.get_submodule("block16").register_forward_hook(lambda *given: seen.append(tuple(given[2].shape)))
    assert output_width(network, (3, side, side)) == 64
    assert seen == [(1, 64, maps, maps)]


def test_a_block_adds_to_the_current_in_front_of_its_neurons() -> None:
    # a ReLU in the slot, the convolution twice the middle pixel: x + 2 relu(x)
    block = CurrentBlock(1, 1, batch_norm=False, dropout=0.0)
    with torch.no_grad():
        nn.init.dirac_(block.get_parameter("conv.weights.weight")).mul_(2)
        nn.init.zeros_(block.get_parameter("conv.weights.bias"))
    assert block(torch.tensor([-1.0, 3.0]).view(1, 1, 1, 2)).flatten().tolist() == [-1, 9]


def test_neurons_know_the_maps_that_they_see() -> None:
    sizes = {name: tuple(neuron.get_buffer("running_extremum").shape) for name, neuron in _hoyer("hoyer-resnet20")}
    assert sizes["body.features.conv1"] == (8,)
    assert sizes["body.features.block4"] == (8,)
    # the neurons of a strided block, and those of its shortcut, see the maps before it
    assert sizes["body.features.block5"] == sizes["body.features.block5.shortcut"] == (8,)
    assert sizes["body.features.block6"] == (16,)
    assert sizes["body.features.maps"] == ()
    assert len(sizes) == 2 + 16 + 3 + 1


def _hoyer(kind: str) -> list[tuple[str, Hoyer]]:
    return [(name, neuron) for name, neuron in neurons_of(spiking(kind)).items() if isinstance(neuron, Hoyer)]


@pytest.mark.parametrize(("kind", "batches"), [("hoyer-vgg6", 60), ("hoyer-resnet20", 120)])
def test_they_learn_sixteen_images_by_heart(kind: str, batches: int) -> None:
    network = spiking(kind, dropout=0.0).train()
    images, labels = torch.randn(16, *IMAGE), torch.arange(16) % 4
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, eps=1e-20)
    losses = []
    for _ in range(batches):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_operations_of_shortcuts() -> None:
    network, images = spiking("hoyer-resnet20").train(), torch.randn(4, *IMAGE)
    network(images)
    counted = count_operations(network.eval(), images, 4)
    assert [layer.name for layer in counted if layer.macs and not layer.spiking] == ["body.features.conv1"]
    shortcuts = [layer for layer in counted if not layer.macs]
    assert len(shortcuts) == 13
    # 8 maps of 16x16 behind the stem: as many additions
    assert shortcuts[0].biases == 8 * 16 * 16
    assert sum(layer.neurons for layer in counted) == sum(
        spikes.shape[1:].numel() for spikes in _outputs(network, images)
    )


def _outputs(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for neuron in neurons_of(network).values():
        neuron.register_forward_hook(lambda *given: found.append(given[2]))
    network(images)
    return found


def test_conversion_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch-norm .*conv1.norm' cannot be folded"):
        convert(classifier("hoyer-vgg6", IMAGE, 4, hidden=(8,)), torch.randn(2, *IMAGE), steps=1, neuron="hoyer")
