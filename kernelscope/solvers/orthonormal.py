r"""An orthonormal basis of the functions that centers span.

The functions :math:`k(\cdot, z_j)` are nearly linearly dependent wherever a kernel is smooth, and equations in their
coefficients square a condition that may be past float64 already. With the eigenpairs of :math:`K_{zz} = U S U^T` the
functions

.. math:: e_l = S_l^{-1/2} \sum_j U_{jl}\, k(\cdot, z_j), \qquad S_l > \epsilon\, S_1,

are orthonormal in the kernel's space, and fitting them with a ridge has a condition of at most
:math:`1 + k_{max}/\lambda`. What lies below :math:`\epsilon` cannot be told from rounding and is left out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import DataError, NonFiniteError

#: Relative to the largest, eigenvalues below which directions cannot be told from rounding.
CUT = {torch.float64: 1e-12, torch.float32: 1e-6}

#: How far a kernel matrix may be from symmetric, relative to its largest entry.
ASYMMETRY = {torch.float64: 1e-10, torch.float32: 1e-4}


def checked(gram: Tensor, numbers: Tensor | None = None, what: str = "centers") -> Tensor:
    """A kernel matrix of centers; refused unless it is finite and symmetric.

    Args:
        gram: The matrix.
        numbers: What its rows are numbered by, where they are some of many.
        what: What they are.

    Raises:
        NonFiniteError: If an entry is NaN or infinite.
        DataError: If it is not symmetric.
    """
    if not bool(gram.isfinite().all()):
        i, j = (~gram.isfinite()).nonzero()[0].tolist() if numbers is None else (
            numbers[(~gram.isfinite()).nonzero()[0].to(numbers.device)].tolist())
        raise NonFiniteError(
            f"The kernel of {what} {i} and {j} is NaN or infinite. Look at the kernel's bandwidth and at these points."
        )
    gap, size = float((gram - gram.T).abs().max()), float(gram.abs().max())
    if gap > ASYMMETRY[gram.dtype] * size:
        raise DataError(
            f"The kernel matrix of the {what} is not symmetric: entries differ by {gap:.1e}, of {size:.1e} at most. "
            "A machine needs a symmetric positive semidefinite kernel."
        )
    return gram


def check_block(block: Tensor, numbers: Tensor) -> None:
    """Refuses rows of a kernel matrix, of points with these numbers, that are not finite.

    Raises:
        NonFiniteError: If the kernel of a point and a center is NaN or infinite.
    """
    if not bool(block.sum().isfinite()) and not bool(block.isfinite().all()):
        i, j = (~block.isfinite()).nonzero()[0].tolist()
        raise NonFiniteError(
            f"The kernel of point {int(numbers[i])} and center {j} is NaN or infinite. Look at the kernel's bandwidth "
            "and at these points."
        )


def check_products(product: Callable[[Tensor], Tensor], p: int) -> None:
    """Refuses a kernel matrix that is only known by its products, unless they are those of a finite, symmetric matrix.

    Raises:
        NonFiniteError: If a product is NaN or infinite.
        DataError: If the matrix is not symmetric.
    """
    u = torch.randn(p, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = product(u)
    if not bool(there.isfinite().all()):
        bad = int((~there.isfinite()).any(1).nonzero()[0])
        raise NonFiniteError(f"The kernel of center {bad} and another one is NaN or infinite. Look at the kernel's "
                             "bandwidth and at these points.")
    inner = u.to(there).T @ there
    gap, size = float((inner[0, 1] - inner[1, 0]).abs()), float(u[:, 0].norm() * there[:, 1].norm())
    if gap > ASYMMETRY[there.dtype] * size:
        raise DataError(
            f"The kernel matrix of the centers is not symmetric: u' K v and v' K u differ by {gap:.1e}, of {size:.1e} "
            "at most. A machine needs a symmetric positive semidefinite kernel."
        )


def orthonormal(gram: Tensor, numbers: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""The basis as coefficients on the centers, :math:`U S^{-1/2}` with shape (p, k), and its eigenvalues (k,).

    Args:
        gram: The kernel matrix of centers.
        numbers: Which of all centers these are.

    Example:
        >>> gram = torch.tensor([[2.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
        >>> basis, values = orthonormal(gram)
        >>> values.tolist()
        [8.0, 2.0]
        >>> (basis.T @ gram @ basis).round(decimals=12).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    values, vectors = torch.linalg.eigh(checked(gram, numbers))
    values, vectors = values.flip(0), vectors.flip(1)
    if not float(values[0]) > 0:
        raise DataError("The kernel of the centers is nought or negative, so no function can be made of it.")
    if float(values[-1]) < -1e3 * CUT[gram.dtype] * float(values[0]):
        raise DataError(
            f"The kernel matrix of the centers has the eigenvalue {float(values[-1]):.1e} beside "
            f"{float(values[0]):.1e}: it is not positive semidefinite. A machine needs a kernel that is."
        )
    kept = values > CUT[gram.dtype] * values[0]
    return vectors[:, kept] / values[kept].sqrt(), values[kept]


def spanning(gram: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    r"""An orthonormal basis, with shape (p, k), and what to say of it; without eigenvalues where they are not needed.

    With :math:`K_{zz} = L L^T` the columns of :math:`L^{-T}` are such a basis, for a part of the work. It is taken
    where nothing is to be left out: the smallest eigenvalue is at least :math:`1/\mathrm{tr}\, K_{zz}^{-1}`, that is
    :math:`1/|L^{-1}|_F^2`, and the largest at most the largest sum of a row.
    """
    factor, failed = torch.linalg.cholesky_ex(checked(gram))
    if not int(failed):
        basis = torch.linalg.solve_triangular(factor, torch.eye(len(gram)).to(gram), upper=False).T
        largest = float(gram.abs().sum(1).max())
        if float(basis.square().sum()) * 10 * CUT[gram.dtype] * largest < 1:
            return basis, ()
    basis, values = orthonormal(gram)
    return basis, lost(values, len(gram))


def lost(values: Tensor, p: int) -> tuple[str, ...]:
    """What to say of directions of p centers that were left out, where eigenvalues stand on both sides of the cut.

    In double precision hardly anything is lost; and copies of centers leave a gap between what is kept and what is not.
    """
    kept = len(values)
    near = float(values[-1]) < 30 * CUT[values.dtype] * float(values[0])
    if values.dtype != torch.float32 or kept == p or not near:
        return ()
    return (f"In single precision {p - kept} of {p} directions of the centers are below rounding and were left out, "
            "and this kernel is so smooth that they may count. Pass points in float64 for a lower objective.",)
