r"""The least that a tangent kernel can take in the ways chosen for it: its operations at the rate of matrix products.

Counted are the forward pass and the backward passes, the gradients that are formed, and the products of n points,
:math:`n(n+1)/2` of them. Not counted is whatever is no product: activations, patches, sums, copies.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from kernelscope.features.gradient import GradientFeatures
from kernelscope.layers.products import together
from kernelscope.layers.tiles import by_pairs
from kernelscope.network import undisturbed


@dataclass(frozen=True)
class Operations:
    """Counted operations: two for a multiplication and its addition."""

    passes: float
    forming: float
    products: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.passes + self.forming + self.products

    def figures(self) -> dict[str, float]:
        """As numbers by name."""
        return asdict(self)


def operations(features: GradientFeatures, some: Any, n: int, m: int | None = None) -> Operations:
    """Of the trace kernel of n points with themselves, or with m others, counted on some points like them."""
    points = features.points(some)
    count = n if m is None else min(n, m)
    sides = (n if m is None else n + m) / len(points)
    pairs = n * (n + 1) / 2 if m is None else float(n * m)
    features.inner(some)  # what is observed at the first call is not counted
    gatherer = features._gatherer
    with undisturbed(features.device):
        gatherer.measure(points, count, False)
    with FlopCounterMode(display=False) as counter, undisturbed(features.device):
        tile = gatherer.tile(points, 0, len(points), count, False, features.memory)
    forming, each = 0.0, 2.0 * tile.columns * tile.rows.shape[2]
    for outer, _ in together(tile.outers, tile.outers):
        c, g, t, d = outer.b.shape[1:]
        looked_up = outer.size is not None
        if by_pairs(outer, count, False):
            each += 2.0 * t * t * g * (c * d + (0 if looked_up else outer.a.shape[-1]))
        else:
            each += 2.0 * c * outer.length
            forming += 0.0 if looked_up else 2.0 * len(points) * c * t * outer.length
    return Operations(sides * counter.get_total_flops(), sides * forming, pairs * each)
