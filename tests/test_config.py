"""Recipes: every mistake is one line that names the place."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from snnrl.agents.classifier.config import ImageRecipe
from snnrl.agents.spiking_dqn.config import DQN, Network, Recipe, Reduction, Training, env_settings
from snnrl.agents.spiking_dqn.stages import fine_tuning
from snnrl.config import check_device, explain, read_recipe, recipe_names, recipe_values, validate
from snnrl.envs import PROTOCOLS, read_protocol
from snnrl.errors import UserError

GROUPS: dict[str, type[BaseModel]] = {
    "": Recipe,
    "network": Network,
    "dqn": DQN,
    "reduction": Reduction,
    "reduction.td": Training,
}


def nested(path: str, value: object) -> dict[str, object]:
    for part in reversed(path.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def message(values: dict[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        validate(Recipe, values, "here")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(st.data())
def test_a_misspelt_key_is_named_with_the_right_one(data: st.DataObject) -> None:
    group = data.draw(st.sampled_from(sorted(GROUPS)))
    key = data.draw(st.sampled_from([name for name in GROUPS[group].model_fields if len(name) > 4]))
    place = data.draw(st.integers(0, len(key) - 2))
    typo = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assume(typo not in GROUPS[group].model_fields)
    path = f"{group}.{typo}".removeprefix(".")
    assert message({"env": "A", **nested(path, 1)}) == f"here: unknown key {path!r}; did you mean {key!r}?"


@given(st.text(min_size=1, max_size=150), st.sampled_from(sorted(GROUPS)))  # longer ones are shortened
def test_any_unknown_key_is_named(key: str, group: str) -> None:
    assume(key not in GROUPS[group].model_fields)
    values: dict[str, object] = {"env": "A", **(nested(group, {key: 1}) if group else {key: 1})}
    path = f"{group}.{key}".removeprefix(".")
    assert f"unknown key {path!r}" in message(values)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "env: field required"),
        ({"env": 3}, "env: input should be a valid string, not 3"),
        ({"env": "A", "gate": {"tolerance": 1.5}}, "gate.tolerance: input should be less than or equal to 1, not 1.5"),
        (
            {"env": "A", "network": {"net_arch": [8, 0]}},
            "network.net_arch.1: input should be greater than or equal to 1, not 0",
        ),
        (
            {"env": "A", "schedule": [5, 5, 1]},
            "the schedule 5,5,1 must fall strictly, down to at least 1, such as 5,3,1",
        ),
        ({"env": "A", "schedule": []}, "the schedule  must fall strictly, down to at least 1, such as 5,3,1"),
        ({"env": "A", "T": 2, "reduce_to": 3}, "reduce_to 3 is above T 2: give 1 <= reduce_to <= T"),
        (
            {"env": "A", "network": {"batch_norm": True, "bias": False}},
            "network.batch_norm becomes a bias when it is folded: turn it off, or network.bias on",
        ),
        ({"env": "A", "protocol": "v5"}, "protocol and atari belong to an Atari game, env is 'A'"),
        ({"env": "A", "atari": {"stack": 2}}, "protocol and atari belong to an Atari game, env is 'A'"),
        ({"env": "pong", "protocol": "v6"}, "protocol: input should be 'v4' or 'v5', not 'v6'"),
        ({"env": "pong", "atari": {"stack": 0}}, "atari.stack: input should be greater than or equal to 1, not 0"),
        ({"env": "pong", "neuron": "hoyr"}, "neuron 'hoyr' is not known; did you mean 'hoyer'?"),
        ({"env": "pong", "precision": "fp16"}, "precision: input should be 'fp32' or 'bf16', not 'fp16'"),
        ({"env": "A", "device": "tpu"}, "unknown device 'tpu': choose auto, cpu or cuda"),
    ],
)
def test_explain(values: dict[str, object], line: str) -> None:
    assert message(values) == f"here: {line}"
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(values)
    assert explain(caught.value, Recipe) == line


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_devices(device: str) -> None:
    assert check_device(device) == device
    for wrong in ("gpu", "mps", "cuda:99", "", "cpu cpu"):
        with pytest.raises(UserError, match="device"):
            check_device(wrong)


def recipe(tmp_path: Path, text: str) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    ("text", "number"), [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("5E-2", 5e-2), ("1", 1.0), (".5", 0.5)]
)
def test_numbers(tmp_path: Path, text: str, number: float) -> None:
    found = read_recipe(recipe(tmp_path, f"env: A\ndqn: {{learning_rate: {text}}}\n"), Recipe)
    assert found.dqn.learning_rate == number
    assert isinstance(found.dqn.learning_rate, float)


def test_yaml_1_2(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"double_q: input should be a valid boolean"):
        read_recipe(recipe(tmp_path, "env: A\ndqn: {double_q: 3}\n"), Recipe)
    assert read_recipe(recipe(tmp_path, "env: no\n"), Recipe).env == "no"
    assert read_recipe(recipe(tmp_path, "env: A\nschedule: [4, 2]\n"), Recipe).steps == (4, 2)


def test_aliases_that_grow_are_not_printed(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(UserError, match="env: input should be a valid string") as caught:
        read_recipe(recipe(tmp_path, "\n".join([*lines, "env: *a8"])), Recipe)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes(name: str) -> None:
    model = ImageRecipe if "images" in recipe_values(name)[0] else Recipe
    found = read_recipe(name, model)
    assert found.steps[-1] == 1
    assert len(recipe_names()[name]) > 20
    assert not recipe_names()[name].startswith("#")
    assert model.model_validate(found.model_dump(mode="json")) == found


def test_the_recipes_for_a_single_frame() -> None:
    ours, paper = read_recipe("pong-1frame", Recipe), read_recipe("pong-paper", Recipe)
    for found in (ours, paper):
        assert str(read_protocol(found.env_kwargs["protocol"])) == "v4, stack 1"
    pong = read_recipe("pong", Recipe)
    assert ours == pong.model_copy(update={"atari": ours.atari})
    assert (paper.steps, paper.reduction.loss) == ((5, 3, 1), "td")
    assert paper.network == Network(kind="nature", features=512, bias=False)
    assert paper.neuron == "if"


@pytest.mark.parametrize(
    "fields",
    [
        {"env": "CartPole-v1"},
        {"env": "pong", "protocol": "v4", "atari": {}},
        {"env": "pong", "protocol": "v5", "atari": {"stack": 1, "noops": 7}},
    ],
)
def test_the_settings_of_an_environment_make_it_again(fields: dict[str, Any]) -> None:
    recipe = Recipe(**fields)
    assert env_settings(recipe.env, recipe.env_kwargs) == fields
    assert env_settings(recipe.env, Recipe(**env_settings(recipe.env, recipe.env_kwargs)).env_kwargs) == fields


def test_a_recipe_holds_what_differs_from_its_base(tmp_path: Path) -> None:
    base = read_recipe("atari", Recipe)
    text = "base: atari\nenv: pong\ndqn: {gamma: 0.5}\nreduction: {td: {steps: 7}}\natari: {stack: 1}\n"
    found = read_recipe(recipe(tmp_path, text), Recipe)
    assert (found.env, found.dqn.gamma, found.reduction.td.steps, found.atari.stack) == ("pong", 0.5, 7, 1)
    assert found.dqn == base.dqn.model_copy(update={"gamma": 0.5})
    assert found.reduction.model_copy(update={"td": base.reduction.td}) == base.reduction
    assert found.network == base.network
    changed = read_recipe(str(tmp_path / "recipe.yaml"), Recipe, {"env": "breakout", "dqn": {"n_steps": 1}})
    assert (changed.env, changed.dqn) == ("breakout", found.dqn.model_copy(update={"n_steps": 1}))


def test_what_counts_only_from_scratch(tmp_path: Path) -> None:
    name = recipe(tmp_path, "env: A\ndqn: {gamma: 0.5}\nscratch: {dqn: {reward_scale: 0.1}, network: {bias: false}}\n")
    usual, scratch = read_recipe(name, Recipe), read_recipe(name, Recipe, scratch=True)
    assert (usual.dqn.reward_scale, usual.network.bias) == (1.0, True)
    assert (scratch.dqn.reward_scale, scratch.network.bias, scratch.dqn.gamma) == (0.1, False, 0.5)
    assert read_recipe(name, Recipe, {"network": {"bias": True}}, scratch=True).network.bias


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("scratch: 3", "scratch is a group of settings, not 3"),
        ("scratch: {dqn: {reward_scal: 1}}", "unknown key 'dqn.reward_scal'; did you mean 'reward_scale'"),
        ("scratch: {dqn: {reward_scale: 0}}", "dqn.reward_scale: input should be greater than 0"),
    ],
)
def test_mistakes_that_count_only_from_scratch(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        read_recipe(recipe(tmp_path, f"env: A\n{text}\n"), Recipe)


@pytest.mark.parametrize(
    ("base", "hint"),
    [
        ("atri", "unknown base 'atri'; did you mean 'atari'?"),
        ("recipe", "unknown base 'recipe'"),
        ("recipe.yaml", "unknown base 'recipe.yaml'"),
        ("3", "unknown base 3; known: atari, "),
        ("[atari]", r"unknown base \['atari'\]"),
        ("{atari: pong}", "unknown base {'atari': 'pong'}"),
    ],
)
def test_only_shipped_recipes_are_bases(tmp_path: Path, base: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"recipe.yaml: {hint}"):
        read_recipe(recipe(tmp_path, f"base: {base}\nenv: pong\n"), Recipe)


def test_the_protocol_of_a_game() -> None:
    assert Recipe(env="CartPole-v1").env_kwargs == {}
    assert Recipe(env="pong").env_kwargs == {"protocol": PROTOCOLS["v4"].model_dump()}
    changed = Recipe.model_validate({"env": "pong", "protocol": "v5", "atari": {"stack": 1, "life_loss": True}})
    assert changed.env_kwargs == {"protocol": PROTOCOLS["v5"].changed(stack=1, life_loss=True).model_dump()}
    assert Recipe.model_validate(changed.model_dump(mode="json")) == changed


def test_steps() -> None:
    assert Recipe(env="A").steps == (5, 4, 3, 2, 1)
    assert Recipe(env="A", T=4, reduce_to=2, step=1).steps == (4, 3, 2)
    assert Recipe(env="A", schedule=(7, 2)).steps == (7, 2)


def test_a_trained_network_goes_on_in_smaller_steps() -> None:
    recipe = Recipe(env="CartPole-v1", dqn=DQN(train_freq=4, learning_rate=0.1))
    assert fine_tuning(recipe).dqn.train_freq == 4
    gentle = recipe.model_copy(update={"reduction": Reduction(train_freq=16, learning_rate=0.01, epsilon=0.2)})
    assert fine_tuning(gentle).dqn == DQN(
        train_freq=16, learning_rate=0.01, exploration_initial_eps=0.2, exploration_final_eps=0.2
    )
