"""The random number generators that training draws from, as JSON and tensors."""

import random
from typing import Any

import numpy as np
import torch
from gymnasium import spaces


def random_state(action_space: spaces.Space[Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the states of Python's, numpy's, torch's and the action space's generators."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - SB3 draws from it
    version, python, python_gauss = random.getstate()
    metadata = {
        "numpy": [str(name), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(python), python_gauss],
        "action_space": action_space.np_random.bit_generator.state,
    }
    tensors = {"numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return metadata, tensors


def set_random_state(
    metadata: dict[str, Any], tensors: dict[str, torch.Tensor], action_space: spaces.Space[Any]
) -> None:
    """Put back what :func:`random_state` returned."""
    name, position, has_gauss, gauss = metadata["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, gauss))  # noqa: NPY002 - SB3 draws from it
    version, python, python_gauss = metadata["python"]
    random.setstate((version, tuple(python), python_gauss))
    action_space.np_random.bit_generator.state = metadata["action_space"]
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
