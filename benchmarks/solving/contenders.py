"""The solvers of this package and those of others, each on the same problem with the same centers.

Others are imported only where they are installed, or where their folder is on the path. What their published code
needs to run at all (an argument that SciPy has renamed, an attribute that nobody sets, a package that is imported and
not used) is supplied from here; their code is left as it is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from kernelscope import solvers
from kernelscope.data.points import as_points

from .problems import RIDGE, Task
from .tracks import Track

#: How many points the ways that take every point as a center may have.
ALL = 12_000


class Skipped(Exception):  # noqa: N818 - it is no error
    """A contender is not here, or not made for such a problem."""


class Hearing(solvers.Watch):
    """Marks each pass of one of this package's solvers."""

    def __init__(self, track: Track, kernel: Any):
        self.track, self.kernel = track, kernel

    def heard(self, state: solvers.State) -> bool:
        """Marks a state."""
        coefficients, intercepts = state.coefficients()
        more = {} if state.objective is None else {"objective": state.objective[0]}
        task = self.track.task
        self.track.mark(lambda x: self.kernel(x, task.z) @ coefficients[0] + intercepts[0], **more)
        return False


def ours(make: Callable[[Task], Any], numbers: int | None = None) -> Callable[[Task, Track], None]:
    """A contender of this package; with memory for so many numbers of each center, or for whatever it wants."""

    def contend(task: Task, track: Track) -> None:
        kernel = track.kernel()
        problem = solvers.Problem(kernel, as_points(task.x), task.y, as_points(task.z), (RIDGE,),
                                  memory=4 * 10**9 if numbers is None else numbers * len(task.z) * task.y.itemsize)
        make(task).solve(problem, Hearing(track, kernel))

    return contend


def eigenpro(**settings: Any) -> Callable[[Task], Any]:
    """This package's EigenPro."""
    return lambda task: solvers.EigenPro(**settings)


