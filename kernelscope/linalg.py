r"""What a matrix says of itself through its products alone.

A function that gives :math:`K V` for columns :math:`V` is enough for the trace, for norms and for the largest
eigenvalues of a matrix that is never formed. What is estimated comes with its standard error, and what is iterated with
the residual it was left at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from .arguments import as_seed
from .errors import DataError, NonFiniteError
from .progress import telling

#: From columns with shape (m, b) to their products with shape (n, b).
Multiply = Callable[[Tensor], Tensor]

#: How many more eigenvectors are followed than are asked for, so that the last of them are found as fast as the first.
BESIDE = 4

#: How many bytes the basis of an eigenspace, and its products, may fill; and how many columns it has at least, since a
#: small one tells eigenvalues apart slowly.
ROOM, LEAST = 2**28, 40

#: After how many passes over all columns a search for eigenvectors is given up.
PASSES = 200

#: Below how many columns a product is taken from the other side, on a processor.
FEW = {torch.float32: 16, torch.float64: 64}


def times(matrix: Tensor, columns: Tensor) -> Tensor:
    r"""The product :math:`A B`, fast where B has few columns and its rows lie together in memory.

    For these the libraries that processors come with fall to a fraction of their speed; they keep it for
    :math:`(B^T A^T)^T` of columns that lie together.

    Args:
        matrix: A, with shape (n, m); it may be a transposed one.
        columns: B, with shape (m, c).

    Example:
        >>> times(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[1., 2.],
                [3., 4.]])
    """
    if matrix.device.type == "cpu" and 1 < columns.shape[1] < FEW.get(matrix.dtype, 0):
        return (columns.T.contiguous() @ matrix.T).T
    return matrix @ columns


def divided(factor: Tensor, columns: Tensor) -> Tensor:
    r"""The solution :math:`A^{-1} B` for a factor L of :math:`A = L L^T`, a triangle at a time.

    For few columns that takes a tenth of the time of one call for both triangles.

    Args:
        factor: L, a lower triangle with shape (*, n, n).
        columns: B, with shape (*, n, c).

    Example:
        >>> divided(torch.tensor([[2.0]]), torch.tensor([[8.0]]))
        tensor([[2.]])
    """
    half = torch.linalg.solve_triangular(factor, columns, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


@dataclass(frozen=True)
class Estimate:
    """A number, and what it may be off by.

    Attributes:
        value: The number.
        error: Its standard error where it was estimated, its residual where it was iterated, 0 where it is exact.
        how: How it was found, in words.

    Example:
        >>> Estimate(12.5, 0.25, "standard error of 10 probes")
        12.5 ± 0.25 (standard error of 10 probes)
        >>> float(Estimate(2.0, 0.0, "exact"))
        2.0
    """

    value: float
    error: float
    how: str

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"{self.value:.6g}{f' ± {self.error:.2g}' if self.error else ''} ({self.how})"


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    r"""Some eigenvalues and eigenvectors of a symmetric matrix, the largest first.

    Attributes:
        values: The eigenvalues :math:`\lambda`, descending, with shape :math:`(k,)`.
        vectors: The eigenvectors v, of length 1, one in each column, with shape :math:`(n, k)`, or :math:`(n, c, k)`.
        residuals: :math:`\|K v - \lambda v\|` of each, with shape :math:`(k,)`. An eigenvalue is within its residual.
        converged: Whether all residuals are as small as was asked for.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: bool

    def __repr__(self) -> str:
        several = f"{len(self.values)} eigenpairs" if len(self.values) > 1 else "1 eigenpair"
        return (f"{several}: eigenvalues {float(self.values[0]):.6g} to {float(self.values[-1]):.6g}, largest residual "
                f"{float(self.residuals.max()):.1e}{'' if self.converged else ', not converged'}")


def trace(multiply: Multiply, size: int, probes: int, seed: int = 0) -> Estimate:
    r"""The trace of a square matrix from ``probes`` products, with its standard error.

    A third of the products finds where most of the trace is, a third takes that part exactly, and a third estimates
    the rest by :math:`\mathbb E\, g^T K g` over random signs g.

    Raises:
        DataError: If there are fewer than 6 probes, from which no error could be told; or if the seed is none.

    References:
        | Hutch++: Optimal Stochastic Trace Estimation (Meyer et al., 2021)

    Example:
        >>> K = torch.diag(torch.arange(1.0, 6.0)).double()
        >>> trace(lambda v: K @ v, 5, probes=30)
        15 (exact: the probes span everything)
    """
    check_probes(probes)
    third = probes // 3
    generator = torch.Generator().manual_seed(as_seed(seed))
    with telling(None, "trace: where it is"):
        basis = _orthonormal(_product(multiply, _signs(size, third, generator))[1])
    with telling(None, "trace: the largest part"):
        basis, there = _product(multiply, basis)
    known = float((basis * there).sum())
    if basis.shape[1] == size:
        return Estimate(known, 0.0, "exact: the probes span everything")
    rest = _signs(size, probes - 2 * third, generator).to(basis)
    with telling(None, "trace: the rest"):
        rest, there = _product(multiply, rest - basis @ (basis.T @ rest))
    each = (rest * there).sum(0)
    return Estimate(known + float(each.mean()), float(each.std()) / sqrt(len(each)), f"standard error, {probes} probes")


