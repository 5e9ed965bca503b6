r"""The kernels of a recorded run as kernels: functions of two points that are multiplied without being stored.

The run column and the kernel column meet here. The step kernel is a kernel of two feature maps,
:math:`\langle\bar\phi_k(x), \phi_k(z)\rangle`, the gradients averaged along the step and those at its start; the path
kernel is a sum of tangent kernels, :math:`\sum_k \langle\sqrt{\eta_k}\,\phi_k(x), \sqrt{\eta_k}\,\phi_k(z)\rangle`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_choice, as_place
from ..data.points import Points
from ..decomposition.quadrature import Quadrature
from ..decomposition.questions import checked_run
from ..decomposition.stochastic.places import rates
from ..errors import DataError
from ..features.base import FeatureMap
from ..features.composed import Preconditioned
from ..features.gradient import GradientFeatures
from ..kernels.base import Kernel
from ..kernels.of_features import FeatureKernel
from ..run.run import Run
from .states import gradients_of, state

#: How many steps are held at a time.
HELD = 32


def kernel_of_run(run: Run, kind: str = "path", *, step: int | None = None, quadrature: str = "gauss5",
                  outputs: str = "trace", **options: Any) -> Kernel:
    r"""The path kernel of a run, or the step kernel of one of its steps, as a kernel.

    .. math:: K(x, z) = \sum_k \eta_k\,\langle\phi_k(x), \phi_k(z)\rangle \qquad\text{or}\qquad
              \bar K_k(x, z) = \Big\langle\int_0^1 \nabla f(x; \theta_k + sD_k)\,ds,\ \phi_k(z)\Big\rangle

    Its values are those of :func:`path_kernel`, and a :class:`KernelOperator` multiplies by it without a matrix. Each
    product goes through all steps of the run.

    Args:
        run: The recorded run, or a slice of it.
        kind: ``"path"`` or ``"step"``.
        step: The step, of a step kernel.
        quadrature: ``"gaussM"``, ``"midpoint"`` or ``"left"``, of a step kernel.
        outputs: ``"trace"`` sums over outputs, ``"full"`` keeps pairs of them apart.
        options: Those of the gradient features: ``output``, ``dtype``, ``device``, ``memory``.

    Raises:
        DataError: If there is no such kind or step.

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> model, x, y = torch.nn.Linear(2, 1, bias=False), torch.eye(2), torch.ones(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> ks.KernelOperator(ks.kernel_of_run(recording.run), x) @ torch.ones(2)
        tensor([1., 1.])
    """
    run = checked_run(run)
    as_choice(kind, "kind", ("path", "step"))
    if not len(run) or (kind == "step") != (step is not None):
        raise DataError('A run of at least one step was needed, and step= where kind="step", and only there. Pass '
                        'kind="step", step=0, or a slice of the run with kind="path".')
    if kind == "path":
        if quadrature != "gauss5":
            raise DataError(f"A path kernel is summed over steps and takes no quadrature; {quadrature!r} came. Leave "
                            'it out, or pass kind="step".')
        return _PathKernel(run, outputs, options)
    k = run.start + as_place(step, "step", len(run), "steps")
    rule = Quadrature.parse(quadrature)
    if rule.corrected:
        raise DataError('A step kernel is averaged at nodes, which "gonzalez" corrects for a change of outputs. Pass '
                        'quadrature="gauss5".')
    features = _features(run, k, options)
    here, there = map(run.named, run.trajectory(k, k + 1))
    between = [{name: here[name] + node * (there[name] - here[name]) for name in here} for node in rule.nodes]
    averaged = _Averaged([(weight, features.at(state(run, k, place)))
                          for weight, place in zip(rule.weights, between, strict=True)])
    return FeatureKernel(averaged, features.at(state(run, k, here)), outputs)


def _features(run: Run, k: int, options: dict[str, Any]) -> GradientFeatures:
    """The gradients by the parameters that step k moves."""
    moved = rates(run.step(k))
    return gradients_of(run, [name for name in run.names if name in moved], **options)


class _Averaged(FeatureMap):
    r"""A mean of feature maps, :math:`\sum_j w_j \phi_j(x)`."""

    def __init__(self, parts: list[tuple[float, GradientFeatures]]):
        self._parts, (_, self._one) = parts, parts[0]
        self.size, self.memory = self._one.size, self._one.memory

    def points(self, x: Any) -> Points:
        return self._one.points(x)

    def columns_of(self, x: Any) -> int | None:
        return self._one.columns_of(x)

    def phi(self, x: Any) -> Tensor:
        return self._sum("phi", x)

    def push(self, x: Any, u: Tensor) -> Tensor:
        return self._sum("push", x, u)

    def pull(self, x: Any, v: Tensor) -> Tensor:
        return self._sum("pull", x, v)

    def _sum(self, what: str, *given: Any) -> Tensor:
        weight, first = self._parts[0]
        total = weight * getattr(first, what)(*given)
        for weight, part in self._parts[1:]:
            total += weight * getattr(part, what)(*given)
        return total


class _PathKernel(Kernel):
    """The sum of the tangent kernels of a run, one step after the other."""

    def __init__(self, run: Run, outputs: str, options: dict[str, Any]):
        self.run, self.outputs, self.options = run, outputs, options
        self._one = next(self._terms())

    def __repr__(self) -> str:
        return f"PathKernel({self.run!r}, outputs={self.outputs!r})"

    def points(self, x: Any) -> Points:
        return self._one.points(x)

    def columns_of(self, x: Any) -> int | None:
        return self._one.columns_of(x)

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        near = self.points(x)
        far = None if z is None else self.points(z)
        return _total(term(near, far) for term in self._terms())

    def matmul(self, x: Any, z: Any, v: Tensor) -> Tensor:
        near = self.points(x)
        far = None if z is None else self.points(z)
        return _total(term.matmul(near, far, v) for term in self._terms())

    def diagonal(self, x: Any) -> Tensor:
        points = self.points(x)
        return _total(term.diagonal(points) for term in self._terms())

    def _terms(self) -> Iterator[FeatureKernel]:
        run = self.run
        for first in range(run.start, run.stop, HELD):
            rows = run.trajectory(first, min(first + HELD, run.stop) - 1)
            for k, row in enumerate(rows, first):
                features = _features(run, k, self.options).at(state(run, k, run.named(row)))
                weights = rates(run.step(k))
                scale = torch.cat([torch.full((shape.numel(),), weights[name] ** 0.5, dtype=torch.float64)
                                   for name, shape in zip(features.names, features.shapes, strict=True)])
                yield FeatureKernel(Preconditioned(features, scale), outputs=self.outputs)


def _total(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total
