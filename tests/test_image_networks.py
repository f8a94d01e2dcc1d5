"""VGG6, VGG16 and ResNet20: sizes by hand, conversion, dropout held over time, shortcuts that add currents."""

import copy

import pytest
import torch
from torch import Tensor, nn

from snnrl.conversion import convert
from snnrl.conversion.fuse import fold_batch_norm
from snnrl.conversion.graph import trace
from snnrl.energy import LayerOperations, count_operations
from snnrl.errors import UserError
from snnrl.networks import (
    HeldDropout,
    SpikingNetwork,
    change_steps,
    classifier,
    convolutional,
    fill_slots,
    neurons_of,
    output_width,
    vgg6,
    vgg16,
)
from snnrl.networks.layers import block
from snnrl.networks.resnet import BasicBlock, IdentityShortcut

IMAGE = (3, 32, 32)

VGG16_CONVOLUTIONS = [
    *[(3, 64, 3, 32), (64, 64, 3, 32), (64, 128, 3, 16), (128, 128, 3, 16)],
    *[(128, 256, 3, 8), (256, 256, 3, 8), (256, 256, 3, 8), (256, 512, 3, 4), (512, 512, 3, 4), (512, 512, 3, 4)],
    *[(512, 512, 3, 2)] * 3,
]
CONVOLUTIONS = {
    "vgg6": [(3, 64, 3, 32), (64, 128, 3, 16), (128, 128, 3, 16)],
    "vgg16": VGG16_CONVOLUTIONS,
    "resnet20": [
        *[(3, 64, 3, 32), (64, 64, 3, 32), (64, 64, 3, 32)],
        *[(64, 64, 3, 16)] * 4,
        *[(64, 128, 1, 8), (64, 128, 3, 8), (128, 128, 3, 8), (128, 128, 3, 8), (128, 128, 3, 8)],
        *[(128, 256, 1, 4), (128, 256, 3, 4), (256, 256, 3, 4), (256, 256, 3, 4), (256, 256, 3, 4)],
        *[(256, 512, 1, 2), (256, 512, 3, 2), (512, 512, 3, 2), (512, 512, 3, 2), (512, 512, 3, 2)],
    ],
}
"""Channels in and out, kernel, and side of the maps that they make of images of 32x32."""
LINEAR = {
    "vgg6": [(128 * 8 * 8, 4096), (4096, 4096), (4096, 10)],
    "vgg16": [(512 * 2 * 2, 4096), (4096, 4096), (4096, 10)],
    "resnet20": [(512 * 2 * 2, 10)],
}


