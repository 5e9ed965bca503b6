r"""Many networks trained at once: the same rule, other batches, and if asked for other starts.

The S networks have one tensor with shape :math:`(S, *)` for each parameter. A step is one vectorised gradient and one
step of the rule, entry by entry; what S networks take together is little more than what the arithmetic takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from ...run.rules import Linear
from .derivatives import Tree
from .population import Population
from .recipe import Recipe

#: What is told before each step: its number, the stacked parameters, and the gradients of their batches.
Watch = Callable[[int, Tree, Tree], None]


def train(recipe: Recipe, population: Population, batches: Iterable[Tensor], watch: Watch | None = None,
          start: Tree | None = None) -> Tree:
    """Trains as many networks as there are rows in the batches.

    Args:
        recipe: How they are trained.
        population: The samples.
        batches: For each step the samples of each network's batch, with shape (S, B).
        watch: Told before each step.
        start: The initial parameters of each network, with shape (S, *); without it all begin as the run did.

    Returns:
        The final parameters that moved, each with shape (S, *).
    """
    stack: Stack | None = None
    last: Tensor | None = None
    for k, rows in enumerate(batches):
        if stack is None:
            stack = Stack(recipe, len(rows), start)
        if rows is not last:
            # Batches that stay the same are gathered once.
            last, given = rows, population.rows(rows)
        gradient = recipe.gradients(stack.theta, *given)
        if watch is not None:
            watch(k, stack.theta, gradient)
        stack.step(k, gradient)
    assert stack is not None
    return stack.theta


class Stack:
    """S networks on their way."""

    def __init__(self, recipe: Recipe, seeds: int, start: Tree | None = None):
        self.recipe = recipe
        if start is None:
            start = {name: t.expand(seeds, *t.shape) for name, t in recipe.start.items()}
        self.theta: Tree = {name: t.clone() for name, t in start.items()}
        self._momentum: dict[str, Tensor | None] = {}
        self._states: dict[str, dict[str, Tensor]] = {}
        self._ages: dict[str, int] = {}

    def step(self, k: int, gradient: Tree) -> None:
        """One step of the rule; the gradients may be used up by it."""
        rule = self.recipe.rule
        for name, hyper in self.recipe.numbers[k].items():
            theta, g, momentum = self.theta[name], gradient[name], self._momentum.get(name)
            self._ages[name] = self._ages.get(name, 0) + 1
            if name not in self._states:
                self._states[name] = rule.initial(hyper, theta)
            form = rule.linear(hyper, self._ages[name], theta, g, momentum, self._states[name])
            self._momentum[name] = move(form, theta, g, momentum)


def move(form: Linear, theta: Tensor, gradient: Tensor, momentum: Tensor | None) -> Tensor | None:
    """Moves theta, and the momentum with it, by a step of the rule; in place, where the coefficients are numbers."""
    if form.before is not None or form.after is not None:
        step, momentum = form.displacement(theta, gradient, momentum)
        theta.add_(step)
        return momentum
    d = form.direction(theta, gradient)
    if form.decoupled != 0.0:
        theta.mul_(1 - float(form.decoupled))
    if form.c != 0.0:
        theta.add_(d, alpha=-float(form.c))
    if form.a != 0.0 or form.b != 0.0:
        momentum = d * float(form.b) if momentum is None else momentum.mul_(float(form.a)).add_(d, alpha=float(form.b))
        theta.add_(momentum, alpha=-float(form.e))
    return momentum
