"""What a converted layer is measured against: the floor of all m features, and simpler layers of the same size."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...features.spectrum_fitting import BEYOND
from ...solvers.ridge import NormalEquations, RidgePath
from .activations import Activation
from .selection import CLEAR, forward_selection


def relative(found: Tensor, outputs: Tensor) -> float:
    """The length of an error beside that of the outputs; nought if both are."""
    length, off = float(outputs.norm()), float((found - outputs).norm())
    return off / length if length else (0.0 if not off else float("inf"))


def svd_floor(outputs: Tensor, features: int) -> float:
    r"""The relative error that no product of m features can go below: :math:`\sqrt{\sum_{k>m} s_k^2 / \sum s_k^2}`.

    Example:
        >>> round(svd_floor(torch.diag(torch.tensor([4.0, 3.0])), 1), 3)
        0.6
    """
    squares = torch.linalg.svdvals(outputs).square()
    total = float(squares.sum())
    return float((squares[features:].sum() / total).sqrt()) if total else 0.0


def with_one(x: Tensor) -> Tensor:
    """Inputs with a constant beside them."""
    return torch.cat((x, x.new_ones(len(x), 1)), 1)


def fitted(penalised: Tensor, free: Tensor, outputs: Tensor, ridge: float | None) -> tuple[Tensor, float, float]:
    """Coefficients of penalised columns, and of free ones below them, by ridge regression.

    Args:
        penalised: Features with shape (n, p).
        free: Features that are not penalised, with shape (n, q).
        outputs: What is fitted, with shape (n, l).
        ridge: The ridge; without it the one with the least generalised cross-validation.

    Returns:
        Coefficients with shape (p + q, l), the ridge, and its generalised cross-validation.
    """
    if not penalised.shape[1]:
        theta = least_squares(free, outputs)
        share = 1 - int(torch.linalg.matrix_rank(free)) / len(free)
        left = float((free @ theta - outputs).square().sum()) / len(free)
        return theta, 0.0, left / share**2 if share > 0 else float("inf")
    columns = torch.cat((penalised, free), 1)
    equations = NormalEquations(columns.shape[1], outputs.shape[1], columns.device)
    equations.add(columns, outputs)
    path = RidgePath(equations, torch.arange(columns.shape[1]) >= penalised.shape[1])
    ridge = path.best_ridge() if ridge is None else ridge
    return path.coefficients(ridge), ridge, path.gcv(ridge)


def least_squares(columns: Tensor, outputs: Tensor) -> Tensor:
    """The coefficients of least squares, of which the shortest where columns are sums of each other."""
    if columns.shape[1] == 0:
        return outputs.new_zeros(0, outputs.shape[1])
    if columns.shape[1] <= len(columns):
        basis, triangle = torch.linalg.qr(columns)
        steep = triangle.diagonal().abs()
        if float(steep.min()) > CLEAR * float(steep.max()):
            return torch.linalg.solve_triangular(triangle, basis.T @ outputs, upper=True)
    elif len(columns):
        basis, triangle = torch.linalg.qr(columns.T)
        steep = triangle.diagonal().abs()
        if float(steep.min()) > CLEAR * float(steep.max()):
            return basis @ torch.linalg.solve_triangular(triangle.T, outputs, upper=False)
    return torch.linalg.pinv(columns, rtol=1e-10) @ outputs


def linear_map(x: Tensor, outputs: Tensor, unseen: Tensor) -> Tensor:
    """What a linear map that was fitted to outputs says at unseen inputs."""
    return with_one(unseen) @ least_squares(with_one(x), outputs)


def low_rank(mean: Tensor, keep: Tensor, weights: Tensor, bias: Tensor, activation: Activation,
             unseen: Tensor) -> Tensor:
    """What the layer says whose linear map keeps some directions of outputs, with shape (r, l), and the mean input."""
    return activation((unseen - mean) @ weights.T @ keep.T @ keep + weights @ mean + bias)


def directions_of(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values of X W^T, with shape (k,), and its right singular vectors, with shape (k, l), without n rows."""
    _, triangle = torch.linalg.qr(x)
    _, s, v = torch.linalg.svd(triangle @ weights.T, full_matrices=False)
    return s, v


def strength(weights: Tensor, bias: Tensor, x: Tensor, singular: Tensor | None = None) -> float:
    r""":math:`\kappa r`: the lowest frequency of what is seen times the lengths of balanced inputs and weights.

    An analytic conversion needs some :math:`e^{2 \kappa r}` features for each of the lowest frequency. The product of
    lengths is that of :func:`~kernelscope.features.balance`, and nought for a layer that is a constant. The singular
    values of what it gives for centred inputs are computed where they are not given.
    """
    singular = directions_of(x - x.mean(0), weights)[0] if singular is None else singular
    lengths = float(singular.sum()) / math.sqrt(len(x) * len(weights))
    return lengths * math.pi / (BEYOND * float((x @ weights.T + bias).abs().max().clamp(min=1e-6)))


def narrower(seen: Tensor, some: Tensor, count: int, unseen: Tensor) -> Tensor:
    """What neurons that are chosen on some inputs, and a linear map after them, say of all neurons."""
    kept = forward_selection(seen[some], seen[some], with_one(seen[some, :0]), count)
    return with_one(unseen[:, kept]) @ fitted(seen[:, kept], with_one(seen[:, :0]), seen, None)[0]
