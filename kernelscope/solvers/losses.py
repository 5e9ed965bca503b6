r"""How far an output is from its target, and how that bends.

A loss :math:`\ell(f, y)` of the outputs and the targets of a point, both with c entries, is convex in f. A solver needs
its value, its gradient by f, and products with a matrix that bends as it does, the Hessian or one above it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import as_choice
from ..errors import DataError
from ..kernels.bandwidth import number

#: How far sums of probabilities may be from 1.
ROUNDING = 1e-4


class Loss(ABC):
    """A convex loss of outputs f and targets y, both with shape (n, ..., c)."""

    @abstractmethod
    def values(self, f: Tensor, y: Tensor) -> Tensor:
        """The loss of each point, with shape (n, ...)."""

    @abstractmethod
    def slopes(self, f: Tensor, y: Tensor) -> Tensor:
        """The gradients by the outputs, with the shape of f."""

    @abstractmethod
    def bends(self, f: Tensor, y: Tensor) -> Tensor:
        """What ``bent`` needs to know of the outputs, with the shape of f."""

    def bent(self, bends: Tensor, v: Tensor) -> Tensor:
        """The Hessians at these outputs times directions v, with the shape of f."""
        return bends * v

    def diagonal(self, bends: Tensor) -> Tensor:
        """The diagonals of the Hessians, with the shape of f."""
        return bends

    def felt(self, v: Tensor) -> Tensor:
        """Directions with shape (..., c), without what leaves the loss of every point as it is."""
        return v

    def check(self, y: Tensor, weights: Tensor | None, intercept: bool) -> None:  # noqa: B027 most have nothing to refuse
        """Refuses targets that the loss has no meaning, or no minimum, for.

        Raises:
            DataError: If there are such targets.
        """

    def start(self, y: Tensor, weights: Tensor | None) -> Tensor:
        """An intercept to begin with, with shape (c,)."""
        return y.new_zeros(y.shape[1])


class Squared(Loss):
    r""":math:`|f - y|^2`.

    Example:
        >>> Squared().values(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([4.])
    """

    def __repr__(self) -> str:
        return "Squared()"

    def values(self, f: Tensor, y: Tensor) -> Tensor:
        return (f - y).square().sum(-1)

    def slopes(self, f: Tensor, y: Tensor) -> Tensor:
        return 2 * (f - y)

    def bends(self, f: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(f, 2.0)

    def start(self, y: Tensor, weights: Tensor | None) -> Tensor:
        return _mean(y, weights)


class Huber(Loss):
    r"""The squared loss up to a distance :math:`\delta`, and a straight line beyond, so that outliers pull no harder.

    .. math:: \ell(f, y) = \sum_l h(f_l - y_l), \qquad h(r) = \begin{cases} r^2 & |r| \le \delta \\
              2 \delta |r| - \delta^2 & \text{else} \end{cases}

    Every output has a loss of its own: one that is far off says nothing about the others of its point, and a machine
    with many outputs is as many machines.

    Args:
        delta: The distance :math:`\delta`, in units of the targets.

    References:
        | Robust Estimation of a Location Parameter (Huber, 1964)

    Example:
        >>> Huber(1.0).values(torch.tensor([[0.5], [3.0]]), torch.zeros(2, 1))
        tensor([0.2500, 5.0000])
    """

    def __init__(self, delta: float = 1.35):
        self.delta = number(delta, "delta", "a positive number")

    def __repr__(self) -> str:
        return f"Huber(delta={self.delta:g})"

    def values(self, f: Tensor, y: Tensor) -> Tensor:
        # r^2 - (|r| - delta)_+^2 would cancel.
        r = (f - y).abs()
        return torch.where(r <= self.delta, r.square(), self.delta * (2 * r - self.delta)).sum(-1)

    def slopes(self, f: Tensor, y: Tensor) -> Tensor:
        return 2 * (f - y).clamp(-self.delta, self.delta)

    def bends(self, f: Tensor, y: Tensor) -> Tensor:
        return 2.0 * ((f - y).abs() <= self.delta).to(f.dtype)

    def start(self, y: Tensor, weights: Tensor | None) -> Tensor:
        return _mean(y, weights)


class Logistic(Loss):
    r"""The negative log-likelihood of a yes or no, :math:`\log(1 + e^f) - y f`, summed over outputs.

    Targets are 0 or 1, or probabilities between them; every output is a question of its own.

    Example:
        >>> Logistic().values(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([0.6931])
    """

    def __repr__(self) -> str:
        return "Logistic()"

    def values(self, f: Tensor, y: Tensor) -> Tensor:
        return -(y * F.logsigmoid(f) + (1 - y) * F.logsigmoid(-f)).sum(-1)

    def slopes(self, f: Tensor, y: Tensor) -> Tensor:
        # The difference of sigma(f) and 1 would cancel where an answer is sure and right.
        return (1 - y) * torch.sigmoid(f) - y * torch.sigmoid(-f)

    def bends(self, f: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(f) * torch.sigmoid(-f)

    def check(self, y: Tensor, weights: Tensor | None, intercept: bool) -> None:
        if not bool(((y >= 0) & (y <= 1)).all()):
            raise DataError(
                f"The logistic loss needs targets from 0 to 1, and they lie between {float(y.min()):.3g} and "
                f"{float(y.max()):.3g}. Code the two classes as 0 and 1."
            )
        mean = _mean(y, weights)
        _check_classes(((mean > 0) & (mean < 1)).tolist(), intercept, "output", "0 and 1")

    def start(self, y: Tensor, weights: Tensor | None) -> Tensor:
        return torch.logit(_mean(y, weights))


class Softmax(Loss):
    r"""The negative log-likelihood of one class of several, :math:`-\sum_l y_l \log(e^{f_l} / \sum_m e^{f_m})`.

    Targets are rows with a 1 at the class, or probabilities of the classes that sum to 1. Outputs are symmetric in the
    classes: none is the one that others are compared to.

    Example:
        >>> Softmax().values(torch.zeros(1, 4), torch.eye(4)[:1])
        tensor([1.3863])
    """

    def __repr__(self) -> str:
        return "Softmax()"

    def values(self, f: Tensor, y: Tensor) -> Tensor:
        top, place = f.max(-1, keepdim=True)
        rest = (f - top).exp().scatter(-1, place, 0.0).sum(-1, keepdim=True)
        return (y * (top - f + rest.log1p())).sum(-1)

    def slopes(self, f: Tensor, y: Tensor) -> Tensor:
        p = self.bends(f, y)
        return p * (1 - y) - y * _others(p)

    def bends(self, f: Tensor, y: Tensor) -> Tensor:
        return torch.softmax(f, -1)

    def bent(self, bends: Tensor, v: Tensor) -> Tensor:
        # Counted from the likeliest class, whose own entry would cancel.
        v = v - v.gather(-1, bends.argmax(-1, keepdim=True))
        return bends * (v - (bends * v).sum(-1, keepdim=True))

    def diagonal(self, bends: Tensor) -> Tensor:
        return bends * _others(bends)

    def felt(self, v: Tensor) -> Tensor:
        # What is added to all outputs alike goes unnoticed.
        return v - v.mean(-1, keepdim=True)

    def check(self, y: Tensor, weights: Tensor | None, intercept: bool) -> None:
        if y.shape[1] < 2 or bool((y < 0).any()) or bool(((y.sum(1) - 1).abs() > ROUNDING).any()):
            raise DataError(
                f"The softmax loss needs a column for each of at least two classes, with rows that sum to 1; the "
                f"targets have shape {tuple(y.shape)}. Pass torch.nn.functional.one_hot(classes), or take the logistic "
                "loss for a single column of 0 and 1."
            )
        _check_classes((_mean(y, weights) > 0).tolist(), intercept, "class", "every class")

    def start(self, y: Tensor, weights: Tensor | None) -> Tensor:
        logs = _mean(y, weights).log()
        return logs - logs.mean()


#: Losses that have a name.
LOSSES: dict[str, Callable[[], Loss]] = {"squared": Squared, "huber": Huber, "logistic": Logistic, "softmax": Softmax}


def as_loss(loss: str | Loss) -> Loss:
    """The loss of a name, or the loss itself.

    Raises:
        DataError: If there is none of this name.

    Example:
        >>> as_loss("huber")
        Huber(delta=1.35)
    """
    return loss if isinstance(loss, Loss) else LOSSES[as_choice(loss, "loss", LOSSES)]()


def _mean(y: Tensor, weights: Tensor | None) -> Tensor:
    return y.mean(0) if weights is None else (weights[:, None] * y).sum(0) / weights.sum()


def _others(p: Tensor) -> Tensor:
    """One minus each probability, without cancellation: one alone can be above a half."""
    place = p.argmax(-1, keepdim=True)
    return (1 - p).scatter(-1, place, p.scatter(-1, place, 0.0).sum(-1, keepdim=True))


def _check_classes(there: list[bool], intercept: bool, thing: str, needed: str) -> None:
    if intercept and not all(there):
        raise DataError(
            f"With an intercept this loss has a minimum only where {needed} are among the targets, with a weight above "
            f"0; for {thing} {there.index(False)} that is not so. Leave it out, or pass intercept=False."
        )
