"""Frames of a decision, pixel by pixel."""

import numpy as np
import pytest

from snnrl.commands.overlay import BACKGROUND, HEIGHT, SILENT, SPIKE, WIDTH, Decision, draw, fit, shade, tiles

NAN = np.nan


def decision(layers: dict[str, tuple[int, ...]], actions: int = 3) -> Decision:
    spikes = {name: np.zeros(shape, np.float32) for name, shape in layers.items()}
    return Decision(1, spikes, np.arange(actions, dtype=np.float32), 1.0, 4.0)


def test_maps_stand_side_by_side() -> None:
    # three maps of 1 x 2 pixels in room for 9 x 2: one row of 3 x (2 + 1) pixels, of height 1 + 1
    maps = np.array([[[1, 2]], [[3, 4]], [[5, 6]]], np.float32)
    expected = [[1, 2, NAN, 3, 4, NAN, 5, 6, NAN], [NAN] * 9]
    np.testing.assert_array_equal(tiles(maps, 9, 2), expected)


def test_neurons_are_a_grid_as_large_as_fits() -> None:
    # five neurons in 20 x 20 pixels: 2 or 3 in a row can be drawn 6 pixels wide; 2 x 3 and 3 x 2 leave one cell empty
    grid = tiles(np.arange(5, dtype=np.float32), 20, 20)
    assert grid.shape == (3, 2)
    np.testing.assert_array_equal(grid.ravel(), [0, 1, 2, 3, 4, NAN])
    assert tiles(np.arange(5, dtype=np.float32), 50, 10).shape == (1, 5)


def test_shades_go_from_silent_to_a_spike_at_every_step() -> None:
    colours = shade(np.array([[0, 0.5, 1, NAN]], np.float32))
    halfway = [round((a + b) / 2) for a, b in zip(SILENT, SPIKE, strict=True)]
    assert np.abs(colours[0, 1].astype(int) - halfway).max() <= 1
    assert [tuple(colours[0, index]) for index in (0, 2, 3)] == [SILENT, SPIKE, BACKGROUND]


def test_rasters_are_enlarged_by_whole_numbers_and_pictures_as_far_as_they_go() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(fit(image, 8, 9, whole=True), image.repeat(2, 0).repeat(2, 1))
    assert fit(image, 8, 9).shape == (5, 8, 3)
    assert fit(image.repeat(10, 0).repeat(10, 1), 15, 90, whole=True).shape == (10, 15, 3)


def test_a_spike_is_where_its_neuron_is() -> None:
    # a single layer of four neurons, of which the second spikes at two of the four steps
    spikes = np.array([0, 2, 0, 4], np.float32)
    plain = draw(np.zeros((10, 10, 3), np.uint8), decision({"fc1": (4,)}), ["a", "b", "c"], 0.0)
    found = draw(
        np.zeros((10, 10, 3), np.uint8),
        Decision(4, {"fc1": spikes}, np.arange(3, dtype=np.float32), 1.0, 4.0),
        ["a", "b", "c"],
        0.0,
    )
    right = found[:, WIDTH // 2 :].reshape(-1, 3)
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert {WIDTH % 2, HEIGHT % 2} == {0}
    halfway = shade(np.array([[0.5]], np.float32))[0, 0]
    full, half = (np.all(right == colour, axis=1).sum() for colour in (SPIKE, halfway))
    assert full > 1000
    assert half == full
    assert not np.all(plain[:, WIDTH // 2 :] == SPIKE, axis=2).any()


def test_energies_are_bars_of_their_lengths() -> None:
    frame = draw(np.zeros((10, 10, 3), np.uint8), decision({"fc1": (4,)}, actions=1), ["a"], 0.0)
    bars = [int(np.all(row == SPIKE, axis=1).sum()) for row in frame[: HEIGHT // 2 + 60, :230]]
    assert 54 in bars  # a quarter of the ordinary network's 216 pixels


@pytest.mark.parametrize("actions", [2, 6, 18])
@pytest.mark.parametrize(
    "layers",
    [
        {"fc1": (1,)},
        {"conv1": (32, 20, 20), "conv2": (64, 9, 9), "conv3": (64, 7, 7), "fc1": (512,)},
        {f"fc{number}": (4096,) for number in range(13)},
        {"conv1": (256, 84, 84), "fc1": (20_000,)},
    ],
)
def test_every_network_fits(layers: dict[str, tuple[int, ...]], actions: int) -> None:
    frame = draw(np.zeros((360, 810, 3), np.uint8), decision(layers, actions), [*map(str, range(actions))], -21.0)
    assert (frame.shape, frame.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert np.all(frame[-1] == BACKGROUND)
