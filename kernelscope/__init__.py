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
    from . import data, errors, features, generative, integrations, kernels, nn, sklearn, solvers
    from .decomposition.exact import decompose
    from .decomposition.explaining import explain
    from .decomposition.explanation import Explanation
    from .decomposition.influence.influence import influence
    from .decomposition.influence.result import Influence
    from .decomposition.result import Decomposition
    from .decomposition.stochastic.ensemble import Ensemble, ensemble
    from .decomposition.stochastic.expected import expected
    from .decomposition.stochastic.kernel import PathKernel
    from .decomposition.stochastic.memory import MemoryWeights, memory_weights
    from .decomposition.stochastic.path_kernel import path_kernel
    from .decomposition.stochastic.result import Expected
    from .decomposition.token_result import TokenContributions
    from .decomposition.tokens import token_contributions
    from .diagnostics.agreement import Agreement, agreement
    from .diagnostics.comparing.comparing import compare
    from .diagnostics.comparing.result import RunComparison
    from .diagnostics.coverage.coverage import coverage
    from .diagnostics.coverage.result import Coverage
    from .diagnostics.curves.result import LearningCurves
    from .diagnostics.eigenlearning import Eigenlearning, eigenlearning
    from .diagnostics.evolution.between import KernelDistances, kernel_distances
    from .diagnostics.evolution.course import evolution
    from .diagnostics.evolution.result import KernelEvolution
    from .diagnostics.gradient_scores import gradient_scores
    from .diagnostics.kernels_of_runs import kernel_of_run
    from .diagnostics.learning_curves import learning_curves
    from .diagnostics.leaving_out.evaluating import evaluate
    from .diagnostics.leaving_out.evaluation import Evaluation
    from .diagnostics.leaving_out.retraining import Retrained, retrain
    from .diagnostics.null_space.null_space import null_space
    from .diagnostics.null_space.reservoir import reservoir
    from .diagnostics.null_space.reservoir_result import Reservoir
    from .diagnostics.null_space.result import NullSpace
    from .diagnostics.orders import Orders, orders
    from .diagnostics.predictions import Predictions, predictions
    from .diagnostics.scaling import Scaling, scaling
    from .diagnostics.scores import GradientScores
    from .diagnostics.separation import Separation, separation
    from .diagnostics.spectra import Spectrum
    from .diagnostics.spectrum import spectrum
    from .diagnostics.trade_offs import TradeOffs, trade_offs
    from .gaussian.posterior import posterior
    from .gaussian.result import Posterior
    from .machine.fit import fit
    from .machine.machine import KernelMachine
    from .machine.primal import FeatureMachine
    from .operator import KernelOperator
    from .report import Report
    from .run.from_checkpoints import from_checkpoints
    from .run.opening import load
    from .run.recorder import record
    from .run.run import Run
    from .tiles.tiles import Tiles

__version__ = "0.1.0"

__all__ = ["Agreement", "Coverage", "Decomposition", "Eigenlearning", "Ensemble", "Evaluation", "Expected",
           "Explanation", "FeatureMachine", "GradientScores", "Influence", "KernelDistances", "KernelEvolution",
           "KernelMachine", "KernelOperator", "LearningCurves", "MemoryWeights", "NullSpace", "Orders", "PathKernel",
           "Posterior", "Predictions", "Report", "Reservoir", "Retrained", "Run", "RunComparison", "Scaling",
           "Separation", "Spectrum", "Tiles", "TokenContributions", "TradeOffs", "agreement", "compare", "coverage",
           "data", "decompose", "eigenlearning", "ensemble", "errors", "evaluate", "evolution", "expected", "explain",
           "features", "fit", "from_checkpoints", "generative", "gradient_scores", "influence", "integrations",
           "kernel_distances", "kernel_of_run", "kernels", "learning_curves", "load", "memory_weights", "nn",
           "null_space", "orders", "path_kernel", "posterior", "predictions", "record", "reservoir", "retrain",
           "scaling", "separation", "sklearn", "solvers", "spectrum", "token_contributions", "trade_offs"]

_HOMES = {
    "Agreement": "diagnostics.agreement",
    "Coverage": "diagnostics.coverage.result",
    "Decomposition": "decomposition.result",
    "Eigenlearning": "diagnostics.eigenlearning",
    "Ensemble": "decomposition.stochastic.ensemble",
    "Evaluation": "diagnostics.leaving_out.evaluation",
    "Expected": "decomposition.stochastic.result",
    "Explanation": "decomposition.explanation",
    "FeatureMachine": "machine.primal",
    "GradientScores": "diagnostics.scores",
    "Influence": "decomposition.influence.result",
    "KernelDistances": "diagnostics.evolution.between",
    "KernelEvolution": "diagnostics.evolution.result",
    "KernelMachine": "machine.machine",
    "KernelOperator": "operator",
    "LearningCurves": "diagnostics.curves.result",
    "MemoryWeights": "decomposition.stochastic.memory",
    "NullSpace": "diagnostics.null_space.result",
    "Orders": "diagnostics.orders",
    "PathKernel": "decomposition.stochastic.kernel",
    "Posterior": "gaussian.result",
    "Predictions": "diagnostics.predictions",
    "Report": "report",
    "Reservoir": "diagnostics.null_space.reservoir_result",
    "Retrained": "diagnostics.leaving_out.retraining",
    "Run": "run.run",
    "RunComparison": "diagnostics.comparing.result",
    "Scaling": "diagnostics.scaling",
    "Separation": "diagnostics.separation",
    "Spectrum": "diagnostics.spectra",
    "Tiles": "tiles.tiles",
    "TokenContributions": "decomposition.token_result",
    "TradeOffs": "diagnostics.trade_offs",
    "agreement": "diagnostics.agreement",
    "compare": "diagnostics.comparing.comparing",
    "coverage": "diagnostics.coverage.coverage",
    "decompose": "decomposition.exact",
    "eigenlearning": "diagnostics.eigenlearning",
    "ensemble": "decomposition.stochastic.ensemble",
    "evaluate": "diagnostics.leaving_out.evaluating",
    "evolution": "diagnostics.evolution.course",
    "expected": "decomposition.stochastic.expected",
    "explain": "decomposition.explaining",
    "fit": "machine.fit",
    "from_checkpoints": "run.from_checkpoints",
    "gradient_scores": "diagnostics.gradient_scores",
    "influence": "decomposition.influence.influence",
    "kernel_distances": "diagnostics.evolution.between",
    "kernel_of_run": "diagnostics.kernels_of_runs",
    "learning_curves": "diagnostics.learning_curves",
    "load": "run.opening",
    "memory_weights": "decomposition.stochastic.memory",
    "null_space": "diagnostics.null_space.null_space",
    "orders": "diagnostics.orders",
    "path_kernel": "decomposition.stochastic.path_kernel",
    "posterior": "gaussian.posterior",
    "predictions": "diagnostics.predictions",
    "record": "run.recorder",
    "reservoir": "diagnostics.null_space.reservoir",
    "retrain": "diagnostics.leaving_out.retraining",
    "scaling": "diagnostics.scaling",
    "separation": "diagnostics.separation",
    "spectrum": "diagnostics.spectrum",
    "token_contributions": "decomposition.tokens",
    "trade_offs": "diagnostics.trade_offs",
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
