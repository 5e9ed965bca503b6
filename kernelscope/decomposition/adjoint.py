r"""The adjoint of an update rule: from query gradients to the directions that the samples' gradients meet.

At step s, with :math:`p_s` a query gradient and the coefficients of the rule,

.. math:: M_s = e_s A_s^T p_s + a_{s+1} M_{s+1}, \qquad \psi_s = c_s A_s^T p_s + b_s B_s^T M_s .
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .unrolling import Key, OptimizerState, UnrolledStep

#: What meets the momentum that a step found and no recorded step left: the adjoint, and that momentum.
Found = Callable[[Tensor, Tensor], None]


class Adjoint:
    """Rows of adjoints on their way back through a run, by optimizer and parameter."""

    def __init__(self) -> None:
        self._momentum: dict[Key, Tensor] = {}  # M of the later step
        self._factor: dict[Key, float] = {}  # a of the later step, which M still has to be multiplied by

    def direction(self, name: str, p: Tensor, unrolled: UnrolledStep, found: Found | None = None) -> Tensor:
        r""":math:`\psi` of one parameter, before clipping; ``p`` is left as it is."""
        rule = unrolled.linear[name]
        q = p if rule.after is None else rule.after(p)
        psi: Tensor | None = q * rule.c if rule.c else None
        if rule.a or rule.b:
            key = unrolled.keys[name]
            later = self._momentum.pop(key, None)
            momentum = q * rule.e if later is None else later.mul_(self._factor[key]).add_(q, alpha=rule.e)
            side = momentum if rule.before is None else rule.before(momentum)
            psi = (side if rule.b == 1.0 else side * rule.b) if psi is None else psi.add_(side, alpha=rule.b)
            if name in unrolled.fresh:
                # Nothing recorded lies behind the momentum that this step found.
                start = unrolled.fresh[name]
                if start is not None and found is not None:
                    found(-rule.a * momentum, start)
            else:
                self._momentum[key], self._factor[key] = momentum, rule.a
        return torch.zeros_like(p) if psi is None else psi

    def along(self, name: str, p: Tensor, unrolled: UnrolledStep,
              found: Found | None = None) -> tuple[Tensor, Tensor | None]:
        r"""The directions :math:`A p` and :math:`B N` of a chord, which the weights of its visits meet."""
        assert unrolled.chord is not None
        memory = unrolled.chord.memories[name]
        rule, key = memory.linear, unrolled.keys[name]
        q = p if rule.after is None else rule.after(p)
        if not memory.remembers:
            return q, None
        before = rule.before or (lambda rows: rows)
        later = self._momentum.pop(key, None)
        incoming = None if later is None else later * self._factor[key]
        kept = q * memory.gain if incoming is None else (q * memory.gain).add_(incoming, alpha=memory.carry)
        if name in unrolled.fresh:
            start = unrolled.fresh[name]
            if start is not None and found is not None:
                found(-rule.a * kept, start)
        else:
            self._momentum[key], self._factor[key] = kept, rule.a
        return before(q), None if incoming is None else before(incoming)

    def cross(self, ends: OptimizerState, begins: OptimizerState, found: Found) -> None:
        """Goes from a stretch that begins at stored states to the one before it, which ends at its own.

        What was stored beside what was left there is met by the adjoint; it goes on with what was left.
        """
        adjoints, factors = self._momentum, self._factor
        self._momentum, self._factor = {}, {}
        for key, adjoint in adjoints.items():
            # An optimizer may have gone on, within the stretch, from the states of an earlier one.
            before = ends.heir.get(key, key)
            stored, left = begins.momentum.get(key), ends.momentum.get(before)
            if stored is not None:
                found(-factors[key] * adjoint, stored if left is None else stored - left)
            self._momentum[before], self._factor[before] = adjoint, factors[key]

    def left(self, momentum: dict[Key, Tensor], found: Found) -> None:
        """Meets the momentum there was before the first step."""
        for key, adjoint in self._momentum.items():
            if key in momentum:
                found(-self._factor[key] * adjoint, momentum[key])
