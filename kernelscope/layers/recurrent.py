r"""Recurrent layers written out, step by step, in products that have a rule.

torch runs a recurrent layer as one function, within which no use of its weights can be seen. Here each is the loop that
its documentation states, over the same weights: the products with the inputs for all times at once, those with the
hidden state one time after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: One time step: from what the input gives (n, gates) and the state to the next state, whose first part is the output.
Cell = Callable[[Tensor, tuple[Tensor, ...], Tensor, Tensor | None], tuple[Tensor, ...]]


def gru_step(given: Tensor, state: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    """A gated recurrent unit."""
    h = state[0]
    r, z, n = given.chunk(3, -1)
    hr, hz, hn = F.linear(h, weight, bias).chunk(3, -1)
    r, z = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
    n = torch.tanh(n + r * hn)
    return (n + z * (h - n),)


def lstm_step(given: Tensor, state: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    """A long short-term memory unit."""
    h, c = state
    i, f, g, o = (given + F.linear(h, weight, bias)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def plain_step(activation: Callable[[Tensor], Tensor]) -> Cell:
    """An Elman unit."""
    return lambda given, state, weight, bias: (activation(given + F.linear(state[0], weight, bias)),)


#: The cells by the name of torch's function.
CELLS: dict[str, Cell] = {"gru": gru_step, "lstm": lstm_step, "rnn_tanh": plain_step(torch.tanh),
                          "rnn_relu": plain_step(torch.relu)}


def readable(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call is of the form that is written out here: padded sequences, no projection, no dropout."""
    if name not in CELLS or len(args) != 9 or not isinstance(args[2], list | tuple):
        return False
    _, hidden, weights, biases, layers, dropout, training, both, _ = args
    states = 2 if name == "lstm" else 1
    if isinstance(hidden, Tensor) != (states == 1):
        return False
    return not (dropout and training) and len(weights) == layers * (2 if both else 1) * (4 if biases else 2)


def written_out(name: str, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The outputs of a recurrent layer of torch: all outputs, then the last state of each layer and direction."""
    x, hidden, weights, biases, layers, _, _, both, batch_first = args
    hidden = (hidden,) if isinstance(hidden, Tensor) else tuple(hidden)
    each = 4 if biases else 2
    time = 1 if batch_first else 0
    last: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        directions = []
        for way in range(2 if both else 1):
            place = layer * (2 if both else 1) + way
            own = weights[place * each:(place + 1) * each]
            bias = own[2:] if biases else (None, None)
            given = F.linear(x, own[0], bias[0]).unbind(time)
            state, outputs = tuple(h[place] for h in hidden), []
            for step in reversed(given) if way else given:
                state = CELLS[name](step, state, own[1], bias[1])
                outputs.append(state[0])
            directions.append(torch.stack(outputs[::-1] if way else outputs, time))
            last.append(state)
        x = torch.cat(directions, -1) if both else directions[0]
    return x, *(torch.stack(parts) for parts in zip(*last, strict=True))
