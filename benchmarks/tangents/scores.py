"""Products of loss gradients, 128 test points by 512 of training: ours and those of attribution packages."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import TensorDataset

import kernelscope as ks

from .networks import network, points

TEST, TRAIN = 128, 512

#: Test and training points, each with targets.
Sides = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def sides(kind: str) -> Sides:
    """The points and random targets."""
    x = points(kind, TEST + TRAIN)
    y = torch.randint(10, (len(x),), generator=torch.Generator().manual_seed(2))
    return (x[:TEST], y[:TEST]), (x[TEST:], y[TEST:])


def ours(kind: str, given: Sides) -> Callable[[], Tensor]:
    """The tangent kernel of losses."""
    kernel = ks.kernels.Tangent(network(kind), loss=F.cross_entropy)
    return lambda: kernel(*given)


def by_gradients(kind: str, given: Sides) -> Callable[[], Tensor]:
    """Per-sample gradients by vmap, and one product."""
    model = network(kind)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    loss = lambda own, point, target: F.cross_entropy(functional_call(model, own, (point[None],)), target[None])
    rows = lambda side: torch.cat([g.flatten(1) for g in vmap(grad(loss), (None, 0, 0))(theta, *side).values()], 1)
    return lambda: rows(given[0]) @ rows(given[1]).T


def by_captum(kind: str, given: Sides, batch: int) -> Callable[[], Tensor]:
    """Captum's TracInCP at one checkpoint, by its sample-wise path."""
    from captum.influence import TracInCP

    # The network is at its checkpoint already, so that no time goes into files.
    tracin = TracInCP(network(kind), TensorDataset(*given[1]), ["present"], batch_size=batch,
                      checkpoints_load_func=lambda module, checkpoint: 1.0,
                      loss_fn=nn.CrossEntropyLoss(reduction="sum"), sample_wise_grads_per_batch=True)
    return lambda: tracin.influence(given[0])


def by_kronfluence(kind: str, given: Sides, batch: int) -> Callable[[], Tensor]:
    """Kronfluence's pairwise scores with nothing between the gradients."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    logging.disable(logging.CRITICAL)

    class Classify(Task):
        """Cross entropy, summed over the batch."""

        def compute_train_loss(self, batch: tuple[Tensor, Tensor], model: nn.Module, sample: bool = False) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    task, folder = Classify(), tempfile.TemporaryDirectory()
    test, train = (TensorDataset(*side) for side in given)
    analyzer = Analyzer("scores", prepare_model(network(kind), task), task, cpu=True, output_dir=folder.name,
                        disable_tqdm=True, disable_model_save=True)
    analyzer.folder = folder
    # Nothing is fitted; the scores only want to read that.
    analyzer.fit_all_factors("none", train, per_device_batch_size=batch, factor_args=FactorArguments("identity"))

    def work() -> Tensor:
        analyzer.compute_pairwise_scores(
            "scores", "none", test, train, per_device_query_batch_size=TEST, per_device_train_batch_size=batch,
            score_args=ScoreArguments(), overwrite_output_dir=True)
        return analyzer.load_pairwise_scores("scores")["all_modules"]

    return work


#: The scores in each way at its settings.
WAYS: dict[str, dict[str, Callable[[str, Sides], Callable[[], Tensor]]]] = {
    "kernelscope": {"": ours},
    "vmap(grad)": {"": by_gradients},
    "captum": {str(b): lambda kind, given, b=b: by_captum(kind, given, b) for b in (128, 256, 512)},
    "kronfluence": {str(b): lambda kind, given, b=b: by_kronfluence(kind, given, b) for b in (128, 256, 512)},
}


def reference(kind: str, given: Sides) -> Tensor:
    """The scores by gradients in float64, one after the other."""
    model = network(kind).double()
    rows = []
    for x, y in given:
        losses = [F.cross_entropy(model(one[None]), target[None]) for one, target in zip(x.double(), y, strict=True)]
        found = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
        rows.append(torch.stack([torch.cat([g.flatten() for g in each]) for each in found]))
    return rows[0] @ rows[1].T
