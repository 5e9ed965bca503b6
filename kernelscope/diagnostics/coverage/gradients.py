r"""The features of which a query's coverage is taken, and their products with those of training.

A feature is the gradient of one number of the outputs: of a query the logit of the class predicted for it at the end
of the run, of a training sample that of its own class; of networks without classes, and on request, those of all
outputs beside each other (their products add up to the trace). The kernel is

- ``"tangent"``: :math:`\langle\phi(x), \phi(z)\rangle` at the end of the run;
- ``"path"``: :math:`\sum_t w_t\,\langle\phi_t(x), \phi_t(z)\rangle` at some times of the run, by the trapezoid rule
  over the time of the run, the sum of its learning rates: the path kernel, of features :math:`\sqrt{w_t}\,\phi_t`
  beside each other;
- ``"last layer"``: that of the parameters of the last layer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...decomposition.stochastic.places import rates
from ...features.gradient import GradientFeatures
from ...run.run import Run
from ..states import gradients_of, states

#: The names of kernels and of features.
KERNELS = ("tangent", "path", "last layer")
FEATURES = ("predicted", "centred", "trace")

#: How many times of a run a path kernel is summed over unless more are asked for.
TIMES = 16


@dataclass(frozen=True, eq=False)
class Side:
    """Points, and the class whose logit is taken of each; ``None`` where all outputs are."""

    inputs: tuple[Tensor, ...]
    classes: Tensor | None

    def points(self) -> tuple[Tensor, ...]:
        """What gradient features are asked for."""
        return self.inputs if self.classes is None else (*self.inputs, self.classes)


@dataclass(frozen=True, eq=False)
class Products:
    """Products of features, of some parameters.

    Attributes:
        matrix: K, with shape (n, n).
        rows: k_x, with shape (q, n).
        diagonal: k(x, x), with shape (q,).
    """

    matrix: Tensor
    rows: Tensor
    diagonal: Tensor

    def __add__(self, other: Products) -> Products:
        return Products(self.matrix + other.matrix, self.rows + other.rows, self.diagonal + other.diagonal)

    def times(self, weight: float) -> Products:
        """All of them times a number."""
        return Products(weight * self.matrix, weight * self.rows, weight * self.diagonal)


def picked(feature: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The number of each sample's outputs that is differentiated, given its class."""
    def own(outputs: Tensor, classes: Tensor) -> Tensor:
        rows = outputs.reshape(len(outputs), -1)
        logit = rows.gather(1, classes[:, None]).squeeze(1)
        return logit - rows.mean(1) if feature == "centred" else logit

    return own


def features_of(run: Run, classes: bool, feature: str, names: list[str] | None, **options: Any) -> GradientFeatures:
    """The gradient features, of the own logit or of all outputs, by some of the parameters that the run trained."""
    if not classes:
        return gradients_of(run, names, **options)
    return gradients_of(run, names, loss=picked(feature), **options)


def layers_of(names: list[str]) -> dict[str, list[str]]:
    """The parameters of each module, by its name."""
    layers: dict[str, list[str]] = {}
    for name in names:
        path = name.split(".")
        # What is parametrised belongs to the module that uses it.
        end = path.index("parametrizations") if "parametrizations" in path else -1
        layers.setdefault(".".join(path[:end]), []).append(name)
    return layers


def weights_of(run: Run, times: list[int]) -> list[dict[str, float]]:
    r"""The weight of each parameter's products at each time: the trapezoid rule over the time of the run.

    Of all times it is that of ``ks.path_kernel(..., quadrature="trapezoid")``. A parameter counts at the steps that
    moved it, with the learning rate of its group.

    Raises:
        RuleError: If an optimizer has no learning rate.
    """
    clocks = {name: [0.0] for name in run.names}
    for k in range(run.start, run.stop):
        own = rates(run.step(k))
        for name, clock in clocks.items():
            clock.append(clock[-1] + own.get(name, 0.0))
    last = len(times) - 1
    return [{name: (clock[times[min(i + 1, last)]] - clock[times[max(i - 1, 0)]]) / 2
             for name, clock in clocks.items()} for i in range(len(times))]


def products(features: GradientFeatures, run: Run, times: list[int], weights: list[dict[str, float]] | None,
             samples: Side, queries: Side, layers: dict[str, list[str]],
             done: Callable[[int], object]) -> dict[str, Products]:
    """The products by each group of parameters, summed over times.

    Args:
        features: The gradients, at any parameters.
        run: The run.
        times: At which of its times.
        weights: The weight of each parameter at each of them; 1 if not given.
        samples: The training samples.
        queries: The queries.
        layers: The names of parameters of each group.
        done: Is told of each time.
    """
    total: dict[str, Products] = {}
    for place, (_, state) in enumerate(states(run, times)):
        at = features.at(state)
        own = {name: 1.0 if weights is None else weights[place][name] for names in layers.values() for name in names}
        # Parameters of a layer that count alike are taken together.
        groups = {(layer, weight): tuple(name for name in names if own[name] == weight)
                  for layer, names in layers.items() for weight in sorted({own[name] for name in names}) if weight}
        for key, found in _by(at, groups, samples, queries):
            term = found.times(key[1])
            total[key[0]] = total[key[0]] + term if key[0] in total else term
        done(1)
    return total


def _by(features: GradientFeatures, groups: dict[tuple[str, float], tuple[str, ...]], samples: Side,
        queries: Side) -> Iterator[tuple[tuple[str, float], Products]]:
    named = {str(i): names for i, names in enumerate(groups.values())}
    x, z = features.points(queries.points()), features.points(samples.points())
    matrices, rows = features.inner_by(named, z), features.inner_by(named, x, z)
    diagonals = features.squares_by(named, x)
    for i, key in enumerate(groups):
        yield key, Products(*(part[str(i)].double().cpu() for part in (matrices, rows, diagonals)))
