r"""How a small push at a step arrives at the end of the run.

The derivative of the final output by a push of the gradient at step s goes backward through the steps as they were
made, :math:`\theta_{k+1} = \theta_k - A_k(c_k d_k + e_k m_k) - w_k\theta_k` with the gradient's own change
:math:`\hat H_k` in it: from the adjoint P of :math:`\theta_{k+1}` and R of :math:`m_k`,

.. math:: R &\leftarrow R + e A P, \qquad D = c A P + b B R, \\
          P &\leftarrow (1 - w) P - \lambda D - \hat H D, \qquad R \leftarrow a R .

A push :math:`\xi` of the gradient moves the final output by :math:`-\langle D, \xi\rangle`. Without :math:`\hat H`
these are the adjoints of the accounting. Preconditioners and clip factors are those recorded.
"""

from __future__ import annotations

from torch import Tensor

from ...network import Parameters
from ...run.step import Step
from ..training_side import TrainingSide
from .mean_path import MeanStep


class Carried:
    """Rows of adjoints, from gradients of the final outputs."""

    def __init__(self, final: Parameters, training: TrainingSide):
        self._at, self._training = final, training
        self._momentum: dict[tuple[int, str], Tensor] = {}

    def back(self, k: int, recorded: Step, step: MeanStep) -> Parameters:
        """D of step k, for each parameter that it moved; goes back through the step."""
        unrolled, directions, after = step.unrolled, {}, dict(self._at)
        for name, rule in unrolled.linear.items():
            key, p = unrolled.keys[name], self._at[name]
            pushed = p if rule.after is None else rule.after(p)
            heavy = self._momentum.get(key, 0.0) + rule.e * pushed
            side = heavy if rule.before is None else rule.before(heavy)
            own = rule.c * pushed + rule.b * side
            self._momentum[key] = rule.a * heavy
            after[name] = p * (1 - rule.decoupled) - rule.coupled * own
            if name in step.gradient:
                directions[name] = own * (rule.sign * step.factor[name])
        if directions:
            total = sum(len(batch.columns) for batch in recorded.batches)
            for j, batch in enumerate(recorded.batches):
                share = unrolled.weights[j] / sum(unrolled.weights) if sum(unrolled.weights) else (
                    len(batch.columns) / total)
                bent = self._training.bent(batch, k, step.theta, directions)
                for name, rows in bent.items():
                    after[name] = after[name] - share * rows
        self._at = after
        return directions
