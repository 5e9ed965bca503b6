r"""The two games of a GAN, written so that each network's training is an ordinary one.

*The critic.* :class:`Judged` makes of a score network D a network with two outputs, the score and its squared slope
:math:`|\nabla_x D|^2`. With them every term of the usual losses is a loss of one sample: :math:`g(-D)` of a real
point, :math:`g(D)` of a generated one, :math:`\tfrac\gamma2 |\nabla_x D|^2` of the penalty R1. A row of targets says
which term it is (:data:`REAL`, :data:`FAKE`, :data:`PENALTY`) and its weight.

*The generator.* At the parameters of its step the gradient of :math:`\ell(D(G(z)))` is that of the linear loss
:math:`\langle G(z), v\rangle` with the critic's field :math:`v = \nabla_x \ell(D(x))` at :math:`x = G(z)` held fixed.
So the field is the target of the sample z, and the generator is moved through the critic's geometry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from ...arguments import as_choice, what_came
from ...errors import DataError

__all__ = ["FAKE", "KINDS", "PENALTY", "REAL", "Adversary", "Judged", "field_loss"]

#: What a row of the critic's targets stands for.
REAL, FAKE, PENALTY = 0, 1, 2

#: The games: what the critic minimises on a generated point (D negated on a real one), and what the generator does.
KINDS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "non-saturating": (F.softplus, lambda score: F.softplus(-score)),
    "wasserstein": (lambda score: score, lambda score: -score),
    "hinge": (lambda score: F.relu(1 + score), lambda score: -score),
}


class Judged(nn.Module):
    r"""A score network with its squared slope beside its score, :math:`(D(x), |\nabla_x D(x)|^2)`.

    Args:
        network: A module that gives one number for each point, with shape (n,) or (n, 1).

    Example:
        >>> judged = Judged(nn.Linear(2, 1, bias=False))
        >>> _ = judged.network.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> judged(torch.ones(1, 2))
        tensor([[ 7., 25.]], grad_fn=<StackBackward0>)
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Score and squared slope of points of shape (n, *), with shape (n, 2)."""
        slopes, scores = vmap(grad_and_value(lambda point: self.network(point[None]).squeeze()))(x)
        return torch.stack([scores, slopes.flatten(1).square().sum(1)], dim=1)

    def score(self, x: Tensor) -> Tensor:
        """The score alone, with shape (n,)."""
        return self.network(x).reshape(len(x))


@dataclass(frozen=True)
class Adversary:
    r"""The losses of one game.

    .. math:: L_D = E\, g(-D(x)) + E\, g(D(G(z))) + \tfrac\gamma2 E|\nabla_x D(x)|^2, \qquad L_G = E\, \ell(D(G(z)))

    Attributes:
        kind: ``"non-saturating"``, :math:`g(s) = \ln(1 + e^s)` and :math:`\ell(s) = g(-s)`; ``"wasserstein"``,
            :math:`g(s) = s` and :math:`\ell(s) = -s`; or ``"hinge"``, :math:`g(s) = \max(0, 1 + s)` and
            :math:`\ell(s) = -s`.
        r1: The weight :math:`\gamma` of the penalty :math:`\tfrac\gamma2 E|\nabla_x D|^2` at real points.

    Raises:
        DataError: If there is no such game, or r1 is negative.

    References:
        R1: "Which Training Methods for GANs do actually Converge?" (Mescheder et al., 2018), equation 9.

    Example:
        >>> game = Adversary("wasserstein")
        >>> game.critic_loss(torch.tensor([[2.0, 9.0], [1.0, 9.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        tensor([-2.,  1.])
    """

    kind: str = "non-saturating"
    r1: float = 0.0

    def __post_init__(self) -> None:
        as_choice(self.kind, "loss", tuple(KINDS))
        if isinstance(self.r1, bool) or not isinstance(self.r1, int | float) or not 0 <= self.r1 < float("inf"):
            raise DataError(f"r1 must be a number from 0 on; {what_came(self.r1)} came. Pass r1=0.0 for no penalty.")

    def critic_loss(self, outputs: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
        """The term of each row, times its weight.

        Args:
            outputs: Scores and squared slopes, with shape (n, 2).
            targets: What each row stands for and its weight, with shape (n, 2).
            reduction: ``"none"``, or ``"mean"`` for their mean.
        """
        against, _ = KINDS[self.kind]
        score, slope = outputs.unbind(1)
        what, weight = targets.unbind(1)
        of_fakes = torch.where(what == FAKE, against(score), self.r1 / 2 * slope)
        term = torch.where(what == REAL, against(-score), of_fakes)
        losses = weight.to(term) * term
        return losses if reduction == "none" else losses.mean()

    def generator_loss(self, scores: Tensor) -> Tensor:
        """What the generator minimises at each point, given the critic's score there."""
        return KINDS[self.kind][1](scores)

    def field(self, score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The gradient of the generator's loss by the point, with the shape of ``x``; it falls along its negative."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.generator_loss(score(x).reshape(len(x))).sum(), x)[0]


def field_loss(outputs: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
    """The linear loss <G(z), v> of each generated point, with the critic's field v as its target.

    Example:
        >>> field_loss(torch.ones(1, 3), torch.ones(1, 3))
        tensor([3.])
    """
    losses = (outputs * targets).flatten(1).sum(1)
    return losses if reduction == "none" else losses.mean()
