"""A layer that remembers: an LSTM whose outputs charge spiking neurons, or are the answer themselves."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from snnrl.networks.spiking import NetworkState, reset_rows
from snnrl.neurons.constant import ConstantThreshold, integrate


class RecurrentLayer(nn.Module):
    """LSTM over the steps of an episode, its outputs being currents of neurons that fire at a constant threshold.

    With inputs x_t, and U_t of :mod:`snnrl.neurons.constant`::

        h_t, c_t = LSTM(x_t, h_{t-1}, c_{t-1})
        U_t = h_t + 0.4 * U_{t-1} * (1 - o_{t-1})
        o_t = 1[U_t > 0.5]                           the output; h_t itself without ``spiking``

    Source: arXiv 2401.10843 and its code, the LSTM unit; docs/deviations.md tells what differs.
    """

    def __init__(self, inputs: int, width: int, *, spiking: bool, bias: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, bias=bias)
        self.act = ConstantThreshold(1) if spiking else nn.Identity()
        self.spiking = spiking

    def begin(self, rows: int) -> NetworkState:
        """Return the state before an episode's first step: h, c and, if it spikes, U, each ``(B, width)`` zeros."""
        zero = next(self.lstm.parameters()).new_zeros(rows, self.lstm.hidden_size)
        return NetworkState((zero, zero, zero) if self.spiking else (zero, zero))

    def forward(self, inputs: Tensor, starts: Tensor, state: NetworkState) -> tuple[Tensor, NetworkState]:
        """Return outputs ``(L, B, width)`` for L steps of inputs ``(L, B, F)``, and the state after them.

        ``starts`` is bool ``(L, B)``: where it is true an episode begins, and the row's state is zero before the step.
        """
        outputs = []
        # torch's LSTM runs over many steps at once, but knows no resets: it is called from one reset to the next
        resets = [0, *(step for step in torch.nonzero(starts.any(1)).flatten().tolist() if step), len(inputs)]
        for begin, end in pairwise(resets):
            hidden, cell, *potential = reset_rows(state, starts[begin]).potentials
            current, (hidden, cell) = self.lstm(inputs[begin:end], (hidden[None], cell[None]))
            if potential:
                current = integrate(current, potential[0])
                potential = [current[-1]]
            outputs.append(current)
            state = NetworkState((hidden[0], cell[0], *potential))
        answers: Tensor = self.act(torch.cat(outputs).flatten(0, 1))  # time folded into the batch, as everywhere
        return answers.view(*starts.shape, -1), state
