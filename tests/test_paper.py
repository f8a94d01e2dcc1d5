"""Tables and figures of the paper on images: runs are trained once, shown beside the paper's figures, and kept."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from papers import use_tiny
from snnrl.agents.classifier.paper import Paper, read_paper
from snnrl.checkpoint import read_archive, write_archive
from snnrl.cli import main
from snnrl.report.data import layers_in_order

DATA = Path(__file__).parent / "data" / "cifar10"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Paper:
    return use_tiny(monkeypatch)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


@pytest.mark.parametrize("budget", ["small", "full"])
def test_every_run_has_a_recipe_and_every_row_its_stages(budget: Any) -> None:
    paper = read_paper()
    rows = [row for table in paper.tables.values() for row in table.rows if row.run is not None]
    for row in rows:
        recipe = paper.recipe(str(row.run), budget, seed=3)
        stages = {"ann", *(f"T{T}" for T in recipe.steps)} | ({"pruned"} if recipe.pruning.share else set())
        assert set(row.paper) <= stages, row.name
        assert recipe.seed == 3
    assert {row.run for row in rows} | {"vgg6"} == set(paper.runs)


def test_full_is_the_papers_schedule() -> None:
    # arXiv 2110.05929, App. A.2.2
    recipe = read_paper().recipe("vgg6", "full")
    assert (recipe.ann.epochs, recipe.ann.learning_rate, recipe.ann.drops) == (500, 0.01, (0.45, 0.7, 0.9))
    assert (recipe.reduction.epochs, recipe.reduction.passing, recipe.reduction.learning_rate) == (300, None, 1e-4)
    assert recipe.reduction.distillation == 0
    assert recipe.steps == (5, 4, 3, 2, 1)


def test_runs_come_behind_those_they_need() -> None:
    assert read_paper().in_order(["vgg16-thresholds-of-T1", "vgg6"]) == ["vgg16", "vgg16-thresholds-of-T1", "vgg6"]


def test_a_table(tiny: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["table", "pruning", "--data", DATA, "--runs", tmp_path, "--json"]
    code, out, err = run(capsys, *words)
    assert code == 0, err
    lines = json.loads(out.splitlines()[-1])["lines"]
    assert [(line["stage"], line["paper"]) for line in lines] == [
        ("T1", 93.05),
        ("pruned", 91.15),
        ("pruned", None),
        ("T1", 70.15),
        ("pruned", 68.20),
    ]
    folder = tmp_path / "paper-small-seed0"
    for line, name in zip(lines, ("vgg16", "vgg16-pruned", "vgg16-pruned-by-layer"), strict=False):
        stage = json.loads((folder / name / "stages" / f"{line['stage']}.json").read_text())
        assert line["accuracy"] == 100 * stage["accuracy"]
        assert line["energy_ratio"] == stage["energy_ratio"]
    assert [line["accuracy"] for line in lines[3:]] == [None, None]
    assert err.count("left open: ") == 1
    assert "cifar100" in err or "train.bin" in err
    table = rows_of(folder / "table-pruning.csv")
    assert [row["accuracy"] for row in table] == [str(line["accuracy"] or "") for line in lines]

    code, out, err = run(capsys, *words[:2], *words[4:])
    assert code == 0, err
    assert "run vgg16" not in err
    assert json.loads(out.splitlines()[-1])["lines"] == lines

    of_other_weights(folder / "vgg16" / "T1.zip")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert f"{folder / 'vgg16-pruned'} was trained with other settings (weights: " in err


def test_a_run_of_other_settings_is_not_shown(tiny: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "paper-small-seed0" / "vgg16"
    folder.mkdir(parents=True)
    recipe = tiny.recipe("vgg16", "small", conversion={"percentile": 42.0})
    (folder / "config.json").write_text(json.dumps({"config": recipe.model_dump(mode="json"), "versions": {}}))
    (folder / "summary.json").write_text(json.dumps({"stages": [{"name": "T1"}]}))
    code, _, err = run(capsys, "table", "pruning", "--data", DATA, "--runs", tmp_path)
    assert code == 2
    assert "conversion.percentile: 42.0 before, 90.0 now" in err
    assert not list(tmp_path.rglob("table-*.csv"))


def test_a_run_on_other_images_is_not_shown(tiny: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "paper-small-seed0" / "vgg16"
    folder.mkdir(parents=True)
    config = tiny.recipe("vgg16", "small").model_dump(mode="json") | {"data": "another"}
    (folder / "config.json").write_text(json.dumps({"config": config, "versions": {}}))
    (folder / "summary.json").write_text(json.dumps({"stages": [{"name": "T1"}]}))
    code, _, err = run(capsys, "table", "pruning", "--data", DATA, "--runs", tmp_path)
    assert code == 2
    assert "was trained with other settings (data: another before" in err


def of_other_weights(path: Path) -> None:
    """Give the network of a file other weights in its first layer."""
    archive = read_archive(path)
    next(iter(archive.tensors["network"].values())).mul_(2)
    metadata = {key: value for key, value in archive.metadata.items() if key not in ("format", "version")}
    write_archive(path, metadata, archive.tensors)


def test_figures(tiny: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "figure", "rates", "--data", DATA, "--runs", tmp_path)
    assert code == 0, err
    folder = tmp_path / "paper-small-seed0"
    assert (folder / "rates.svg").read_text().count("T = 5 to 1") == 1
    rows = rows_of(folder / "rates.csv")
    stage = json.loads((folder / "vgg16-5-1" / "stages" / "T1.json").read_text())
    last = [row for row in rows if row["handover"] == "T = 5 to 1"]
    assert {row["layer"]: float(row["trained"]) for row in last} == stage["spike_rate"]
    assert {row["layer"]: float(row["handed over"]) for row in last} == stage["before"]["spike_rate"]

    words = ("figure", "accuracy-vs-T", "--data", DATA, "--runs", tmp_path, "--out", tmp_path / "a.png", "--json")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    rows = rows_of(tmp_path / "a.csv")
    said = json.loads(out.splitlines()[-1])
    assert said["out"] == str(tmp_path / "a.png")
    assert [{key: str(value) for key, value in line.items()} for line in said["lines"]] == rows
    curves = {name: [row["T"] for row in rows if row["name"] == name] for name in {row["name"] for row in rows}}
    assert curves["trained"] == ["5", "4", "3", "2", "1"]
    assert curves["converted, direct input"] == curves["converted, poisson input"] == ["1", "4"]
    assert len([row for row in rows if row["by"] == "paper"]) == 16
    assert "converted," in err
    assert "converted," not in run(capsys, *words)[2]
    of_other_weights(folder / "vgg16" / "ann.zip")
    assert run(capsys, *words)[2].count("converted,") == 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("table", "usage: snnrl table NAME"),
        ("table 2", "unknown table '2'"),
        ("table pruningg", "did you mean 'pruning'"),
        ("table 1 --budget tiny", "none of small, full"),
        ("table 1", "give --data DIR"),
        ("table 1 --data nowhere", "nowhere"),
        ("figure rate", "did you mean 'rates'"),
        ("figure rates --out rates.jpg", "must end in one of .svg"),
        ("figure rates", "give --data DIR"),
    ],
)
def test_mistakes(
    words: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words.split())
    assert code == 2
    assert line in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_layers_are_counted() -> None:
    names = ["conv1", "conv10", "conv2", "fc1", "fc10", "fc2", "block1.conv2", "block1.conv1"]
    assert layers_in_order(names) == ["block1.conv1", "block1.conv2", "conv1", "conv2", "conv10", "fc1", "fc2", "fc10"]
