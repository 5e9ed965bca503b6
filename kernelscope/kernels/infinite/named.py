r"""Networks with a name: fully connected ones, plain convolutional ones, and those of Myrtle.

A name is a form and its depth, with a pooling and an activation after dashes: ``"fc3"``, ``"fc3-gelu"``, ``"cnn5"``,
``"cnn5-gap"``, ``"myrtle5"``. The depth counts hidden layers, and in the networks of Myrtle the readout too.

References:
    | Neural Kernels Without Tangents (Shankar et al., 2020), for the networks of Myrtle
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import silu

from ...arguments import as_choice, as_count, as_whole, what_came
from ...errors import DataError
from .affine import Conv, Dense
from .angular import Abs, LeakyReLU, ReLU
from .growing import ExpNormalized
from .layer import Layer
from .pooling import AvgPool, Flatten, GlobalAvgPool
from .quadrature import Elementwise
from .serial import Serial
from .smooth import GELU, RBF, Cos, Erf, Sin

#: How many convolutions each stage has, by the number of all of them and the readout.
STAGES = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}

#: Activations by the word they have in a name.
ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "relu": ReLU, "leaky": LeakyReLU, "abs": Abs, "erf": Erf, "gelu": GELU, "sin": Sin, "cos": Cos, "rbf": RBF,
    "expn": ExpNormalized, "tanh": partial(Elementwise, torch.tanh), "silu": partial(Elementwise, silu),
}

#: What ends the pixels, by its word.
POOLINGS: dict[str, Callable[[], Layer]] = {"flatten": Flatten, "gap": GlobalAvgPool}


def fully_connected(depth: int, activation: Layer | None = None, W_std: float = 2**0.5, b_std: float = 0.0) -> Serial:
    """Hidden layers one after the other, and a readout.

    Args:
        depth: The number of hidden layers.
        activation: What follows each of them; ``None`` for ``ReLU()``.
        W_std: The standard deviation of weights.
        b_std: That of biases; 0 for none.

    Example:
        >>> fully_connected(1, b_std=0.1)
        Serial(Dense(W_std=1.41421, b_std=0.1), ReLU(), Dense(W_std=1.41421, b_std=0.1))
    """
    hidden = [layer for _ in range(as_count(depth, "depth", 0))
              for layer in (Dense(W_std, b_std), _or_relu(activation))]
    return Serial(*hidden, Dense(W_std, b_std))


def convolutional(depth: int, pooling: str = "flatten", activation: Layer | None = None, W_std: float = 2**0.5,
                  b_std: float = 0.0, side: int = 3) -> Serial:
    """Convolutions one after the other, the end of pixels, and a readout.

    Args:
        depth: The number of convolutions.
        pooling: ``"flatten"``, after which every pixel counts by itself, or ``"gap"``, the mean of all pixels.
        activation: What follows each of them; ``None`` for ``ReLU()``.
        W_std: The standard deviation of weights.
        b_std: That of biases; 0 for none.
        side: The side of the windows.

    Example:
        >>> convolutional(1, pooling="gap")
        Serial(Conv(side=3, W_std=1.41421), ReLU(), GlobalAvgPool(), Dense(W_std=1.41421))
    """
    end = POOLINGS[as_choice(pooling, "pooling", tuple(POOLINGS))]()
    return Serial(*_convolutions(as_count(depth, "depth", 1), activation, W_std, b_std, side), end,
                  Dense(W_std, b_std))


def myrtle(depth: int, activation: Layer | None = None, W_std: float = 2**0.5, b_std: float = 0.0) -> Serial:
    """A network of Myrtle: three stages of convolutions, each ended by means of pixels.

    After the first and the second stage go means of windows of 2 by 2 pixels; after the third the mean of all that are
    left. On images of 32 by 32 pixels these are 8 by 8, which the original takes by three such windows, on images of 8
    by 8 they are 2 by 2: the mean of all is the same, and is there for every image whose sides are multiples of 4.

    Args:
        depth: 5, 7 or 10, the number of convolutions and the readout.
        activation: What follows each convolution; ``None`` for ``ReLU()``.
        W_std: The standard deviation of weights.
        b_std: That of biases; 0 for none.

    Raises:
        DataError: If there is no such network.

    Example:
        >>> len(myrtle(5).layers)
        12
    """
    if as_whole(depth) not in STAGES:
        raise DataError(f"The networks of Myrtle have depths {', '.join(map(str, STAGES))}; {what_came(depth)} came. "
                        "Pass for example myrtle(5).")
    layers: list[Layer] = []
    for stage, count in enumerate(STAGES[depth]):
        layers += _convolutions(count, activation, W_std, b_std, 3)
        layers.append(AvgPool(2) if stage < 2 else GlobalAvgPool())
    return Serial(*layers, Dense(W_std, b_std))


def named(name: str) -> Serial:
    """The network of a name.

    Args:
        name: A form with its depth, ``fcN``, ``cnnN`` or ``myrtle5``, ``7``, ``10``; then ``-gap`` for a ``cnn`` that
            ends with the mean of all pixels; then an activation, as in ``-gelu``, which is ``-relu`` where none stands.

    Raises:
        DataError: If there is no such network.

    Example:
        >>> named("cnn1-abs")
        Serial(Conv(side=3, W_std=1.41421), Abs(), Flatten(), Dense(W_std=1.41421))
    """
    found = re.fullmatch(r"(fc|cnn|myrtle)([1-9]\d?)(-gap|-flatten)?(?:-([a-z]+))?", name) if isinstance(
        name, str) else None
    if found:
        form, depth, pooling, word = found[1], int(found[2]), found[3], found[4] or "relu"
        if word in ACTIVATIONS and (form == "cnn" or not pooling) and (form != "myrtle" or depth in STAGES):
            activation = ACTIVATIONS[word]()
            if form == "cnn":
                return convolutional(depth, (pooling or "-flatten")[1:], activation)
            return (fully_connected if form == "fc" else myrtle)(depth, activation)
    raise DataError(
        f"Networks with a name are {', '.join(FORMS)}, N from 1 to 99, each with an activation after a dash if it is "
        f"not ReLU: {', '.join(ACTIVATIONS)}. {what_came(name)} came. Write for example fc3, cnn5-gap or myrtle5-gelu."
    )


#: The forms of names, to be shown.
FORMS = ("fcN", "cnnN", "cnnN-gap", *(f"myrtle{depth}" for depth in STAGES))


def _convolutions(count: int, activation: Layer | None, W_std: float, b_std: float, side: int) -> list[Layer]:
    return [layer for _ in range(count) for layer in (Conv(side, W_std, b_std), _or_relu(activation))]


def _or_relu(activation: Layer | None) -> Layer:
    return ReLU() if activation is None else activation
