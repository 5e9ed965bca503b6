r"""Scores by products of gradients, as baselines: at the end of training, and at several checkpoints (TracInCP).

.. math:: s_{qi} = -\sum_k \eta_k\, \langle\nabla f_q(\theta_k), \nabla\ell_i(\theta_k)\rangle

what steps on sample i alone, of size :math:`\eta_k`, would add to the output q to first order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...decomposition.training_side import rows_of
from ...result import as_float64
from .retraining import Asking, Retraining

__all__ = ["checkpoints_of", "gradient_products"]


def checkpoints_of(steps: int, count: int) -> list[int]:
    """Steps at even distances, the last one the end of training.

    Example:
        >>> checkpoints_of(150, 3)
        [50, 100, 150]
    """
    count = min(count, steps)
    return [round((i + 1) * steps / count) for i in range(count)]


def gradient_products(setting: Retraining, asking: Asking, at: list[int]) -> Tensor:
    """The scores by products of gradients at the start of some steps, weighted by the rates there.

    Args:
        setting: The network and its loss.
        asking: The queries.
        at: The steps; the number of steps is the end of training.

    Returns:
        With shape (q, c, n), in float64.
    """
    gradients, recipe = setting.recipe.gradients, setting.recipe
    total = torch.zeros(len(asking.side) * len(asking.names), len(setting.population), dtype=torch.float64)
    everything = torch.arange(len(setting.population))
    for k in at:
        held = setting.run.parameters(k)
        theta = {name: held[name].to(start) for name, start in recipe.start.items()}
        rows = dict(zip(asking.side.names, asking.side.gradients({**gradients.surroundings, **theta}, asking.buffers),
                        strict=True))
        rates = recipe.numbers[max(k - 1, 0)]
        for part in everything.split(setting.together):
            each = gradients.each(theta, *setting.population.rows(part))
            total[:, part] -= as_float64(torch.stack([
                float(rates[name]["lr"]) * (rows_of(rows[name]) @ rows_of(each[name]).T)
                for name in theta if name in rates]).sum(0))
    return total.unflatten(0, (len(asking.side), -1))