def eigenpro3(task: Task, track: Track) -> None:
    """EigenPro 3 as published."""
    need("eigenpro3")
    import scipy.linalg

    whole = scipy.linalg.eigh
    scipy.linalg.eigh = lambda a, eigvals=None, **more: whole(a, subset_by_index=eigvals, **more)
    sets = types.ModuleType("torchvision.datasets")
    sets.__dict__.update(dict.fromkeys(("MNIST", "EMNIST", "FashionMNIST", "KMNIST", "CIFAR10")))
    sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))
    sys.modules.setdefault("torchvision.datasets", sets)
    from eigenpro3.models import KernelModel

    task, kernel = single(task), track.counted(task.kernel())
    s = min(5000, task.setting.n // 4)
    with contextlib.redirect_stdout(io.StringIO()):
        model = KernelModel(task.y.shape[1], task.z, kernel, X=task.x, y=task.y, devices=[torch.device("cpu")],
                            n_nystrom_samples=s, data_preconditioner_level=max(1, s // 10))
        for model.epoch in range(100):
            model.fit_epoch(model.train_loaders)
            track.mark(lambda x: kernel(x.float(), task.z) @ model.weights)


def eigenpro4(task: Task, track: Track, samples: int = 3000, level: int = 150, epochs: int = 100,
              room: int = 2) -> None:
    """EigenPro 4 as published, with its own numbers; with ``room`` for more temporary centers than it plans for."""
    need("eigenpro")
    need("eigenpro.solver")
    import eigenpro.models.sharded_kernel_machine as machine
    import eigenpro.solver
    import eigenpro.utils.device
    import eigenpro.utils.metrics

    task, kernel = single(task), track.counted(task.kernel())

    def performance(model: Any, x: Any, y: Any) -> tuple[torch.Tensor, float]:
        track.mark(lambda x: model(x.float()))
        return torch.tensor(track.marks[-1]["error"]), 0.0

    eigenpro.utils.metrics.get_performance = performance
    s = min(samples, task.setting.p)
    level = min(level, s // 4)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        device = eigenpro.utils.device.Device.create(use_gpu_if_available=False)
        model = machine.create_sharded_kernel_machine(task.z, task.y.shape[1], kernel, device, dtype=task.x.dtype,
                                                      tmp_centers_coeff=room)
        eigenpro.solver.fit(model, task.x, task.y, task.x_test, task.y_test, device, dtype=task.x.dtype, kernel=kernel,
                            n_data_pcd_nyst_samples=s, n_model_pcd_nyst_samples=s, n_data_pcd_eigenvals=level,
                            n_model_pcd_eigenvals=level, tmp_centers_coeff=room, epochs=epochs)


def eigenpro4_with_room(task: Task, track: Track, **settings: Any) -> None:
    """EigenPro 4 with room for a batch of the size that it chooses, which may be more than the centers."""
    eigenpro4(task, track, room=2 + 10_000 // task.setting.p, **settings)


def falkon(task: Task, track: Track) -> None:
    """Falkon, begun anew for each number of iterations, since it shows none between."""
    need("falkon")
    import falkon

    options = falkon.FalkonOptions(use_cpu=True, keops_active="no")
    kernel = getattr(falkon.kernels, f"{task.setting.kernel}Kernel")(task.bandwidth, opt=options)
    chosen = falkon.center_selection.FixedSelector(centers=task.z.clone())
    for count in (2, 4, 7, 12, 20):
        track.restart()
        with contextlib.redirect_stdout(io.StringIO()):
            model = falkon.Falkon(kernel=kernel, penalty=RIDGE, M=len(task.z), maxiter=count, options=options,
                                  center_selection=chosen).fit(task.x, task.y)
        track.entries = (count + 1) * task.setting.n * task.setting.p
        track.mark(model.predict)


def gpytorch(task: Task, track: Track) -> None:
    """GPyTorch's conjugate gradients, with every point as a center."""
    need("gpytorch")
    few(task)
    import gpytorch

    base = {"Laplacian": gpytorch.kernels.MaternKernel(nu=0.5), "Gaussian": gpytorch.kernels.RBFKernel()}
    kernel = base[task.setting.kernel].to(task.x.dtype)
    kernel.lengthscale = task.bandwidth
    from linear_operator import settings

    for count in (5, 10, 20, 40, 80):
        track.restart()
        with torch.no_grad(), settings.max_cg_iterations(count), settings.cg_tolerance(1e-3), \
                settings.max_preconditioner_size(100), settings.max_cholesky_size(1), \
                settings.max_lanczos_quadrature_iterations(1), warnings_off():
            alpha = kernel(task.x).add_jitter(RIDGE * len(task.x)).solve(task.y)
        track.entries = len(task.x)**2
        track.mark(lambda x: kernel(x, task.x).to_dense() @ alpha)  # noqa: B023 - it is called at once


def kernel_ridge(task: Task, track: Track) -> None:
    """scikit-learn's KernelRidge, with every point as a center."""
    need("sklearn")
    few(task)
    from sklearn.kernel_ridge import KernelRidge

    kernel = track.counted(task.kernel())
    alpha = RIDGE * len(task.x)
    model = KernelRidge(alpha=alpha, kernel="precomputed").fit(kernel(task.x, task.x).numpy(), task.y.numpy())
    track.mark(lambda x: torch.from_numpy(model.predict(kernel(x, task.x).numpy())))


def nystroem(task: Task, track: Track) -> None:
    """scikit-learn's Nystroem, with all centers as its components, and Ridge."""
    need("sklearn")
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import Ridge

    kernel = track.counted(task.kernel())
    # It takes its components from what it is fitted to: the centers alone.
    features = Nystroem(kernel="precomputed", n_components=len(task.z)).fit(kernel(task.z, task.z).numpy())
    order = features.component_indices_
    seen = lambda x: features.transform(kernel(x, task.z).numpy()[:, order])
    ridge = Ridge(alpha=RIDGE * len(task.x), fit_intercept=False, solver="cholesky").fit(seen(task.x), task.y.numpy())
    track.mark(lambda x: torch.from_numpy(ridge.predict(seen(x)).reshape(len(x), -1)))


def single(task: Task) -> Task:
    """The problem in single precision, for what is made for it alone."""
    return Task(task.setting, *(t.float() for t in (task.x, task.y, task.z, task.x_test, task.y_test)), task.bandwidth)


def need(package: str) -> None:
    """Whether a package is here.

    Raises:
        Skipped: If it is not.
    """
    if importlib.util.find_spec(package) is None:
        raise Skipped(f"{package} is not installed")


def few(task: Task) -> None:
    """Whether every point can be a center.

    Raises:
        Skipped: If not.
    """
    if len(task.x) > ALL:
        raise Skipped(f"takes every point as a center: {len(task.x)} are too many")


@contextlib.contextmanager
def warnings_off() -> Any:
    """Without the warnings of others."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


CONTENDERS: dict[str, Callable[[Task, Track], None]] = {
    "direct": ours(lambda task: solvers.Direct()),
    "cg, full": ours(lambda task: solvers.ConjugateGradient()),
    "cg, two-level": ours(lambda task: solvers.ConjugateGradient("two-level")),
    "eigenpro": ours(eigenpro()),
    "eigenpro, memory O(p r)": ours(eigenpro(), 16_000),
    "eigenpro, then cg": ours(lambda task: solvers.WarmStart()),
    "EigenPro 3": eigenpro3,
    "EigenPro 4": eigenpro4,
    "EigenPro 4, with room": eigenpro4_with_room,
    "Falkon": falkon,
    "GPyTorch CG, n centers": gpytorch,
    "scikit-learn KernelRidge, n centers": kernel_ridge,
    "scikit-learn Nystroem and Ridge": nystroem,
}
