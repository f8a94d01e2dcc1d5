"""Disturbances by hand and by their properties, and ``snnrl robustness``: the same seed, the same table."""

import contextlib
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from snnrl.agents.library import ZOO, Opened, open_agent, open_ordinary
from snnrl.agents.robustness import LEVELS, NOISE_OF_BYTES, Disturbance, Noisy, Trials
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.cli import main
from snnrl.commands.robustness import shown
from snnrl.errors import UserError
from snnrl.networks import fill_slots, mlp
from snnrl.robustness import dropped, flip_bits, flipped, quantize, rounded
from snnrl.statistics import Estimate

Call = Callable[..., tuple[int, str, str]]
INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(*, spiking: bool) -> nn.Sequential:
    """A perceptron with weights of its own, low thresholds if it spikes."""
    made = mlp(6, [32, 16], 3)
    with torch.no_grad():
        draws = generator(2)
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws))
    if spiking:
        fill_slots(made, "lif", 1, encoder=True)
    return made


def weights(made: nn.Module) -> list[Tensor]:
    return [layer.weight.detach().clone() for layer in made.modules() if isinstance(layer, nn.Linear)]


# weights of few bits


def test_rounding_by_hand() -> None:
    weight = torch.tensor([[1.0, -0.4, 0.26, 0.1], [0.0, 0.0, 0.0, 0.0], [-6.0, 2.9, 3.1, 6.0]])
    integers, scale = quantize(weight, 3)
    assert integers.tolist() == [[3, -1, 1, 0], [0, 0, 0, 0], [-3, 1, 2, 3]]
    assert scale.tolist() == [[pytest.approx(1 / 3)], [0.0], [2.0]]
    assert quantize(weight, 2)[0].tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [-1, 0, 1, 1]]
    assert quantize(torch.tensor([[0.5, -1.0]]), 8)[0].tolist() == [[64, -127]]


def test_maps_of_a_convolution_have_a_scale_each() -> None:
    convolution = nn.Conv2d(2, 3, 2)
    with torch.no_grad():
        convolution.weight.copy_(torch.arange(24.0).view(3, 2, 2, 2) - 7)
    integers, scale = quantize(convolution.weight, 4)
    assert scale.flatten().tolist() == pytest.approx([1.0, 8 / 7, 16 / 7])
    assert integers[0].flatten().tolist() == [-7, -6, -5, -4, -3, -2, -1, 0]
    with rounded(convolution, 4):
        assert torch.equal(convolution.weight, integers * scale)


@given(st.integers(2, 8), st.integers(0, 2**16))
def test_what_rounding_costs(bits: int, seed: int) -> None:
    weight = torch.randn(5, 7, generator=generator(seed))
    integers, scale = quantize(weight, bits)
    most = 2 ** (bits - 1) - 1
    assert integers.abs().amax(1).tolist() == [most] * 5
    assert ((weight - integers * scale).abs() <= scale / 2 * 1.0001).all()
    assert torch.equal(quantize(integers * scale, bits)[0], integers)


# flips


@given(st.lists(st.integers(-128, 127), min_size=1), st.integers(0, 2**16))
def test_no_bit_flips_or_all_of_them(values: list[int], seed: int) -> None:
    integers = torch.tensor(values, dtype=torch.int8)
    assert flip_bits(integers, 0.0, generator(seed)).tolist() == values
    assert flip_bits(integers, 1.0, generator(seed)).tolist() == [~value for value in values]


def test_how_many_bits_flip() -> None:
    integers = torch.randint(-128, 128, (40_000,), generator=generator(), dtype=torch.int8)
    changed = (flip_bits(integers, 0.1, generator(3)) ^ integers).view(torch.uint8).int()
    shares = [((changed >> bit) & 1).double().mean().item() for bit in range(8)]
    assert shares == pytest.approx([0.1] * 8, abs=0.006)  # four standard deviations


def test_more_flips_keep_those_that_are_there() -> None:
    integers = torch.zeros(1000, dtype=torch.int8)
    few, many = (flip_bits(integers, probability, generator()) for probability in (0.01, 0.05))
    assert torch.equal(few & many, few)
    assert not torch.equal(few, many)


@pytest.mark.parametrize("spiking", [False, True])
def test_weights_come_back(spiking: bool) -> None:
    made = network(spiking=spiking)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    with rounded(made, 8):
        eight = weights(made)
    with flipped(made, 0.0, generator()):
        assert all(map(torch.equal, weights(made), eight))
    with flipped(made, 0.1, generator()):
        assert not any(map(torch.equal, weights(made), eight))
        kept = {name: torch.equal(value, before[name]) for name, value in made.state_dict().items()}
        assert [name for name, same in kept.items() if not same] == [name for name in kept if name.endswith("weight")]
    with contextlib.suppress(ZeroDivisionError), rounded(made, 2):
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


# dropped spikes


@pytest.mark.parametrize("spiking", [False, True])
def test_no_spike_is_dropped_or_all_of_them(spiking: bool) -> None:
    made = network(spiking=spiking)
    answers = made(INPUTS)
    with dropped(made, 0.0, generator()):
        assert torch.equal(made(INPUTS), answers)
    with dropped(made, 1.0, generator()):
        assert torch.equal(made(INPUTS), made.get_parameter("head.bias").expand(64, 3))
    assert torch.equal(made(INPUTS), answers)


