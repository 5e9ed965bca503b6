r"""What a denoiser is asked at fixed noisy points, as one number for each held-out point.

Retraining and attribution must speak of the same number. Held-out points x are given the same noise once and for all,
at R noise levels each, and the question is linear or quadratic in what the network gives there:

.. math:: f_q = -\frac1R \sum_r \frac1d |o_{qr} - (x_q - a y_{qr}) / b|^2 \quad\text{or}\quad
          f_q = \frac1R \sum_r \langle D(y_{qr}, \sigma_r), u_{qr} \rangle .
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_seed
from ..denoising.denoiser import Denoiser, along
from ..denoising.noise import NoiseLaw

__all__ = ["Question", "ask"]

#: What may be asked: less loss is more, so that both grow with what helps.
QUESTIONS = ("loss", "output")


@dataclass(frozen=True, eq=False)
class Question:
    """One number for each of q points.

    Attributes:
        kind: ``"loss"``, the negative denoising loss, or ``"output"``, the denoised point along a direction.
        x: The clean points, with shape (q, d).
        y: Their noisy points, with shape (q R, d), the R of one point after each other.
        sigma: The noise levels, with shape (q R,).
        goals: The regression targets, or the directions times b / R, with shape (q R, d).
        offset: What is added to each number, with shape (q,).
    """

    kind: str
    x: Tensor
    y: Tensor
    sigma: Tensor
    goals: Tensor
    offset: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def term(self, outputs: Tensor, goals: Tensor) -> Tensor:
        """What a noisy point adds to its number, from outputs and goals with shape (..., d), with shape (...)."""
        if self.kind == "loss":
            return -(outputs - goals).square().mean(-1) / (len(self.y) // len(self))
        return (outputs * goals).sum(-1)

    def __call__(self, outputs: Tensor) -> Tensor:
        """The numbers, from the outputs at all noisy points with shape (..., q R, d), with shape (..., q)."""
        return self.term(outputs, self.goals).unflatten(-1, (len(self), -1)).sum(-1) + self.offset


def ask(denoiser: Denoiser, x: Tensor, kind: str = "loss", *, levels: int = 8, law: NoiseLaw | None = None,
        seed: int = 0) -> Question:
    """Asks for the loss at held-out points, or for the denoised points along the network's own corrections.

    Args:
        denoiser: The network whose corrections D - y give the directions, and whose coefficients are used.
        x: The points, with shape (q, d).
        kind: ``"loss"`` or ``"output"``.
        levels: At how many noise levels: the middles of bins of equal mass.
        law: The law of training noise.
        seed: The seed of the noise.

    Example:
        >>> from kernelscope.generative.networks import NoiseMLP
        >>> denoiser = Denoiser(NoiseMLP(2, width=4), 1.0)
        >>> question = ask(denoiser, torch.zeros(3, 2), levels=4)
        >>> question(denoiser(question.y, question.sigma)).shape
        torch.Size([3])
    """
    kind = as_choice(kind, "kind", QUESTIONS)
    count, law = as_count(levels, "levels", 1), law or NoiseLaw()
    # The edges of twice as many bins, every other one: the middles of the bins.
    sigma = torch.tensor(law.edges(2 * count)[::2]).to(x).repeat(len(x))
    noise = torch.randn(len(sigma), x.shape[1], generator=torch.Generator().manual_seed(as_seed(seed))).to(x)
    clean = x.repeat_interleave(count, 0)
    y = clean + along(sigma, clean) * noise
    if kind == "loss":
        return Question(kind, x, y, sigma, denoiser.target(clean, y, sigma), x.new_zeros(len(x)))
    with torch.no_grad():
        u = denoiser.denoised(y, sigma) - y
    u = u / u.norm(dim=1, keepdim=True)
    a, b = denoiser.coefficients(sigma)
    offset = (a * (y * u).sum(1)).view(len(x), count).mean(1)
    return Question(kind, x, y, sigma, along(b, u) * u / count, offset)
