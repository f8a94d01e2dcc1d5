"""The command line: what a user gets right, gets wrong, and gets after a crash."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger

import snnrl.commands.listing
import snnrl.files
from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.evaluate import episode_seeds
from snnrl.agents.spiking_dqn import distil
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.build import checkpoint_bytes
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.agents.spiking_dqn.stages import Job
from snnrl.checkpoint import read_archive
from snnrl.cli import COMMANDS, main
from snnrl.commands import overlay
from snnrl.commands.train import check_disk
from snnrl.config import read_recipe, recipe_names, recipe_values
from snnrl.envs import PROTOCOLS, make
from snnrl.runs import RunFolder
from worlds import game_agent

RECIPE = """
env: CartPole-v1
n_envs: 2
T: 3
step: 2
device: cpu
network: {net_arch: [16]}
dqn: {buffer_size: 300, learning_starts: 50, batch_size: 16, target_update_interval: 50}
ann: {steps: 300, eval_every: 150, checkpoint_every: 100}
reduction: {batches: 60, batch_size: 16, frames: 64, own_frames: 32, rounds: 1, checkpoint_every: 20}
gate: {episodes: 2, tolerance: 1.0}
report_episodes: 2
"""
STAGES = ["ann", "T3", "T1"]
LITTLE = PROTOCOLS["v4"].changed(stack=1, size=44)
Call = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def short_and_trained() -> Iterator[None]:
    """Let every stage train, as accidents are to happen while it does, after little play."""
    gate = Job.gate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distil, "CALIBRATION", 64)
        patch.setattr(Job, "gate", lambda self, agent: (gate(self, agent)[0], False))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its finished run, neither of which a test changes."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(RECIPE)
    assert main(["train", str(folder / "tiny.yaml"), "--run", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def tiny(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recipe, seen from an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return str(place / "tiny.yaml")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(call: Call, tiny: str) -> Refused:
    def run(*words: object) -> str:
        before = content(Path())
        code, out, err = call(*words)
        assert (code, out) == (2, ""), err
        assert err.startswith("snnrl: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert content(Path()) == before
        return err

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def weights(folder: Path) -> dict[str, list[float]]:
    tensors = {name: read_archive(folder / f"{name}.zip").tensors["policy"] for name in STAGES}
    return {f"{name} {key}": value.flatten().tolist() for name in STAGES for key, value in tensors[name].items()}


def balancer() -> SpikingDQN:
    """An ordinary agent with weights by hand, which balances CartPole to the end."""
    agent = SpikingDQN("MlpPolicy", "CartPole-v1", T=None, buffer_size=1, policy_kwargs={"net_arch": [2]}, device="cpu")
    push = torch.tensor([0.1, 0.5, 3.0, 1.0])
    hidden, head = (m for m in agent.q_net.modules() if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        hidden.weight.copy_(torch.stack([push, -push]))
        head.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        hidden.bias.zero_()
        head.bias.zero_()
    agent.q_net_target.load_state_dict(agent.q_net.state_dict())
    agent.env.close()
    return agent


# mistakes


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("", "usage: snnrl train|eval"),
        ("trian x", "unknown command 'trian'; did you mean 'train'?"),
        ("train", "usage: snnrl train RECIPE"),
        ("eval --T 1", "usage: snnrl eval AGENT"),
        ("convert", "usage: snnrl convert AGENT.zip"),
        ("play", "usage: snnrl play AGENT"),
        ("train cartpol", "unknown recipe 'cartpol'; did you mean 'cartpole'?"),
        ("train brekout", "unknown recipe 'brekout'; did you mean 'breakout'?"),
        ("train Pong", "unknown recipe 'Pong'; did you mean 'pong'?"),
        ("train ALE/Pong-v5", "unknown recipe 'ALE/Pong-v5'; did you mean 'pong'?"),
        ("train 1234", "unknown recipe '1234'; known: atari, cartpole, "),
        ("train pong --env Breakout", "unknown environment 'Breakout'; did you mean 'breakout'?"),
        ("train pong --protocol v6", "--protocol 'v6' is none of v4, v5"),
        ("train pong --atari.stak 1", "did you mean --atari.stack?"),
        ("train pong --atari.stack 0", "atari.stack: input should be greater than or equal to 1, not 0"),
        ("train pong --atari.size 1000000000", "atari.size: input should be less than or equal to 512"),
        ("train pong --precision fp16", "--precision 'fp16' is none of fp32, bf16; did you mean 'bf16'?"),
        ("train pong --dqn.buffer-size 10000000000000", "checkpoints of this run need up to 70560000.0 GB"),
        ("train pong --from RUN", "sees observations of shape (4,), pong gives (4, 84, 84): give another --env"),
        ("train TINY --protocol v5", "protocol and atari belong to an Atari game, env is 'CartPole-v1'"),
        ("train TINY --atari.stack 2", "protocol and atari belong to an Atari game, env is 'CartPole-v1'"),
        ("train nothing.yaml", "cannot read the recipe nothing.yaml: No such file"),
        ("train TINY --sed 1", "did you mean --seed?"),
        ("train TINY --dqn.gama 1", "did you mean --dqn.gamma?"),
        ("train TINY --seed", "Missing value for argument '--seed'"),
        ("train TINY extra", "Unrecognized options: extra"),
        ("train TINY --T 0", "T: input should be greater than or equal to 1, not 0"),
        ("train TINY --T 1001", "T: input should be less than or equal to 1000, not 1001"),
        ("train TINY --T two", "--T: invalid literal for int() with base 10: 'two'"),
        ("train TINY --dqn.gamma 2", "dqn.gamma: input should be less than or equal to 1, not 2"),
        ("train TINY --reduction.td.steps 0", "reduction.td.steps: input should be"),
        ("train TINY --dqn.learning-rate nan", "dqn.learning_rate: input should be a finite number"),
        ("train TINY --schedule 5,5,1", "the schedule 5,5,1 must fall strictly"),
        ("train TINY --schedule 5,x", "--schedule: not"),
        ("train TINY --T 3 --reduce-to 5", "reduce_to 5 is above T 3"),
        ("train TINY --seed -1", "seed: input should be greater than or equal to 0, not -1"),
        ("train TINY --most-steps x", "--most-steps: not {None}|INT but 'x'"),
        (
            "train TINY --network.kind mpl",
            "window-conv, window-lstm; did you mean 'mlp'?",
        ),
        ("train TINY --device gpu", "unknown device 'gpu': choose auto, cpu or cuda"),
        ("train TINY --device cuda:99", "no device 'cuda:99' on this machine"),
        ("train TINY --env CartPloe-v1", "unknown environment 'CartPloe-v1'; did you mean 'CartPole-v1'?"),
        ("train TINY --env Pendulum-v1", "a DQN needs discrete ones"),
        ("train TINY --env Blackjack-v1", "only arrays are supported"),
        ("train TINY --network.kind small", "a Cnn policy needs images"),
        ("train TINY --network.net-arch", "nothing would spike"),
        ("train TINY --from nobody", "no agent 'nobody'"),
        ("train TINY --run TINY", "cannot write the run folder"),
        ("eval nobody", "no agent 'nobody': not a run folder, not a file"),
        ("eval TINY", "File is not a zip file"),
        ("eval .", "holds no finished run"),
        ("eval RUN --T 0", "T.0: input should be greater than or equal to 1"),
        ("eval RUN --episodes 0", "episodes: input should be"),
        ("eval RUN --seed -1", "seed: input should be"),
        ("eval RUN --devise cpu", "did you mean --device?"),
        ("eval RUN/ann.zip --percentile 99", "a percentile sets the thresholds of an ordinary agent that is converted"),
        ("eval RUN/ann.zip --T 3 --percentile 0", "percentile: input should be greater than 0"),
        ("eval RUN --env Acrobot-v1", "sees observations of shape (4,), Acrobot-v1 gives (6,)"),
        ("eval RUN --env pong", "sees observations of shape (4,), pong gives (4, 84, 84)"),
        ("eval RUN --protocol v5", "CartPole-v1 is no Atari game: it has no --protocol"),
        ("eval RUN --epsilon 2", "epsilon: input should be less than or equal to 1"),
        ("play RUN --protocol v5", "CartPole-v1 is no Atari game: it has no --protocol"),
        ("convert RUN/ann.zip --protocol v5", "protocol and atari belong to an Atari game, env is ''"),
        ("convert nothing.zip", "no agent 'nothing.zip'"),
        ("convert RUN/ann.zip --out RUN/T1.zip", "exists: give another --out"),
        ("convert RUN/ann.zip --out new", "must end in .zip"),
        ("convert RUN/ann.zip --out there/new.zip", "there is no folder there"),
        ("play RUN --out RUN/T1.zip", "exists: give another --out"),
        ("play RUN --out film.avi", "must end in .mp4"),
        ("play RUN --out there/film.mp4", "there is no folder there"),
        ("list recipe", "'recipe' is none of all, recipes, envs, agents; did you mean 'recipes'?"),
        ("list --jsn", "did you mean --json?"),
    ],
)
def test_mistakes(refused: Refused, place: Path, tiny: str, words: str, hint: str) -> None:
    given = [word.replace("TINY", tiny).replace("RUN", str(place / "run")) for word in words.split()]
    assert hint in refused(*given)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (b"env: CartPole-v1\nnetwrok: {}\n", "unknown key 'netwrok'; did you mean 'network'?"),
        (b"env: CartPole-v1\nreduction: {td: {stesp: 1}}\n", "unknown key 'reduction.td.stesp'; did you mean 'steps'?"),
        (b"env: A\nenv: B\n", 'line 2: not valid YAML: found duplicate key "env"'),
        (b"env: !!python/object/apply:os.system [ls]\n", "line 1: not valid YAML: could not determine a constructor"),
        (b"env: A\nn_envs: two\n", "n_envs: input should be a valid integer"),
        (b"env: A\nnetwork: 3\n", "network: input should be a valid dictionary"),
        (b"n_envs: 2\n", "env: field required"),
        (b"- a\n- b\n", "a recipe is a mapping"),
        (b"", "a recipe is a mapping"),
        (b"env: A\n---\nenv: B\n", "another document"),
        (b"env: [A\n", "not valid YAML"),
        (b"\xff\xfe\x00\x80", "not text"),
        (b"env: a\0b", "not valid YAML"),
        (b"[" * 600, "nested too deeply"),
    ],
)
def test_broken_recipes(refused: Refused, tiny: str, text: bytes, hint: str) -> None:
    Path("recipe.yaml").write_bytes(text)
    message = refused("train", "recipe.yaml")
    assert hint in message
    assert "recipe.yaml" in message


def test_a_run_folder_is_not_shared(refused: Refused, place: Path, tiny: str) -> None:
    before = content(place / "run")
    message = refused("train", tiny, "--run", place / "run", "--seed", "1", "--dqn.gamma", "0.9")
    assert "dqn.gamma: 0.99 before, 0.9 now, seed: 0 before, 1 now" in message
    Path("letters").mkdir()
    Path("letters/love.txt").touch()
    assert "letters is not empty and holds no run" in refused("train", tiny, "--run", "letters")
    Path("letters/config.json").write_text("{}")
    assert "letters/config.json is not the configuration of a run" in refused("train", tiny, "--run", "letters")
    assert content(place / "run") == before


@pytest.mark.parametrize("flag", [["--T", "1,3"], ["--T=1,3"], ["--T", "1, 3"], ["--T", "1", "3"], ["--T", "1,3,"]])
def test_lists(call: Call, place: Path, tiny: str, flag: list[str]) -> None:
    code, out, err = call("eval", place / "run", "--episodes", "1", "--json", *flag)
    assert code == 0, err
    assert [result["T"] for result in json.loads(out.splitlines()[-1])["results"]] == [1, 3]


def test_an_agent_that_cannot_be_lowered(refused: Refused, place: Path, tiny: str) -> None:
    assert "decides in 1 timesteps already, nothing is left to lower to" in refused(
        "train", tiny, "--run", "new", "--from", place / "run"
    )


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("summary.json", "{}", "run/summary.json is damaged: remove it"),
        ("summary.json", "[]", "run/summary.json is damaged: remove it"),
        ("stages/T3.json", "[]", "run/stages/T3.json is damaged: remove it"),
        ("T3.zip", None, "run/T3.zip is missing: remove run/stages/T3.json"),
    ],
)
def test_damaged_results(call: Call, place: Path, tiny: str, file: str, text: str | None, message: str) -> None:
    shutil.copytree(place / "run", "run")
    Path("run/summary.json").unlink()
    if text is None:
        Path(f"run/{file}").unlink()
    else:
        Path(f"run/{file}").write_text(text)
    code, _, err = call("train", tiny, "--run", "run")
    assert code == 2
    assert err.startswith(f"snnrl: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("phys2d/CartPole-v1", "phys2d/CartPole-v1 cannot be made: "),
        ("GymV21Environment-v0", "GymV21Environment-v0 cannot be made: "),
        ("nomodule:Foo-v0", "its module cannot be imported: No module named 'nomodule'"),
    ],
)
def test_environments_that_lack_something(refused: Refused, tiny: str, env: str, message: str) -> None:
    assert message in refused("train", tiny, "--run", "new", "--env", env)


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    command = f"{sys.executable} -m snnrl.cli list | true; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == ("0\n", "")


# results


def check_stages(stages: list[dict[str, Any]], folder: Path) -> None:
    assert [stage["T"] for stage in stages] == [
        None if stage["name"] == "ann" else int(stage["name"][1:]) for stage in stages
    ]
    for stage in stages:
        assert not Path(stage["agent"]).is_absolute()
        assert (folder / stage["agent"]).is_file()
        assert stage["episodes"] == len(stage["rewards"]) == 2
        assert {"reward_mean", "reward_std", "energy_ratio", "minutes"} <= stage.keys()
        assert list(stage["spike_rate"]) == ([] if stage["T"] is None else ["fc1"])


def test_summary(place: Path) -> None:
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == STAGES
    check_stages(summary["stages"], place / "run")


def test_a_finished_run_is_shown_again(call: Call, place: Path, tiny: str) -> None:
    before = content(place / "run")
    code, out, _ = call("train", tiny, "--run", place / "run")
    assert code == 0
    assert "is finished" in out
    assert all(name in out for name in STAGES)
    code, out, _ = call("train", tiny, "--run", place / "run", "--json")
    assert json.loads(out.splitlines()[-1]) == json.loads((place / "run" / "summary.json").read_text())
    assert content(place / "run") == before


def test_eval(call: Call, place: Path, tiny: str) -> None:
    code, out, _ = call("eval", place / "run", "--episodes", "2", "--T", "1,3,100", "--json", "--device", "cpu")
    found = json.loads(out.splitlines()[-1])
    assert code == 0
    assert {"reward_mean", "reward_std"} <= found.keys()
    assert (found["T"], found["episodes"], found["env"]) == (1, 2, "CartPole-v1")
    assert [(r["T"], r["agent"]) for r in found["results"]] == [(1, "T1.zip"), (3, "T3.zip"), (100, "T3.zip")]
    code, out, _ = call("eval", place / "run", "--episodes", "2", "--json")
    again = json.loads(out.splitlines()[-1])
    assert again["rewards"] == found["rewards"]
    assert again["energy_ratio"] == found["energy_ratio"]


def test_eval_converts_an_ordinary_agent(call: Call, place: Path, tiny: str) -> None:
    options = ["--T", "2,20", "--percentile", "99.7", "--episodes", "2", "--json", "--device", "cpu"]
    code, out, _ = call("eval", place / "run" / "ann.zip", *options)
    results = json.loads(out.splitlines()[-1])["results"]
    assert code == 0
    assert [result["T"] for result in results] == [2, 20]
    assert {result["agent"] for result in results} == {"ann.zip, converted at the 99.7th percentile"}
    assert all(result["spike_rate"].keys() == {"fc1"} for result in results)


def test_list(call: Call) -> None:
    code, out, _ = call("list")
    assert code == 0
    assert "cartpole-state" in out
    assert "snnrl/PixelCartPole-v0" in out
    code, out, _ = call("list", "recipes", "--json")
    assert json.loads(out.splitlines()[-1]) == {"recipes": recipe_names()}


@pytest.mark.parametrize("name", COMMANDS)
def test_help(call: Call, name: str) -> None:
    code, out, _ = call(name, "--help")
    assert code == 0
    assert "--json" in out
    assert name in call("--help")[1]


def test_play(call: Call, tiny: str) -> None:
    env = "snnrl/PixelCartPole-v0"
    policy = {"features_extractor_kwargs": {"network": "small", "features_dim": 4}}
    agent = SpikingDQN("CnnPolicy", env, T=2, buffer_size=1, policy_kwargs=policy, device="cpu", seed=0)
    agent.save("pixels")
    code, out, _ = call("play", "pixels", "--episodes", "2", "--most-steps", "4", "--T", "1", "--json")
    said = json.loads(out.splitlines()[-1])
    assert code == 0
    assert said == {"out": "play.mp4", "frames": 8, "rewards": [4.0, 4.0]}
    video = cv2.VideoCapture("play.mp4")
    frames = []
    while (frame := video.read())[0]:
        frames.append(frame[1])
    assert len(frames) == 8
    with contextlib.closing(make(env, render_mode="rgb_array")) as drawn:
        drawn.reset(seed=episode_seeds(0, "report", 2)[0])
        first = drawn.render()
    assert frames[0].shape == first.shape
    assert abs(frames[0][..., ::-1].astype(int) - first).mean() < 5
    assert abs(frames[3].astype(int) - frames[0]).max() > 50
    assert list(Path().glob(".*")) == []


def test_play_with_spikes_beside_the_game(call: Call, tiny: str) -> None:
    command = ["play", "cartpole", "--most-steps", "3", "--overlay", "spikes"]
    code, out, _ = call(*command, "--T", "1", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == {"out": "play.mp4", "frames": 3, "rewards": [3.0]}
    video = cv2.VideoCapture("play.mp4")
    size = [int(video.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    assert size == [overlay.WIDTH, overlay.HEIGHT]


def test_an_ordinary_agent_has_no_spikes_to_overlay(call: Call) -> None:
    code, _, err = call("play", "cartpole/ann", "--overlay", "spikes")
    assert code == 2
    assert err == "snnrl: cartpole/ann is an ordinary network, which has no spikes to overlay: give --T to convert it\n"
    assert not Path("play.mp4").exists()


# games

SHORT = ["--T", "1", "--reduction.rounds", "1", "--reduction.batches", "2", "--reduction.batch-size", "4"]
SHORT += ["--reduction.last-rounds", "1", "--reduction.frames", "8", "--gate.tolerance", "1", "--gate.episodes", "1"]
SHORT += ["--report-episodes", "1", "--most-steps", "5", "--n-envs", "1", "--device", "cpu"]


def test_games_are_listed_and_have_their_options(call: Call) -> None:
    code, out, _ = call("list", "envs", "--json")
    envs = json.loads(out.splitlines()[-1])["envs"]
    assert code == 0
    assert "breakout, " in envs["pong"]
    code, out, _ = call("train", "breakout", "--help")
    assert code == 0
    assert "default: breakout" in out
    assert "--atari.stack" in out


def test_a_game_is_evaluated_and_filmed(call: Call, tiny: str) -> None:
    short = PROTOCOLS["v4"].changed(stack=1, most_frames=400)
    game_agent(protocol=short).save("agent")
    found = {}
    for options in ("", "--epsilon 0.5", "--epsilon 0.5 --seed 1", "--protocol v5 --most-steps 5"):
        command = ["eval", "agent", "--episodes", "2", "--device", "cpu", "--json", *options.split()]
        code, out, err = call(*command)
        assert code == 0, err
        found[options] = json.loads(out.splitlines()[-1])
        assert call(*command)[1].splitlines()[-1] == out.splitlines()[-1]
    assert found[""]["protocol"] == short.model_dump()
    assert found["--protocol v5 --most-steps 5"]["protocol"] == PROTOCOLS["v5"].changed(stack=1).model_dump()
    assert [of["epsilon"] for of in found.values()] == [0, 0.5, 0.5, 0]
    code, out, _ = call("play", "agent", "--most-steps", "3", "--protocol", "v5", "--json")
    assert (code, json.loads(out.splitlines()[-1])["frames"]) == (0, 3)


def test_a_game_is_trained_from_an_agent_of_sb3(call: Call, refused: Refused, tiny: str) -> None:
    policy = {"features_extractor_kwargs": {"features_dim": 8}}
    for game, protocol in [("pong", PROTOCOLS["v4"]), ("breakout", PROTOCOLS["v4"]), ("pong", LITTLE)]:
        env = AtariVecEnv(game, 1, protocol, seed=0)
        DQN("CnnPolicy", env, buffer_size=1, policy_kwargs=policy, seed=0).save(f"{game}{protocol.stack}.zip")
        env.close()
    code, out, err = call("train", "pong", "--from", "pong4.zip", "--run", "run", "--json", *SHORT)
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert [stage["name"] for stage in summary["stages"]] == ["ann", "T1"]
    assert summary["env_kwargs"] == {"protocol": PROTOCOLS["v4"].model_dump()}
    last = SpikingDQN.load("run/T1.zip")
    assert (last.env_id, last.env_kwargs, last.T) == ("pong", summary["env_kwargs"], 1)
    assert "chooses among 4 actions, pong has 6" in refused("train", "pong", "--from", "breakout4.zip", "--run", "new")
    message = refused("train", "pong", "--from", "pong1.zip", "--run", "new")
    assert "sees observations of shape (1, 44, 44), pong gives (4, 84, 84)" in message
    assert "--atari.stack or --atari.size" in message


def test_convert_keeps_the_protocol_of_the_agent(call: Call, tiny: str) -> None:
    game_agent(None, protocol=LITTLE).save("ordinary")
    code, out, err = call("convert", "ordinary.zip", "--json", *SHORT)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["env_kwargs"] == {"protocol": LITTLE.model_dump()}
    assert SpikingDQN.load("spiking.zip").env_kwargs == {"protocol": LITTLE.model_dump()}


def test_a_disk_that_is_too_small(
    call: Call, refused: Refused, place: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = checkpoint_bytes(read_recipe(tiny, Recipe), learns_by_td=True)
    usage = shutil.disk_usage(".")._replace(free=needed - 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = refused("train", tiny, "--run", "run")
    assert "checkpoints of this run need up to 0.0 GB, the disk of run has 0.0 GB" in message
    assert call("train", tiny, "--run", place / "run")[0] == 0  # finished: nothing is written
    Path("run/stages/ann").mkdir(parents=True)
    Path("run/stages/ann/rows-0-100.zip").write_bytes(bytes(100))
    check_disk(read_recipe(tiny, Recipe), RunFolder(Path("run")), None)  # what is there already needs no room


# ways to begin


@pytest.mark.parametrize(
    ("origin", "stages"),
    [
        ("scratch", ["T2", "T1"]),
        ("ann", ["ann", "T2", "T1"]),
        ("T3", ["T3", "T2", "T1"]),
        ("sb3", ["ann", "T2", "T1"]),
        ("taught", ["ann", "T2", "T1"]),
    ],
)
def test_from(call: Call, place: Path, tiny: str, origin: str, stages: list[str]) -> None:
    start = origin if origin == "scratch" else str(place / "run" / f"{origin}.zip")
    options = ["--schedule", "2,1", "--ann.steps", "150", "--reduction.batches", "20"]
    if origin == "taught":
        start, options = "scratch", [*options, "--teacher", str(place / "run" / "ann.zip")]
    if origin == "sb3":
        start = "foreign.zip"
        DQN("MlpPolicy", "CartPole-v1", buffer_size=1, policy_kwargs={"net_arch": [16]}, seed=0).save(start)
    code, out, err = call("train", tiny, "--run", "run", "--from", start, "--json", *options)
    found = json.loads(out.splitlines()[-1])["stages"]
    assert code == 0, err
    assert [stage["name"] for stage in found] == stages
    check_stages(found, Path("run"))


def test_a_taught_network_begins_with_random_weights(call: Call, place: Path, tiny: str) -> None:
    teacher = str(place / "run" / "ann.zip")
    options = ["--schedule", "1", "--reduction.batches", "1", "--gate.tolerance", "1", "--neuron", "hoyer"]
    assert call("train", tiny, "--run", "run", "--from", "scratch", "--teacher", teacher, *options)[0] == 0
    taught, converted = SpikingDQN.load("run/T1.zip"), SpikingDQN.load(place / "run" / "T1.zip")
    ann = SpikingDQN.load(teacher)
    first = [
        agent.q_net.get_parameter("q_net.fc1.weights.weight").detach().flatten() for agent in (taught, converted, ann)
    ]
    likeness = [float(torch.corrcoef(torch.stack([weights, first[2]]))[0, 1]) for weights in first[:2]]
    assert abs(likeness[0]) < 0.6
    assert likeness[1] > 0.9
    assert taught.q_net.neuron == "hoyer"
    assert json.loads(Path("run/summary.json").read_text())["stages"][1]["start"] == "random weights"
    assert json.loads(Path("run/config.json").read_text())["config"]["teacher"] == "ann.zip"


def test_the_neurons_of_a_conversion_are_the_recipes(call: Call, place: Path, tiny: str) -> None:
    start = str(place / "run" / "ann.zip")
    options = ["--schedule", "1", "--reduction.batches", "1", "--gate.tolerance", "1", "--neuron", "hoyer"]
    assert call("train", tiny, "--run", "run", "--from", start, *options)[0] == 0
    assert SpikingDQN.load("run/T1.zip").q_net.neuron == "hoyer"


def test_kinds_of_neuron_that_cannot_be_are_refused_at_once(refused: Refused, tiny: str) -> None:
    message = refused("train", tiny, "--run", "run", "--from", "cartpole-state/T5", "--neuron", "hoyer")
    assert "has lif neurons, not hoyer: give --neuron lif, or begin with an ordinary one" in message
    message = refused("train", tiny, "--run", "run", "--neuron", "binary")
    assert "neuron binary decides in one timestep: give T 1, and no other schedule than 1" in message
    message = refused("train", tiny, "--run", "run", "--reduction.hoyer-penalty", "1e-8")
    assert "hoyer_penalty is for hoyer neurons, neuron is lif" in message
    assert not Path("run").exists()


def test_what_cannot_be_converted_is_refused_at_once(refused: Refused, place: Path) -> None:
    message = refused("train", "cartpole", "--run", "run", "--network.kind", "hoyer-vgg6", "--from", "cartpole/ann")
    assert "hoyer-vgg6 is trained from scratch: give --teacher instead of --from, or neither" in message


def test_mistakes_with_a_teacher(refused: Refused, place: Path, tiny: str) -> None:
    message = refused("train", tiny, "--run", "run", "--teacher", place / "run" / "ann.zip")
    assert "--teacher is for --from scratch" in message
    message = refused("train", tiny, "--run", "run", "--from", "scratch", "--teacher", place / "run" / "T3.zip")
    assert "--teacher spikes: give an ordinary network" in message


def test_a_run_knows_the_agent_that_it_began_with(call: Call, refused: Refused, place: Path, tiny: str) -> None:
    options = ["--run", "run", "--from", "mine.zip", "--schedule", "1", "--reduction.batches", "20"]
    shutil.copy(place / "run" / "ann.zip", "mine.zip")
    assert call("train", tiny, *options)[0] == 0
    assert call("train", tiny, *options)[0] == 0
    shutil.copy(place / "run" / "T3.zip", "mine.zip")
    assert "holds a run with another configuration (weights: " in refused("train", tiny, *options)


def test_convert(call: Call, refused: Refused, place: Path, tiny: str) -> None:
    options = ["--T", "2", "--reduction.batches", "20", "--reduction.frames", "64", "--reduction.rounds", "1"]
    options += ["--report-episodes", "2", "--gate.episodes", "2", "--gate.tolerance", "1"]
    command = ["convert", str(place / "run" / "ann.zip"), "--out", "spiking.zip", "--json", *options]
    code, out, err = call(*command)
    found = json.loads(out.splitlines()[-1])["stages"]
    assert code == 0, err
    check_stages(found, Path())
    assert [stage["agent"] for stage in found] == ["spiking/ann.zip", "spiking/T2.zip", "spiking.zip"]
    assert SpikingDQN.load("spiking.zip").T == 1
    assert "exists" in refused(*command)
    Path("spiking.zip").unlink()
    assert call(*command)[0] == 0
    assert Path("spiking.zip").read_bytes() == Path("spiking/T1.zip").read_bytes()


def test_a_missed_gate_ends_with_3(call: Call, tiny: str) -> None:
    balancer().save("balancer")
    options = ["--schedule", "1", "--gate.tolerance", "0", "--reduction.batches", "1", "--reduction.frames", "16"]
    code, out, _ = call("train", tiny, "--run", "run", "--from", "balancer", *options)
    assert code == 3
    assert "missed its gate; its best agent is kept" in out
    assert Path("run/T1.zip").is_file()
    assert not json.loads(Path("run/summary.json").read_text())["gate_met"]
    assert call("train", tiny, "--run", "run", "--from", "balancer", *options)[0] == 3


@pytest.mark.parametrize("name", [name for name in recipe_names() if "env" in recipe_values(name)[0]])
def test_shipped_recipes_train(call: Call, tiny: str, name: str) -> None:
    options = [
        "--schedule",
        "1",
        "--n-envs",
        "2",
        "--report-episodes",
        "1",
        "--gate.episodes",
        "1",
        "--most-steps",
        "5",
    ]
    options += ["--ann.steps", "24", "--dqn.learning-starts", "8", "--dqn.buffer-size", "64", "--dqn.batch-size", "4"]
    options += ["--reduction.rounds", "1", "--reduction.last-rounds", "1", "--reduction.batches", "2"]
    options += [
        "--reduction.frames",
        "8",
        "--reduction.td.steps",
        "24",
        "--reduction.batch-size",
        "4",
        "--gate.tolerance",
        "1",
    ]
    if name == "convert":
        options += ["--network.net-arch", "8"]
    if name == "pong-vgg6":
        options += ["--atari.size", "20"]
    code, out, err = call("train", name, "--device", "cpu", "--json", *options)
    assert code == 0, err
    assert [stage["name"] for stage in json.loads(out.splitlines()[-1])["stages"]] == ["ann", "T1"]
    assert Path(f"runs/{name}-seed0/T1.zip").is_file()


# accidents


def after(count: int, accident: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``original``, whose calls from number ``count`` on meet with an accident."""
    calls = 0

    def replacement(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*args, **kwargs) if calls <= count else accident(original(*args, **kwargs))

    return replacement


