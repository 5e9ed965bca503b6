r"""The curvature of the loss at the end of a run: the generalised Gauss-Newton matrix, by its root W.

With J the Jacobian of the outputs of n training samples and :math:`S S^T = H_{out}` the Hessian of each loss by its
outputs, the matrix is :math:`J^T H_{out} J / n = W^T W / n` with :math:`W = S^T J`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import hessian, vmap

from ...errors import DataError, ModelError, NonFiniteError
from ...network import Parameters, per_sample_losses
from ...progress import Bar
from ...run.run import Run
from ..output import OutputFunctional
from ..query_side import QuerySide
from ..training_side import rows_of


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

    @property
    def saved(self) -> int:
        """About how many bytes of activations a sample has."""
        return self._curved.saved

    def part(self, part: slice) -> Curved:
        """The same of some samples."""
        found = copy(self)
        members = self.members
        found.members = Members(members.columns[part], tuple(x[part] for x in members.inputs), members.targets[part])
        found.count, found.roots = len(found.members.columns), self.roots[part]
        found._curved, found._losses = self._curved.part(part), self._losses.part(part)
        return found

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
    r"""S with :math:`S S^T = H_{out}` for each sample, and the largest negative curvature, relative.

    Raises:
        NonFiniteError: If a curvature is NaN or infinite.
    """
    shape = outputs.shape[1:]

    def loss(flat: Tensor, target: Tensor) -> Tensor:
        return per_sample_losses(run.loss, flat.view(1, *shape), target.unsqueeze(0), 1).sum()

    with torch.enable_grad():
        bent = vmap(hessian(loss))(outputs.flatten(1), targets).detach()
    bad = int((~bent.flatten(1).isfinite().all(1)).sum())
    if bad:
        raise NonFiniteError(f"The loss has a second derivative by the outputs that is NaN or infinite at {bad} of "
                             f"{len(bent)} samples at the end of the run. Look at operations like sqrt(0) in the loss, "
                             'or use influence(..., method="metagradient").')
    values, vectors = torch.linalg.eigh((bent + bent.mT) / 2)
    top = float(values.abs().max()) if values.numel() else 0.0
    negative = float(-values.min()) / top if top else 0.0
    # Round-off of nought, and what is no valley, has no root.
    solid = values.clamp(min=0) * (values > 1e-14 * top)
    keep = max(1, int((solid > 0).sum(1).max())) if len(solid) else 1
    return (vectors * solid.sqrt().unsqueeze(1))[:, :, -keep:], max(negative, 0.0)


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

