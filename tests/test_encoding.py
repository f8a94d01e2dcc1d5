"""Values, spaces and classes as JSON: they come back equal, and only trusted classes are named."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from snnrl.agents.encoding import decode, encode, resolve_class
from snnrl.errors import UserError
from worlds import SPACES


def numbers():
    return st.one_of(
        st.integers(-(2**62), 2**62), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=9)
    )


VALUES = st.recursive(
    st.one_of(numbers(), arrays(st.sampled_from([np.float32, np.int64, np.uint8, bool]), (2, 3))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_values_come_back_equal_and_of_the_same_type(value):
    found = decode(json.loads(json.dumps(encode(value))), "value")
    np.testing.assert_equal(found, value)
    assert type(found) is type(value)
    if isinstance(value, np.ndarray):
        assert found.dtype == value.dtype


@pytest.mark.parametrize(
    "space",
    [
        *SPACES.values(),
        spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
        spaces.Box(-np.inf, np.inf, (), np.float64),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiDiscrete([2, 3], start=[1, 1], dtype=np.int32),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 3]),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(3)}, sort_keys=False),
    ],
    ids=str,
)
def test_spaces_come_back_equal_with_their_keys_in_order(space):
    found = decode(json.loads(json.dumps(encode(space))), "space")
    assert found == space
    assert list(getattr(found, "spaces", [])) == list(getattr(space, "spaces", []))


def test_a_path_comes_back_as_text():
    assert decode(encode(pathlib.Path("logs") / "one"), "tensorboard_log") == "logs/one"


def test_a_space_that_sb3_has_no_observations_of_is_named():
    with pytest.raises(UserError, match="type Text cannot be saved"):
        encode(spaces.Text(3))


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "builtins.eval",
        "stable_baselines3.common.save_util.json",
        "stable_baselines3.common.save_util.load_from_pkl",
        "stable_baselines3.common.logger.CSVOutputFormat",
        "stable_baselines3.common.monitor.Monitor",
        "snnrl.cli.os",
        "snnrl.agents.spiking_dqn.agent.SpikingDQN",
        "snnrl_evil.Module",
        "stable_baselines3_evil.Module",
        "torch.nn.nothing.Linear",
        "torch.nn.Lineer",
        "torch.hub.load",
        "torch.nn",
        "",
        ".",
    ],
)
def test_only_networks_optimisers_and_buffers_of_trusted_packages_are_resolved(path):
    with pytest.raises(UserError) as error:
        resolve_class(path, "features_extractor_class")
    assert "\n" not in str(error.value)
    assert "features_extractor_class" in str(error.value)


def test_a_package_whose_name_only_begins_like_a_trusted_one_is_not(monkeypatch):
    module = types.ModuleType("snnrl_evil")
    module.Evil = type("Evil", (torch.nn.Module,), {"__module__": "snnrl_evil"})
    monkeypatch.setitem(sys.modules, "snnrl_evil", module)
    with pytest.raises(UserError, match="is not loaded from a file"):
        resolve_class("snnrl_evil.Evil", "features_extractor_class")
    assert encode(module.Evil, "activation_fn") == {"missing": "activation_fn"}
