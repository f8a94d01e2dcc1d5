"""Python blocks of the documentation run, C blocks compile, as they stand; shell blocks, marked sh, are left alone."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from snnrl.cli import main
from snnrl.export.compiled import STRICT, compiler
from snnrl.neurons import NEURONS

ROOT = Path(__file__).parent.parent
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LANGUAGES = {"python", "c", "sh", "yaml", ""}


def blocks() -> dict[str, tuple[str, str]]:
    found = {}
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = file.read_text(encoding="utf-8")
        for block in FENCED.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            found[f"{file.relative_to(ROOT)}:{line}"] = (block[1], block[2])
    return found


def blocks_in(wanted: str) -> dict[str, str]:
    return {where: code for where, (language, code) in blocks().items() if language == wanted}


@pytest.fixture
def table_of_neurons() -> Iterator[None]:
    """Take out again what a block puts in."""
    kept = dict(NEURONS)
    yield
    NEURONS.clear()
    NEURONS.update(kept)


@pytest.mark.usefixtures("table_of_neurons")
@pytest.mark.parametrize(("where", "code"), blocks_in("python").items(), ids=blocks_in("python"))
def test_python_blocks_run(where: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, line = where.rsplit(":", 1)
    # empty lines in front, so that a traceback names the line of the document
    exec(compile("\n" * int(line) + code, file, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("where", "code"), blocks_in("c").items(), ids=blocks_in("c"))
def test_c_blocks_compile_beside_an_agent(where: str, code: str, tmp_path: Path) -> None:
    assert main(["export", "cartpole-state", "--out", str(tmp_path / "agent"), "--no-check"]) == 0
    (tmp_path / "block.c").write_text(code)
    words = [compiler(), *STRICT, "-c", "-I", tmp_path / "agent", "-o", tmp_path / "block.o", tmp_path / "block.c"]
    subprocess.run(words, check=True)


def test_every_block_is_of_a_known_language() -> None:
    for where, (language, _) in blocks().items():
        assert language in LANGUAGES, f"{where} is marked {language!r}: it would not be run"


def test_the_guide_to_stable_baselines3_is_tested() -> None:
    assert sum(where.startswith("docs/sb3.md") for where in blocks_in("python")) >= 5
