"""Networks of infinite width as plain words: the names of layers and their numbers.

Layers inside of others are words inside of words; an activation of numerical integration is the name of its function.
Only layers and functions that are known by name are ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import torch
import torch.nn.functional as F

from ..kernels import infinite
from ..kernels.infinite.layer import Layer
from ..kernels.infinite.serial import Serial

#: All layers that can be made from words.
LAYERS: dict[str, type[Layer]] = {
    name: kind for name in infinite.__all__
    if isinstance(kind := getattr(infinite, name), type) and issubclass(kind, Layer) and kind is not Layer
}

#: Functions of numerical integration that have a name.
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "atan": torch.atan, "silu": F.silu, "softplus": F.softplus,
    "mish": F.mish, "elu": F.elu, "selu": F.selu, "celu": F.celu, "softsign": F.softsign, "logsigmoid": F.logsigmoid,
}


def network_in_words(net: Layer) -> dict[str, Any] | None:
    """A layer, or a network of them, in words; ``None`` if it holds more than these.

    Example:
        >>> network_in_words(infinite.Residual(infinite.ReLU(), infinite.Dense()))["layers"][0]
        {'layer': 'ReLU'}
    """
    if LAYERS.get(type(net).__name__) is not type(net):
        return None
    try:
        return {"layer": type(net).__name__} | {name: _in_words(value) for name, value in net.arguments().items()}
    except LookupError:
        return None


def network_from(words: dict[str, Any]) -> Layer:
    """The layer, or the network, that words are of.

    Raises:
        LookupError: If they name something that is not known.
        KernelscopeError: If a layer does not take these numbers.

    Example:
        >>> network_from({"layer": "Conv", "side": [3, 1], "padding": "circular"})
        Conv(side=(3, 1), padding='circular')
    """
    kind: Any = LAYERS[words["layer"]]
    taken = signature(kind).parameters
    arguments = {name: _from_words(value) for name, value in words.items() if name != "layer"}
    if not set(arguments) <= set(taken):
        raise KeyError(f"{kind.__name__} takes no {sorted(set(arguments) - set(taken))}")
    many = [name for name in arguments if taken[name].kind is Parameter.VAR_POSITIONAL]
    try:
        return kind(*(value for name in many for value in arguments.pop(name)), **arguments)
    except TypeError as error:
        raise KeyError(str(error)) from error


def serial_from(words: Any) -> Serial:
    """The network that words are of.

    Raises:
        LookupError: If they are of no network.
    """
    try:
        net = network_from(words)
    except (TypeError, AttributeError) as error:
        raise KeyError(str(error)) from error
    if not isinstance(net, Serial):
        raise KeyError(f"{net!r} is no network")
    return net


def _in_words(value: Any) -> Any:
    if isinstance(value, Layer):
        words = network_in_words(value)
        if words is None:
            raise KeyError(repr(value))
        return words
    if isinstance(value, tuple):
        return [_in_words(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for name, function in FUNCTIONS.items():
        if function is value:
            return {"function": name}
    raise KeyError(repr(value))


def _from_words(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_words(one) for one in value)
    if isinstance(value, dict):
        return FUNCTIONS[value["function"]] if "function" in value and "layer" not in value else network_from(value)
    return value
