"""What tests of several files ask pytest for."""

import pickle

import cloudpickle
import numpy as np
import pytest
import torch
import torch._dynamo  # torch imports it when an optimiser is made, and it derives a class from Unpickler


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
