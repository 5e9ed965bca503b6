r"""The numbers that tell one kernel matrix, and those that tell it against others.

All are sums of products of entries, taken in float64 whatever the matrix is in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...measures import centred, entropy_rank, label_mass, participation


def inner(one: Tensor, other: Tensor) -> float:
    r"""The product :math:`\langle K, L\rangle_F`."""
    return float((one * other).sum(dtype=torch.float64))


def size(matrix: Tensor) -> float:
    r"""The norm :math:`\|K\|_F`."""
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))


def ratio(product: float, sizes: float) -> float:
    """A product as a share of the sizes of its factors, 0 if one of them is nought."""
    return product / sizes if sizes else 0.0


def aligned(middle: Tensor, columns: Tensor) -> float:
    r"""The alignment :math:`\langle K, YY^T\rangle / (\|K\| \|YY^T\|)` of a matrix and columns that are centred.

    It is NaN where all rows of the columns are the same, as those of one point are.
    """
    if not bool((columns != columns[:1]).any()):
        return torch.nan
    y = columns.to(middle)
    return ratio(inner(y, middle @ y), size(middle) * size(y.T @ y))


class Kept:
    """A kernel matrix that others are compared with: itself, its centred form, and their sizes."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.middle = matrix, centred(matrix)
        self.sizes = size(self.matrix), size(self.middle)

    def cosine(self, other: Kept) -> float:
        r"""The cosine :math:`\langle K, L\rangle/(\|K\|\|L\|)`."""
        return ratio(inner(self.matrix, other.matrix), self.sizes[0] * other.sizes[0])

    def along(self, other: Kept) -> float:
        r"""The scale :math:`g = \langle K, L\rangle/\langle L, L\rangle` at which this is most like the other."""
        return ratio(inner(self.matrix, other.matrix), other.sizes[0] ** 2)

    def cka(self, other: Kept) -> float:
        """The same of centred matrices."""
        return ratio(inner(self.middle, other.middle), self.sizes[1] * other.sizes[1])


def alone(kept: Kept, values: Tensor, vectors: Tensor, columns: Tensor, classes: int, k: int) -> dict[str, float]:
    """The numbers of one kernel, by name.

    Args:
        kept: The kernel of the samples.
        values: Its eigenvalues, descending.
        vectors: Their vectors.
        columns: The targets, centred.
        classes: The dimension of the eigenspace whose share of the targets is told.
        k: How many eigenvalues the largest ones are.
    """
    total, largest = float(values.double().sum()), float(values[0])
    return {
        "trace": float(kept.matrix.diagonal().double().sum()), "norm": kept.sizes[0],
        "alignment": aligned(kept.middle, columns),
        "entropy rank": entropy_rank(values), "participation": participation(values),
        "label mass": label_mass(vectors[:, :classes].cpu(), columns),
        "top share": float(values[:k].double().sum()) / total if total else 0.0,
        "least": float(values[-1]) / largest if largest else 0.0,
        "asymmetry": float((kept.matrix - kept.matrix.T).abs().max()) / (float(kept.matrix.abs().max()) or 1.0),
    }


class Pairs:
    """Centred kernels of all times on some of the samples, kept as their upper halves; from them CKA between times."""

    def __init__(self, times: int, points: Tensor, like: Tensor):
        self.points = points
        first, second = torch.triu_indices(len(points), len(points), device=like.device)
        self._places = first * len(points) + second
        # Every pair beside the diagonal stands for two entries.
        self._weights = torch.where(first == second, 1.0, 2.0**0.5).to(like)
        self._rows = like.new_zeros(times, len(self._places))

    @staticmethod
    def fitting(times: int, count: int, itemsize: int, room: float) -> int:
        """Of how many samples the halves of so many kernels fit."""
        return max(2, min(count, int((2 * room / (times * itemsize)) ** 0.5) - 1))

    def keep(self, place: int, matrix: Tensor) -> None:
        """Keeps the kernel of a time, at unit length."""
        part = matrix if len(self.points) == len(matrix) else matrix[self.points][:, self.points]
        half = centred(part).flatten()[self._places] * self._weights
        self._rows[place] = half / max(size(half), torch.finfo(torch.float64).tiny)

    def cka(self) -> Tensor:
        """CKA between all times, with shape (t, t)."""
        found = (self._rows @ self._rows.T).double().cpu()
        return (found + found.T) / 2
