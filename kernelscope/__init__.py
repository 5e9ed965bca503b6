"""A trained network is its initial output plus a sum of kernel machines.

KernelScope records a training run, writes the network as that sum, to the last digit, and answers questions about the
terms. The names below are resolved when they are first used, so that ``import kernelscope`` costs nothing.

Example:
    >>> import kernelscope as ks
    >>> ks.data.digits("test")
    Digits(split='test', 360 images of 8 × 8 pixels, 10 classes)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import data, errors, features, kernels, sklearn, solvers
    from .decomposition.exact import decompose
    from .decomposition.explaining import explain
    from .decomposition.explanation import Explanation
    from .decomposition.result import Decomposition
    from .decomposition.stochastic.ensemble import Ensemble, ensemble
    from .diagnostics.gradient_scores import gradient_scores
    from .diagnostics.scaling import Scaling, scaling
    from .diagnostics.scores import GradientScores
    from .machine.fit import fit
    from .machine.machine import KernelMachine
    from .operator import KernelOperator
    from .report import Report
    from .run.opening import load
    from .run.recorder import record
    from .run.run import Run

__version__ = "0.1.0"

__all__ = ["Decomposition", "Ensemble", "Explanation", "GradientScores", "KernelMachine", "KernelOperator", "Report",
           "Run", "Scaling", "data", "decompose", "ensemble", "errors", "explain", "features", "fit",
           "gradient_scores", "kernels", "load", "record", "scaling", "sklearn", "solvers"]

_HOMES = {
    "Decomposition": "decomposition.result",
    "Ensemble": "decomposition.stochastic.ensemble",
    "Explanation": "decomposition.explanation",
    "GradientScores": "diagnostics.scores",
    "KernelMachine": "machine.machine",
    "KernelOperator": "operator",
    "Report": "report",
    "Run": "run.run",
    "Scaling": "diagnostics.scaling",
    "decompose": "decomposition.exact",
    "ensemble": "decomposition.stochastic.ensemble",
    "explain": "decomposition.explaining",
    "fit": "machine.fit",
    "gradient_scores": "diagnostics.gradient_scores",
    "load": "run.opening",
    "record": "run.recorder",
    "scaling": "diagnostics.scaling",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in __all__:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"kernelscope has no {name!r}. It has {', '.join(__all__)}.")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
