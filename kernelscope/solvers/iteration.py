r"""Preconditioned conjugate gradients for many columns, each with a multiple of the identity of its own.

:math:`(A + \mu_m)\,x_m = b_m` is solved for all columns at once: each has steps of its own, and what they share is the
product with A. A column that is solved is taken out of the products.

A that is multiplied in single precision has sums, vectors and steps in float64. What the iteration believes to be left
of the equations then parts from what is left. So it is computed anew, by a product in float64, each time it should have
fallen by a hundred, and the iteration goes on from there with the direction it had. It ends when the residual that was
measured by a product in float64 is small enough, and never by one that was only carried along.

References:
    | Methods of Conjugate Gradients for Solving Linear Systems (Hestenes and Stiefel, 1952)
    | Efficient and Reliable Iterative Methods for Linear Systems: group-wise updates (van der Vorst and Ye, 2000)
    | Flexible Conjugate Gradients (Notay, 2000)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..errors import DataError, NonFiniteError
from .equations import Equations
from .low_rank import LowRank

#: By how much the residual falls before it is measured, and how far a column may go on until the slowest is there.
FALL, FURTHER = 1e-2, 1e-3

#: A column is left alone when it is believed to be so much better than it has to be.
SAFE = 0.9

#: When a measured residual is not smaller than this part of the one before, rounding has the last word.
STALLED = 0.5

#: From how many products the smallest eigenvalue of a matrix that is not positive is told, and by how much a ridge that
#: is advised covers it.
LOOK, MARGIN = 20, 2.0


@dataclass
class Walk:
    """Where the iteration stands: all that the next product depends on."""

    x: Tensor
    rest: Tensor  # what is left of the equations
    before: Tensor  # what was left before the last step
    direction: Tensor
    along: Tensor  # the product of the residual with what the preconditioner made of it
    fresh: Tensor  # the columns that have no direction yet
    measured: Tensor  # the residual of each column, relative to its right-hand side, as it was measured last
    exact: Tensor  # whether every product is in float64
    rank: Tensor  # of the preconditioner
    since: Tensor  # the number of products when it was made
    history: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all of it, by name."""
        return {f.name: getattr(self, f.name).clone() for f in fields(self)}


def begun(equations: Equations, rank: int) -> Walk:
    """Where the iteration begins, at nought."""
    nought, m = torch.zeros_like(equations.right), equations.right.shape[1]
    flags = torch.ones(m, dtype=torch.bool, device=nought.device)
    # Targets that are all nought are fitted by nought.
    measured = (equations.right.norm(dim=0) > 0).to(nought)
    return Walk(nought, equations.right.clone(), nought.clone(), nought.clone(), nought.new_zeros(m), flags, measured,
                 torch.tensor(equations.dtype == torch.float64), torch.tensor(rank), torch.tensor(0),
                 torch.zeros(0, dtype=torch.float64))


def taken_up(kept: dict[str, Tensor], equations: Equations) -> Walk:
    """A state that was kept, where it is one of these equations."""
    names = {f.name for f in fields(Walk)}
    if not names <= set(kept) or kept["x"].shape != equations.right.shape:
        raise DataError(f"The state to go on from is not of this problem and this solver: solutions of shape "
                        f"{tuple(equations.right.shape)} are needed. Fit the same data with the same solver, or begin "
                        "anew.")
    return Walk(**{name: kept[name].clone() for name in names})


def iterate(equations: Equations, walk: Walk, make: Callable[[], LowRank], limit: float, passes: int,
            heard: Callable[[], bool], late: Callable[[], bool] = lambda: False) -> str:
    """Goes on from ``walk`` until every column is solved.

    Args:
        equations: The equations.
        walk: Where the iteration stands; it is advanced.
        make: Makes the preconditioner.
        limit: How small the measured residual of each column has to be, relative to its right-hand side.
        passes: After how many products the iteration is given up.
        heard: Hears of each product, and says whether to stop.
        late: Whether another preconditioner is to be made.

    Returns:
        Why it ended before all were solved: ``"passes"``, ``"rounding"`` or ``"stopped"``; nothing if all are.

    Raises:
        NonFiniteError: If a product is NaN or infinite.
        DataError: If the matrix is not positive.
    """
    scale = equations.right.norm(dim=0)
    preconditioner = make()
    while bool((walk.measured > limit).any()):
        if len(walk.history) >= passes:
            _measure(equations, walk, walk.measured > limit, scale)
            return "passes" if bool((walk.measured > limit).any()) else ""
        believed = _relative(walk.rest, scale)
        goal = _goal(walk, limit)
        open_ = walk.measured > limit
        spent = False
        if bool((believed <= goal)[open_].all()):
            stalled = _measure(equations, walk, open_, scale)
            spent = stalled and bool((walk.measured > limit).any())
        else:
            if late():
                preconditioner = make()
            floor = torch.full_like(goal, SAFE * limit) if bool(walk.exact) else (
                FURTHER * walk.measured).clamp(min=SAFE * limit)
            _step(equations, walk, preconditioner, (open_ & (believed > floor)).nonzero().flatten(), scale)
        if heard() and not spent and bool((walk.measured > limit).any()):
            return "stopped"
        if spent:
            return "rounding"
    return ""


