"""Several processes, started by torchrun, train what one process trains."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_training import CASES, few_images, little, stopping_after, train
from snnrl import processes
from snnrl.agents.classifier.config import ImageRecipe
from snnrl.agents.classifier.training import Epochs
from snnrl.checkpoint import read_archive
from snnrl.commands.train_images import check_shares
from snnrl.config import read_recipe
from snnrl.envs.images import Normalization, TrainingBatches
from snnrl.errors import UserError
from snnrl.runs import RunFolder

SCRIPT = Path(__file__).parent / "shared_training.py"
DATA = Path(__file__).parent / "data" / "cifar10"


def torchrun(folder: Path, *words: str | Path) -> tuple[int, list[str]]:
    """Run two processes in a folder; return the exit code, and the lines in which they told of an error."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300, check=False
    )
    told = re.compile(r"snnrl: |(\[rank\d\]: )?(snnrl\.\S+|[A-Z]\w*Error): ")
    return done.returncode, [line for line in done.stderr.splitlines() if told.match(line)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, trained by two processes: T1 was begun by one, T2 is stopped by the second of two and goes on."""
    folder = tmp_path_factory.mktemp("shared")
    with stopping_after(2):
        train("T1", folder)
    assert (folder / "T1" / "checkpoint.zip").exists()
    code, said = torchrun(folder, SCRIPT, folder, "ordinary", "frozen", "T1", "T2@stop", "T2")
    assert (code, said) == (0, [])
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case: str, shared: Path, tmp_path: Path) -> None:
    found, alone = read_archive(shared / f"{case}.zip").tensors["found"], train(case, tmp_path)
    before = little(CASES[case][0]).body.state_dict()
    errors = {name: float((found[name] - value).abs().max()) for name, value in alone.items()}
    moved = {name: float((alone[name] - value).abs().max()) for name, value in before.items()}
    if case == "ordinary":  # only batch-norm, over one share of the batch, makes a difference
        assert max(errors.values()) > 1e-2
    else:
        assert max(errors.values()) < 2e-6, errors
    assert all(moved[name] > 1e-5 for name in moved if name.endswith(("weights.weight", "threshold"))), moved


def test_shares_make_up_the_batch() -> None:
    images = few_images().train
    normalization = Normalization((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    whole, first, second = (
        list(TrainingBatches(images, 8, 3, normalization, share=share).epoch(1)) for share in ((0, 1), (0, 2), (1, 2))
    )
    for number, batch in enumerate(whole):
        for part, wanted in enumerate(batch):
            assert torch.equal(torch.cat([first[number][part], second[number][part]]), wanted)


def test_dropout_differs_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Epochs.__new__(Epochs)
    training.seed, training.epoch, training.batch = 7, 1, 2
    seeds = set()
    for rank in range(3):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        seeds.add(training._draws())
    assert len(seeds) == 3
    # the first process draws what one alone does
    assert int(np.random.SeedSequence([7, 1, 2]).generate_state(1)[0]) in seeds


def test_batches_must_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 3)
    recipe = read_recipe("cifar10-vgg6", ImageRecipe, {"ann": {"batch_size": 99}})
    with pytest.raises(UserError, match=r"3 processes .* batch of 128 images: give --reduction.batch_size a multiple"):
        check_shares(recipe, 1000)
    check_shares(recipe, 90)


def test_the_command(tmp_path: Path) -> None:
    data, run = tmp_path / "cifar-10-batches-bin", tmp_path / "run"
    data.mkdir()
    for file in (DATA / "cifar-10-batches-bin").glob("*.bin"):
        (data / file.name).write_bytes(file.read_bytes()[: 8 * 3073])
    little = "--network.hidden 16 --ann.epochs 1 --reduction.epochs 1 --schedule 1 --ann.batch_size 12"
    words = ["train", "cifar10-vgg6", "--data", tmp_path, "--run", run, *little.split(), "--gate.tolerance", "1"]
    code, said = torchrun(tmp_path, "-m", "--", "snnrl", *words, "--reduction.batch_size", "12")
    assert (code, said) == (0, [])
    assert [stage["name"] for stage in RunFolder(run).summary()["stages"]] == ["ann", "T1"]
    assert len(list((run / "logs").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("-m", "--", "snnrl", "train", "pong"), "snnrl: pong trains an agent, in one process: torchrun is for image"),
        ((SCRIPT, ".", "T1@fail"), "[rank1]: snnrl.errors.UserError: this process cannot go on"),
    ],
)
def test_one_line_tells_of_a_mistake(words: tuple[str | Path, ...], line: str, tmp_path: Path) -> None:
    code, (said,) = torchrun(tmp_path, *words)
    assert code == 1  # torchrun's own
    assert said.startswith(line)