def frobenius(multiply: Multiply, back: Multiply, size: int, probes: int, seed: int = 0) -> Estimate:
    r"""The Frobenius norm from products with K and with its transpose, :math:`\|K\|_F^2 = \mathrm{tr}\, K^T K`."""
    square = trace(lambda v: back(multiply(v)), size, probes, seed)
    value = sqrt(max(square.value, 0.0))
    return Estimate(value, square.error / (2 * value) if value else 0.0, square.how)


def spectral(multiply: Multiply, back: Multiply | None, size: int, tolerance: float = 1e-8) -> Estimate:
    r"""The largest singular value, from products with K and with its transpose; without ``back``, K is symmetric."""
    if back is None:
        found = eigenpairs(multiply, size, 1, tolerance=tolerance, magnitude=True)
        return Estimate(abs(float(found.values[0])), float(found.residuals[0]), "residual of its vector")
    found = eigenpairs(lambda v: back(multiply(v)), size, 1, tolerance=tolerance)
    value = sqrt(max(float(found.values[0]), 0.0))
    return Estimate(value, float(found.residuals[0]) / value if value else 0.0, "residual of its vector")


def eigenpairs(multiply: Multiply, size: int, k: int, *, tolerance: float = 1e-8, magnitude: bool = False,
               seed: int = 0, passes: int = PASSES) -> Eigenpairs:
    r"""The k largest eigenvalues of a symmetric matrix and their vectors, from products with blocks of columns.

    The products of the residuals join the basis, which makes it a block Krylov space; where it has no room, it is
    started again from the best vectors it holds. Columns are multiplied together, because most of the cost of a kernel
    is that of its entries, which all columns share.

    Args:
        multiply: From columns with shape :math:`(n, b)` to their products with K.
        size: The number n of rows.
        k: How many are looked for.
        tolerance: How small residuals have to be, relative to the largest eigenvalue; rounding of the products sets
            a limit of its own.
        magnitude: Whether the largest in magnitude are looked for, instead of the largest.
        seed: Where the search starts.
        passes: After how many products with a block the search is given up, with a warning.

    Raises:
        DataError: If there are not k eigenvalues, or if the seed is none.
        NonFiniteError: If a product is NaN or infinite.

    References:
        | Randomized Block Krylov Methods for Stronger and Faster Approximate SVD (Musco and Musco, 2015)

    Example:
        >>> K = torch.diag(torch.arange(1.0, 6.0)).double()
        >>> eigenpairs(lambda v: K @ v, 5, 2).values.round(decimals=8).tolist()
        [5.0, 4.0]
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= size:
        raise DataError(f"A matrix of {size} rows has 1 to {size} eigenpairs; k={k!r} were asked for.")
    block = min(size, k + BESIDE)
    widest = min(size, max(3 * block, LEAST, ROOM // (16 * size)))
    start = torch.randn(size, block, generator=torch.Generator().manual_seed(as_seed(seed)), dtype=torch.float64)
    with telling(None, "eigenpairs: first product"):
        basis, there, kind = _first(multiply, _orthonormal(start))
    limit = max(tolerance, 30 * torch.finfo(kind).eps)
    for count in range(2, passes + 2):
        inner = basis.T @ there
        values, turn = torch.linalg.eigh((inner + inner.T) / 2)
        order = (values.abs() if magnitude else values).argsort(descending=True)
        values, turn = values[order], turn[:, order]
        vectors = basis @ turn[:, :block]
        gaps = there @ turn[:, :block] - vectors * values[:block]
        residuals, scale = gaps.norm(dim=0), values.abs().max()
        open_ = residuals > limit * scale
        if not bool(open_[:k].any()) or basis.shape[1] == size or count > passes:
            break
        if basis.shape[1] + block > widest:
            keep = turn[:, :max(block, widest - 2 * block)]
            basis, there = basis @ keep, there @ keep
        # Those beside the ones that are asked for may stop earlier: what they are worth is the pace of the others.
        fresh = _orthonormal(gaps[:, open_] / residuals[open_], basis)
        if not fresh.shape[1]:
            break
        with telling(None, f"eigenpairs: product {count}, residual {float(residuals[:k].max() / scale):.0e}"):
            fresh, more = _product(multiply, fresh)
        basis, there = torch.cat([basis, fresh], 1), torch.cat([there, more], 1)
    # In a basis of the whole space, residuals are rounding.
    converged = not bool(open_[:k].any()) or basis.shape[1] == size
    if not converged:
        warnings.warn(
            f"Eigenpairs have not converged: after {count - 1} products the largest residual is "
            f"{float(residuals[:k].max()):.1e}, and {float(limit * scale):.1e} was asked for. Raise tolerance.",
            stacklevel=3,
        )
    return Eigenpairs(values[:k], vectors[:, :k], residuals[:k], converged)


def randomized(multiply: Multiply, size: int, k: int, *, beside: int = 10, powers: int = 3,
               seed: int = 0) -> tuple[Tensor, Tensor]:
    r"""About the k largest eigenvalues of a symmetric matrix and their vectors, from products with random columns.

    The columns of :math:`K^q \Omega` nearly span the largest directions; in their basis Q the matrix is
    :math:`Q^T K Q`, whose eigenpairs are those of K as far as Q spans them. Products go through an orthonormal basis
    each, so that small eigenvalues are not lost beside large ones.

    Args:
        multiply: From columns with shape (n, b) to their products with K.
        size: The number n of rows.
        k: How many are looked for.
        beside: How many more columns are taken.
        powers: The number q of products before the last one.
        seed: Where the columns are drawn.

    Returns:
        The values, descending, with shape (k,), and the vectors with shape (n, k).

    References:
        Finding Structure with Randomness (Halko, Martinsson and Tropp, 2011), algorithms 4.4 and 5.3

    Example:
        >>> K = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0])).double()
        >>> randomized(lambda v: K @ v, 4, 1, powers=40)[0].round(decimals=8).tolist()
        [3.0]
    """
    generator = torch.Generator().manual_seed(as_seed(seed))
    basis = torch.randn(size, min(size, k + beside), generator=generator, dtype=torch.float64)
    with telling(None, "range of the matrix"):
        for _ in range(powers):
            basis = _orthonormal(_product(multiply, basis)[1])
        basis, there = _product(multiply, basis)
    if basis.shape[1] < k:
        # A matrix of lower rank is nought on the rest, of which any columns will do.
        more = torch.randn(size, k, generator=generator, dtype=torch.float64).to(basis)
        more = _orthonormal(more, basis)[:, :k - basis.shape[1]]
        basis, there = torch.cat([basis, more], 1), torch.cat([there, _product(multiply, more)[1]], 1)
    inside = basis.T @ there
    values, turn = torch.linalg.eigh((inside + inside.T) / 2)
    return values.flip(0)[:k], (basis @ turn.flip(1))[:, :k]


def nystrom(columns: Tensor, numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r"""The k largest eigenpairs of :math:`C W^+ C^T`, what some columns C of a positive matrix tell of it.

    With :math:`W = E S E^T`, the rows of C that belong to these columns, the approximation is :math:`FF^T` for
    :math:`F = C E S^{-1/2}`, whose singular vectors are orthonormal. Its eigenvalues are none larger than those of the
    matrix.

    Args:
        columns: C, with shape (n, m).
        numbers: Which columns these are, with shape (m,).
        k: How many are looked for, m at most.

    Returns:
        The values, descending, with shape (k,), and the vectors with shape (n, k).

    References:
        Using the Nyström Method to Speed Up Kernel Machines (Williams and Seeger, 2001)

    Example:
        >>> one = torch.ones(3, 3).double()
        >>> nystrom(one[:, :1], torch.tensor([0]), 1)[0].round(decimals=8).tolist()
        [3.0]
    """
    corner = columns[numbers].double()
    values, vectors = torch.linalg.eigh((corner + corner.T) / 2)
    there = values > 10 * len(values) * torch.finfo(columns.dtype).eps * values[-1].clamp(min=0)
    left, lengths, _ = torch.linalg.svd(columns.double() @ (vectors[:, there] * values[there].rsqrt()),
                                        full_matrices=False)
    found = lengths.square()[:k]
    if len(found) < k:
        # Beyond the rank of what the columns tell, the approximation is nought.
        more = torch.randn(len(columns), k, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(left)
        left = torch.cat([left, _orthonormal(more, left)], 1)
        found = torch.cat([found, found.new_zeros(k - len(found))])
    return found, left[:, :k]


def check_probes(probes: int) -> None:
    """Whether an error can be told from so many products.

    Raises:
        DataError: If it cannot.
    """
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 6:
        raise DataError(f"An estimate with its error needs at least 6 probes; {probes!r} came. Pass probes=30.")


def _first(multiply: Multiply, columns: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Columns and their products in float64, where the products are, and the precision that these had."""
    there = multiply(columns)
    if not bool(there.isfinite().all()):
        raise NonFiniteError("A product of the matrix with finite columns is NaN or infinite, so it has no eigenpairs. "
                             "Look for a NaN or infinite entry, or compute in float64.")
    return columns.to(there.device), there.double(), there.dtype


def _product(multiply: Multiply, columns: Tensor) -> tuple[Tensor, Tensor]:
    return _first(multiply, columns)[:2]


def _signs(size: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2, (size, count), generator=generator).double() * 2 - 1


def _orthonormal(columns: Tensor, basis: Tensor | None = None) -> Tensor:
    """What columns span beyond a basis, in columns of length 1; as many as are independent."""
    for _ in range(2):
        # Twice, because what is left after the first time may be as small as its rounding.
        if basis is not None:
            columns = columns - basis @ (basis.T @ columns)
        left, lengths, _ = torch.linalg.svd(columns, full_matrices=False)
        columns = left[:, lengths > 1e-10 * lengths[:1]]
    return columns
