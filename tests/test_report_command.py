"""``snnrl report``: the page that a run gets, in a real browser, and what is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.arguments import parse
from snnrl.cli import main
from snnrl.commands import running, train
from snnrl.commands.recipes import command_line
from snnrl.config import read_recipe
from snnrl.runs import RunFolder

pytestmark = pytest.mark.reports
SHORT = [
    *("--ann.steps", "300", "--ann.eval-every", "150", "--dqn.learning-starts", "50", "--network.net-arch", "16"),
    *("--reduction.batches", "60", "--reduction.frames", "64", "--reduction.own-frames", "32"),
    *("--gate.episodes", "2", "--gate.tolerance", "1.0", "--report-episodes", "2", "--schedule", "3,1"),
]
IMAGES = [
    *("--data", str(Path(__file__).parent / "data" / "cifar10"), "--network.width", "0.125", "--network.hidden", "16"),
    *("--ann.epochs", "2", "--reduction.epochs", "2", "--schedule", "2,1", "--gate.tolerance", "1.0"),
]
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``a`` (seed 0) and ``b`` (seed 1), and ``images``, a classifier's."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", "0"), ("b", "1")):
        assert main(["train", "cartpole-state", *SHORT, "--seed", seed, "--run", str(folder / name)]) == 0
    assert main(["train", "cifar10-vgg6", *IMAGES, "--run", str(folder / "images")]) == 0
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run ``a`` in the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "a", "run")
    return Path("run")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["report", *map(str, words)])
        return (code, *capsys.readouterr())

    return run


def test_training_leaves_a_report(place: Path, run: Path) -> None:
    page = (run / "report.html").read_text()
    for section in ("Result", "Learning", "Spikes", "Energy", "Agreement", "Observations", "What was run"):
        assert f"<h2>{section}</h2>" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert str(place) not in page
    mine = run / "report.html"
    mine.write_text("mine")
    again = ["train", "cartpole-state", *SHORT, "--run", "run"]
    assert main(again) == 0
    assert mine.read_text() == "mine"
    mine.unlink()
    assert main(again) == 0
    assert "<h2>Result</h2>" in mine.read_text()


def test_a_report_that_fails_loses_nothing(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(running, "write_page", fail)
    (run / "report.html").unlink()
    assert main(["train", "cartpole-state", *SHORT, "--run", "run", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["gate_met"]
    assert "no report: no ink" in err


def test_where_it_is_written(run: Path, call: Call, place: Path) -> None:
    (run / "report.html").write_text("old")
    code, out, _ = call("run", "--json")
    assert (code, json.loads(out)) == (0, {"out": "run/report.html", "runs": ["run"]})
    assert (run / "report.html").read_text() != "old"
    assert call(run, "--out", "mine.html")[0] == 0
    assert call(run, place / "b", "--out", "both.html")[0] == 0
    assert "seeds 0, 1" in Path("both.html").read_text()


def test_the_command_makes_the_same_recipe() -> None:
    made = parse(train.TrainOptions, SHORT, "train", _options())
    config = {field: getattr(made, field) for field in Recipe.model_fields}
    stored = Recipe(**config).model_dump(mode="json")
    words = command_line(stored | {"from": "ann", "seed": 5}, Path("runs/x")).split()
    assert words[:5] == ["snnrl", "train", "cartpole-state", "--seed", "5"]
    again = parse(train.TrainOptions, words[3:], "train", _options())
    assert {field: getattr(again, field) for field in config} == config | {"seed": 5}
    assert again.run == Path("runs/x")


def _options() -> train.TrainOptions:
    return train.TrainOptions(**read_recipe("cartpole-state", Recipe).model_dump())


def test_an_unfinished_run(run: Path, call: Call) -> None:
    for file in ("summary.json", "stages/T1.json"):
        (run / file).unlink()
    with RunFolder(run).alone():  # another process may be at work in it
        code, _, err = call(run, "--out", "page.html")
    assert (code, err) == (0, "")
    page = Path("page.html").read_text()
    assert "Unfinished" in page
    assert "ordinary → T = 3<" in page
    (run / "stages/T3.json").unlink()
    assert call(run, "--out", "first.html")[0] == 0
    assert "<h2>Spikes</h2>" not in Path("first.html").read_text()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", None, "run holds no run: name a folder that snnrl train has written"),
        ("config.json", '{"config": {"env": "CartPole-v1", "reduction": 3}}', "run/config.json is damaged"),
        ("summary.json", '{"stages": [{}]}', "run/summary.json is damaged: remove it"),
        ("summary.json", "{", "cannot read 'run/summary.json': not valid JSON"),
        ("stages/T3.json", "[]", "run/stages/T3.json is damaged: remove it"),
        ("logs/T1/progress.csv", "a,b\n1\n", "run/logs/T1/progress.csv line 2 is broken: 1 cells under 2 columns"),
        ("T3.zip", None, "run/T3.zip is missing"),
    ],
)
def test_damaged_runs(run: Path, call: Call, file: str, text: str | None, message: str) -> None:
    if text is None:
        (run / file).unlink()
    else:
        (run / file).write_text(text)
    before = (run / "report.html").read_bytes()
    code, out, err = call(run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"snnrl: {message}")
    assert (run / "report.html").read_bytes() == before


def test_an_environment_that_is_missing(run: Path, call: Call) -> None:
    agent = SpikingDQN.load(run / "T3.zip")
    agent.env_id = "Misssing-v0"
    agent.save(run / "T3.zip")
    code, out, err = call(run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Misssing-v0" in err


def test_mistakes(run: Path, call: Call, place: Path) -> None:
    shutil.copytree(run, "other")
    config = json.loads((run / "config.json").read_text())
    config["config"]["dqn"]["gamma"] = 0.5
    Path("other/config.json").write_text(json.dumps(config))
    shutil.copytree(run, "empty")
    shutil.rmtree("empty/stages")
    Path("empty/summary.json").unlink()
    Path("there.html").write_text("mine")
    for words, message in (
        ((), "usage: snnrl report RUN..."),
        (("nowhere",), "nowhere holds no run"),
        (("empty",), "empty has no finished stage yet: the same snnrl train command goes on with it"),
        ((run, "--out", "there.html"), "there.html exists: give another --out"),
        ((run, "--out", "page.pdf"), "--out page.pdf must end in .html"),
        ((run, "--out", "no/page.html"), "there is no folder no for --out"),
        ((run, place / "b"), "give --out FILE.html"),
        ((run, "other", "--out", "x.html"), "other is of another recipe than run (dqn.gamma: 0.99 before, 0.5 now)"),
        ((run, place / "a", "--out", "x.html"), "two of the runs have seed 0"),
    ):
        code, out, err = call(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert message in err
    assert Path("there.html").read_text() == "mine"
    assert not Path("x.html").exists()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Headless Chromium that tells what it asks for and what goes wrong."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1200])
@pytest.mark.parametrize("name", ["a", "images"])
def test_in_a_browser(browser: webdriver.Chrome, place: Path, name: str, scheme: str, width: int) -> None:
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page = (place / name / "report.html").as_uri()
    browser.get(page)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [request["request"]["url"] for request in sent if request["documentURL"] == page]
    assert {url.partition(":")[0] for url in asked} == {"data", "file"}
    drawings = browser.find_elements(By.CSS_SELECTOR, "figure > svg, figure > img")
    assert len(drawings) >= 8
    for drawing in drawings:
        assert drawing.is_displayed()
        assert drawing.size["height"] > 5
        assert drawing.get_attribute("aria-label") or drawing.get_attribute("alt")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    text = browser.find_element(By.CSS_SELECTOR, "svg text").value_of_css_property("fill")
    bright = sum(map(int, ground.partition("(")[2].split(",")[:3])) > 3 * 128
    assert bright == (scheme == "light")
    assert (sum(map(int, text.partition("(")[2].rstrip(")").split(",")[:3])) > 3 * 128) == (scheme == "dark")
