r"""What the targets of a run ask for, as columns of numbers that a kernel can be aligned with and fitted to.

Classes are columns of 0 and 1, one for each output; of a network with one logit they are one column of -1 and 1, and of
one with a logit for each of several labels a column for each. Where outputs are probabilities already, as under the
plain binary cross entropy, so are the columns. Targets of a loss of quantities are taken as they are. What a number
stands for is scored accordingly: classes by the share of right answers, labels by that of right labels, quantities by
:math:`R^2 = 1 - |F - Y|^2 / |Y - \bar Y|^2`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ..decomposition.targets import checked_classes
from ..errors import DataError
from ..run.classes import QUANTITIES, class_indices
from ..run.run import Run
from .chances import are_probabilities

#: The losses that leave out the samples of one class, and its number unless another one was given.
IGNORING, IGNORED = ("cross_entropy", "nll_loss"), -100


def counted(run: Run, targets: Tensor) -> Tensor:
    """Whether each target counts in the loss, with shape (n,): those of the class that a loss ignores do not."""
    if run.loss.name not in IGNORING or targets.is_floating_point() or targets[:1].numel() != 1:
        return torch.ones(len(targets), dtype=torch.bool)
    return (targets.reshape(-1) != run.loss.options.get("ignore_index", IGNORED)).cpu()


@dataclass(frozen=True)
class Task:
    """How targets are read.

    Attributes:
        kind: ``"index"`` and ``"logit"`` of classes given by their number, ``"rows"`` of rows in which the largest
            entry is the class, ``"half"`` of numbers that are 0 or 1 where outputs are of their scale, or
            ``"quantities"``; ``"logit"`` and ``"half"`` of several columns are labels, each of which is so or not.
        width: The number of columns.
        squared: Whether outputs are of the targets' own scale, as under a loss of quantities or of probabilities.
    """

    kind: str
    width: int
    squared: bool

    @classmethod
    def of(cls, run: Run, targets: Tensor, outputs: Tensor, squared: bool) -> Task:
        """The task of training targets and outputs of shape (n, c), with a squared loss or another one.

        Raises:
            DataError: If the targets are neither classes nor quantities.
        """
        squared, c = squared or run.loss.name in QUANTITIES or are_probabilities(run), outputs.shape[1]
        indices = class_indices(targets, run.loss.name)
        if not targets.is_floating_point():
            # Whole numbers beyond the outputs count something.
            if indices is None or int(indices.min()) < 0 or int(indices.max()) >= max(c, 2) or squared:
                if targets[:1].numel() == 1:
                    return cls("quantities", 1, squared)
                raise DataError(
                    f"Targets with shape {tuple(targets.shape)} of {targets.dtype} are neither classes of samples nor "
                    "quantities, so no kernel of samples can be held against them. Use runs with one target a sample."
                )
            return cls("index", c, False) if c > 1 else cls("logit", 1, False)
        binary = are_probabilities(run) or _has_logits(run)
        width = targets[:1].numel()
        if indices is None and not binary:
            return cls("quantities", width, squared or run.loss.name is None)
        if indices is not None and width > 1:
            return cls("rows", width, squared)
        return cls("half" if squared else "logit", width, squared)

    @property
    def classes(self) -> bool:
        """Whether there are classes."""
        return self.kind != "quantities"

    @property
    def labels(self) -> bool:
        """Whether there are several labels, of which a sample may have any."""
        return self.kind in ("logit", "half") and self.width > 1

    @property
    def score(self) -> str:
        """What a score is called."""
        return "share of right labels" if self.labels else "accuracy" if self.classes else "R²"

    @property
    def notes(self) -> list[str]:
        """How targets were read, where it is not plain."""
        half = self.kind == "half"
        read = "0 and 1, as the outputs are" if half else "−1 and 1, as outputs are logits"
        if self.labels:
            return [f"A sample may have any of {self.width} labels: each is a column of {read}, and the score is the "
                    "share of right labels."]
        return [f"Targets are read as {read}: the answer is the second class above one half."] * half

    def columns(self, targets: Tensor) -> Tensor:
        """Targets as float64 columns, with shape (n, width)."""
        if self.kind == "index":
            checked_classes(targets, self.width)
            return one_hot(targets.flatten().long(), self.width).double()
        found = targets.reshape(len(targets), -1).double().cpu()
        return 2 * found - 1 if self.kind == "logit" else found

    def answers(self, values: Tensor) -> Tensor:
        """The class of each row of outputs or columns, with shape (n,); of several labels each, with shape (n, c)."""
        if self.kind in ("logit", "half"):
            found = (values > (0.5 if self.kind == "half" else 0.0)).long()
            return found if self.labels else found[:, 0]
        return values.argmax(1)

    def scored(self, values: Tensor, columns: Tensor) -> float:
        """The share of right classes or labels, or R², which is NaN where all targets are the same."""
        if self.classes:
            return float((self.answers(values) == self.answers(columns)).double().mean())
        if not bool((columns != columns[:1]).any()):
            return torch.nan
        spread = float((columns - columns.mean(0)).square().sum())
        return 1 - float((values.double() - columns).square().sum()) / spread

    def off(self, values: Tensor, outputs: Tensor) -> float:
        r"""How far predictions g are from the outputs f of a network, :math:`|g - f|^2 / |f - \bar f|^2`.

        Outputs of several classes have no level: the mean over outputs is taken off each row first.
        """
        g, f = self._level(values.double()), self._level(outputs.double())
        size = float((f - f.mean(0)).square().sum())
        return float((g - f).square().sum()) / size if size else torch.nan

    def far(self, values: Tensor, outputs: Tensor) -> float:
        r"""How far fits of targets are from the outputs f of a network.

        Those of a loss of quantities are compared as they are. Those of classes have no scale either, and g is scaled
        to fit best, :math:`\min_{s \ge 0} |sg - f|^2 / |f|^2 = 1 - \cos^2(g, f)`.
        """
        if self.squared or not self.classes:
            return self.off(values, outputs)
        g, f = self._level(values.double()), self._level(outputs.double())
        sizes = float(g.norm() * f.norm())
        return 1 - max(float((g * f).sum()) / sizes, 0.0) ** 2 if sizes else torch.nan

    def _level(self, values: Tensor) -> Tensor:
        level = self.kind in ("index", "rows") and not self.squared and values.shape[1] > 1
        return values - values.mean(1, keepdim=True) if level else values


def _has_logits(run: Run) -> bool:
    """Whether an output is the logit of a label, by a loss that may have weights too."""
    return run.loss.name == "binary_cross_entropy_with_logits" or isinstance(run.loss.function,
                                                                             nn.BCEWithLogitsLoss)
