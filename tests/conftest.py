"""What tests of several files ask pytest for."""

import pickle
from collections.abc import Iterator

import cloudpickle
import numpy as np
import pytest
import torch
import torch._dynamo  # torch imports it when an optimiser is made, and it derives a class from Unpickler

from snnrl.commands import running


@pytest.fixture(scope="module", autouse=True)
def no_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out the page at the end of a run, which takes longer than the run, but in tests of reports."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("reports") is None:
            patch.setattr(running, "draw", lambda *_: None)
        yield


@pytest.fixture
def no_pickle(monkeypatch):
    """Every way to unpickle something raises."""

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for module, name in (
        *((pickle, name) for name in ("load", "loads", "Unpickler", "_loads", "_load")),
        *((cloudpickle, name) for name in ("load", "loads")),
        (torch, "load"),
        (torch.serialization, "load"),
    ):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(np, "load", refuse)