def interrupt(_: Any) -> Any:
    raise KeyboardInterrupt


def fill_disk(_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name", "count", "accident", "code", "words"),
    [
        (distil, "distillation_loss", 30, interrupt, 130, "the same command goes on from the last checkpoint in run"),
        (distil, "distillation_loss", 30, lambda loss: loss * float("nan"), 2, "lower reduction.learning_rate"),
        (snnrl.files.os, "fsync", 9, fill_disk, 2, "No space left on device"),
        (snnrl.files.os, "fsync", 26, fill_disk, 2, "No space left on device"),
        (snnrl.files.os, "fsync", 37, fill_disk, 2, "No space left on device"),
        (Logger, "dump", 6, fill_disk, 2, "No space left on device"),
    ],
    ids=["interrupted", "NaN", "disk full 1", "disk full 2", "disk full 3", "disk full, logs"],
)
def test_accidents(
    call: Call,
    place: Path,
    tiny: str,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    count: int,
    accident: Callable[..., Any],
    code: int,
    words: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, after(count, accident, getattr(owner, name)))
        found, _, err = call("train", tiny, "--run", "run")
        assert found == code
        assert err.count("\n") == 1
        assert words in err
    assert not Path("run/summary.json").exists()
    for archive in Path("run").rglob("*.zip"):
        read_archive(archive)
    if owner is distil:
        assert read_archive("run/stages/T3/checkpoint.zip").metadata["batch"] == 20
    assert call("train", tiny, "--run", "run")[0] == 0
    assert weights(Path("run")) == weights(place / "run")
    assert list(Path().rglob("*.tmp")) == []


