"""The house: packages listed as they lie on disk, imports that go one way, nothing but snnrl in a user's namespace."""

import ast
import importlib.machinery
import importlib.metadata
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"snnrl": "snnrl", "agents": "snnrl.agents", "envs": "snnrl.envs", "configs": "snnrl.configs"}
TOP_LEVEL = {
    *("pyproject.toml", "snnrl", "agents", "envs", "configs", "tests", "README.md"),
    *("docs", "benchmarks", "LICENSE", "CHANGELOG.md"),
}
ROOF = ("snnrl.__main__", "snnrl.cli", "snnrl.commands")


def modules() -> dict[str, Path]:
    found = {}
    for room, package in ROOMS.items():
        for file in (ROOT / room).rglob("*.py"):
            parts = file.relative_to(ROOT / room).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = file
    return found


def imports(name: str, file: Path) -> set[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def room_of(name: str) -> str:
    for room in ("snnrl.agents", "snnrl.envs", "snnrl.configs", *ROOF):
        if name == room or name.startswith(room + "."):
            return "roof" if room in ROOF else room
    return "core"


ALLOWED = {
    "core": {"core"},
    "snnrl.configs": {"core"},
    "snnrl.envs": {"core", "snnrl.envs"},
    "snnrl.agents": {"core", "snnrl.envs", "snnrl.agents"},
    "roof": {"core", "snnrl.envs", "snnrl.agents", "snnrl.configs", "roof"},
}
FOREIGN = {
    "core": {"stable_baselines3", "gymnasium", "ale_py", "cv2"},
    "snnrl.envs": {"stable_baselines3"},
    "roof": {"stable_baselines3"},
}


@pytest.mark.parametrize(("name", "file"), modules().items(), ids=modules())
def test_imports_go_one_way(name: str, file: Path) -> None:
    room = room_of(name)
    for imported in imports(name, file):
        assert imported.split(".")[0] not in FOREIGN.get(room, set()), f"{name} imports {imported}"
        if imported.split(".")[0] == "snnrl" and any(imported == m or imported.startswith(m + ".") for m in modules()):
            assert room_of(imported) in ALLOWED[room], f"{name} imports {imported}"


def test_listed_packages_are_those_on_disk() -> None:
    # tomllib came with Python 3.11; the list is plain enough to read without it
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = ast.literal_eval(text.split("\npackages = ")[1].split("]")[0] + "]")
    on_disk = {name for name, file in modules().items() if file.name == "__init__.py"}
    assert set(listed) == on_disk
    assert len(listed) == len(set(listed))


def test_nothing_else_at_the_top() -> None:
    tracked = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert tracked - {"build", "dist", "runs", "snnrl.egg-info"} == TOP_LEVEL


def test_only_snnrl_enters_the_namespace() -> None:
    (installed,) = importlib.metadata.distributions(name="snnrl", path=[sysconfig.get_path("purelib")])
    code = [path for path in installed.files or [] if path.suffix == ".py" and not path.parts[0].startswith("__")]
    assert {path.parts[0] for path in code} <= {"snnrl"}
    # run from anywhere but the checkout, the folders' bare names must not be importable
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    for room in ("agents", "envs", "configs"):
        assert importlib.machinery.PathFinder.find_spec(room, elsewhere) is None


def test_the_bare_folders_are_never_imported() -> None:
    for name, file in {**modules(), **{f.stem: f for f in (ROOT / "tests").glob("*.py")}}.items():
        bare = {imported.split(".")[0] for imported in imports(name, file)} & {"agents", "envs", "configs"}
        assert not bare, f"{file} imports {bare}"
