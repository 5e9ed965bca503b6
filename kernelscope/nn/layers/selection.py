"""Which of many columns to keep: those that say most of all others."""

from __future__ import annotations

import torch
from torch import Tensor

from ...progress import counting

#: Below which share of the largest a column is a sum of those that were chosen.
NOUGHT = 1e-8

#: From which share of the longest what each column adds to those before it is no round-off, so that none is left out.
CLEAR = 1e-5

#: From how many samples a choice is made, at most, where nothing else is said.
LOOKED_AT = 4096


def forward_selection(candidates: Tensor, targets: Tensor, free: Tensor, count: int) -> Tensor:
    r"""The columns that explain most, each beside those before it: orthogonal matching pursuit of many targets.

    .. math:: j = \arg\max_j |R^T c_j|^2 / |c_j|^2

    with R what is left of targets, and :math:`c_j` what is left of a candidate, after the columns that were chosen.

    Args:
        candidates: With shape (n, p).
        targets: With shape (n, l).
        free: Columns that are there in any case, with shape (n, q).
        count: How many; fewer are found where candidates are sums of each other.

    Returns:
        Their places, in the order in which they were chosen.

    References:
        | Algorithms for simultaneous sparse approximation (Tropp et al., 2006)

    Example:
        >>> forward_selection(torch.eye(3), torch.tensor([[1.0], [3.0], [0.0]]), torch.zeros(3, 0), 2)
        tensor([1, 0])
    """
    basis = span_of(free)
    # Twice, since one projection leaves round-off of what is taken away.
    left = candidates - basis @ (basis.T @ candidates)
    left = left - basis @ (basis.T @ left)
    rest = targets - basis @ (basis.T @ targets)
    shared, squares = left.T @ rest, left.square().sum(0)
    least = NOUGHT * float(candidates.square().sum(0).max()) if candidates.numel() else 0.0
    chosen: list[int] = []
    found = left[:, :0]
    most = min(count, left.shape[1])
    with counting(most, "selection", "feature") as done:
        for _ in range(most):
            explained = torch.linalg.vector_norm(shared, dim=1).square()
            gains = torch.where(squares > least, explained / squares.clamp(min=1e-300), -1.0)
            gains[chosen] = -1.0
            place = int(gains.argmax())
            if float(gains[place]) < 0:
                break
            chosen.append(place)
            column = left[:, place]
            column = column - found @ (found.T @ column)
            column = column / column.norm()
            found = torch.cat((found, column[:, None]), 1)
            along = left.T @ column
            shared.addr_(along, column @ rest, alpha=-1)
            squares = squares - along.square()
            done(1)
    return torch.tensor(chosen, dtype=torch.long)


def span_of(columns: Tensor) -> Tensor:
    """Orthonormal columns of the same span.

    Example:
        >>> span_of(torch.tensor([[1.0, 2.0], [1.0, 2.0]])).shape
        torch.Size([2, 1])
    """
    n, q = columns.shape
    if 0 < q <= n:
        basis, triangle = torch.linalg.qr(columns)
        steep = triangle.diagonal().abs()
        if float(steep.min()) > CLEAR * float(steep.max()):
            return basis
    basis, s, _ = torch.linalg.svd(columns, full_matrices=False)
    return basis[:, s > NOUGHT * s[:1]] if len(s) else basis
