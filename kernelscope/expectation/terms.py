r"""The terms of the expected output at one place of a run.

With gradients :math:`g_i` of the samples' losses, their mean g and covariance :math:`\Sigma = \frac1n \sum_i (g_i - g)
(g_i - g)^T`, a step of SGD with learning rate :math:`\eta` on a batch of B samples that are drawn with replacement
moves an output on average by

.. math:: -\eta \langle\phi, g\rangle + \frac{\eta^2}{2}\, g^T H g + \frac{\eta^2}{2B}\, \mathrm{tr}(H \Sigma)

up to terms in :math:`\eta^3`: what the path does, what its curvature does, and what the noise does. Both corrections
fold into one kernel between an output and a sample, which is the stochastic gradient kernel here,

.. math:: K_2(x, x_i) = \langle\phi, \phi_i\rangle - \frac\eta2 \Big[\big(1 - \tfrac1B\big)\, \phi_i^T H g + \tfrac1B\,
          \ell'_i\, \phi_i^T H \phi_i\Big],

so that the same is :math:`-\frac\eta n \sum_i \ell'_i K_2(x, x_i)`. The mathematics is of the same kind as arXiv
2603.13872 and no reproduction of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .derivatives import Outputs, Tree, along_each, bend, bend_each, mean


@dataclass(frozen=True, eq=False)
class Rows:
    r"""What each sample adds at one place, before learning rates; axes are samples, then those of the outputs.

    Attributes:
        first: :math:`\langle\phi, g_i\rangle`.
        mixed: :math:`g_i^T H g`.
        own: :math:`g_i^T H g_i`.
        curvature: :math:`g^T H g`, without the axis of samples.
    """

    first: Tensor
    mixed: Tensor
    own: Tensor
    curvature: Tensor

    @property
    def trace(self) -> Tensor:
        r""":math:`\mathrm{tr}(H \Sigma)`, exact."""
        return self.own.mean(0) - self.curvature

    @property
    def variance(self) -> Tensor:
        r""":math:`\phi^T \Sigma \phi`: the variance of the row of first-order shares."""
        return self.first.var(0, correction=0)

    def kernel(self, eta: float, batch: int) -> Tensor:
        r""":math:`\ell'_i K_2(x, x_i)` for each sample."""
        return self.first - (eta / 2) * ((1 - 1 / batch) * self.mixed + self.own / batch)


def rows(f: Outputs, theta: Tree, gradients: Tree, chunk: int | None = None) -> Rows:
    """What each sample adds to each output at a place.

    Args:
        f: From parameters to outputs.
        theta: The place.
        gradients: The gradient of each sample's loss there, samples in the first axis.
        chunk: How many samples are taken at once; ``None`` for all.
    """
    g = mean(gradients)
    return Rows(along_each(f, theta, gradients, chunk), bend_each(f, theta, gradients, g, chunk),
                bend_each(f, theta, gradients, None, chunk), bend(f, theta, g, g))
