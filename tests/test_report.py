"""What a report is drawn from, and what is drawn: tables, figures, pages."""

import csv
import dataclasses
import io
from urllib.parse import unquote

import numpy as np
import pytest

from snnrl.energy import LayerOperations, break_down, read_costs
from snnrl.report import figures
from snnrl.report.data import Behaviour, Run, Sample, Stage, read_stage
from snnrl.report.drawing import mosaic, style
from snnrl.report.page import render, render_several
from snnrl.report.seeds import by_stage
from snnrl.report.tables import Table
from snnrl.statistics import Estimate

RESULT = {
    "name": "T1",
    "T": 1,
    "reward_mean": 2.0,
    "rewards": [1.0, 3.0],
    "distinct_episodes": 2,
    "spike_rate": {"fc1": 0.25, "fc2": 0.75},
    "energy_ratio": 3.0,
    "minutes": 1.5,
    "gate_passed": True,
    "start": "handed over",
    "rounds": 0,
}
STAGE = read_stage(RESULT, "reward")
ORDINARY = dataclasses.replace(STAGE, name="ann", T=None, spike_rate={}, energy_ratio=1.0, trained=True)
LOG = {"distil/loss": [2.0, 1.0, None], "distil/batches": [50, 100, None], "distil/spikes_fc1": [0.5, 0.4, None]}
RUN = Run("<b>World & son</b>", "reward", 0, {"recipe": "tiny"}, "snnrl train tiny", (ORDINARY, STAGE), {"T1": LOG})
LAYERS = (
    LayerOperations("fc1", 1, 1, 8, False, 4, 8, 4, 2, 10, neurons=2, steps=1, spikes=1),
    LayerOperations("head", 1, 1, 4, True, 1, 2, 2, 2, 6),
)
BEHAVIOUR = Behaviour(
    "4 observations.",
    "fc1",
    {"ann": np.array([0, 0, 1, 1]), "T1": np.array([0, 1, 1, 1])},
    ("left", "right"),
    {"T1": break_down(LAYERS, None, read_costs("paper"))},
    (Sample(np.array([0.5, -1.0]), np.array([1.0, 0.0]), {"ann": "left"}),),
)


def rows_of(link: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(unquote(link.partition(",")[2]))))


def test_a_stage_is_read() -> None:
    assert (STAGE.label, ORDINARY.label) == ("T = 1", "ordinary")
    assert (STAGE.mean_rate, ORDINARY.mean_rate) == (0.5, None)
    assert (STAGE.estimate.value, STAGE.before, STAGE.trained) == (2.0, None, False)
    told = read_stage(RESULT | {"before": {"spike_rate": {"fc1": 1.0}}}, "reward")
    assert told.before == {"fc1": 1.0}


def test_a_classifier_has_an_accuracy() -> None:
    result = {key: value for key, value in RESULT.items() if not key.startswith("reward")} | {"accuracy": 0.9}
    stage = read_stage(result, "accuracy")
    assert stage.estimate == (0.9, 0.9, 0.9)
    page = render(dataclasses.replace(RUN, measure="accuracy", stages=(stage,)), BEHAVIOUR)
    assert "Accuracy against T" in page
    assert "reward" not in page.replace("reported", "").partition("<main>")[2].partition("Learning")[0]


def test_a_table_rounds_what_it_shows_and_not_what_it_hands_out() -> None:
    table = Table("t", "T", "", ["a", "b", "c"], [["x", Estimate(1.25, -1.0, 2.0), True], ["y", None, 3]], ["", ".1f"])
    assert table.headings == ["a", "b [95 %]", "c"]
    assert table.shown(1, table.rows[0][1]) == "1.2 [\N{MINUS SIGN}1.0, 2.0]"
    assert [table.shown(2, True), table.shown(2, None), table.shown(2, 3)] == ["yes", "\N{EN DASH}", "3.0"]
    assert rows_of(table.download) == [
        ["a", "b", "b low", "b high", "c"],
        ["x", "1.25", "-1.0", "2.0", "True"],
        ["y", "", "", "", "3"],
    ]


