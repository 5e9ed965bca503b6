r"""With which weight the gradient of a step enters what comes after it, for rules whose coefficients are numbers.

Step k displaces the parameters by :math:`D_k = -\sum_{s\le k} M_{k,s}\hat g_s`. The noise of step s enters the final
displacement with

.. math:: W_s = \sum_{k\ge s} M_{k,s}, \qquad\text{and}\qquad W_{r\to s} = \sum_{r\le j<s} M_{j,r}

is the weight with which that of step r has entered when step s begins. With the coefficients of a rule,
:math:`m_k = a_k m_{k-1} + b_k \hat g_k` and :math:`D_k = -(c_k \hat g_k + e_k m_k)`, both follow from one recursion.

Example:
    >>> ball = [{"w": Linear(a=0.5, b=1.0, e=0.1)}] * 3
    >>> [round(weights.final["w"], 3) for weights in noise_weights(ball, [True, False, False])]
    [0.175, 0.15, 0.1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...run.rules import Linear

#: A number for each parameter.
Numbers = dict[str, float]


@dataclass(frozen=True)
class NoiseWeights:
    """The weights of one step's noise, for each parameter.

    Attributes:
        final: W, with which it enters the final displacement.
        earlier: The sum of W over the earlier steps of its epoch.
        entered: The sum of the weights with which those have entered as this step begins.
    """

    final: Numbers
    earlier: Numbers
    entered: Numbers


def noise_weights(forms: Sequence[dict[str, Linear]], starts_epoch: Sequence[bool]) -> list[NoiseWeights]:
    """The weights of each step's noise.

    Args:
        forms: The coefficients of each step, for each parameter that moves at it.
        starts_epoch: Whether each step is the first of an epoch.
    """
    names = list(dict.fromkeys(name for form in forms for name in form))
    final = _final(forms, names)
    earlier, in_momentum, entered = (dict.fromkeys(names, 0.0) for _ in range(3))
    weights = []
    for k, step in enumerate(forms):
        if starts_epoch[k]:
            earlier, in_momentum, entered = (dict.fromkeys(names, 0.0) for _ in range(3))
        weights.append(NoiseWeights(final[k], dict(earlier), dict(entered)))
        for name, form in step.items():
            earlier[name] += final[k][name]
            in_momentum[name] = form.a * in_momentum[name] + form.sign * form.b
            entered[name] += form.sign * form.c + form.e * in_momentum[name]
    return weights


def _final(forms: Sequence[dict[str, Linear]], names: list[str]) -> list[Numbers]:
    """W for each step, going backward: a momentum enters by what it moves at once, and by what is left of it."""
    momentum = dict.fromkeys(names, 0.0)
    weights: list[Numbers] = []
    for step in reversed(forms):
        found = dict.fromkeys(names, 0.0)
        for name, form in step.items():
            reach = form.e + momentum[name]
            found[name] = float(form.sign * (form.c + form.b * reach))
            momentum[name] = float(form.a * reach)
        weights.append(found)
    return weights[::-1]
