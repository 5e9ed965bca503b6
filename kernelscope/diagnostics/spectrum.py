r"""The spectrum of a kernel matrix: its eigenvalues, and what follows from them.

For a symmetric matrix K of n rows the eigenpairs :math:`K v_j = \lambda_j v_j` are all found, or the k largest of them,
by one of four ways. Whatever the way, each pair comes with the residual :math:`\|K v_j - \lambda_j v_j\|` of a product
with K: an eigenvalue of K lies within it. The trace is known from the diagonal and the Frobenius norm from all entries,
so that what lies beyond the k found is known in sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import linalg
from ..arguments import as_choice, as_count, as_seed, what_came
from ..errors import DataError, NonFiniteError
from ..kernels.base import Kernel
from ..linalg import Estimate
from ..measures import alignment
from ..operator import KernelOperator
from ..result import as_float64
from .spectra import Spectrum, checked_ridge

#: The ways, and up to how many rows the first is taken unless another is asked for.
METHODS, DENSE = ("dense", "lanczos", "randomized", "nystrom"), 4000

#: How many eigenpairs are found unless more are asked for, where not all are.
FEW = 30

#: From which asymmetry on a matrix is none of a symmetric kernel.
CROOKED = 1e-2


def spectrum(kernel: Kernel | KernelOperator | Tensor, x: Any = None, y: Any = None, *, k: int | None = None,
             method: str | None = None, ridge: float | None = None, tolerance: float = 1e-9, powers: int = 3,
             landmarks: int | None = None, probes: int | None = None, seed: int = 0) -> Spectrum:
    r"""The eigenvalues and eigenvectors of a kernel matrix, each with its residual.

    .. math:: K v_j = \lambda_j v_j, \qquad r_j = \|K v_j - \lambda_j v_j\|

    Args:
        kernel: A kernel, with the points x; a :class:`KernelOperator`; or a symmetric matrix.
        x: The points of a kernel.
        y: Targets to be aligned with, with a row for each point.
        k: How many of the largest; without it all of a dense matrix, and else 30.
        method: ``"dense"``, from the matrix itself, which is taken up to 4,000 rows if not given; ``"lanczos"``, from
            products with blocks of columns until residuals are small; ``"randomized"``, from ``powers`` products with
            random columns; ``"nystrom"``, from the columns of some points. All but the first multiply by a kernel
            without its matrix.
        ridge: What effective dimensions take; 1e-3 of the mean of the diagonal if not given.
        tolerance: How small residuals have to be with ``"lanczos"``, relative to the largest eigenvalue.
        powers: How many products ``"randomized"`` takes before the last one.
        landmarks: How many points ``"nystrom"`` takes; five times k if not given.
        probes: From how many products the Frobenius norm is estimated; without it it is exact, from every entry.
        seed: Where a search starts.

    Returns:
        The :class:`Spectrum`.

    Raises:
        DataError: If the matrix is not symmetric, or options do not fit.
        NonFiniteError: If it holds NaN or infinite values.

    References:
        | Finding Structure with Randomness (Halko, Martinsson and Tropp, 2011), algorithms 4.4 and 5.3
        | Using the Nyström Method to Speed Up Kernel Machines (Williams and Seeger, 2001)

    Example:
        >>> import kernelscope as ks
        >>> found = ks.spectrum(torch.diag(torch.tensor([3.0, 1.0, 2.0])).double())
        >>> found.values.tolist()
        [3.0, 2.0, 1.0]
        >>> found.effective_dimension(1.0)
        (1.9166666666666665, 1.9166666666666665)
    """
    matrix, operator = _matrix(kernel, x)
    size = _size(matrix, operator)
    method = as_choice(method, "method", METHODS) if method is not None else (
        "dense" if size <= DENSE else "lanczos")
    count = min(size, as_count(k, "k", least=1)) if k is not None else size if method == "dense" else min(size, FEW)
    powers, seed = as_count(powers, "powers", least=1), as_seed(seed)
    if not isinstance(tolerance, int | float) or not 0 < tolerance < 1:
        raise DataError(f"tolerance is a number between 0 and 1; {tolerance!r} came. Pass for example 1e-9.")
    rho = None if ridge is None else checked_ridge(ridge)
    targets = _targets(y, size)
    if operator is not None and method == "dense":
        matrix = operator.dense().reshape(size, size)
    skew = None if matrix is None else _skew(matrix)
    multiply = _products(matrix, operator)
    with torch.no_grad():
        if method == "dense":
            assert matrix is not None
            values, vectors = (t.flip(-1) for t in torch.linalg.eigh((matrix + matrix.T) / 2))
            values, vectors = values[:count], vectors[:, :count]
        elif method == "lanczos":
            found = linalg.eigenpairs(multiply, size, count, tolerance=tolerance, seed=seed)
            values, vectors = found.values, found.vectors
        elif method == "randomized":
            values, vectors = linalg.randomized(multiply, size, count, powers=powers, seed=seed)
        else:
            m = min(size, max(count, 5 * count if landmarks is None else as_count(landmarks, "landmarks", least=1)))
            values, vectors = _nystrom(matrix, operator, size, count, m, seed)
        values, vectors = as_float64(values), as_float64(vectors)
        there = as_float64(multiply(vectors.to(values)))
        trace, norm = _sums(matrix, operator, probes, seed)
        aligned = None if targets is None else _alignment(matrix, multiply, targets, norm, size)
    if not bool(values.isfinite().all()) or not bool(there.isfinite().all()):
        raise NonFiniteError("A product with this kernel matrix holds NaN or infinite values. Look at its points, and "
                             "at the kernel's bandwidth.")
    kind = matrix.dtype if matrix is not None else multiply(torch.zeros(size, 1, dtype=torch.float64)).dtype
    return Spectrum(values, vectors, (there - vectors * values).norm(dim=0), trace, norm.value, norm.error, size,
                    method, 1e-3 * trace / size if rho is None else rho, targets, aligned, skew,
                    {"kernel": "a matrix" if operator is None else repr(operator.kernel), "norm": norm.how,
                     "dtype": str(kind).removeprefix("torch.")})


def _matrix(kernel: Any, x: Any) -> tuple[Tensor | None, KernelOperator | None]:
    """The matrix that came, or the operator.

    Raises:
        DataError: If it is neither, or not symmetric.
        NonFiniteError: If it is not finite.
    """
    if isinstance(kernel, Kernel) and x is not None:
        kernel, x = KernelOperator(kernel, x), None
    if x is not None or isinstance(kernel, Kernel):
        raise DataError("A spectrum is that of a kernel and points x, of a KernelOperator, or of a symmetric matrix; "
                        f"{what_came(kernel)} came{' without points' if x is None else ' with points'}. Pass "
                        "ks.spectrum(kernel, x), or a matrix alone.")
    if isinstance(kernel, KernelOperator):
        if not kernel.symmetric:
            raise DataError(f"A spectrum is that of a symmetric operator; this one, with shape {kernel.shape}, is not. "
                            "Make it of a symmetric kernel and one set of points, KernelOperator(kernel, x).")
        return None, kernel
    if hasattr(kernel, "__array__") and not isinstance(kernel, Tensor | type):
        kernel = _numbers(kernel, "A kernel matrix")
    if not isinstance(kernel, Tensor) or kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not len(kernel):
        came = f"shape {tuple(kernel.shape)}" if isinstance(kernel, Tensor) else what_came(kernel)
        raise DataError(f"A kernel matrix has shape (n, n); {came} came. Pass k(x), or ks.spectrum(k, x).")
    matrix = kernel.detach()
    if matrix.is_complex():
        raise DataError("A kernel matrix is one of real numbers, and complex ones came. Pass K.real if the imaginary "
                        "part is nought.")
    matrix = matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.double()
    if not bool(matrix.isfinite().all()):
        i, j = (~matrix.isfinite()).nonzero()[0].tolist()
        raise NonFiniteError(f"Entry ({i}, {j}) of the kernel matrix is NaN or infinite. Look at the points {i} and "
                             f"{j}, and at the kernel's bandwidth.")
    return matrix, None


def _size(matrix: Tensor | None, operator: KernelOperator | None) -> int:
    """The number of rows of the matrix, in which every output is one of its own."""
    if matrix is not None:
        return len(matrix)
    assert operator is not None
    shape = operator.shape
    return shape[0] * (shape[1] if len(shape) == 4 else 1)


def _products(matrix: Tensor | None, operator: KernelOperator | None) -> Callable[[Tensor], Tensor]:
    """What multiplies columns by the matrix."""
    if matrix is not None:
        return lambda v: matrix @ v.to(matrix)
    assert operator is not None
    shape = operator.shape[len(operator.shape) // 2:]
    return lambda v: (operator @ v.reshape(*shape, -1)).flatten(0, -2)


def _skew(matrix: Tensor) -> float:
    """How far a matrix is from its transpose, relative to its largest entry.

    Raises:
        DataError: If it is none of a symmetric kernel.
        NonFiniteError: If it is not finite.
    """
    if not bool(matrix.isfinite().all()):
        raise NonFiniteError("The kernel matrix holds NaN or infinite values. Look at its points, and at the kernel's "
                             "bandwidth.")
    gap = float((matrix - matrix.T).abs().max()) / (float(matrix.abs().max()) or 1.0)
    if gap > CROOKED:
        raise DataError(f"The matrix is not symmetric: entries differ from those across by {gap:.1e} of the largest. "
                        "Pass the matrix of a symmetric kernel, or (K + K.T) / 2 if that is what is meant.")
    return gap


def _nystrom(matrix: Tensor | None, operator: KernelOperator | None, size: int, count: int, m: int,
             seed: int) -> tuple[Tensor, Tensor]:
    """The pairs that some columns tell."""
    if operator is not None and len(operator.shape) == 4:
        raise DataError('method="nystrom" takes the columns of points, and this kernel keeps outputs apart. Take '
                        '"lanczos", or sum over outputs.')
    numbers = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:m].sort().values
    if matrix is not None:
        return linalg.nystrom(matrix[:, numbers], numbers, count)
    assert operator is not None
    return linalg.nystrom(operator[:, numbers.tolist()].dense(), numbers, count)


def _sums(matrix: Tensor | None, operator: KernelOperator | None, probes: int | None,
          seed: int) -> tuple[float, Estimate]:
    """The trace, and the Frobenius norm."""
    if matrix is not None:
        whole = float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
        return float(matrix.diagonal().double().sum()), Estimate(whole, 0.0, "exact")
    assert operator is not None
    return float(operator.trace()), operator.norm(probes=probes, seed=seed)


def _alignment(matrix: Tensor | None, multiply: Callable[[Tensor], Tensor], targets: Tensor, norm: Estimate,
               size: int) -> float:
    r"""The centred alignment, of an operator through products.

    :math:`\|HKH\|^2 = \|K\|^2 - \frac2n \|K1\|^2 + \frac1{n^2}(1^TK1)^2`.
    """
    if matrix is not None:
        return alignment(matrix, targets)
    y = targets - targets.mean(0)
    there = as_float64(multiply(torch.cat([torch.ones(size, 1, dtype=torch.float64), y], 1)))
    ones, products = there[:, 0], there[:, 1:]
    square = norm.value**2 - 2 * float(ones.square().sum()) / size + (float(ones.sum()) / size) ** 2
    sizes = max(square, 0.0) ** 0.5 * float((y.T @ y).norm())
    return float((y * products).sum()) / sizes if sizes else 0.0


def _numbers(values: Any, what: str) -> Tensor:
    """Values as a tensor.

    Raises:
        DataError: If they are no numbers.
    """
    try:
        return torch.as_tensor(np.asarray(values))
    # What is no array of numbers is refused by any of these.
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} must hold numbers, and {what_came(values)} came that is no array of them. Give "
                        "classes by their index.") from error


def _targets(y: Any, size: int) -> Tensor | None:
    """Targets as columns: classes as columns of 0 and 1.

    Raises:
        DataError: If there is not one for each row.
    """
    if y is None:
        return None
    given = y.detach().cpu() if isinstance(y, Tensor) else _numbers(y, "y")
    if given.numel() == 0 or given.numel() % size or given.is_complex():
        raise DataError(f"y must hold a target, or a row of them, for each of the {size} rows of the matrix; shape "
                        f"{tuple(given.shape)} came. Pass as many.")
    if not given.is_floating_point() and given.numel() == size:
        kinds, places = given.flatten().unique(return_inverse=True)
        return torch.nn.functional.one_hot(places, len(kinds)).double()
    found = given.double().reshape(size, -1)
    if not bool(found.isfinite().all()):
        raise NonFiniteError("y holds NaN or infinite values. Remove these points, or mend them.")
    return found
