"""Batches of observations: a tensor, or tensors in dicts, lists and tuples."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from snnrl.errors import UserError


def check_finite(observations: Any, where: str = "observations") -> None:
    """Check that every tensor in ``observations`` holds finite numbers.

    Raises:
        UserError: one of them does not; it is named.
    """
    if isinstance(observations, Mapping):
        for key, value in observations.items():
            check_finite(value, f"{where}[{key!r}]")
    elif isinstance(observations, list | tuple):
        for index, value in enumerate(observations):
            check_finite(value, f"{where}[{index}]")
    elif isinstance(observations, Tensor) and not observations.isfinite().all():
        raise UserError(
            f"{where} must be finite, but {int((~observations.isfinite()).sum())} values are NaN or infinite"
        )


def cloned(observations: Any) -> Any:
    """Return a copy that a network may overwrite."""
    if isinstance(observations, Mapping):
        return {key: cloned(value) for key, value in observations.items()}
    if isinstance(observations, list | tuple):
        return type(observations)(cloned(value) for value in observations)
    return observations.clone() if isinstance(observations, Tensor) else observations
