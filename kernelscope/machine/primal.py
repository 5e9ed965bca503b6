r"""A machine of features: a function that is linear in what a map says of a point.

.. math:: f(x) = \langle\phi(x), \theta\rangle + b

It is the kernel machine of :math:`k(x, z) = \langle\phi(x), \phi(z)\rangle` with all samples as centers, solved for as
many numbers as there are features, however many samples there are. The sums it was solved from stay with it, so that
samples can be taken away and added, and every ridge and every leave-one-out value follows without another fit.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..budget import as_bytes
from ..data.points import Points
from ..errors import DataError
from ..features.base import FeatureMap, points_between
from ..features.doubled import Doubled
from ..kernels.of_features import FeatureKernel
from ..solvers.ridge import RidgePath
from . import keeping_features
from .contributions import Contributions
from .describing_features import map_in_words
from .left_out import LeaveOneOut
from .machine import KernelMachine
from .plan import Plan
from .reading import centers_of, checked_ridges, look_over, points_and_targets, read_weights
from .ridges import Ridges
from .samples import Samples, equations_of, gathered, places_of, rows_of

#: The memory that questions about samples keep to.
MEMORY = 10**9

#: Below which share of the sums those of the samples that are left are taken anew.
SMALL = 1e-2

#: How often at most coefficients of samples are brought nearer to the weights of features, and which share of these
#: they may lack.
STEPS, NEAR = 3, 1e-12


class FeatureMachine:
    r"""The function :math:`f(x) = \langle\phi(x), \theta\rangle + b`, as :func:`kernelscope.fit` makes it.

    Args:
        features: The map :math:`\phi`; the features of several outputs stand one after the other.
        path: The factorised sums over samples, whose columns are the p features and, with an intercept, a constant.
        ridges: The ridges that were looked at, and the one to take.
        intercept: Whether the last column is a constant.
        single: Whether targets have no axis of outputs.
        samples: What the sums are of, ``None`` where that was not kept. Its points are read again where they are, and
            are not to be changed.
        few: A few of their points, for a machine without samples, by which its map is known.
        unit: What a weight of one is, in the weights that came.
        memory: About how many bytes the work on samples may use.

    Attributes:
        coefficients: :math:`\theta` in double precision, with shape (p,) or (p, c).
        intercept: b, with shape () or (c,); nought without one.

    Example:
        >>> import torch, kernelscope as ks
        >>> class Powers(ks.features.FeatureMap):
        ...     size = 4
        ...     def phi(self, x):
        ...         points = self.points(x)
        ...         return points.part(0, len(points)).args[0] ** torch.arange(4, dtype=torch.float64)
        >>> x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
        >>> machine = ks.fit(Powers(), x, x[:, 0] ** 3, ridge=[1e-6, 1e-3, 1.0], progress=False)
        >>> machine
        FeatureMachine(Powers(4 features), 50 samples, 1 output, ridge 1e-06 of 3)
        >>> machine.without([0, 1])
        FeatureMachine(Powers(4 features), 48 samples, 1 output, ridge 1e-06)
        >>> machine.leave_one_out().error < 1e-6
        True
    """

    def __init__(self, features: FeatureMap, path: RidgePath, ridges: Ridges, *, intercept: bool = False,
                 single: bool = False, samples: Samples | None = None, few: Any = None, unit: float = 1.0,
                 memory: int = MEMORY):
        self.features, self.path, self.fitting, self.single = features, path, ridges, single
        self.samples, self.few, self.unit, self.memory, self.constant = samples, few, unit, memory, intercept
        own = few if samples is None else samples.points
        self._coordinates = None if own is None else features.coordinates_of(own)
        theta = path.coefficients(ridges.ridge)
        theta, b = (theta[:-1], theta[-1]) if intercept else (theta, theta.new_zeros(theta.shape[1]))
        self.coefficients, self.intercept = (theta[:, 0], b[0]) if single else (theta, b)

    def __repr__(self) -> str:
        c, n = self.path.equations.cross.shape[1], self.path.equations.count
        constant = ", with an intercept" if self.constant else ""
        several = "" if len(self.fitting.ridges) == 1 else f" of {len(self.fitting.ridges)}"
        return (f"FeatureMachine({self.features!r}, {n:,} sample{'s' * (n > 1)}, {c} output{'s' * (c > 1)}{constant}, "
                f"ridge {self.ridge:g}{several})")

    def __call__(self, x: Any) -> Tensor:
        """The values at points, with shape :math:`(q,)` or :math:`(q, c)`, in the precision of the features.

        Raises:
            DataError: If the points have another number of coordinates than the samples.
        """
        points = self._alike(x)
        parts = ((values @ self.coefficients.to(values) + self.intercept.to(values),)
                 for _, values in rows_of(self.features, points, self.memory))
        return gathered(len(points), parts)[0]

    @property
    def ridge(self) -> float:
        """The ridge that the machine has."""
        return self.fitting.ridge

    @property
    def gcv(self) -> Ridges:
        """All ridges with their degrees of freedom, errors and generalised cross-validation: a table, and a plot."""
        return self.fitting

    @property
    def spectrum(self) -> Tensor:
        """The eigenvalues of the sums of products of features, the largest first, with shape (p,).

        Without weights and an intercept those of the kernel matrix of all samples that are not nought; with an
        intercept, of features less their means.
        """
        return self.path.spectrum

    @property
    def plan(self) -> Plan | None:
        """How it was decided to fit the machine, and why; ``None`` if it was made of another."""
        return Plan(**self.fitting.plan) if self.fitting.plan else None

    @property
    def kernel(self) -> FeatureKernel:
        """The kernel of which this is a machine."""
        return FeatureKernel(self.features)

    @torch.no_grad()
    def at(self, ridge: Real | float) -> FeatureMachine:
        """The machine of another ridge, whichever, from the same factorisation.

        Raises:
            DataError: If it is no ridge.
        """
        (value,) = checked_ridges(ridge)
        known = self.fitting.ridges
        ridges = (self.fitting.choosing(known.index(value), self.path) if value in known
                  else Ridges.of(self.path, [value], None, self.fitting.seconds, self.fitting.plan))
        return self._with(self.path, ridges, self.samples)

    # -- samples ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def leave_one_out(self) -> LeaveOneOut:
        """What machines fitted to all other samples, with the same ridge, say of each one; exact, by one more pass.

        Raises:
            DataError: If the samples were not kept, or one alone decides what is said of it.
        """
        parts = ((*self.path.looked_at(p, y, self.ridge, w), y.to(self.path.equations.gram))
                 for p, y, w in self._rows())
        values, fitted, leverages, targets = (one.cpu() for one in gathered(len(self._known()), parts))
        return LeaveOneOut(values, fitted, targets, leverages)

    @torch.no_grad()
    def leverages(self) -> Tensor:
        """How much each sample says of its own fitted value, with shape (n,); they add up to the degrees of freedom.

        Raises:
            DataError: If the samples were not kept.
        """
        parts = ((self.path.leverage(p, self.ridge) * (1.0 if w is None else w.to(self.path.equations.gram)),)
                 for p, _, w in self._rows())
        return gathered(len(self._known()), parts)[0]

    @torch.no_grad()
    def without(self, rows: Any) -> FeatureMachine:
        """The machine that was never told of some samples: what a fit to the others with this ridge gives.

        Args:
            rows: Their places among the samples; a number, several, a slice, or a mask.

        Raises:
            DataError: If there are no such samples, none would be left, or they were not kept.
        """
        samples = self._known()
        places = places_of(rows, len(samples))
        gone = set(places)
        left = samples.chosen([place for place in range(len(samples)) if place not in gone])
        if left.weights is not None and not bool((left.weights > 0).any()):
            raise DataError("All samples with a weight were named, and nothing is left to fit. Name fewer.")
        equations = self.path.equations.copy()
        size, spread = float(equations.gram.trace()), equations.spread
        if 2 * len(places) <= len(samples):
            for p, y, w in samples.chosen(places).rows(self.features, self.constant, self.memory):
                equations.add(p, y, w, sign=-1)
        # What is small beside what was taken away has lost its digits.
        small = float(equations.gram.trace()) < SMALL * size or bool((equations.spread < SMALL * spread).any())
        if small or 2 * len(places) > len(samples):
            equations = equations_of(left, self.features, self.constant, self.memory)
        return self._again(equations, left)

    @torch.no_grad()
    def with_samples(self, x: Any, y: Any = None, weights: Any = None) -> FeatureMachine:
        """The machine that was told of more samples: what a fit to all of them with this ridge gives.

        Args:
            x: Their points; without y, what gives points with their targets.
            y: Their targets, of the same outputs.
            weights: Their weights, to be compared with those that the first samples came with; one if not given.

        Raises:
            DataError: If they are no such samples, or the first ones were not kept.
        """
        samples = self._known()
        points, targets = points_and_targets(self.kernel, x, y)
        self._alike(points)
        c = self.path.equations.cross.shape[1]
        if targets.shape[1:] != (() if self.single else (c,)):
            raise DataError(f"More samples have the outputs of the first ones, targets of shape "
                            f"{'(n,)' if self.single else f'(n, {c})'}; shape {tuple(targets.shape)} came.")
        look_over(self.kernel, points, None)
        w = None if weights is None else read_weights(weights, len(points)) / self.unit
        if w is None and self.unit != 1:
            w = torch.full((len(points),), 1 / self.unit, dtype=torch.float64)
        more = Samples(points, targets.view(len(points), -1).clone(), w)
        equations = self.path.equations.copy()
        for p, y2, w2 in more.rows(self.features, self.constant, self.memory):
            equations.add(p, y2, w2)
        return self._again(equations, samples.joined(more))

    @torch.no_grad()
    def machine(self, memory: int | str = MEMORY) -> KernelMachine:
        r"""The same function as a kernel machine with one coefficient for each sample.

        .. math:: \alpha_i = \frac{w_i\, (y_i - f(x_i))}{\lambda \sum_j w_j}

        Without a ridge, coefficients are those of the least weighted square. Features in less than double precision
        are taken in double, and coefficients are brought to give the same :math:`\theta` with them.

        Args:
            memory: About how many bytes the samples may use, which are its centers.

        Raises:
            DataError: If the samples were not kept.
            OutOfBudget: If they do not fit into ``memory``.
        """
        samples, wide = self._known(), self._wide()
        kernel = FeatureKernel(wide)
        centers = centers_of(kernel, samples.points, None, 0, as_bytes(memory))
        (alpha,) = gathered(len(samples), ((self.path.duals(p, y, self.ridge, w),) for p, y, w in self._rows()))
        if wide is not self.features or self.path.blurred(self.ridge):
            alpha = self._adjusted(alpha, wide)
        return KernelMachine(kernel, centers, alpha[:, 0] if self.single else alpha, self.intercept)

    def contributions(self, x: Any, memory: int | str = MEMORY) -> Contributions:
        r"""What each sample adds at points: :math:`k(x, x_j)\, \alpha_j`, with shape :math:`(q, c, n)`.

        Terms are in double precision; they add up to the machine's values in the precision of its features.

        Raises:
            DataError: If the samples were not kept, or the points are no points of this machine.
            OutOfBudget: If samples or terms do not fit into ``memory``.
        """
        found = self.machine(memory).contributions(self._alike(x), memory)
        outputs = self(x)
        if outputs.dtype == torch.float64:
            return found
        return replace(found, outputs=outputs.double().view(found.outputs.shape), dtype=str(outputs.dtype)[6:])

    # -- on the disk -----------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Keeps the machine in the folder ``path``: its map in words where it is numbers alone, and its sums.

        Samples are not kept, but a few of their points are, at which a map that is handed over is looked at.

        Args:
            path: The folder.
            overwrite: Whether a machine that is there already is replaced.

        Raises:
            StoreExists: If there is something already.
        """
        return keeping_features.save(self, path, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], features: FeatureMap | None = None,
             samples: tuple[Any, ...] | None = None) -> FeatureMachine:
        """Opens a saved machine; every checksum is verified and nothing is ever unpickled.

        Args:
            path: The folder.
            features: The map; needed where it holds more than numbers, such as a model.
            samples: What it was fitted to, ``(x, y)`` or ``(x, y, weights)``, to ask about samples.

        Raises:
            DataError: If the map is needed and missing, or it or the samples are not those of the machine.
            StoreCorrupt: If the folder does not hold what was written.
        """
        return keeping_features.load(cls, path, features, samples)

    def __copy__(self) -> FeatureMachine:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureMachine:
        # Within one process samples stay: their points are read where they are.
        other = memo[id(self)] = object.__new__(type(self))
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Points hold the function that reads them, which cannot be sent to another process.
        return self.__dict__ | {"samples": None, "few": self.some_points()}

    def some_points(self) -> Any:
        """A few of the points, as tensors."""
        return self.few if self.samples is None else self.samples.few

    def _alike(self, x: Any) -> Points:
        """Points, which have as many coordinates as the samples where the map would be another one for others."""
        points = self.features.points(x)
        own, other = self._coordinates, self.features.coordinates_of(points)
        if own is not None and other is not None and own != other:
            raise DataError(f"This machine was fitted to points of {own:,} number{'s' * (own != 1)}, and "
                            f"{len(points):,} point{'s' * (len(points) > 1)} of {other:,} came. Pass points of the "
                            "same size, with one row for each; one alone as x[None].")
        return points

    def _known(self) -> Samples:
        if self.samples is None:
            raise DataError("This is a question about samples, and this machine came without them. Load it with "
                            "FeatureMachine.load(path, samples=(x, y)).")
        return self.samples

    def _rows(self) -> Any:
        return self._known().rows(self.features, self.constant, self.memory)

    def _wide(self) -> FeatureMap:
        """The map in double precision: itself, if it is."""
        like = self.features.phi(points_between(self._known().points, 0, 1))
        if like.dtype == torch.float64:
            return self.features
        return Doubled(self.features, points=map_in_words(self.features) is not None)

    def _adjusted(self, alpha: Tensor, wide: FeatureMap) -> Tensor:
        """Coefficients of samples brought to give the weights of the fit with features in double precision."""
        samples = self._known()
        rows = lambda: samples.rows(wide, self.constant, self.memory)
        wanted = self.path.coefficients(self.ridge)[~self.path.free]
        for _ in range(STEPS):
            lack, done = wanted.clone(), 0
            for p, _, _ in rows():
                lack -= p[:, ~self.path.free].T @ alpha[done:done + len(p)]
                done += len(p)
            if float(lack.norm()) <= NEAR * float(wanted.norm()):
                break
            parts = ((self.path.duals_of(p, lack, self.ridge, w),) for p, _, w in rows())
            alpha = alpha + gathered(len(samples), parts)[0]
        return alpha

    def _again(self, equations: Any, samples: Samples) -> FeatureMachine:
        """The machine of other samples, with the same ridge."""
        path = RidgePath(equations, self.path.free)
        return self._with(path, Ridges.of(path, [self.ridge]), samples)

    def _with(self, path: RidgePath, ridges: Ridges, samples: Samples | None) -> FeatureMachine:
        return FeatureMachine(self.features, path, ridges, intercept=self.constant, single=self.single,
                              samples=samples, few=self.few, unit=self.unit, memory=self.memory)


def features_of(k: Any) -> FeatureMap:
    """The map of a kernel of features, or the map itself.

    Raises:
        DataError: If it is neither.
    """
    if isinstance(k, FeatureKernel):
        if k.right is not None:
            raise DataError(f"A machine needs a symmetric kernel, and {k!r} has two maps. Use a FeatureKernel of one.")
        if k.outputs == "full":
            raise DataError(f'{k!r} keeps outputs apart, and a machine needs one number for each pair of points. Use '
                            'outputs="trace".')
        return k.left
    if not isinstance(k, FeatureMap):
        raise DataError(f'solver="primal" solves for the weights of features; {what_came(k)} came. Pass a map of '
                        "ks.features or a FeatureKernel of one, or leave solver out.")
    return k
