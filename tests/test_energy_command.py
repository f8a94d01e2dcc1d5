"""``snnrl energy``: what it counts is what it prints, for shipped agents, runs and converted ones."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snnrl.agents.library import ZOO
from snnrl.cli import main

Call = Callable[..., tuple[int, str, str]]
FEW = ("--episodes", "1", "--device", "cpu")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["energy", *words])
        return (code, *capsys.readouterr())

    return run


def figures(call: Call, *words: str) -> dict[str, Any]:
    code, out, err = call(*words, *FEW, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_a_shipped_agent_by_layer_and_in_total(call: Call) -> None:
    found = figures(call, "cartpole-state", "--csv", "layers.csv")
    layers = found["layers"]
    assert [layer["layer"] for layer in layers] == ["fc1", "fc2", "head"]
    assert [layer["ordinary_multiply_accumulate"] for layer in layers] == [4 * 128, 128 * 128, 128 * 2]
    first, second, head = layers
    assert (first["input"], first["accumulate"], first["multiply_accumulate"]) == ("real", 0, 4 * 128)
    assert second["multiply_accumulate"] == 0
    assert second["accumulate"] == pytest.approx(second["input_rate"] * 128 * 128)
    assert second["input_rate"] == first["rate"]
    assert (first["compare"], head["compare"], first["potential_read"]) == (128, 0, 0)
    assert found["spiking_pJ"] == pytest.approx(sum(layer["spiking_pJ"] for layer in layers))
    assert found["energy_ratio"] == pytest.approx(found["ordinary_pJ"] / found["spiking_pJ"])
    assert found["energy_ratio"] < found["cap"]
    assert len(found["what_if"]) == 8
    assert all(found["what_if"].values())
    with Path("layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accumulate"]) for row in rows] == [layer["accumulate"] for layer in layers]


def test_the_table_for_people(call: Call) -> None:
    code, out, _ = call("cartpole-state", *FEW)
    assert code == 0
    for word in ("energy ratio", "total", "dense hardware", "No sparsity exceeds", "ordinary MAC"):
        assert word in out


def test_more_steps_cost_more(call: Call) -> None:
    one, five = (figures(call, "cartpole-state", "--T", T, "--model", "memory") for T in ("1", "5"))
    assert (one["agent"], five["agent"]) == ("T1.zip", "T5.zip")
    assert one["energy_ratio"] > five["energy_ratio"]
    assert [layer["latency_steps"] for layer in five["layers"]] == [5, 5, 5]
    assert [layer["state_bytes"] for layer in five["layers"]] == [512, 512, 0]


def test_an_ordinary_agent_is_converted_and_compared_with_itself(call: Call) -> None:
    assert all(figures(call, "cartpole-state/ann", "--T", "2")["what_if"].values())
    code, _, err = call("cartpole-state/ann")
    assert (code, err) == (2, "snnrl: cartpole-state/ann is an ordinary network: give --T to convert it\n")


def test_without_its_ordinary_network_one_ratio_is_unknown(call: Call) -> None:
    shutil.copy(ZOO / "cartpole-state" / "T1.zip", "alone.zip")
    ratios = figures(call, "alone.zip")["what_if"]
    assert [text for text, ratio in ratios.items() if ratio is None] == [
        "hardware that skips zeros of the ordinary network as well"
    ]


def test_mistakes(call: Call) -> None:
    Path("there.csv").write_text("mine")
    Path("broken.yaml").write_text("base: paper\noperations: {add: [-1, me]}")
    for words, message in (
        (("cartpole-state", "--model", "papre"), "unknown cost table 'papre'; did you mean 'paper'?"),
        (("cartpole-state", "--model", "broken.yaml"), "broken.yaml: operations.add.0: input should be greater than"),
        (("cartpole-state", "--csv", "there.csv"), "there.csv exists: give another --csv"),
        (("cartpole-state", "--csv", "no/where.csv"), "there is no folder no for --csv"),
        (("cartpol",), "did you mean 'cartpole'?"),
    ):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    assert Path("there.csv").read_text() == "mine"
