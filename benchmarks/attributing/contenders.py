"""Ways to score training samples, each from its own package by its own calls; more means a larger loss of the query.

A contender gives its scores by setting, of which one is chosen on other queries than those it is judged on.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import kernelscope as ks
from kernelscope.decomposition.influence.damping import damping_of
from kernelscope.diagnostics.leaving_out.evaluating import DAMPING

from .task import CHECKPOINTS, RATE, Task

Scores = dict[str, Tensor]

#: The batch that rivals work on: all training samples, or all queries, at once.
BATCH = 500


class Skipped(Exception):
    """A package that is not there."""


def contribution(task: Task) -> Scores:
    """The exact shares along the run."""
    return {"": ks.decompose(task.run, task.queries, output="loss", targets=task.aims).contributions[:, 0]}


def metagradient(task: Task) -> Scores:
    """The derivative through all steps."""
    return {"": ks.influence(task.run, task.queries, "loss", targets=task.aims).influences[:, 0]}


def gauss_newton(task: Task) -> Scores:
    """The influence at the end."""
    own = damping_of(task.run)
    return {f"damping {part * own:.2g}": ks.influence(
        task.run, task.queries, "loss", targets=task.aims, method="gauss-newton", damping=part * own).influences[:, 0]
        for part in DAMPING}


def gradient_dot(task: Task) -> Scores:
    """Products of gradients at the end, by this package."""
    return {"": -ks.gradient_scores(task.model().double(), (task.queries, task.aims), (task.x, task.y),
                                    loss=F.cross_entropy).scores}


def captum_tracin(task: Task, count: int = CHECKPOINTS) -> Scores:
    """TracInCP of captum at checkpoints that stand at even distances, or at the end alone."""
    needed("captum")
    from captum.influence import TracInCP

    steps = len(task.run)
    states = {str(k): {name: value.float() for name, value in task.run.parameters(k).items()}
              for k in ((i + 1) * steps // count for i in range(count))}

    def loaded(model: nn.Module, name: str) -> float:
        model.load_state_dict(states[name])
        return RATE

    tracin = TracInCP(task.model(), TensorDataset(task.x.float(), task.y), list(states), loaded,
                      loss_fn=nn.CrossEntropyLoss(reduction="sum"), batch_size=BATCH, sample_wise_grads_per_batch=True)
    return {"": -tracin.influence((task.queries.float(), task.aims), k=None)}


def trak(task: Task, count: int = 1) -> Scores:
    """TRAK of the run's network, or of several: scores of margins, by the size of the projection and the ridge."""
    needed("traker")
    import logging

    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    states = [None, *(task.other(i) for i in range(count - 1))] if count > 1 else [None]
    found = {}
    for size in (512, 2048):
        for ridge in (0.0, 1e2, 1e3):
            model = task.model()
            projector = BasicProjector(sum(p.numel() for p in model.parameters()), size, 0, ProjectionType.rademacher,
                                       "cpu")
            with tempfile.TemporaryDirectory() as folder:
                traker = TRAKer(model, "image_classification", len(task.y), save_dir=folder, device="cpu",
                                projector=projector, proj_max_batch_size=32, use_half_precision=False, lambda_reg=ridge,
                                logging_level=logging.ERROR)
                for i, state in enumerate(states):
                    traker.load_checkpoint(task.model(state).state_dict(), model_id=i)
                    traker.featurize((task.x.float(), task.y), num_samples=len(task.y))
                traker.finalize_features()
                for i, state in enumerate(states):
                    traker.start_scoring_checkpoint("queries", task.model(state).state_dict(), i, len(task.aims))
                    traker.score((task.queries.float(), task.aims), num_samples=len(task.aims))
                scores = torch.as_tensor(traker.finalize_scores("queries")).clone()
            # More margin is less loss, and rows are training samples.
            found[f"{size} dimensions, ridge {ridge:g}"] = -scores.T.contiguous()
    return found


def kronfluence(task: Task) -> Scores:
    """EK-FAC of kronfluence by the damping, none of its own among them."""
    needed("kronfluence")
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task as Asked

    class Classification(Asked):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            x, y = batch
            logits = model(x)
            if sample:
                with torch.no_grad():
                    y = torch.multinomial(logits.softmax(1), 1).flatten()
            return F.cross_entropy(logits, y, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    # The labels that its factors are fitted on are drawn, and its scores vary by 0.02 with them.
    torch.manual_seed(0)
    asked = Classification()
    train, queries = (TensorDataset(x.float(), y) for x, y in ((task.x, task.y), (task.queries, task.aims)))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(task.model(), asked)
        analyzer = Analyzer("digits", model, asked, cpu=True, log_level=40, disable_tqdm=True, output_dir=folder)
        analyzer.fit_all_factors("ekfac", train, per_device_batch_size=BATCH,
                                 factor_args=FactorArguments(strategy="ekfac"))
        for damping in (1e-8, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, None):
            word = "damping of 0.1 mean eigenvalues" if damping is None else f"damping {damping:g}"
            analyzer.compute_pairwise_scores(word, "ekfac", queries, train, per_device_query_batch_size=len(queries),
                                             per_device_train_batch_size=BATCH,
                                             score_args=ScoreArguments(damping_factor=damping))
            found[word] = -analyzer.load_pairwise_scores(word)["all_modules"]
    return found


def needed(package: str) -> None:
    """Refuses a contender whose package is not there."""
    module = {"traker": "trak"}.get(package, package)
    if find_spec(module) is None:
        raise Skipped(f"{package} is not installed")


def dattri(task: Task) -> Scores:
    """Not measured: named so that it is seen to be left out."""
    raise Skipped("dattri is not installed" if find_spec("dattri") is None else "dattri has no contender here yet")


#: By name: what it is, its package, and the scores.
CONTENDERS: dict[str, tuple[str, str, Callable[[Task], Scores]]] = {
    "contribution": ("contribution", "kernelscope", contribution),
    "influence, metagradient": ("influence", "kernelscope", metagradient),
    "influence, Gauss-Newton": ("influence", "kernelscope", gauss_newton),
    "gradient dot": ("baseline", "kernelscope", gradient_dot),
    "EK-FAC": ("influence", "kronfluence", kronfluence),
    "TRAK-10": ("influence", "traker", lambda task: trak(task, CHECKPOINTS)),
    "TRAK-1": ("influence", "traker", trak),
    "TracInCP, 10 checkpoints": ("baseline", "captum", captum_tracin),
    "gradient dot of captum": ("baseline", "captum", lambda task: captum_tracin(task, 1)),
    "dattri": ("baseline", "dattri", dattri),
}


def scored(name: str, folder: Path, activation: str) -> tuple[Scores, str]:
    """The scores of a contender, and the version of its package."""
    from .task import opened

    _, package, make = CONTENDERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = make(opened(folder, activation))
    own = ks.__version__ if package == "kernelscope" else version(package)
    return {word: value.detach().double().cpu().contiguous() for word, value in found.items()}, own
