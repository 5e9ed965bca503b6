"""Kernels of dense networks from vectors to the readout in one pass, on a processor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..distances import units
from .affine import Dense
from .fused import Affine, Units, of_units
from .serial import Serial

#: Below what share of what directions leave of two vectors half their squared distance is taken from a difference.
CLOSE = 1e-3

#: What share of all squared lengths a direction has to have.
SHARED = 1e-3

#: Of how many points the directions are taken that most of them have in common.
SAMPLE = 64


def passed(plan: tuple[tuple[Affine, ...], Serial], which: str, near: Units, far: Units, out: Tensor | None) -> Tensor:
    """Both kernels of all pairs of units, or one of them.

    Args:
        plan: The layers, and the readout.
        which: ``"nngp"``, ``"ntk"`` or ``"both"``, with shape (2, n, m).
        near: The units of the rows.
        far: Those of the columns.
        out: Memory for one kernel, with shape (n, m).
    """
    layers, readout = plan
    memory = out[None] if which == "nngp" and out is not None else None
    found = of_units(layers, weights(readout), near, far, CLOSE, which != "nngp", memory)
    return found[0] if which == "nngp" else found[1] if which == "ntk" else found


def leading(vectors: Tensor) -> Tensor:
    """Four orthonormal directions in which units are longest, those that many have in common; or nought."""
    some = units(vectors[::-(-len(vectors) // SAMPLE)].double())[0]
    squares, modes = (part.flip(-1)[..., :4] for part in torch.linalg.eigh(some @ some.T))
    share = torch.where(squares > len(some) * SHARED, squares.clamp(min=SHARED).rsqrt(), 0.0)
    return pad((modes * share).T @ some, (0, 0, 0, 4 - len(share)))


def weights(readout: Serial) -> tuple[float, ...]:
    """Of dense layers w, b, r, s and e, by which they take kernels to w K + b and r T + s K + e."""
    w, b, r, s, e = 1.0, 0.0, 1.0, 0.0, 0.0
    for layer in readout.layers:
        assert isinstance(layer, Dense)
        weight, bias = layer.W_std**2, layer.b_std**2
        w, b = weight * w, weight * b + bias
        r, s, e = weight * r, weight * s + w, weight * e + b
    return w, b, r, s, e
