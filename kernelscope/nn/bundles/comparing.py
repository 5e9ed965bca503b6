r"""How a network and what stands for it answer the same points, summed over batches.

Answers are compared as numbers, :math:`\|g(x) - f(x)\| / \|f(x) - \bar f\|`; as classes, by the share that is the same
and the mean of :math:`\mathrm{KL}(\mathrm{softmax} f \,\|\, \mathrm{softmax} g)`; and against targets, where they came.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import DataError
from ...result import as_float64

#: Targets that tokenizers and losses leave out.
IGNORED = -100


@dataclass
class Comparison:
    """Sums over the answers to some points.

    Attributes:
        classes: Whether outputs are logits of classes; one column is that of the second of two classes.
        least: From where on one column of the network means the second class.
        other: The same of what stands for it.
    """

    classes: bool
    least: float = 0.0
    other: float = 0.0
    count: int = 0
    squares: float = 0.0
    gaps: float = 0.0
    same: float = 0.0
    kl: float = 0.0
    scored: int = 0
    scores: dict[str, float] = field(default_factory=lambda: {"before": 0.0, "after": 0.0})
    sums: Tensor | float = 0.0
    targets: tuple[Tensor | float, float] = (0.0, 0.0)

    def add(self, before: Tensor, after: Tensor, y: Tensor | None = None) -> None:
        """Adds answers, with shape (..., c), and their targets with shape (...) for classes, else like them."""
        c = before.shape[-1]
        f, g = as_float64(before).reshape(-1, c), as_float64(after).reshape(-1, c)
        self.count += len(f)
        self.squares += float(f.square().sum())
        self.sums = self.sums + f.sum(0)
        self.gaps += float((g - f).square().sum())
        if self.classes:
            f, g = _both(f, self.least), _both(g, self.other)
            self.same += int((f.argmax(1) == g.argmax(1)).sum())
            p, q = f.log_softmax(1), g.log_softmax(1)
            self.kl += float((p.exp() * (p - q)).sum())
        if y is not None:
            self._score(f, g, y.detach().cpu())

    def _score(self, f: Tensor, g: Tensor, y: Tensor) -> None:
        if self.classes:
            y = y.reshape(-1)
            kept = y != IGNORED
            self.scored += int(kept.sum())
            for name, values in (("before", f), ("after", g)):
                self.scores[name] += int((values.argmax(1) == y)[kept].sum())
        else:
            z = as_float64(y).reshape(f.shape)
            self.scored += len(z)
            self.targets = (self.targets[0] + z.sum(0), self.targets[1] + float(z.square().sum()))
            for name, values in (("before", f), ("after", g)):
                self.scores[name] += float((values - z).square().sum())

    @property
    def name(self) -> str:
        """What the score is."""
        return "accuracy" if self.classes else "R²"

    @property
    def error(self) -> float:
        """The root mean square difference of answers, as a share of how much those of the network vary."""
        spread = self.squares - float(torch.as_tensor(self.sums).square().sum()) / max(self.count, 1)
        return (self.gaps / spread) ** 0.5 if spread > 0 else float("nan")

    @property
    def agreement(self) -> float | None:
        """The share of points that get the same class; ``None`` without classes."""
        return self.same / self.count if self.classes and self.count else None

    @property
    def divergence(self) -> float | None:
        """The mean divergence of the probabilities, in nats; ``None`` without logits."""
        logits = self.classes and self.least == self.other == 0
        return self.kl / self.count if logits and self.count else None

    def score(self, which: str) -> float | None:
        """The accuracy, or without classes R²; ``None`` without targets."""
        if not self.scored:
            return None
        if self.classes:
            return self.scores[which] / self.scored
        total, squares = self.targets
        spread = squares - float(torch.as_tensor(total).square().sum()) / self.scored
        return 1 - self.scores[which] / spread if spread > 0 else float("nan")


def are_classes(labels: Tensor | None, outputs: Tensor, logits: bool) -> bool:
    """Whether outputs are logits of classes.

    Targets that are whole numbers, one for each row of outputs, are classes; of a single output only 0 and 1 are.
    Without targets several outputs are taken as logits.
    """
    if labels is None:
        return logits and outputs.shape[-1] > 1
    if labels.is_floating_point():
        return False
    if outputs.shape[-1] == 1:
        return bool(((labels == 0) | (labels == 1) | (labels == IGNORED)).all())
    return labels.shape[1:] != outputs.shape[1:]


def check_targets(labels: Tensor | None, outputs: Tensor, logits: bool) -> None:
    """Refuses targets that do not go with outputs, of which a batch is enough.

    Raises:
        DataError: If there is not one class for each row of outputs, or not as many numbers.
    """
    if labels is None:
        return
    c, rows = outputs.shape[-1], outputs[0].numel() // outputs.shape[-1]
    classes = are_classes(labels, outputs, logits)
    if labels[0].numel() != (rows if classes else rows * c):
        raise DataError(f"Targets are a class for each row of outputs, as whole numbers, or numbers like the outputs, "
                        f"with shape {tuple(outputs.shape[1:])} for each point; {labels.dtype} of shape "
                        f"{tuple(labels.shape[1:])} came.")
    known = labels[labels != IGNORED]
    if classes and len(known) and not 0 <= int(known.min()) <= int(known.max()) < max(c, 2):
        odd = int(known.min()) if int(known.min()) < 0 else int(known.max())
        raise DataError(f"Classes are counted from 0; {odd} came, and the network has {c} outputs. Pass as targets "
                        "classes that it tells apart, or inputs alone.")


def threshold(outputs: Tensor) -> float:
    """From where on one output means the second class: 0 of logits, a half of probabilities."""
    return 0.5 if bool(((outputs >= 0) & (outputs <= 1)).all()) else 0.0


def _both(column: Tensor, least: float) -> Tensor:
    """Values of two classes from those of the second; others stay as they are."""
    return torch.cat([torch.full_like(column, least), column], 1) if column.shape[1] == 1 else column