def test_the_page_of_a_run() -> None:
    page = render(RUN, BEHAVIOUR)
    assert "<b>World" not in page
    assert "&lt;b&gt;World &amp; son&lt;/b&gt;, seed 0" in page
    assert "75.0%" in page  # three of four choices are equal
    assert "25.0%" in page  # one is left by the one network and right by the other
    assert "of an older version" in page
    assert "Not trained, as their start passed the gate: T1." in page
    assert "#0000" not in page
    assert page.count("<svg") == page.count('role="img"')
    ids = [part.partition('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    assert "Unfinished" not in page
    assert "Unfinished" in render(dataclasses.replace(RUN, finished=False), BEHAVIOUR)


def test_rates_before_and_after() -> None:
    told = dataclasses.replace(STAGE, before={"fc1": 1.0, "fc2": 0.5})
    with style():
        drawn = figures.hand_over(dataclasses.replace(RUN, stages=(ORDINARY, told)))
        assert figures.hand_over(RUN) is None
    assert drawn is not None
    assert rows_of(drawn.table.download)[1:] == [["T1", "fc1", "1.0", "0.25"], ["T1", "fc2", "0.5", "0.75"]]


def test_curves_tell_their_clock() -> None:
    assert figures.clock_of(LOG) == ([50, 100, 100], "batches")
    assert figures.clock_of({"distil/loss": [3.0, 2.0]}) == ([1, 2], "entries in the log")
    with style():
        (curve,) = figures.learning_curves(RUN)
    assert rows_of(curve.table.download) == [["batches", "distil/loss"], ["50", "2.0"], ["100", "1.0"]]


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 5000])
def test_long_curves_are_thinned(count: int) -> None:
    kept = figures.thinned(list(range(count)))
    assert len(kept) == min(count, 1000) if count <= 1000 else 500 <= len(kept) <= 1000
    assert kept[0] == 0


def test_the_page_of_several_runs() -> None:
    def run(seed: int, *rewards: float) -> Run:
        stage: Stage = dataclasses.replace(STAGE, scores=rewards, score=float(np.mean(rewards)))
        return dataclasses.replace(RUN, seed=seed, stages=(stage,))

    page = render_several([run(0, 0.0, 4.0), run(1, 6.0, 100.0)])
    assert "seeds 0, 1" in page
    assert "<dd>5.0</dd>" in page  # of 0, 4, 6 and 100 the two in the middle
    assert "2 of 2" in page


def test_spikes_as_a_picture() -> None:
    picture = mosaic(np.array([[[0.0, 2.0]], [[1.0, 0.0]]]))
    assert picture[..., 3].tolist() == [[32, 255, 0, 144, 32]]
    assert mosaic(np.zeros(40)).shape == (3, 63, 4)
    assert np.array_equal(mosaic(np.float32([[[[0, 2]], [[1, 0]]]])), picture)


def test_runs_in_which_nothing_spikes_yet() -> None:
    runs = [dataclasses.replace(RUN, seed=seed, stages=(ORDINARY,), logs={}, finished=False) for seed in (0, 1)]
    page = render_several(runs)
    assert page.count("Unfinished") == 2
    assert "Spike rate" not in page


def test_two_stages_at_one_T_are_kept_apart() -> None:
    pruned = dataclasses.replace(STAGE, name="pruned", score=1.0)
    assert pruned.label == "pruned, T = 1"
    runs = [dataclasses.replace(RUN, stages=(ORDINARY, STAGE, pruned), seed=seed) for seed in (0, 1)]
    assert [(label, len(found)) for label, found in by_stage(runs)] == [
        ("ordinary", 2),
        ("T = 1", 2),
        ("pruned, T = 1", 2),
    ]
