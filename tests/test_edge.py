"""The cart-pole of docs/edge: what it does on this machine, and on an emulated microcontroller."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from snnrl.cli import main
from snnrl.export import compiled

EDGE = Path(__file__).parent.parent / "docs" / "edge"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)] or [compiled.compiler()]
MILLISECONDS = 5000
MOST_FLASH = 32 * 1024
MOST_STACK = 1280
MOST_STACK_OF_DECISION = 128


def missing(*tools: str) -> pytest.MarkDecorator:
    """Skip where a tool is not installed."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def output(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def episodes(loop: Path, *options: str) -> list[tuple[float, int]]:
    """Return seconds balanced and the checksum of the actions of each seed."""
    lines = output(loop, *options).splitlines()[2:]
    return [(float(line.split()[1]), int(line.split()[2], 16)) for line in lines]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge") / "agent"
    assert main(["export", "cartpole-state", "--weights", "int8", "--no-check", "--out", str(folder)]) == 0
    return folder


def build(agent: Path, out: Path, compiler: str) -> Path:
    loop = out / f"loop-{Path(compiler).name}"
    sources = [*(EDGE / name for name in ("loop.c", "timing.c", "episode.c", "plant.c")), agent / "snnrl_agent.c"]
    flags = [*compiled.STRICT, "-O2", "-ffp-contract=off", f"-I{agent}"]
    output(compiler, *flags, *sources, "-o", loop, "-lm")
    return loop


@pytest.fixture(scope="module")
def loop(agent: Path) -> Path:
    return build(agent, agent.parent, COMPILERS[0])


def test_it_balances(loop: Path) -> None:
    results = episodes(loop, "--seconds", "8", "--seeds", "3", "--noise", "0", "--delay", "0")
    assert [seconds for seconds, _ in results] == [8.0] * 3
    assert len({checksum for _, checksum in results}) == 3


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_same_by_seed_whatever_the_compiler(agent: Path, loop: Path, tmp_path: Path, compiler: str) -> None:
    options = ("--seconds", "2", "--seeds", "2", "--noise", "4", "--delay", "40")
    assert episodes(build(agent, tmp_path, compiler), *options) == episodes(loop, *options)


def test_it_can_fall(loop: Path) -> None:
    ((seconds, _),) = episodes(loop, "--seeds", "1", "--period", "20", "--delay", "100")
    assert 0 < seconds < 20


def test_paced_by_the_clock(loop: Path) -> None:
    _, names, numbers = output(loop, "--seconds", "0.2", "--seeds", "1", "--paced", "1").splitlines()
    found = dict(zip(names.split()[3:9], map(float, numbers.split()[3:9]), strict=True))
    assert 0 < found["median"] <= found["99.9%"] <= found["worst"]
    assert 0 <= found["missed"] <= 200


@pytest.mark.parametrize("options", [["--delay", "101"], ["--period", "0"], ["--seconds", "nan"], ["--speed", "1"]])
def test_options_that_make_no_sense(loop: Path, options: list[str]) -> None:
    done = subprocess.run([loop, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: loop")


def test_the_plant_is_that_of_gymnasium(tmp_path: Path) -> None:
    library = tmp_path / "plant.so"
    output(COMPILERS[0], *compiled.STRICT, "-shared", "-fPIC", EDGE / "plant.c", "-o", library)
    move = ctypes.CDLL(str(library)).plant_move
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    state = np.array(env.state, np.float64)
    for action in [0, 1, 1, 0, 1, 0, 0] * 5:
        move(state.ctypes.data_as(ctypes.c_void_p), ctypes.c_double(10.0 * (2 * action - 1)), ctypes.c_double(0.02))
        _, _, fallen, _, _ = env.step(action)
        np.testing.assert_allclose(state, np.array(env.state), rtol=1e-9, atol=1e-11)
        assert not fallen
    env.close()


def test_the_film(loop: Path, tmp_path: Path) -> None:
    record, film = tmp_path / "episode.csv", tmp_path / "demo.gif"
    output(loop, "--seconds", "0.3", "--seeds", "1", "--csv", record)
    output(sys.executable, EDGE / "draw.py", record, film)
    assert film.read_bytes()[:6] == b"GIF89a"


@missing("cmake")
def test_cmake_builds_it(agent: Path, loop: Path, tmp_path: Path) -> None:
    output("cmake", "-S", EDGE, "-B", tmp_path, f"-DAGENT={agent}")
    output("cmake", "--build", tmp_path)
    options = ("--seconds", "1", "--seeds", "1")
    assert episodes(tmp_path / "loop", *options) == episodes(loop, *options)


@missing("cmake", "qemu-system-arm", "arm-none-eabi-gcc")
def test_a_microcontroller_decides_the_same(agent: Path, loop: Path, tmp_path: Path) -> None:
    source = EDGE / "microcontroller"
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={source / 'arm.cmake'}"
    output("cmake", "-S", source, "-B", tmp_path, toolchain, f"-DAGENT={agent}", f"-DMILLISECONDS={MILLISECONDS}")
    output("cmake", "--build", tmp_path)
    lines = [line.split() for line in output("cmake", "--build", tmp_path, "--target", "run").splitlines()]
    found = {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}
    assert found["counted_for_2000_instructions"] == 2000
    assert found["counted_for_20000_instructions"] == 20000
    balanced = (found["milliseconds_balanced"] / 1000, found["actions_checksum"])
    assert [balanced] == episodes(loop, "--seconds", str(MILLISECONDS / 1000), "--seeds", "1")
    assert 0 < found["instructions_per_decision_mean"] <= found["instructions_per_decision_worst"] < 64_000
    assert 0 < found["stack_of_decision"] < MOST_STACK_OF_DECISION
    assert found["stack_of_decision"] < found["stack"] < MOST_STACK
    text, data, _ = output("arm-none-eabi-size", tmp_path / "firmware.elf").splitlines()[1].split()[:3]
    assert int(text) + int(data) < MOST_FLASH
