r"""One solver begins, conjugate gradients finish.

With many more points than centers the first passes of stochastic steps bring a machine further than as many passes of
conjugate gradients, and the last ones less far. So a few epochs of EigenPro make the start, from which conjugate
gradients go on to the optimum.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..arguments import what_came
from ..errors import DataError
from .base import Cost, Solver
from .conjugate_gradient import ConjugateGradient
from .eigenpro import EigenPro
from .problem import Problem
from .solution import Solution
from .watch import State, Watch

#: What the tensors of the solver that begins are named by in a state.
FIRST = "first."


class WarmStart(Solver):
    """Begins with one solver and finishes with conjugate gradients.

    Args:
        first: The solver that begins; one epoch of EigenPro if not given.
        then: The conjugate gradients that finish; with the two-level preconditioner if not given.

    Example:
        >>> from kernelscope.solvers import WarmStart
        >>> WarmStart()
        WarmStart(EigenPro(), then ConjugateGradient('two-level', rank=100))
    """

    def __init__(self, first: Solver | None = None, then: ConjugateGradient | None = None):
        for name, value, kind in (("first", first, Solver), ("then", then, ConjugateGradient)):
            if value is not None and not isinstance(value, kind):
                raise DataError(f"{name} must be a {kind.__name__} of ks.solvers; {what_came(value)} came. Leave it "
                                "out for the usual one.")
        self.first = EigenPro(epochs=1) if first is None else first
        self.then = ConjugateGradient("two-level") if then is None else then

    def __repr__(self) -> str:
        return f"WarmStart({self.first!r}, then {self.then!r})"

    def cost(self, problem: Problem) -> Cost:
        one, other = self.first.cost(problem), self.then.cost(problem)
        # What it begins with has to be done in part only, and what is left is less.
        return Cost((one.operations + other.operations) / 2, max(one.memory, other.memory),
                    (one.passes + other.passes) / 2)

    def solve(self, problem: Problem, watch: Watch | None = None) -> Solution:
        watch = Watch() if watch is None else watch
        kept = watch.kept
        begins = kept is None or any(name.startswith(FIRST) for name in kept)
        if begins:
            early = _Relay(watch, kept, FIRST)
            found = self.first.solve(problem, early)
            if early.stopped:
                return found
            start, passes = found.coefficients, found.passes
        else:
            assert kept is not None
            start, passes = kept["begun"], float(kept["passes"])
        late = _Relay(watch, None if begins else kept, "", {"begun": start, "passes": torch.tensor(passes)}, passes)
        finished = self.then.solve(problem, late, start=start)
        return replace(finished, passes=finished.passes + passes)


class _Relay(Watch):
    """Hears one of the two, and tells the watch of both."""

    def __init__(self, watch: Watch, kept: dict[str, Tensor] | None, prefix: str,
                 more: dict[str, Tensor] | None = None, passes: float = 0.0):
        self._watch, self._prefix, self._more, self._passes = watch, prefix, more or {}, passes
        self.kept = None if kept is None else {
            name.removeprefix(prefix): t for name, t in kept.items() if name not in self._more}
        self.stopped = False

    def heard(self, state: State) -> bool:
        tensors = lambda: {self._prefix + name: t for name, t in state.tensors().items()} | self._more
        self.stopped = self._watch.heard(replace(state, passes=state.passes + self._passes, tensors=tensors))
        return self.stopped
