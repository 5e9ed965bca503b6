r"""Damped influence at the end parameters, by the generalised Gauss-Newton matrix.

With J the Jacobian of the outputs of n training samples, :math:`H_{out}` the Hessian of each loss by its outputs and
:math:`S S^T = H_{out}`, the derivative of the output by a sample's weight is

.. math:: -\frac1n \nabla f^T (J^T H_{out} J / n + \delta I)^{-1} \nabla\ell_i, \qquad
          (W^T W / n + \delta I)^{-1} = \frac1\delta\big(I - W^T (W W^T + n\delta I)^{-1} W\big), \quad W = S^T J .

The matrix that is smaller, P by P or nc by nc, is factorised; where neither fits, conjugate gradients multiply by J and
its transpose, and tell the residual they leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import hessian, vmap

from ...errors import DataError, ModelError
from ...linalg import divided
from ...network import Parameters, per_sample_losses
from ...progress import Bar
from ...run.run import Run
from ..output import OutputFunctional
from ..query_side import QuerySide
from ..training_side import rows_of

#: The residual at which conjugate gradients end, relative, and after how many products they are given up.
TOLERANCE, PRODUCTS = 1e-10, 1000

#: The share of the largest curvature that a negative one may have and still be round-off.
NEGATIVE = 1e-9


@dataclass(frozen=True, eq=False)
class Members:
    """The training samples at the end of a run.

    Attributes:
        columns: Which samples, with shape (m,): those that training drew.
        inputs: Their inputs.
        targets: Their targets.
    """

    columns: Tensor
    inputs: tuple[Tensor, ...]
    targets: Tensor


class Curved:
    """The Gauss-Newton matrix of a run at its end.

    Args:
        run: The run.
        members: Its samples.
        parameters: The end parameters.
        buffers: The end buffers.
        names: The parameters to differentiate by.
        memory: About how many bytes may be used.
        bar: Hears of blocks of samples.
    """

    def __init__(self, run: Run, members: Members, parameters: Parameters, buffers: Parameters, names: list[str],
                 memory: int, bar: Bar):
        self.run, self.members, self.parameters, self.buffers = run, members, parameters, buffers
        self.names, self.memory, self.bar = names, memory, bar
        self.count = len(members.columns)
        with torch.no_grad():
            outputs = run.network(parameters, buffers, members.inputs)
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or len(outputs) != self.count:
            raise ModelError(
                "The curvature of the loss is that by outputs which are one tensor with a row for each sample, and the "
                f"network gives {type(outputs).__name__}. Wrap it in a module that returns such a tensor, record that "
                'one, or use influence(..., method="metagradient").'
            )
        self.roots, self.negative = _roots(run, outputs, members.targets)
        self.width = self.roots.shape[-1]
        curved = OutputFunctional(lambda out, side: torch.einsum("nc,ncr->nr", out.flatten(1), side), self.roots, [])
        each = lambda out, side: per_sample_losses(run.loss, out, side, len(side)).unsqueeze(1)
        self._curved = self._side(curved)
        self._losses = self._side(OutputFunctional(each, members.targets, ["loss"]))
        self.size = sum(parameters[name].numel() for name in names)

    def _side(self, functional: OutputFunctional) -> QuerySide:
        side = QuerySide(self.run.network, self.members.inputs, functional, self.names)
        side.probe(self.parameters, self.buffers)
        return side

    def _blocks(self, side: QuerySide, width: int) -> Iterator[tuple[slice, Tensor]]:
        """The rows of a side as a matrix, some samples at a time."""
        item = next(iter(self.parameters.values())).element_size()
        step = max(1, self.memory // (8 * max(width * self.size * item, 1)))
        for start in range(0, self.count, step):
            part = slice(start, min(start + step, self.count))
            found = side.part(part).gradients(self.parameters, self.buffers)
            yield part, torch.cat([rows_of(rows) for rows in found], 1)
            self.bar.update(part.stop - part.start)

    def rows(self) -> Iterator[tuple[slice, Tensor]]:
        r"""W in blocks, of :math:`(b c, P)`, with the slices of its rows."""
        for part, rows in self._blocks(self._curved, self.width):
            yield slice(part.start * self.width, part.stop * self.width), rows

    def slopes(self) -> Iterator[tuple[slice, Tensor]]:
        """The gradients of the losses in blocks, of shape (b, P)."""
        yield from self._blocks(self._losses, 1)


def _roots(run: Run, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """S with :math:`S S^T = H_{out}` for each sample, and the largest negative curvature, relative."""
    shape = outputs.shape[1:]

    def loss(flat: Tensor, target: Tensor) -> Tensor:
        return per_sample_losses(run.loss, flat.view(1, *shape), target.unsqueeze(0), 1).sum()

    with torch.enable_grad():
        bent = vmap(hessian(loss))(outputs.flatten(1), targets).detach()
    values, vectors = torch.linalg.eigh((bent + bent.mT) / 2)
    top = float(values.abs().max()) if values.numel() else 0.0
    negative = float(-values.min()) / top if top else 0.0
    # Round-off of nought, and what is no valley, has no root.
    solid = values.clamp(min=0) * (values > 1e-14 * top)
    keep = max(1, int((solid > 0).sum(1).max())) if len(solid) else 1
    return (vectors * solid.sqrt().unsqueeze(1))[:, :, -keep:], max(negative, 0.0)


@dataclass(frozen=True, eq=False)
class Solved:
    """What solving gave: influences for each damping, how it was solved, and the residual that was left."""

    influences: list[Tensor]
    how: str
    residual: float


def solve(curved: Curved, queries: Tensor, dampings: list[float]) -> Solved:
    """The influences of all samples on rows of query gradients, with shape (R, m) for each damping.

    Args:
        curved: The Gauss-Newton matrix.
        queries: The gradients of what is explained, with shape (R, P).
        dampings: The dampings.
    """
    n, small = curved.count, min(curved.size, curved.count * curved.width)
    if _fits(curved, small, queries.element_size()):
        primal = curved.size <= curved.count * curved.width
        return (_primal if primal else _dual)(curved, queries, dampings)
    return _iterated(curved, queries, dampings[:1], n)


def _fits(curved: Curved, small: int, item: int) -> bool:
    """Whether the smaller matrix, and its factor beside it, fit in memory."""
    return 3 * small * small * item <= curved.memory


def _primal(curved: Curved, queries: Tensor, dampings: list[float]) -> Solved:
    square = queries.new_zeros(curved.size, curved.size)
    for _, rows in curved.rows():
        square.addmm_(rows.T, rows)
    square /= curved.count
    turned = []
    for damping in dampings:
        factor = torch.linalg.cholesky(_lifted(square, damping))
        turned.append(divided(factor, queries.T).T)
    residual = float((turned[0] @ _lifted(square, dampings[0]) - queries).norm() / _size(queries))
    found = [queries.new_zeros(len(queries), curved.count) for _ in dampings]
    for part, slopes in curved.slopes():
        for influences, rows in zip(found, turned, strict=True):
            influences[:, part] = -(rows @ slopes.T) / curved.count
    return Solved(found, f"Cholesky of the {curved.size} parameters", residual)


def _dual(curved: Curved, queries: Tensor, dampings: list[float]) -> Solved:
    n, count = curved.count, curved.count * curved.width
    square, met = queries.new_zeros(count, count), queries.new_zeros(len(queries), count)
    for part, rows in curved.rows():
        met[:, part] = queries @ rows.T
        for other, columns in curved.rows():
            if other.start <= part.start:
                block = rows @ columns.T
                square[part, other], square[other, part] = block, block.T
    turned: list[Tensor] = []
    residual = 0.0
    for damping in dampings:
        own = _lifted(square, n * damping)
        weights = divided(torch.linalg.cholesky(own), met.T).T
        if not turned:
            residual = float((weights @ own - met).norm() / _size(met))
        turned.append(weights)
    solved = [queries.clone() for _ in dampings]
    for part, rows in curved.rows():
        for direction, weights in zip(solved, turned, strict=True):
            direction.addmm_(weights[:, part], rows, alpha=-1)
    found = [queries.new_zeros(len(queries), n) for _ in dampings]
    for part, slopes in curved.slopes():
        for influences, direction, damping in zip(found, solved, dampings, strict=True):
            influences[:, part] = -(direction @ slopes.T) / (n * damping)
    return Solved(found, f"Cholesky of the {count} outputs", residual)


def _iterated(curved: Curved, queries: Tensor, dampings: list[float], n: int) -> Solved:
    damping = dampings[0]

    def times(rows: Tensor) -> Tensor:
        total = damping * rows
        for _, w in curved.rows():
            total += (rows @ w.T) @ w / n
        return total

    solution, residual, products = conjugate_gradients(times, queries)
    found = queries.new_zeros(len(queries), n)
    for part, slopes in curved.slopes():
        found[:, part] = -(solution @ slopes.T) / n
    return Solved([found], f"{products} products of conjugate gradients", residual)


def conjugate_gradients(times: Callable[[Tensor], Tensor], b: Tensor) -> tuple[Tensor, float, int]:
    """Solves for rows side by side; returns the solution, its largest relative residual, and how many products."""
    x, rest = torch.zeros_like(b), b.clone()
    direction, square = rest.clone(), rest.square().sum(1, keepdim=True)
    size, products = square.clamp(min=torch.finfo(b.dtype).tiny), 0
    while products < PRODUCTS and float((square / size).max()) > TOLERANCE**2:
        through = times(direction)
        products += 1
        along = (direction * through).sum(1, keepdim=True)
        step = torch.where(along > 0, square / along.where(along > 0, 1.0), 0.0)
        x, rest = x + step * direction, rest - step * through
        before, square = square, rest.square().sum(1, keepdim=True)
        direction = rest + torch.where(before > 0, square / before.where(before > 0, 1.0), 0.0) * direction
    # What rounding left is seen in a product of its own only.
    true = (b - times(x)).square().sum(1, keepdim=True)
    return x, float((true / size).max()) ** 0.5, products


def _lifted(square: Tensor, damping: float) -> Tensor:
    lifted = square.clone()
    lifted.diagonal().add_(damping)
    return lifted


def _size(rows: Tensor) -> float:
    return max(float(rows.norm()), torch.finfo(rows.dtype).tiny)


def members_of(run: Run, to: Callable[[Parameters | Tensor | tuple[Tensor, ...]], object]) -> Members:
    """The samples that training drew, as they were first seen.

    Raises:
        DataError: If training drew none.
    """
    columns = run.samples.seen.nonzero().flatten() if run.samples.seen.dtype == torch.bool else run.samples.seen
    if not len(columns):
        raise DataError("No sample of this run was drawn in training, so there is none to ask about.")
    inputs, targets = run.samples.batch(columns)
    return Members(columns, to(inputs), to(targets))  # type: ignore[arg-type]

