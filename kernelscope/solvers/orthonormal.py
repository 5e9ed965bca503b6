r"""An orthonormal basis of the functions that centers span.

The functions :math:`k(\cdot, z_j)` are nearly linearly dependent wherever a kernel is smooth, and equations in their
coefficients square a condition that may be past float64 already. With the eigenpairs of :math:`K_{zz} = U S U^T` the
functions

.. math:: e_l = S_l^{-1/2} \sum_j U_{jl}\, k(\cdot, z_j), \qquad S_l > \epsilon\, S_1,

are orthonormal in the kernel's space, and fitting them with a ridge has a condition of at most
:math:`1 + k_{max}/\lambda`. What lies below :math:`\epsilon` cannot be told from rounding and is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError, NonFiniteError

#: Relative to the largest, eigenvalues below which directions cannot be told from rounding.
CUT = {torch.float64: 1e-12, torch.float32: 1e-6}

#: How far a kernel matrix may be from symmetric, relative to its largest entry.
ASYMMETRY = {torch.float64: 1e-10, torch.float32: 1e-4}


def checked(gram: Tensor) -> Tensor:
    """A kernel matrix of centers; refused unless it is finite and symmetric.

    Raises:
        NonFiniteError: If an entry is NaN or infinite.
        DataError: If it is not symmetric.
    """
    if not bool(gram.isfinite().all()):
        i, j = (~gram.isfinite()).nonzero()[0].tolist()
        raise NonFiniteError(
            f"The kernel of centers {i} and {j} is NaN or infinite. Look at the kernel's bandwidth and at these points."
        )
    gap, size = float((gram - gram.T).abs().max()), float(gram.abs().max())
    if gap > ASYMMETRY[gram.dtype] * size:
        raise DataError(
            f"The kernel matrix of the centers is not symmetric: entries differ by {gap:.1e}, of {size:.1e} at most. "
            "A machine needs a symmetric positive semidefinite kernel."
        )
    return gram


def orthonormal(gram: Tensor) -> tuple[Tensor, Tensor]:
    r"""The basis as coefficients on the centers, :math:`U S^{-1/2}` with shape (p, k), and its eigenvalues (k,).

    Example:
        >>> basis, values = orthonormal(torch.tensor([[2.0, 0.0], [0.0, 8.0]], dtype=torch.float64))
        >>> values.tolist()
        [8.0, 2.0]
        >>> (basis.T @ torch.diag(torch.tensor([2.0, 8.0], dtype=torch.float64)) @ basis).round(decimals=12).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    values, vectors = torch.linalg.eigh(checked(gram))
    values, vectors = values.flip(0), vectors.flip(1)
    if not float(values[0]) > 0:
        raise DataError("The kernel of the centers is nought or negative, so no function can be made of it.")
    if float(values[-1]) < -1e3 * CUT[gram.dtype] * float(values[0]):
        raise DataError(
            f"The kernel matrix of the centers has the eigenvalue {float(values[-1]):.1e} beside {float(values[0]):.1e}: "
            "it is not positive semidefinite. A machine needs a kernel that is."
        )
    kept = values > CUT[gram.dtype] * values[0]
    return vectors[:, kept] / values[kept].sqrt(), values[kept]
