"""The scores of training samples for test samples, and the strongest of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from ..errors import DataError
from ..result import Check, CheckRow, Result
from ..text import with_minus

if TYPE_CHECKING:
    import pandas as pd

#: How far from float64 Jacobians scores may be, relative to the largest.
EXACT = {"float64": 1e-10, "float32": 1e-5}

#: What a score says, and what it does not.
MEANING = (
    "A score says how far one small training step on a sample would lower the loss of a test sample, at fixed "
    "parameters. It is neither what the sample contributed along the run nor what would change without it."
)

#: The same of scores by outputs.
MEANING_OF_OUTPUTS = (
    "A score says how far one small step that raises the outputs for a sample would raise those for a test sample, at "
    "fixed parameters, whatever their targets. It is neither what the sample contributed along the run nor what would "
    "change without it."
)

#: How far above 1 a cosine may be, where gradients are rounded before products are taken.
ROUNDED = 1e-2


class Top(NamedTuple):
    """The strongest training samples of each test sample, strongest first: both with shape (n_test, k)."""

    indices: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class GradientScores(Result):
    r"""The products of the gradients of test samples with those of training samples.

    Attributes:
        scores: :math:`s_{ij}`, with shape :math:`(n_{test}, n_{train})`; positive for a proponent, on which a gradient
            step lowers the loss of the test sample.
        parts: The scores by each parameter or layer alone, if asked; of products, they add up to the scores.
        of: What was differentiated, ``"losses"`` or ``"outputs"``.
        cosine: Whether gradients were brought to length 1.
        rates: The weight of each checkpoint.
        square: Whether test and training samples are the same.
        query_labels: The classes of the test samples, if they have some.
        labels: The classes of the training samples, if they have some.
        class_names: A word for each class, if the data set has some.
        error: The largest error found beside float64 Jacobians, relative to the largest score; ``None`` if not asked.
        dtype: The precision that was computed in.
    """

    scores: Tensor
    parts: dict[str, Tensor] | None
    of: str
    cosine: bool
    rates: list[float]
    square: bool
    query_labels: Tensor | None
    labels: Tensor | None
    class_names: list[str] | None
    error: float | None
    dtype: str

    @property
    def meaning(self) -> str:
        """What a score says, and what it does not."""
        return MEANING if self.of == "losses" else MEANING_OF_OUTPUTS

    @property
    def kind(self) -> str:
        """What a score is, in words."""
        return f"{'cosine' if self.cosine else 'product'} of {'loss' if self.of == 'losses' else 'output'} gradients"

    @property
    def T(self) -> Tensor:
        """The scores with training samples first, with shape (n_train, n_test)."""
        return self.scores.T

    def top(self, k: int = 5, proponents: bool = True, part: str | None = None) -> Top:
        """The ``k`` strongest proponents of each test sample; or its strongest opponents, the most negative first.

        Args:
            k: How many; all of them if there are fewer.
            proponents: Whether the largest scores are wanted, or the smallest.
            part: The parameter or layer to go by; without it all of them.

        Raises:
            DataError: If k is no positive number, or there is no such part.
        """
        check_k(k)
        if part is not None and part not in (self.parts or {}):
            raise DataError(f'There are no scores by {part!r}. Ask for by="parameter" or by="layer"; there are '
                            f"{', '.join(map(repr, self.parts or {})) or 'none'}.")
        return strongest(self.scores if part is None or self.parts is None else self.parts[part], k, proponents)

    def self_scores(self) -> Tensor:
        """The score of each sample with itself, with shape (n,): its squared gradient norm, large for odd samples.

        Raises:
            DataError: If test and training samples differ.
        """
        if not self.square:
            raise DataError(
                "Test and training samples differ, so no sample meets itself. Call gradient_scores(model, train, "
                "loss=loss); for these alone, ks.kernels.Tangent(model, loss=loss).diagonal(train)."
            )
        return self.scores.diagonal()

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, queries: int | slice | list[int] | Tensor) -> Self:
        """The scores of some of the test samples."""
        rows = torch.arange(len(self))[queries].reshape(-1)
        return replace(
            self, scores=self.scores[rows], square=False,
            parts=None if self.parts is None else {name: part[rows] for name, part in self.parts.items()},
            query_labels=None if self.query_labels is None else self.query_labels[rows])

    def name(self, label: Tensor | int | None) -> str:
        """A class in words; nothing for a sample that has none."""
        if label is None:
            return ""
        place = int(label)
        known = self.class_names is not None and 0 <= place < len(self.class_names)
        return self.class_names[place] if known and self.class_names is not None else str(place)

    def summary(self) -> str:
        return f"GradientScores({self.extent()})"

    def extent(self) -> str:
        """How many scores there are, of what, and how large they are."""
        n, m = self.scores.shape
        what = self.kind.replace(" ", "s ", 1)
        times = f", {len(self.rates)} checkpoints" if len(self.rates) > 1 else ""
        span = with_minus(f"from {float(self.scores.min()):+.3g} to {float(self.scores.max()):+.3g}") \
            if self.scores.numel() else ""
        extent = f"{float((self.scores > 0).double().mean()):.0%} positive, {span}" if span else "none"
        return f"{n:,} test samples by {m:,} training samples, {what}{times}: {extent}"

    def to_frame(self, k: int | None = 5) -> pd.DataFrame:
        """One row for each of the k strongest proponents and opponents of each test sample; for all, with ``None``."""
        import pandas as pd

        n, m = self.scores.shape
        tables = []
        for side, sign in (("proponent", 1), ("opponent", -1)):
            indices, scores = self.top(max(m, 1) if k is None else k, proponents=sign > 0)
            kept = scores * sign > 0
            query, place = kept.nonzero(as_tuple=True)
            samples = indices[kept]
            names = {} if self.labels is None else {"label": list(map(self.name, self.labels[samples].tolist()))}
            tables.append(pd.DataFrame({
                "query": query.tolist(), "side": side, "rank": (place + 1).tolist(), "sample": samples.tolist(),
                **names, "score": scores[kept].tolist(),
            }))
        return pd.concat(tables).sort_values("query", kind="stable", ignore_index=True)

    def check(self) -> Check:
        """Whether the scores are numbers, add up, keep their bounds, and are those of plain differentiation."""
        size = float(self.scores.abs().max()) if self.scores.numel() else 0.0
        limit = EXACT.get(self.dtype, EXACT["float32"])
        finite = bool(self.scores.isfinite().all())
        rows = [CheckRow("finite", "pass" if finite else "fail", None, None,
                         "All scores are finite." if finite else "Some scores are NaN or infinite.")]
        if self.parts is not None and not self.cosine:
            gap = float((torch.stack(list(self.parts.values())).sum(0) - self.scores).abs().max()) / (size or 1.0)
            rows.append(CheckRow("parts", "pass" if gap <= limit else "fail", gap, limit,
                                 f"The parts add up to the scores, to {with_minus(f'{gap:.1e}')} of the largest."))
        if self.cosine:
            most = size / (sum(map(abs, self.rates)) or 1.0)
            rows.append(CheckRow("bound", "pass" if most <= 1 + ROUNDED else "fail", most, 1.0,
                                 f"The largest cosine is {most:.6g}; none can be above 1."))
        if self.error is not None:
            rows.append(CheckRow("exactness", "pass" if self.error <= limit else "warn", self.error, limit,
                                 "A random corner differs from float64 Jacobians by "
                                 f"{with_minus(f'{self.error:.1e}')} of the largest."))
        return Check(tuple(rows))


def strongest(scores: Tensor, k: int, proponents: bool) -> Top:
    """The k largest scores of each row, or the k smallest, strongest first."""
    found = scores.topk(min(k, scores.shape[1]), dim=1, largest=proponents)
    return Top(found.indices, found.values)


def check_k(k: Any) -> None:
    """Whether k is a number of samples; raises if not."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise DataError(f"k is how many samples are wanted, a number from 1 on; {k!r} came.")
