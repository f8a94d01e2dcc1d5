"""Logs of a stage: joined where it went on, refused where they are broken."""

import re
from pathlib import Path

import pytest

from snnrl.errors import UserError
from snnrl.logs import read_logs


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "progress.csv").write_text(text)
    return folder / name / "progress.csv"


def test_what_was_done_again_counts_once(tmp_path: Path) -> None:
    write(tmp_path, "T1", "time/total_timesteps,a\n10,1\n20,2\n30,3\n")
    write(tmp_path, "T1-2", "b,time/total_timesteps\n7,20\n8,30\n")
    write(tmp_path, "T1-10", "time/total_timesteps,a\n40,9\n")
    write(tmp_path, "T1-again", "time/total_timesteps,a\n1,5\n")
    write(tmp_path, "T10", "time/total_timesteps,a\n1,6\n")
    assert read_logs(tmp_path, "T1") == {
        "time/total_timesteps": [10, 20, 30, 40],
        "a": [1, None, None, 9],
        "b": [None, 7, 8, None],
    }
    assert read_logs(tmp_path, "T1-again")["a"] == [5]


def test_empty_cells_and_what_is_no_number_are_none(tmp_path: Path) -> None:
    write(tmp_path, "ann", "a,b\n1,\n,nan\ninf,2\n")
    assert read_logs(tmp_path, "ann") == {"a": [1, None, None], "b": [None, None, 2]}


def test_nothing_was_logged(tmp_path: Path) -> None:
    write(tmp_path, "ann", "")
    assert read_logs(tmp_path, "ann") == {}
    assert read_logs(tmp_path / "nowhere", "ann") == {}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a,b\n1,2\n3\n", 3, "1 cells under 2 columns"),
        ("a\n1\n2\nthree\n", 4, "could not convert string to float: 'three'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, line: int, problem: str) -> None:
    file = write(tmp_path, "ann", text)
    with pytest.raises(UserError, match=re.escape(f"{file} line {line} is broken: {problem}")):
        read_logs(tmp_path, "ann")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = write(tmp_path, "ann", "")
    file.write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(UserError, match="is broken: not text"):
        read_logs(tmp_path, "ann")