def settled(kind: str, hidden: tuple[int, ...]) -> tuple[nn.Sequential, Tensor]:
    """Return a classifier of four classes whose batch-norm has seen the images, in evaluation mode, and the images."""
    torch.manual_seed(0)
    network, images = classifier(kind, IMAGE, 4, hidden=hidden, dropout=0.0), torch.randn(2, *IMAGE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all that it sees
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    network(images)
    return network.eval(), images


# --- sizes ---------------------------------------------------------------------------------------------------------


def weights(kind: str, linear: list[tuple[int, int]]) -> int:
    return sum(k**2 * m * n for m, n, k, _ in CONVOLUTIONS[kind]) + sum(m * n for m, n in linear)


def macs(kind: str, linear: list[tuple[int, int]]) -> int:
    return sum(k**2 * m * n * side**2 for m, n, k, side in CONVOLUTIONS[kind]) + sum(m * n for m, n in linear)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_products_and_parameters_by_hand(kind: str) -> None:
    network = classifier(kind, IMAGE, 10, hidden=(7, 5)).eval()
    linear = [(LINEAR[kind][0][0], 7), (7, 5), (5, 10)]
    counted = [layer for layer in count_operations(network, torch.rand(1, *IMAGE), 1) if layer.macs]
    assert sum(layer.parameters for layer in counted) == weights(kind, linear)
    assert sum(layer.macs for layer in counted) == macs(kind, linear)
    assert sum(layer.rectified for layer in counted) == 7 + 5 + sum(
        n * side**2 for _, n, k, side in CONVOLUTIONS[kind] if k == 3
    )
    norms = sum(2 * n for _, n, _, _ in CONVOLUTIONS[kind])
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == weights(kind, linear) + norms


@pytest.mark.parametrize(
    ("kind", "parameters", "products"),
    [("vgg6", 50_595_520, 108_765_184), ("vgg16", 39_917_248, 338_403_328), ("resnet20", 11_253_440, 215_699_456)],
)
def test_the_papers_networks(kind: str, parameters: int, products: int) -> None:
    with torch.device("meta"):
        network = classifier(kind, IMAGE, 10, batch_norm=False)
    trained = [(name, p.numel()) for name, p in network.named_parameters() if p.requires_grad]
    biases = sum(n for _, n, _, _ in CONVOLUTIONS[kind])
    assert sum(count for name, count in trained if name.endswith("bias")) == biases
    assert sum(count for _, count in trained) - biases == weights(kind, LINEAR[kind]) == parameters
    assert macs(kind, LINEAR[kind]) == products


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_share_of_the_channels(kind: str) -> None:
    whole, quarter = (classifier(kind, IMAGE, 10, batch_norm=False, width=width) for width in (1.0, 0.25))
    sizes = [tuple(layer.weight.shape[:2]) for layer in whole.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    small = [tuple(layer.weight.shape[:2]) for layer in quarter.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    (first, _), *inner, (_, last) = sizes
    assert small[0] == (first // 4, 3)
    assert small[1:-1] == [(n // 4, m // 4) for n, m in inner]
    assert small[-1] == (10, last // 4)
    assert quarter(torch.zeros(2, *IMAGE)).shape == (2, 10)


def test_the_papers_memory_accesses() -> None:
    # VGG16 at T = 5 against T = 1: 5.03 (docs/deviations.md)
    potentials = sum(n * side**2 for _, n, _, side in CONVOLUTIONS["vgg16"]) + 4096 + 4096
    read = weights("vgg16", LINEAR["vgg16"])
    assert round((5 * read + 4 * potentials) / read, 2) == 5.03


def test_the_order_of_the_parts() -> None:
    names = [name for name, _ in classifier("vgg6", IMAGE, 10, hidden=(8, 8)).named_modules() if name.count(".") == 1]
    features = ["conv1", "pool1", "conv2", "dropout2", "conv3", "pool2", "flatten"]
    decision = ["fc1", "dropout1", "fc2", "dropout2", "head"]
    assert names == [*(f"features.{n}" for n in features), *(f"decision.{n}" for n in decision)]
    conv1 = vgg6(IMAGE, batch_norm=True).get_submodule("conv1")
    assert [type(part) for part in conv1.children()] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


@pytest.mark.parametrize(
    ("kind", "shape", "width"),
    [
        ("vgg16", (3, 224, 224), 512 * 7 * 7),
        ("resnet20", (3, 224, 224), 512 * 4 * 4),
        ("vgg6", (4, 84, 84), 128 * 10 * 10),
        ("vgg6", (1, 28, 28), 128 * 7 * 7),
        ("resnet20", (1, 28, 28), 512 * 2 * 2),
    ],
)
def test_images_of_other_sizes(kind: str, shape: tuple[int, int, int], width: int) -> None:
    with torch.device("meta"):
        network = convolutional(kind, shape, 0)
        assert output_width(network, shape) == width


def test_mistakes() -> None:
    with pytest.raises(UserError, match="unknown network 'vgg7'; did you mean 'vgg6'"):
        classifier("vgg7", IMAGE, 10)
    with pytest.raises(UserError, match="unknown network 'nature'"):
        classifier("nature", IMAGE, 10)
    with pytest.raises(UserError, match=r"\(3, 8, 8\) are too small for the network"):
        classifier("vgg16", (3, 8, 8), 10)


# --- conversion ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_folded_batch_norm_agrees(kind: str) -> None:
    network, images = settled(kind, (8,))
    expected = network(images)
    graph = trace(copy.deepcopy(network))
    fold_batch_norm(graph)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in graph.modules())
    torch.testing.assert_close(graph(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_network_with_neurons_in_its_slots_takes_the_converted_weights(kind: str) -> None:
    network, images = settled(kind, (8,))
    made = convert(network, images, steps=2)
    filled = classifier(kind, IMAGE, 4, hidden=(8,), batch_norm=False)
    fill_slots(filled, "lif", 2, encoder=True)
    assert made.network.heads == ("decision.head",)
    assert list(neurons_of(filled)) == list(neurons_of(made.network.body)) == [x.name for x in made.report.layers]
    assert not any(layer.silent for layer in made.report.layers)
    trained = [{n for n, p in network.named_parameters() if p.requires_grad} for network in (filled, made.network.body)]
    assert trained[0] == trained[1]
    ours = SpikingNetwork(filled, 2, made.network.heads).eval()
    ours.body.load_state_dict(made.network.body.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images), made.network(images))


def residual(width: int) -> nn.Sequential:
    """Return two blocks, one with an identity and one with a convolution as shortcut, between convolution and head."""
    torch.manual_seed(0)
    return nn.Sequential(
        block(nn.Conv2d(2, width, 3)),
        BasicBlock(width, width, batch_norm=False, dropout=0.0),
        BasicBlock(width, 2 * width, 2, batch_norm=False, dropout=0.0),
        nn.Flatten(),
        nn.Linear(2 * width * 4, 3),
    )


def test_residual_networks_converge() -> None:
    network, images = residual(4), torch.rand(12, 2, 6, 6)
    few, many = (convert(network, images, steps=steps, percentile=100).report.q_error for steps in (20, 300))
    assert many < few / 3
    assert many < 0.1


def test_every_residual_site_has_a_threshold_and_the_shortcut_what_a_spike_stands_for() -> None:
    images = torch.rand(12, 2, 6, 6)
    made = convert(residual(4), images, steps=3)
    thresholds = {layer.name: layer.threshold for layer in made.report.layers}
    assert list(thresholds) == ["0", "1.conv1", "1", "2.conv1", "2"]
    assert made.network.body.get_submodule("1.shortcut").weight.item() == pytest.approx(thresholds["0"])
    assert len(set(thresholds.values())) == 5


def test_a_residual_sum_by_hand() -> None:
    # a spike of the first neurons stands for 2 (the 100th percentile of currents 1 and 2), sent by x = 2 alone at
    # T = 1 only if U > 2: none. With the 50th percentile the threshold is 1: x = 2 sends a spike, worth 1.
    # conv1 and conv2 have weight 1 at their centre. Currents of conv1: 1 for the spike, so its threshold is 1 and
    # nothing passes; the sum is conv2's 0 and the shortcut's 1.
    network = nn.Sequential(block(nn.Conv2d(1, 1, 1)), BasicBlock(1, 1, batch_norm=False, dropout=0.0), nn.Flatten())
    network.append(nn.Linear(1, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for name in ("0.weights", "1.shortcut", "1.conv1.weights", "1.conv2.weights", "3"):
            weight = network.get_parameter(f"{name}.weight")
            weight[(..., *[weight.shape[-1] // 2] * 2) if weight.dim() == 4 else ...] = 1
    assert network(torch.tensor([[[[1.0]]], [[[2.0]]]])).flatten().tolist() == [2, 4]
    made = convert(network, torch.tensor([[[[1.0]]], [[[2.0]]]]), steps=1, percentile=50)
    currents: dict[str, list[float]] = {}
    for name in ("1.shortcut", "1.conv1.weights", "1.conv2.weights", "1.act"):
        layer = made.network.body.get_submodule(name)
        layer.register_forward_hook(
            lambda _, inputs, output, name=name: currents.update(
                {name: (inputs[0] if name == "1.act" else output).flatten().tolist()}
            )
        )
    made.network(torch.tensor([[[[1.0]]], [[[2.0]]]]))
    assert currents == {
        "1.shortcut": [0, 1],
        "1.conv1.weights": [0, 1],
        "1.conv2.weights": [0, 0],
        "1.act": [0, 1],
    }


# --- dropout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_mask_is_held_over_time(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    dropout, spikes = HeldDropout(0.25, 3), torch.ones(3 * 4, 5, 6, 6).contiguous(memory_format=layout)
    steps = dropout(spikes).view(3, 4, 5, 6, 6)
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[0], steps[2])
    assert steps.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert 0.2 < float((steps[0] == 0).float().mean()) < 0.3
    assert not torch.equal(steps[0, 0], steps[0, 1])
    assert not torch.equal(dropout(spikes).view(3, 4, 5, 6, 6)[0], steps[0])
    assert torch.equal(dropout.eval()(spikes), spikes)


def test_conversion_and_slots_hold_masks() -> None:
    ordinary = classifier("vgg6", IMAGE, 4, hidden=(8,), dropout=0.3)
    made = convert(ordinary, torch.randn(4, *IMAGE), steps=3)
    fill_slots(ordinary, "lif", 3, encoder=True)
    change_steps(ordinary, (), 3, 2)
    for network, steps in ((made.network, 3), (ordinary, 2)):
        found = [module for module in network.modules() if isinstance(module, nn.Dropout)]
        assert [(type(module), module.p) for module in found] == [(HeldDropout, 0.3)] * 2
        assert [module.steps for module in found if isinstance(module, HeldDropout)] == [steps] * 2
        assert network.train()(torch.randn(2, *IMAGE)).isfinite().all()


# --- energy --------------------------------------------------------------------------------------------------------


def test_operations_of_a_block_by_hand() -> None:
    # 3x3 pixels, 2 maps; the spikes of one map at 2 steps are 1 of 9 and 0 of 9, those of the other all set
    torch.manual_seed(0)
    body = nn.Sequential(BasicBlock(2, 2, batch_norm=False, dropout=0.0))
    fill_slots(body, "lif", 2, encoder=False)
    spikes = torch.zeros(2, 2, 3, 3)
    spikes[0, 0, 1, 1] = 1
    spikes[:, 1] = 1
    shortcut, conv1, conv2 = count_operations(body, spikes, 1)
    assert shortcut == LayerOperations(
        "0.shortcut",
        1,
        passes=2,
        macs=0,
        spiking=True,
        events=19,
        active=0,
        inputs=18,
        outputs=0,
        parameters=0,
        biases=18,
    )
    assert (conv1.name, conv1.macs, conv1.events, conv1.neurons) == ("0.conv1", 2 * 2 * 9 * 9, 19, 18)
    # the products of a full map of 3x3 with padding: 4 corners 4, 4 edges 6, the centre 9
    assert conv1.active == 2 * (9 + 2 * (4 * 4 + 4 * 6 + 9))
    assert (conv2.name, conv2.neurons, conv2.spiking) == ("0.conv2", 18, True)
    assert conv2.events == conv1.spikes


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_only_the_first_layer_multiplies(kind: str) -> None:
    network, images = settled(kind, (8,))
    made = convert(network, images, steps=2).network
    counted = count_operations(made, images, len(images))
    assert [layer.name for layer in counted if not layer.spiking] == ["body.features.conv1"]
    assert {layer.passes for layer in counted} == {1, 2}
    shortcuts = sum(isinstance(module, IdentityShortcut) for module in network.modules())
    assert sum(not layer.macs for layer in counted) == shortcuts == (5 if kind == "resnet20" else 0)
    assert sum(layer.neurons > 0 for layer in counted) == len(neurons_of(made))


def test_dropout_and_features_are_optional() -> None:
    names = {name for name, _ in vgg16(IMAGE, 7).named_children()}
    assert not {name for name in names if name.startswith("dropout")}
    assert output_width(vgg16(IMAGE, 7), IMAGE) == 7