def measured(equations: Equations, walk: Walk) -> None:
    """Measures what is left of all columns, as of those that were solved before the first product."""
    _measure(equations, walk, torch.ones_like(walk.fresh), equations.right.norm(dim=0))


def _goal(walk: Walk, limit: float) -> Tensor:
    """What is to be left before it is measured again."""
    enough = torch.full_like(walk.measured, SAFE * limit)
    return enough if bool(walk.exact) else (FALL * walk.measured).clamp(min=SAFE * limit)


def _relative(rest: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale > 0, rest.norm(dim=0) / scale.where(scale > 0, 1.0), 0.0)


def _step(equations: Equations, walk: Walk, preconditioner: LowRank, on: Tensor, scale: Tensor) -> None:
    """One product: the lowest point along the next direction of some columns."""
    rest, mus, tiny = walk.rest[:, on], equations.mus[on], torch.finfo(walk.x.dtype).tiny
    z = preconditioner.apply(rest, mus)
    along = (rest * z).sum(0)
    # The form that bears a residual that was measured anew.
    turn = ((rest - walk.before[:, on]) * z).sum(0) / walk.along[on].clamp(min=tiny)
    p = z + torch.where(walk.fresh[on], 0.0, turn.clamp(min=0.0)) * walk.direction[:, on]
    q = equations.times(p, bool(walk.exact)) + mus * p
    bend = (p * q).sum(0)
    if not bool((bend > 0).all()):
        _refuse(equations, p, bend, mus, walk)
    rate = (rest * p).sum(0) / bend
    walk.x[:, on] += rate * p
    walk.before[:, on], walk.direction[:, on], walk.along[on] = rest, p, along
    walk.rest[:, on] = rest - rate * q
    walk.fresh[on] = False
    walk.history = torch.cat([walk.history, _relative(walk.rest, scale).max().view(1).cpu()])


def _measure(equations: Equations, walk: Walk, open_: Tensor, scale: Tensor) -> bool:
    """Takes what is left by a product in float64; says whether that is no less than before in spite of float64."""
    on = open_.nonzero().flatten()
    x = walk.x[:, on]
    walk.rest[:, on] = equations.right[:, on] - equations.times(x, True) - equations.mus[on] * x
    found = _relative(walk.rest, scale)
    slow = bool((found > STALLED * walk.measured)[open_].any())
    stalled = slow and bool(walk.exact)
    if slow and not bool(walk.exact):
        walk.exact, walk.fresh = torch.tensor(True), torch.ones_like(walk.fresh)
    walk.measured = torch.where(open_, found, walk.measured)
    walk.history = torch.cat([walk.history, walk.measured.max().view(1).cpu()])
    return stalled


def _refuse(equations: Equations, p: Tensor, bend: Tensor, mus: Tensor, walk: Walk) -> None:
    """Says of a matrix that is not positive by how much, and what to do.

    Raises:
        NonFiniteError: If a product is NaN or infinite.
        DataError: If the matrix is not positive.
    """
    if not bool(bend.isfinite().all()):
        raise NonFiniteError("A product with the kernel matrix is NaN or infinite. Look at the kernel's numbers and at "
                             "the points.")
    bad = int((~(bend > 0)).nonzero()[0])
    least = _least(equations, p[:, bad:bad + 1])
    raise DataError(
        f"The kernel matrix is not positive: after {len(walk.history)} products with n ridge = {float(mus[bad]):.1e} a "
        f"direction has no upward curvature, and the matrix has an eigenvalue of {least:.1e} or below. Where that is "
        f"rounding, ridge={MARGIN * abs(least) / len(p):.1e} covers it, or tiles in float64 from points in float64; "
        "else the kernel is none of which a machine can be made."
    )


def _least(equations: Equations, start: Tensor) -> float:
    """About the smallest eigenvalue of the matrix, from some products by the method of Lanczos."""
    basis, products = start / start.norm(), start.new_zeros(len(start), 0)
    for _ in range(min(LOOK, len(start))):
        products = torch.cat([products, equations.times(basis[:, -1:], True)], 1)
        fresh = products[:, -1:]
        # Twice, because what is left after the first time may be as small as its rounding.
        for _ in range(2):
            fresh = fresh - basis @ (basis.T @ fresh)
        if not float(fresh.norm()) > 1e-12 * float(products.norm()):
            break
        basis = torch.cat([basis, fresh / fresh.norm()], 1)
    inner = basis[:, :products.shape[1]].T @ products
    return float(torch.linalg.eigvalsh((inner + inner.T) / 2)[0])