def test_a_loss_that_explodes(call: Call, tiny: str) -> None:
    code, _, err = call("train", tiny, "--run", "run", "--dqn.learning-rate", "1e30", "--dqn.optimizer", "SGD")
    assert code == 2
    assert err.count("\n") == 1
    assert "lower the learning rate; run keeps the last good checkpoint" in err


def test_one_line_whatever_is_raised(call: Call, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def list_(error: BaseException) -> Callable[[Any], int]:
        def raising(_: Any) -> int:
            raise error

        return raising

    for error in (OSError("first\nsecond"), MemoryError("16 GiB"), PermissionError(13, "Permission denied", "x")):
        monkeypatch.setattr(snnrl.commands.listing, "listing", list_(error))
        refused("list")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    monkeypatch.setattr(snnrl.commands.listing, "listing", list_(caught.value))
    assert "out of memory: lower the batch size" in refused("list")
    monkeypatch.setattr(snnrl.commands.listing, "listing", list_(RuntimeError("a fault of ours")))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        call("list")
    monkeypatch.setattr(snnrl.commands.listing, "listing", list_(KeyboardInterrupt()))
    assert call("list") == (130, "", "snnrl: interrupted\n")


def test_torchrun_is_for_training(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "list runs in one process: leave torchrun out" in refused("list")


def test_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snnrl.cli", "list", "--jsno"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "snnrl: list: Unrecognized options: --jsno; did you mean --json?; see --help\n"
