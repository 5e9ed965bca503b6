r"""Kernel machines as scikit-learn estimators: they go into pipelines and searches, and fit as ``ks.fit`` does.

Both minimise :math:`\frac1n \sum_i w_i\, \ell(f(x_i), y_i) + \lambda\, \|f\|_H^2`, with weights of mean 1. The fitted
machine is ``machine_``: it can be asked for contributions, and saved. A weight is as good as so many copies of a point:
centers and the bandwidth are taken from the points that differ and weigh something.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .arguments import as_choice, as_whole, what_came
from .errors import DataError
from .machine.fit import fit
from .machine.machine import KernelMachine
from .solvers import Huber, Logistic, Loss, Softmax, Solver, Squared

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_random_state
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("Estimators need scikit-learn 1.6 or later, which kernelscope itself does without. Install it "
                      'with: pip install "kernelscope[sklearn]"') from error

#: Kernels that have a name: those with a bandwidth, and those without.
WITH_BANDWIDTH: dict[str, Callable[[Any], kernels.Kernel]] = {
    "laplacian": kernels.Laplacian,
    "gaussian": kernels.Gaussian,
    "matern": lambda bandwidth: kernels.Matern(1.5, bandwidth),
    "cauchy": kernels.Cauchy,
    "rational quadratic": lambda bandwidth: kernels.RationalQuadratic(1.0, bandwidth),
    "dispersal": lambda bandwidth: kernels.Dispersal(0.5, bandwidth),
    "polynomial": lambda bandwidth: kernels.Polynomial(2, bandwidth=bandwidth),
}
WITHOUT_BANDWIDTH: dict[str, Callable[[], kernels.Kernel]] = {
    "cosine": kernels.Cosine, "arc-cosine": kernels.ArcCosine, "relu ntk": kernels.ReLUNTK,
}

#: Points of another type become the first of these.
FLOATS = [np.float64, np.float32]


class _KernelEstimator(BaseEstimator):
    """What both estimators are made with, and how they fit."""

    def __init__(self, kernel: str | kernels.Kernel = "laplacian", *, bandwidth: float | str = "median",
                 centers: int | None = None, ridge: float = 1e-4, intercept: bool = True, loss: str | Loss = "squared",
                 solver: Solver | str | None = None, memory: int | str = "1GB",
                 random_state: int | np.random.RandomState | None = None):
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.centers = centers
        self.ridge = ridge
        self.intercept = intercept
        self.loss = loss
        self.solver = solver
        self.memory = memory
        self.random_state = random_state

    def _machine(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, loss: Loss) -> KernelMachine:
        """The machine for points that all weigh something."""
        distinct = np.unique(x, axis=0)
        kernel = self._kernel().fitted(_tensor(distinct))
        machine = fit(kernel, _tensor(x), _tensor(y), centers=self._centers(distinct, len(x)),
                      ridge=self.ridge, intercept=self.intercept, solver=self.solver, loss=loss, weights=weights,
                      memory=self.memory, progress=False)
        assert machine.fitting is not None
        for note in machine.fitting.notes:
            warnings.warn(note, ConvergenceWarning, stacklevel=4)
        return machine

    def _kernel(self) -> kernels.Kernel:
        if isinstance(self.kernel, kernels.Kernel):
            if self.bandwidth != "median":
                raise DataError(f"{self.kernel!r} has numbers of its own, and bandwidth={self.bandwidth!r} came beside "
                                "it. Make the kernel with this bandwidth, or name it by a word.")
            return self.kernel
        name = as_choice(self.kernel, "kernel", [*WITH_BANDWIDTH, *WITHOUT_BANDWIDTH])
        return WITH_BANDWIDTH[name](self.bandwidth) if name in WITH_BANDWIDTH else WITHOUT_BANDWIDTH[name]()

    def _centers(self, distinct: np.ndarray, n: int) -> Tensor | None:
        count = as_whole(self.centers)
        if self.centers is not None and (count is None or count < 1):
            raise DataError(f"centers must be None for all points, or how many of them; {what_came(self.centers)} "
                            "came. Pass for example centers=1000.")
        if count is None or count >= len(distinct):
            return None if len(distinct) == n else _tensor(distinct)
        chosen = check_random_state(self.random_state).permutation(len(distinct))[:count]
        return _tensor(distinct[np.sort(chosen)])

    def _values(self, X: Any) -> np.ndarray:
        """What the machine gives for points."""
        check_is_fitted(self)
        machine: KernelMachine = self.machine_
        dtype = np.float64 if machine.coefficients.dtype == torch.float64 else np.float32
        x = validate_data(self, X, reset=False, dtype=dtype)
        return machine(_tensor(x)).numpy()


class KernelRegressor(RegressorMixin, _KernelEstimator):
    r"""Kernel regression, by the squared loss or by Huber's.

    Args:
        kernel: The name of a kernel (``"laplacian"``, ``"gaussian"``, ``"matern"``, ``"cauchy"``,
            ``"rational quadratic"``, ``"dispersal"``, ``"polynomial"``, ``"cosine"``, ``"arc-cosine"`` or
            ``"relu ntk"``), or a kernel of ``ks.kernels``.
        bandwidth: The length that distances are measured by, or ``"median"`` for the median distance of the points;
            of kernels that are named by a word and have one.
        centers: How many of the points, drawn at random, become centers; ``None`` for all.
        ridge: :math:`\lambda`, from 0 on.
        intercept: Whether a constant is fitted, which costs nothing.
        loss: ``"squared"``, ``"huber"``, or ``ks.solvers.Huber(delta)`` with a distance in units of the targets.
        solver: As in ``ks.fit``: ``"direct"``, ``"cg"``, a solver of ``ks.solvers``, or ``None`` to choose one.
        memory: About how much may be used beside the data, a number of bytes or a size such as ``"1GB"``.
        random_state: Which points become centers.

    Attributes:
        machine_: The fitted machine.
        n_features_in_: The number of features of a point.

    Example:
        >>> import numpy as np, kernelscope as ks
        >>> x = np.linspace(0, 6, 50)[:, None]
        >>> model = ks.sklearn.KernelRegressor("gaussian", bandwidth=1.0, ridge=1e-8).fit(x, np.sin(x[:, 0]))
        >>> bool(model.score(x, np.sin(x[:, 0])) > 0.999)
        True
        >>> model.machine_
        KernelMachine(Gaussian(bandwidth=1), 50 centers, 1 output, with an intercept, ridge 1e-08)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits the machine.

        Args:
            X: The points, with shape (n, d).
            y: Their targets, with shape (n,) or (n, c).
            sample_weight: The weight of each point, with shape (n,); only their ratios matter.
        """
        with _errors_of_sklearn():
            x, y = validate_data(self, X, y, dtype=FLOATS, ensure_min_samples=2, multi_output=True, y_numeric=True)
            x, targets, weights = _weighty(x, np.asarray(y, dtype=x.dtype), sample_weight)
            self.machine_ = self._machine(x, targets, weights, self._loss())
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The values at points, with shape (q,) or (q, c)."""
        return self._values(X)

    def _loss(self) -> Loss:
        if isinstance(self.loss, Loss):
            return self.loss
        return Huber() if as_choice(self.loss, "loss", ("squared", "huber")) == "huber" else Squared()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KernelClassifier(ClassifierMixin, _KernelEstimator):
    r"""Classification by a kernel machine, with the squared loss or the logistic one.

    With the squared loss the machine of each class is fitted to 1 at its points and 0 at the others (of two classes one
    machine, to 1 and -1). With the logistic loss it gives probabilities, of several classes by their softmax.

    Args:
        kernel: The name of a kernel (``"laplacian"``, ``"gaussian"``, ``"matern"``, ``"cauchy"``,
            ``"rational quadratic"``, ``"dispersal"``, ``"polynomial"``, ``"cosine"``, ``"arc-cosine"`` or
            ``"relu ntk"``), or a kernel of ``ks.kernels``.
        bandwidth: The length that distances are measured by, or ``"median"`` for the median distance of the points;
            of kernels that are named by a word and have one.
        centers: How many of the points, drawn at random, become centers; ``None`` for all.
        ridge: :math:`\lambda`, from 0 on.
        intercept: Whether a constant is fitted, which costs nothing.
        loss: ``"squared"`` or ``"logistic"``.
        solver: As in ``ks.fit``: ``"direct"``, ``"cg"``, a solver of ``ks.solvers``, or ``None`` to choose one.
        memory: About how much may be used beside the data, a number of bytes or a size such as ``"1GB"``.
        random_state: Which points become centers.

    Attributes:
        classes_: The classes, in order.
        machine_: The fitted machine, with an output for each class; of two classes with one, for the second.
        n_features_in_: The number of features of a point.

    Example:
        >>> import kernelscope as ks
        >>> train, test = ks.data.digits("train"), ks.data.digits("test")
        >>> model = ks.sklearn.KernelClassifier(centers=300, random_state=0).fit(train.x, train.y)
        >>> bool(model.score(test.x, test.y) > 0.95)
        True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits the machine.

        Args:
            X: The points, with shape (n, d).
            y: Their classes, numbers or words, with shape (n,).
            sample_weight: The weight of each point, with shape (n,); only their ratios matter.
        """
        with _errors_of_sklearn():
            loss = as_choice(self.loss, "loss", ("squared", "logistic"))
            x, labels = validate_data(self, X, y, dtype=FLOATS, ensure_min_samples=2)
            check_classification_targets(labels)
            x, labels, weights = _weighty(x, labels, sample_weight)
            self.classes_, places = np.unique(labels, return_inverse=True)
            if len(self.classes_) < 2:
                raise DataError(f"A classifier needs points of at least two classes, with a weight above 0; all are of "
                                f"the class {self.classes_[0]!r}. Look at how the data were split.")
            binary = len(self.classes_) == 2
            targets = places[:, None] if binary else places[:, None] == np.arange(len(self.classes_))
            if loss == "squared":
                y2 = (2 * targets - 1 if binary else targets).astype(x.dtype)
                self.machine_ = self._machine(x, y2, weights, Squared())
            else:
                self.machine_ = self._machine(x, targets.astype(x.dtype), weights, Logistic() if binary else Softmax())
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """The values of the machine at points, with shape (q, c); of two classes (q,), above 0 for the second."""
        values = self._values(X)
        return values[:, 0] if len(self.classes_) == 2 else values

    def predict(self, X: Any) -> np.ndarray:
        """The classes of points, with shape (q,)."""
        values = self.decision_function(X)
        return self.classes_[(values > 0).astype(int) if values.ndim == 1 else values.argmax(1)]

    @available_if(lambda self: _has_probabilities(self))
    def predict_proba(self, X: Any) -> np.ndarray:
        """The probabilities of the classes, with shape (q, c); of the logistic loss only."""
        values = torch.from_numpy(self._values(X))
        if len(self.classes_) == 2:
            return torch.cat([torch.sigmoid(-values), torch.sigmoid(values)], 1).numpy()
        return torch.softmax(values, 1).numpy()


def _has_probabilities(estimator: KernelClassifier) -> bool:
    if estimator.loss != "logistic":
        raise AttributeError(f"Outputs of the loss {estimator.loss!r} are no probabilities. Pass loss='logistic'.")
    return True


def _weighty(x: np.ndarray, y: np.ndarray, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The points that weigh something."""
    if sample_weight is None:
        return x, y, None
    weights = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
    there = weights > 0
    if not there.any():
        raise DataError("All weights are nought, so no point is left to fit. Give some of them a weight above 0.")
    return x[there], y[there], weights[there]


def _tensor(values: np.ndarray) -> Tensor:
    """An array as a tensor, which cannot be made of one that is read only."""
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


@contextmanager
def _errors_of_sklearn() -> Iterator[None]:
    """What is wrong with data or parameters as the error that scikit-learn expects."""
    try:
        yield
    except DataError as error:
        raise ValueError(str(error)) from error
