"""Which features stand in the place of a layer: how they are drawn, scaled and chosen, before anything is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.linalg import qr
from torch import Tensor, nn

from ...errors import DataError
from ...result import as_float64
from ...solvers.ridge import RidgePath
from ..towers import Fourier, Neurons, Rectified, drawn
from .bundled import BundledLayer
from .closed_form import summed
from .finding import Block, composed, part, weight_of

#: What features may be.
TOWERS = ("rectified", "fourier", "neurons")

#: How many rows of a block are held to choose neurons and bandwidths by.
HELD = 2048

#: How much a constant input counts beside the others, of which each has variance 1 on the mean.
SHIFT = 1.0

#: The bandwidths that are tried, as shares of the root of the number of inputs.
BANDWIDTHS = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    features: list[int]
    tower: str
    skip: bool | None
    ridge: float | None
    seed: int
    rows: str

    def of(self, k: int) -> int:
        return self.features[k] if len(self.features) > 1 else self.features[0]


def spread_over(count: int, most: int) -> Tensor:
    """Numbers of at most so many of several, spread over all.

    Example:
        >>> spread_over(9, 4)
        tensor([0, 2, 4, 6])
    """
    return torch.arange(min(count, most)) * count // min(count, most)


class Spread:
    """The mean and spread of the rows that a block is given, and some of the rows.

    Args:
        times: In how many batches they come.
    """

    def __init__(self, times: int) -> None:
        self.times, self.count, self.squares = times, 0, 0.0
        self.sums: Tensor | None = None
        self.held: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        exact = as_float64(x)
        self.sums = exact.sum(0) if self.sums is None else self.sums + exact.sum(0)
        self.squares += float(exact.square().sum())
        self.count += len(x)
        # Some of each batch, since points may come sorted.
        some = spread_over(len(x), -(-HELD // self.times)).to(x.device)
        self.held.append((x[some], y[some]))

    def centre(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What is subtracted, and what is divided by so that a number has variance 1 on the mean."""
        assert self.sums is not None
        mean = self.sums / self.count
        variance = self.squares / self.count / len(mean) - float(mean.square().mean())
        scale = max(variance, 0.0) ** 0.5 or 1.0
        return mean.to(like), torch.tensor(scale, dtype=torch.float64).to(like)

    def rows(self) -> tuple[Tensor, Tensor]:
        return torch.cat([x for x, _ in self.held]), torch.cat([y for _, y in self.held])


def layer_for(reader: nn.Module, block: Block, spread: Spread, plan: Plan, m: int, draw: torch.Generator
           ) -> BundledLayer:
    """A block's new layer, not yet fitted."""
    x, y = spread.rows()
    mean, scale = spread.centre(x)
    near = as_float64(x - mean) / float(scale)
    tower: Rectified | Fourier | Neurons
    if plan.tower == "neurons":
        tower = _neurons(reader, block, x, m, mean, scale, plan)
    elif plan.tower == "fourier":
        tower = by_bandwidth(near, as_float64(y), m, draw, plan)
    else:
        tower = drawn("rectified", m, x.shape[1], draw, rows=plan.rows, shift=SHIFT)
    return BundledLayer(mean, scale, [tower.to(x)], y.shape[1], plan.skip is not False)


def by_bandwidth(x: Tensor, y: Tensor, m: int, draw: torch.Generator, plan: Plan) -> Fourier:
    """Fourier features of the bandwidth with the least generalised cross-validation error, on some rows."""
    state, best = draw.get_state(), None
    for share in BANDWIDTHS:
        # The same directions for each, so that only the bandwidth differs.
        draw.set_state(state)
        tower = drawn("fourier", m, x.shape[1], draw, rows=plan.rows, bandwidth=share * x.shape[1] ** 0.5)
        assert isinstance(tower, Fourier)
        near = BundledLayer(x.new_zeros(x.shape[1]), x.new_ones(()), [tower], y.shape[1], plan.skip is not False)
        path = RidgePath(summed(near.columns(x), y), torch.arange(near.width) >= m)
        error = path.gcv(path.best_ridge() if plan.ridge is None else plan.ridge)
        if best is None or error < best[0]:
            best = (error, tower)
    assert best is not None
    return best[1]


def _neurons(reader: nn.Module, block: Block, x: Tensor, m: int, mean: Tensor, scale: Tensor, plan: Plan) -> Neurons:
    """The neurons of a block that say most about its output: pivots of the hidden layer, by what is made of them."""
    if block.first is None or block.activation is None:
        raise DataError(f"The block {block.name} is a black box without neurons of one kind, so tower=\"neurons\" has "
                        'none to keep. Pass tower="rectified".')
    first, last, activation = (part(reader, name) for name in (block.first, block.exit, block.activation))
    if isinstance(activation, nn.PReLU) and activation.weight.numel() > 1:
        raise DataError(f"The neurons of the block {block.name} have an activation each, and a few of them cannot be "
                        'kept alone. Pass tower="rectified".')
    hidden = as_float64(composed(reader, block.chain[:-1])(x)) * as_float64(weight_of(last)).norm(dim=0)
    if plan.skip is not False:
        # What a linear map gives, no neuron has to.
        near = nn.functional.pad(as_float64(x - mean) / float(scale), (0, 1), value=1.0)
        hidden = hidden - near @ torch.linalg.lstsq(near, hidden, driver="gelsd").solution
    if m > hidden.shape[1]:
        raise DataError(f"The block {block.name} has {hidden.shape[1]} neurons, and {m} were asked for. Pass fewer "
                        "features.")
    picked = torch.as_tensor(qr(hidden.numpy(), mode="r", pivoting=True)[1][:m].copy(), dtype=torch.long)
    weight = weight_of(first)[picked.to(x.device)]
    bias = x.new_zeros(m) if first.bias is None else first.bias.detach()[picked.to(x.device)]
    # A layer centres what it is given, and its towers see that.
    return Neurons(weight * scale, bias + weight @ mean, activation)
