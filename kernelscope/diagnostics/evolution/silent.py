r"""Silent alignment: whether the kernel turned before the loss fell, and grew while it did.

Where :math:`K_t = g(t) K_\infty` while the squared loss moves, gradient flow ends with a kernel machine of the last
kernel, whose time is :math:`\tau = \int g\, dt`:

.. math:: f_T = f_0 + k_T(x)^T K_T^{-1}\, (I - e^{-s\tau K_T/n})\, (y - f_0), \qquad \ell' = s\,(f - y).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...losses import Loss
from ...network import per_sample_losses

#: The share of its turn after which a direction counts as found, and how large a turn counts as one.
MOST, LEAST = 0.9, 0.01

#: From what share of the fall on that is still to come an alignment is silent, and up to which it is late.
SILENT, LATE = 0.5, 0.1


def silent_alignment(times: Tensor, cosine: Tensor, loss: Tensor, size: Tensor) -> dict[str, Any]:
    r"""When the direction of the kernel had done 90 % of its change, and how much of the loss was still to fall then.

    Args:
        times: The steps, with shape (t,).
        cosine: The cosine of the kernel to the last one.
        loss: The training loss.
        size: The norm of the kernel.

    Returns:
        ``turn`` (1 - cosine at the start), ``step`` at which the direction was found, ``to_come`` (the share of the
        fall of the loss after it), ``growth`` (of the norm over the run), ``growth_after`` (the share of the log of
        the growth after it) and the ``verdict``.

    References:
        Neural Networks as Kernel Learners: The Silent Alignment Effect (Atanasov, Bordelon and Pehlevan, 2022).

    Example:
        >>> steps, one = torch.arange(3.0), torch.ones(3)
        >>> silent_alignment(steps, torch.tensor([0.2, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0]), one)["verdict"]
        'silent'
    """
    steps, cosine, loss = times.double(), cosine.double(), loss.double()
    turn, fall = 1 - float(cosine[0]), float(loss[0] - loss[-1])
    ratio = float(size[-1] / size[0]) if float(size[0]) else 0.0
    told: dict[str, Any] = {"turn": turn, "fall": fall, "step": None, "to_come": None, "growth": ratio,
                            "growth_after": None}
    if turn < LEAST:
        return told | {"verdict": "kept"}
    done = (cosine - cosine[0]) / turn
    # After the last time below, since a direction may come near and leave again.
    k = int((done < MOST).nonzero()[-1])
    part = float((MOST - done[k]) / (done[k + 1] - done[k]))
    between = lambda values: float(values[k] + part * (values[k + 1] - values[k]))
    told["step"] = between(steps)
    logs = size.double().clamp(min=torch.finfo(torch.float64).tiny).log()
    if abs(float(logs[-1] - logs[0])) > LEAST:
        told["growth_after"] = (float(logs[-1]) - between(logs)) / float(logs[-1] - logs[0])
    if not fall > 0:
        return told | {"verdict": "no fall"}
    share = (between(loss) - float(loss[-1])) / fall
    return told | {"to_come": share, "verdict": "silent" if share >= SILENT else "late" if share < LATE else "along"}


def slope_of(loss: Loss, outputs: Tensor, targets: Tensor, each: Callable[[Tensor], Any]) -> float | None:
    r"""The s of a squared loss with :math:`\ell' = s(f - y)`, or ``None`` if the loss is another one.

    Args:
        loss: The per-sample loss.
        outputs: Some outputs, with shape (n, c).
        targets: Their targets, in the form of training.
        each: From outputs with shape (n, c) to the form of the network's.
    """
    if not targets.is_floating_point() or targets.numel() != outputs.numel():
        return None
    y = targets.reshape(outputs.shape).to(outputs)
    generator = torch.Generator().manual_seed(0)
    away = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    with torch.enable_grad():
        f = (y + away).requires_grad_()
        try:
            values = per_sample_losses(loss, each(f), targets, len(f))
        # A loss of probabilities takes no other numbers, and none that does so is squared.
        except (RuntimeError, ValueError):
            return None
        if not values.requires_grad:
            return None
        gradient, = torch.autograd.grad(values.sum(), f)
    s = float((gradient * away).sum() / away.square().sum())
    near = 1e-4 if outputs.dtype == torch.float32 else 1e-9
    return s if s > 0 and float((gradient - s * away).norm()) <= near * float(gradient.norm()) else None


@dataclass(frozen=True, eq=False)
class Flow:
    r"""Gradient flow with a fixed kernel, :math:`k_x^T K^{-1}(I - e^{-tK})\, r`, at any time t.

    Attributes:
        values: The eigenvalues of K, with shape (n,).
        there: :math:`k_x^T U`, with shape (m, n).
        rest: :math:`U^T r`, with shape (n, c).

    Example:
        >>> one = torch.ones(1, 1)
        >>> Flow.of(torch.ones(1), one, one, one).at(50.0)
        tensor([[1.]])
    """

    values: Tensor
    there: Tensor
    rest: Tensor

    @classmethod
    def of(cls, values: Tensor, vectors: Tensor, cross: Tensor, rest: Tensor) -> Flow:
        """The flow from the eigenpairs of K, :math:`k_x` with shape (m, n), and what is left of the targets at first.

        Args:
            values: The eigenvalues, with shape (n,).
            vectors: The eigenvectors.
            cross: :math:`k_x`, with shape (m, n).
            rest: r, with shape (n, c).
        """
        return cls(values.clamp(min=0), cross @ vectors, vectors.T @ rest)

    def at(self, time: float) -> Tensor:
        """What it has added to the output by a time, with shape (m, c)."""
        # (1 - e^(-t v)) / v, which is t where v is nought.
        small = self.values * time < 1e-12
        factor = torch.where(small, torch.full_like(self.values, time),
                             -torch.expm1(-time * self.values) / self.values.where(~small, 1.0))
        return self.there @ (factor[:, None] * self.rest)
