"""Neurons that hand potentials from window to window of an image within one timestep (arXiv 2401.10843).

Windows g = 1..4 are cut out of the same maps. A neuron of window g begins with what others left::

    m_g = 0.4 * carried_g + I_g          potential, I_g the current of its window
    o_g = 1[m_g > 0.5]                   spike; it takes nothing off the potential

    Omega(a, b) = 2 sin(theta * a * cos(theta * b))      merges two potentials into one that is carried
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from snnrl.errors import UserError, did_you_mean
from snnrl.neurons.constant import DECAY, ConstantThreshold
from snnrl.neurons.functional import Scan

THETA = math.pi / 4
"""Radian factor of the projection (code of arXiv 2401.10843)."""

Projection = Callable[[Tensor, Tensor], Tensor]
"""Merges two potentials of the same shape."""


def omega(a: Tensor, b: Tensor, theta: float = THETA) -> Tensor:
    """Return 2 sin(theta * a * cos(theta * b)), between -2 and 2, of the shape of ``a`` and ``b``.

    Source: the projection of arXiv 2401.10843, the factor 2 from its code.
    """
    return 2 * torch.sin(theta * a * torch.cos(theta * b))


def mean(a: Tensor, b: Tensor) -> Tensor:
    """Return (a + b) / 2, of their shape: the projection of that paper's code for CIFAR-100."""
    return (a + b) / 2


def projection(name: str, theta: float = THETA) -> Projection:
    """Return the projection ``omega`` with this ``theta``, or ``mean``.

    Raises:
        UserError: there is no such projection.
    """
    known: dict[str, Projection] = {"omega": functools.partial(omega, theta=theta), "mean": mean}
    if name not in known:
        raise UserError(f"unknown projection {name!r}{did_you_mean(name, known)}")
    return known[name]


def pass_on(currents: Tensor, carried: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return m_1 = I_1 and m_g = 0.4 * carried(g - 1, m_(g-1)) + I_g of currents ``(B, 4, ...)``, in their shape.

    ``carried(index, potential)`` makes what is handed over from the potential of the window at ``index``, from 0.
    """
    first, *others = currents.unbind(1)
    potentials = [first]
    for index, current in enumerate(others):
        potentials.append(current + DECAY * carried(index, potentials[-1]))
    return torch.stack(potentials, 1)


def pass_around(currents: Tensor, membranes: Sequence[Tensor], merge: Projection) -> Tensor:
    """Return the potentials of currents ``(B, 4, ...)``, in their shape, from ``membranes`` M_g that a layer left.

    m_1 = 0.4 * merge(M_1, M_2) + I_1 and so on, with (m_1, M_2), (M_3, m_2) and (M_4, m_3) for the windows after it.
    Source: the unit of LSTMs in the code of arXiv 2401.10843.
    """
    top_left, top_right, bottom_left, bottom_right = currents.unbind(1)
    first = top_left + DECAY * merge(membranes[0], membranes[1])
    second = top_right + DECAY * merge(first, membranes[1])
    third = bottom_left + DECAY * merge(membranes[2], second)
    fourth = bottom_right + DECAY * merge(membranes[3], third)
    return torch.stack([first, second, third, fourth], 1)


class WindowNeuron(ConstantThreshold):
    """Fires where a potential ``(B, 4, ...)`` is above 0.5; do/dm = 1[|m - 0.5| < 0.5] is its gradient.

    Every neuron of every window is one of its own, so a row has one timestep. ``handed``: the number of windows that
    begin with a potential of others. Source: arXiv 2401.10843 and its code.
    """

    def __init__(self, handed: int) -> None:
        super().__init__(1)
        self.handed = handed

    @property  # what is set elsewhere, T, can be one alone
    def steps(self) -> int:
        """One: potentials are handed from window to window, not from timestep to timestep."""
        return 1

    @steps.setter
    def steps(self, steps: int) -> None:
        if steps != 1:
            raise UserError(f"a network of windows decides in one timestep: give T=1, not {steps}")

    def scan(self, current: Tensor) -> Scan:
        """Refuse: no potential is left for another timestep, or another decision.

        Raises:
            UserError: always.
        """
        raise UserError("a network of windows keeps no potential between decisions: turn carry off")