@pytest.mark.parametrize("spiking", [False, True])
def test_how_many_are_dropped(spiking: bool) -> None:
    made = network(spiking=spiking)
    slot = made.get_submodule("fc1.act")
    currents = torch.full((100, 400), 9.0)
    whole = slot(currents)
    with dropped(made, 0.3, generator()):
        sent = slot(currents)
    lost = sent == 0
    assert lost.double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(sent, whole.masked_fill(lost, 0.0))


def test_what_is_drawn_comes_from_its_own_generator() -> None:
    made = network(spiking=True)
    before = torch.random.get_rng_state()

    def disturbed(seed: int) -> Tensor:
        with dropped(made, 0.5, generator(seed)), flipped(made, 0.1, generator(seed)):
            found: Tensor = made(INPUTS)
        return found

    assert torch.equal(disturbed(1), disturbed(1))
    assert not torch.equal(disturbed(1), disturbed(2))
    assert torch.equal(torch.random.get_rng_state(), before)


# noise


class Listener:
    """An actor that keeps what it sees."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray[Any, Any], Any]:
        self.seen = observation
        return np.zeros(len(observation), int), state


def heard(observations: np.ndarray[Any, Any], sigma: Any) -> np.ndarray[Any, Any]:
    listener = Listener()
    Noisy(listener, sigma, np.random.default_rng(0)).predict(observations)
    assert listener.seen.dtype == observations.dtype
    seen: np.ndarray[Any, Any] = listener.seen
    return seen


def test_noise_of_vectors() -> None:
    observations = np.tile(np.float32([1, 2, 3]), (4000, 1))
    noise = heard(observations, np.float32([0, 0.1, 2])) - observations
    assert noise.std(0) == pytest.approx([0, 0.1, 2], rel=0.05)
    assert noise.mean(0) == pytest.approx([0, 0, 0], abs=0.1)


def test_noise_of_bytes() -> None:
    observations = np.full((50, 4, 20), 128, np.uint8)
    assert np.array_equal(heard(observations, 0.0), observations)
    assert heard(observations, 10.0).std() == pytest.approx(10, rel=0.05)
    bright = heard(np.full((50, 4, 20), 255, np.uint8), 10.0)
    assert (bright == 255).mean() == pytest.approx(0.5, abs=0.05)  # clipped, not wrapped around
    assert bright.min() > 200


# trials


def test_levels_of_vectors_bytes_and_whole_numbers() -> None:
    vectors = Trials(open_agent("cartpole-state", T=1, device="cpu"), 0, 2)
    assert vectors.disturbances(["flips", "noise"]) == [
        Disturbance("none", 0),
        *(Disturbance("noise", level) for level in LEVELS["noise"]),
        *(Disturbance("flips", level) for level in LEVELS["flips"]),
    ]
    images = Trials(open_agent("cartpole", T=1, device="cpu"), 0, 1, most_steps=4)
    assert [level for _, level in images.disturbances(["noise"])] == [0, *NOISE_OF_BYTES]
    assert (images.spread, images.unit) == (1.0, "grey levels")
    assert images.rewards(images.opened.agent, Disturbance("noise", 5)) == [4.0]
    agent = SpikingDQN("MlpPolicy", "FrozenLake-v1", buffer_size=1, device="cpu")
    with pytest.raises(UserError, match="FrozenLake-v1 gives observations of int64, which have no noise"):
        Trials(Opened(agent, "FrozenLake-v1", {}, "lake.zip"), 0, 1).disturbances(["noise"])


def test_the_spread_is_that_of_each_entry() -> None:
    trials = Trials(open_agent("cartpole-state", T=1, device="cpu"), 0, 2, most_steps=50)
    played: list[np.ndarray[Any, Any]] = []
    trials.play(trials.opened.agent, seeds=trials.starts, on_step=lambda _, batch: played.append(batch.copy()))
    assert trials.spread == pytest.approx(np.concatenate(played).std(0))


@pytest.mark.parametrize("kind", LEVELS)
def test_trials_repeat(kind: Any) -> None:
    opened = open_agent("cartpole-state", T=1, device="cpu")
    disturbance = Disturbance(kind, LEVELS[kind][-1])
    undisturbed = Disturbance("none", 0)
    first, again, other = (Trials(opened, seed, 3, most_steps=200) for seed in (0, 0, 1))
    before = first.rewards(opened.agent, undisturbed)
    rewards = first.rewards(opened.agent, disturbance)
    assert rewards == again.rewards(opened.agent, disturbance)
    assert min(rewards) < 200
    assert first.rewards(opened.agent, undisturbed) == before == [200.0] * 3
    if kind != "precision":
        assert other.draws != first.draws
        assert other.rewards(opened.agent, disturbance) != rewards


def test_a_small_disturbance_of_nothing() -> None:
    opened = open_agent("cartpole-state", T=1, device="cpu")
    ordinary = open_ordinary("cartpole-state", opened, "cpu")
    assert ordinary is not None
    trials = Trials(opened, 0, 2, most_steps=60)
    for agent in (ordinary, opened.agent):
        for kind in ("noise", "spikes", "flips"):
            assert trials.rewards(agent, Disturbance(kind, 0)) == [60.0, 60.0]
        assert max(trials.rewards(agent, Disturbance("spikes", 1))) < 60


# documentation


def test_the_guide_says_what_was_measured() -> None:
    root = Path(__file__).parent.parent
    files = [root / "benchmarks" / "results" / "robustness" / f"{name}.csv" for name in ("cartpole-state", "cartpole")]
    tables = [list(csv.DictReader(file.read_text(encoding="utf-8").splitlines())) for file in files]
    guide = (root / "docs" / "robustness.md").read_text(encoding="utf-8")
    assert len(tables[0]) == len(tables[1]) == 1 + sum(map(len, LEVELS.values()))
    for rows in zip(*tables, strict=True):
        cells = [
            shown(Estimate(*(float(row[f"{network}{end}"]) for end in ("", "_low", "_high"))))
            for row in rows
            for network in ("ordinary", "spiking")
        ]
        assert f"| {' | '.join(cells)} |" in guide


# the command


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["robustness", *words])
        return (code, *capsys.readouterr())

    return run


def figures(call: Call, *words: str) -> dict[str, Any]:
    code, out, err = call(*words, "--episodes", "2", "--device", "cpu", "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_a_shipped_agent(call: Call) -> None:
    found = figures(call, "cartpole-state", "--csv", "table.csv")
    results = found["results"]
    assert (found["agent"], found["T"], found["env"], found["seed"]) == ("T1.zip", 1, "CartPole-v1", 0)
    assert found["noise_unit"] == "standard deviations"
    assert [(one["kind"], one["level"]) for one in results] == [
        ("none", 0),
        *((kind, level) for kind, levels in LEVELS.items() for level in levels),
    ]
    for one in results:
        for network in (one["ordinary"], one["spiking"]):
            assert len(network["rewards"]) == 2
            assert network["reward_low"] <= network["reward_mean"] <= network["reward_high"]
            assert network["reward_mean"] == pytest.approx(sum(network["rewards"]) / 2)
    assert results[0]["ordinary"]["rewards"] == results[0]["spiking"]["rewards"] == [500.0, 500.0]
    assert results[-1]["spiking"]["reward_mean"] < 100
    with Path("table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("kind", "level", "ordinary", "ordinary_low", "ordinary_high", "spiking", "spiking_low", "spiking_high"),
    ]
    assert [float(row["spiking_low"]) for row in rows] == [one["spiking"]["reward_low"] for one in results]


def test_the_same_seed_gives_the_same_table(call: Call) -> None:
    shutil.copy(ZOO / "cartpole-state" / "T1.zip", "alone.zip")
    first, again, other = (figures(call, "alone.zip", "--kinds", "noise,noise", "--seed", seed) for seed in "334")
    assert first == again
    assert first["results"] != other["results"]
    assert [one["kind"] for one in first["results"]] == ["none", *["noise"] * 5]


def test_the_table_for_people(call: Call) -> None:
    code, out, _ = call("cartpole-state", "--kinds", "precision", "--episodes", "1", "--device", "cpu")
    assert code == 0
    for words in ("CartPole-v1, T1.zip, 1 greedy episodes, seed 0", "undisturbed", "weights of 6 bits", "500.0 [500.0"):
        assert words in out
    assert ("ordinary" in out, "T = 1" in out) == (True, True)


def test_without_its_ordinary_network_the_spiking_one_is_alone(call: Call) -> None:
    shutil.copy(ZOO / "cartpole-state" / "T1.zip", "alone.zip")
    found = figures(call, "alone.zip", "--kinds", "precision", "--csv", "alone.csv")
    assert found["results"][0].keys() == {"kind", "level", "spiking"}
    assert Path("alone.csv").read_text().startswith("kind,level,spiking,spiking_low,spiking_high\n")


def test_an_agent_of_more_timesteps_decides_in_one(call: Call) -> None:
    assert figures(call, "cartpole-state/T5", "--kinds", "precision")["T"] == 1


def test_mistakes(call: Call) -> None:
    Path("there.csv").write_text("mine")
    for words, message in (
        (("cartpole-state", "--kinds", "noise,spkes"), "--kinds 'spkes' is none of noise, spikes, flips, precision"),
        (("cartpole-state", "--episodes", "0"), "episodes: input should be greater than or equal to 1, not 0"),
        (("cartpole-state", "--T", "5"), "Unrecognized options: --T, 5"),
        (("cartpole-state", "--csv", "there.csv"), "there.csv exists: give another --csv"),
        (("cartpole-state", "--csv", "no/where.csv"), "there is no folder no for --csv"),
        (("cartpole-state", "--protocol", "v5"), "CartPole-v1 is no Atari game: it has no --protocol"),
        (("cartpol",), "did you mean 'cartpole'?"),
        ((), "usage: snnrl robustness AGENT"),
    ):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    assert Path("there.csv").read_text() == "mine"
