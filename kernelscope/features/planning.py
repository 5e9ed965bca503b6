"""The best universal random features for a layer: how many directions of its inputs to keep, and what error is left.

Fewer directions are shorter vectors, whose features vary less, and a layer that is not quite the same. Which number is
the best is known before anything is drawn, since the error is known in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_choice, as_count
from .balancing import Balanced, balance, layer_of
from .spectra import ACTIVATIONS
from .universal import UniversalRandomFeatures

#: How many inputs and neurons errors are predicted on.
SOME = 256


@dataclass(frozen=True)
class LayerPlan:
    r"""Universal random features for a layer.

    Attributes:
        layer: The layer with balanced inputs and weights.
        features: The features of those.
        predicted_error: The error to be expected, relative to the root mean square of the outputs.
        linear_error: That of the nearest map :math:`W x + b \to c_0 + c_1 (W x + b)`.
        tried: The predicted error for each number of directions that was tried.
    """

    layer: Balanced
    features: UniversalRandomFeatures
    predicted_error: float
    linear_error: float
    tried: dict[int, float]

    def __repr__(self) -> str:
        return (f"LayerPlan({len(self.layer.transform)} of {len(self.layer.center)} directions, {self.features.size} "
                f"features: relative error {self.predicted_error:.3g} expected, {self.linear_error:.3g} for a line)")

    def inputs(self, x: Tensor) -> Tensor:
        r"""The features of inputs, with shape (\*, p)."""
        return self.features.inputs.of(self.layer.inputs(x))

    def parameters(self) -> Tensor:
        """The features of weights and bias, with shape (l, p)."""
        return self.features.parameters.of(self.layer.weights, self.layer.bias)


def plan_layer(activation: str | Callable[[Tensor], Tensor], size: int, x: Any, W: Tensor, b: Tensor | None = None,
               ranks: Sequence[int] | None = None, terms: int = 8, positive: str = "inputs",
               kind: str = "orthogonal", seed: int = 0) -> LayerPlan:
    r"""Balances a layer, and chooses the number of directions with the least predicted error.

    Args:
        activation: The name of f, or f itself.
        size: The number of random features.
        x: Inputs of the layer, points of d coordinates.
        W: Weights, with shape (l, d).
        b: The bias, with shape (l,); without it, 0.
        ranks: Numbers of directions to try; without them, powers of two and all.
        terms: How many frequencies are fitted.
        positive: The side with positive features, see ``UniversalRandomFeatures``.
        kind: How directions are drawn.
        seed: Which ones.

    Raises:
        DataError: If shapes do not fit, or the layer is a constant.

    Example:
        >>> x, W = torch.randn(100, 6), torch.randn(20, 6) / 4
        >>> plan = plan_layer("tanh", 500, x, W)
        >>> gap = plan.inputs(x) @ plan.parameters().to(x).T - (x @ W.T).tanh()
        >>> bool(gap.norm() / (x @ W.T).tanh().norm() < 2 * plan.predicted_error)
        True
    """
    function = ACTIVATIONS[as_choice(activation, "activation", ACTIVATIONS)] if isinstance(activation, str) else (
        activation)
    rows, W, b = layer_of(x, W, b)
    draw = torch.Generator().manual_seed(0)
    some = torch.randperm(len(rows), generator=draw)[:SOME].to(rows.device)
    few = torch.randperm(len(W), generator=draw)[:SOME].to(rows.device)
    z = rows[some] @ W[few].T + b[few]
    truth = function(z)
    whole = balance(rows, W, b)
    most = len(whole.transform)
    found: dict[int, tuple[float, Balanced, UniversalRandomFeatures]] = {}
    for rank in sorted({min(as_count(r, "rank", 1), most) for r in (ranks or _ranks(most))}):
        layer = whole.kept(rank)
        features = UniversalRandomFeatures.for_layer(activation, size, layer.inputs(rows), layer.weights, layer.bias,
                                                     terms, positive, kind, seed)
        error = features.predicted_error(layer.inputs(rows[some]), layer.weights[few], layer.bias[few], truth)
        found[rank] = error, layer, features
    best = min(found, key=lambda rank: found[rank][0])
    error, layer, features = found[best]
    return LayerPlan(layer, features, error, _line_error(z, truth), {rank: said for rank, (said, *_) in found.items()})


def _ranks(most: int) -> list[int]:
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]


def _line_error(z: Tensor, truth: Tensor) -> float:
    columns = torch.stack([torch.ones_like(z).flatten(), z.flatten()], 1)
    values = truth.double().flatten()[:, None]
    rest = values - columns @ torch.linalg.lstsq(columns, values).solution
    return math.sqrt(float(rest.square().sum()) / float(values.square().sum()))
