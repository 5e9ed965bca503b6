r"""The derivative of one update, through everything that the optimizer does.

A rule takes :math:`(\theta, g, m, s)`, parameters, gradient, momentum and the states behind its preconditioners, to
:math:`(\theta', m', s')`. The contribution of a sample takes the preconditioners as recorded; its influence does not:
here all of it is differentiated, by automatic differentiation of the rule itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import vjp, vmap

from ...network import Parameters
from ...run.rules import Rule
from ..unrolling import Before, Key, UnrolledStep


@dataclass
class Cotangents:
    """Rows of derivatives of what is explained by all that training holds before a step.

    Attributes:
        parameters: By the parameters, each with shape (R, *).
        momentum: By the momentum, where a later step reads it.
        moments: By the states behind the preconditioners.
    """

    parameters: Parameters
    momentum: dict[Key, Tensor] = field(default_factory=dict)
    moments: dict[Key, dict[str, Tensor]] = field(default_factory=dict)

    def back(self, rule: Rule, theta: Parameters, unrolled: UnrolledStep) -> Parameters:
        """Goes back through an update from ``theta``; returns the derivatives by the gradients it used."""
        gradients: Parameters = {}
        for name, before in unrolled.before.items():
            key = unrolled.keys[name]
            momentum, moments = self.momentum.pop(key, None), self.moments.pop(key, {})
            rows = self.parameters[name]
            by_theta, gradients[name], by_momentum, by_moments = pulled(rule, before, theta[name], rows, momentum,
                                                                       moments)
            self.parameters[name] = rows + by_theta
            if name in unrolled.fresh:
                # Nothing recorded lies behind the states that this step found.
                continue
            if by_momentum is not None:
                self.momentum[key] = by_momentum
            if by_moments:
                self.moments[key] = by_moments
        return gradients


def pulled(rule: Rule, before: Before, theta: Tensor, rows: Tensor, momentum: Tensor | None,
           moments: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Tensor]]:
    """The derivatives by parameter, gradient, momentum and states before an update, from those after it.

    Args:
        rule: The rule.
        before: What it found.
        theta: The parameter before the update.
        rows: The derivatives by the update, with shape (R, *).
        momentum: Those by the momentum after it, ``None`` if nothing reads it.
        moments: Those by the states after it.
    """
    states = {name: value for name, value in before.moments.items() if name in rule.moments}
    fixed = {name: value for name, value in before.moments.items() if name not in states}
    given = {"theta": theta, "gradient": before.gradient, **({} if before.momentum is None else
                                                            {"momentum": before.momentum})}

    def update(values: dict[str, Tensor], held: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        state = {**held, **fixed}
        linear = rule.linear(before.hyper, before.age, values["theta"], values["gradient"], values.get("momentum"),
                             state)
        moved, after = linear.displacement(values["theta"], values["gradient"], values.get("momentum"))
        return ({"moved": moved} if after is None else {"moved": moved, "momentum": after},
                {name: state[name] for name in states})

    outputs, back = vjp(update, given, states)[:2]
    nought = lambda t: t.new_zeros((1,) * (t.ndim + 1)).expand(len(rows), *t.shape)
    asked = {"moved": rows}
    if "momentum" in outputs[0]:
        asked["momentum"] = nought(theta) if momentum is None else momentum
    found, through = vmap(back)((asked, {name: moments.get(name, nought(value)) for name, value in states.items()}))
    return found["theta"], found["gradient"], found.get("momentum"), through


def scale(rows: Parameters) -> float:
    """The largest norm of a row over all parameters."""
    squares = torch.stack([part.double().reshape(len(part), -1).square().sum(1) for part in rows.values()]).sum(0)
    return float(squares.max()) ** 0.5 if squares.numel() else 0.0
