"""The coverage of some queries, and every other score of how well they are known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from ...errors import DataError
from ...ranks import spearman
from ...result import Check, CheckRow, Result, rows_of
from ...text import with_minus

if TYPE_CHECKING:
    import pandas as pd

#: A query that is less covered than this share of the training samples are by the others counts as outside.
LEVEL = 0.05

#: The bands of the spectral profile: eigenvalues from so many times their mean tr K / n on, descending.
BANDS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0)
BAND_NAMES = ("≥ 10", "1 to 10", "0.1 to 1", "0.01 to 0.1", "0.001 to 0.01", "below 0.001", "outside the span")

#: Scores that are smaller for what is better known.
FALLING = ("variance", "schur", "init share", "SGD variance")

#: How many queries like those of training lie within error bars that hold 95 % of the training samples.
HELD = 0.9

#: How far two coverages may differ by round-off alone.
ROUNDING = {"float64": 1e-9, "float32": 1e-6}

#: How far k_x may lie outside the range of K, relative to its norm.
RANGE = {"float64": 1e-5, "float32": 1e-2}


@dataclass(frozen=True, eq=False, repr=False)
class Coverage(Result):
    r"""How much of each query's tangent feature lies inside the span of those of training.

    Attributes:
        coverage: :math:`c_\lambda(x) = k_x^T (K + \lambda)^{-1} k_x / k(x, x)`, between 0 and 1, with shape (q,);
            0 where no parameter moves the answer and the feature is nought.
        ladder: The same for each ridge of ``ridges``, with shape (r, q).
        ridges: Ridges as shares of tr K / n, descending.
        ridge: The one of ``coverage``.
        schur: :math:`s(x) = k(x, x) - k_x^T K^+ k_x`, the squared length of what lies outside, with shape (q,).
        variance: :math:`s_\lambda(x) = k(x, x) - k_x^T (K + \lambda)^{-1} k_x`, with shape (q,).
        diagonal: :math:`k(x, x)`, with shape (q,).
        left_out: The coverage of each training sample by the others at the same ridge, with shape (n,).
        rank: The share of the training samples that are less covered by the others, counting the query itself:
            :math:`(1 + \#\{c_{-i} \le c\}) / (n + 1)`, with shape (q,).
        profile: The share of each query's feature in the directions of each band of eigenvalues, and outside: rows add
            up to 1, with shape (q, 7).
        spectrum: The eigenvalues of K that are more than round-off, descending.
        classes: The class whose logit was taken of each query, with shape (q,); ``None`` where all outputs were.
        right: Whether the predicted class is the true one, where targets came.
        cosine: The largest cosine with a training sample's feature, with shape (q,).
        nearest: The id of that sample.
        nearest_labels: Its label in words.
        change: :math:`f_T(x) - f_0(x)` of the number whose gradient is the feature, with shape (q,).
        machine: What the kernel machine fitted to the same change at the training samples says of it.
        bound: :math:`\sqrt{s_\lambda(x)}\,\|m\|_k`, with m that machine: how far from it any function of no larger norm
            may be at x that agrees at the training samples.
        error_bar: :math:`q\sqrt{s_\lambda(x)}`, with q such that 95 % of the training samples, each left out, are
            missed by less: how far the machine is off the network's change at points like those of training.
        by_layer: The coverage by the parameters of each layer alone.
        baselines: Other scores, larger for what is better known.
        ledger: Scores read off the exact decomposition of the run.
        range_error: :math:`|(I - KK^+) k_x| / |k_x|`, with shape (q,): nought but for round-off.
        kernel: ``"tangent"``, ``"path"`` or ``"last layer"``.
        feature: ``"predicted"``, ``"centred"`` or ``"trace"``.
        class_names: A word for each class.
        info: Facts to print.
    """

    coverage: Tensor
    ladder: Tensor
    ridges: list[float]
    ridge: float
    schur: Tensor
    variance: Tensor
    diagonal: Tensor
    left_out: Tensor
    rank: Tensor
    profile: Tensor
    spectrum: Tensor
    classes: Tensor | None
    right: Tensor | None
    cosine: Tensor
    nearest: Tensor
    nearest_labels: list[str] | None
    change: Tensor | None
    machine: Tensor | None
    bound: Tensor | None
    error_bar: Tensor | None
    by_layer: dict[str, Tensor] | None
    baselines: dict[str, Tensor]
    ledger: dict[str, Tensor]
    range_error: Tensor
    kernel: str
    feature: str
    class_names: list[str] | None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def threshold(self) -> float:
        """The coverage below which a query counts as outside: the 5 % quantile of training samples by the others."""
        return float(self.left_out.quantile(LEVEL))

    @property
    def inside(self) -> Tensor:
        """Whether each query is at least as covered as ``threshold``, but for round-off, with shape (q,).

        A query whose feature is nought is outside.
        """
        rounding = ROUNDING.get(self.info.get("dtype", "float64"), ROUNDING["float64"])
        return (self.coverage >= self.threshold - rounding) & (self.diagonal > 0)

    @property
    def sensitivity(self) -> Tensor:
        """The spread of each query's coverage over the ridges, largest minus smallest, with shape (q,)."""
        return self.ladder.amax(0) - self.ladder.amin(0)

    @property
    def held(self) -> float | None:
        """The share of queries whose change is within ``error_bar`` of the machine."""
        if self.error_bar is None or self.change is None or self.machine is None or not len(self):
            return None
        return float(((self.change - self.machine).abs() <= self.error_bar).double().mean())

    def scores(self) -> dict[str, Tensor]:
        """Every score by name, larger for what is better known."""
        found = {"coverage": self.coverage, "schur": self.schur, "variance": self.variance, "cosine": self.cosine}
        found |= self.ledger
        turned = {name: -values if name in FALLING else values for name, values in found.items()}
        layers = {f"coverage by {name or 'own parameters'}": values for name, values in (self.by_layer or {}).items()}
        return turned | layers | self.baselines

    def score(self, name: str) -> Tensor:
        """One of the scores, larger for what is better known, with shape (q,).

        Raises:
            DataError: If there is none of this name.
        """
        known = self.scores()
        if name not in known:
            raise DataError(f"There is no score {name!r}. There are {', '.join(known)}; those of the ledger with "
                            "ledger=True, the SGD variance with sgd_variance=True.")
        return known[name]

    def __len__(self) -> int:
        return len(self.coverage)

    def __getitem__(self, queries: Any) -> Self:
        """The coverage of some of the queries."""
        rows = rows_of(queries, len(self))
        some = lambda t: None if t is None else t[rows]
        each = lambda table: {name: values[rows] for name, values in table.items()}
        return replace(
            self, coverage=self.coverage[rows], ladder=self.ladder[:, rows], schur=self.schur[rows],
            variance=self.variance[rows], diagonal=self.diagonal[rows], rank=self.rank[rows],
            profile=self.profile[rows], classes=some(self.classes), right=some(self.right), cosine=self.cosine[rows],
            nearest=self.nearest[rows], change=some(self.change), machine=some(self.machine),
            nearest_labels=None if self.nearest_labels is None else [self.nearest_labels[i] for i in rows.tolist()],
            bound=some(self.bound), error_bar=some(self.error_bar),
            by_layer=None if self.by_layer is None else each(self.by_layer),
            baselines=each(self.baselines), ledger=each(self.ledger), range_error=self.range_error[rows])

    def class_name(self, i: int) -> str:
        """The class whose logit was taken of a query, in words."""
        if self.classes is None:
            return ""
        place = int(self.classes[i])
        known = self.class_names is not None and place < len(self.class_names)
        return self.class_names[place] if known and self.class_names is not None else str(place)

    def sentence(self, i: int) -> str:
        """What is said of one query.

        Raises:
            OutOfRange: If there is no such query.
        """
        i = int(rows_of(i, len(self))[0])
        named = self.class_name(i)
        verdict = "inside" if bool(self.inside[i]) else "outside"
        if not float(self.diagonal[i]):
            return (f"Query {i}{f', answered {named}' if named else ''}: no parameter moves this answer, so nothing "
                    "that was learned supports it, and it counts as outside.")
        n = len(self.left_out)
        less = 1 - round(float(self.rank[i]) * (n + 1) - 1) / n
        near = "" if self.nearest_labels is None else f", a {self.nearest_labels[i]}"
        return (f"Query {i}{f', answered {named}' if named else ''}: {float(self.coverage[i]):.1%} of its feature is "
                f"inside the span of training. It is less covered than {less:.0%} of the training samples are by the "
                f"others, and counts as {verdict}. The nearest sample is {int(self.nearest[i])}{near}, at cosine "
                f"{with_minus(f'{float(self.cosine[i]):.3f}')}.")

    def said(self) -> str:
        """The answer in words."""
        n, count = len(self.left_out), len(self)
        if not count:
            return f"no query, {n:,} training samples"
        inside = int(self.inside.sum())
        outside = count - inside
        usual = (f"as well covered as training samples are by the other samples (coverage at least "
                 f"{self.threshold:.3g}, which {1 - LEVEL:.0%} of these {n:,} have)")
        if count == 1:
            return (f"the query, with coverage {float(self.coverage[0]):.3g}, is {'' if inside else 'not '}{usual}, "
                    f"and counts as {'inside' if inside else 'outside'}")
        if not inside or not outside:
            return (f"{'all' if inside else 'none of'} {count:,} queries are {usual}; "
                    f"{'none counts' if inside else 'all count'} as outside")
        return (f"{inside:,} of {count:,} queries are {usual}; {outside:,} ({outside / count:.0%}) "
                f"{'is' if outside == 1 else 'are'} not, and {'counts' if outside == 1 else 'count'} as outside")

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"Coverage({self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each query, with all scores; these are larger for what is better known."""
        import pandas as pd

        columns: dict[str, Any] = {"query": range(len(self))}
        if self.classes is not None:
            columns["predicted"] = [self.class_name(i) for i in range(len(self))]
        if self.right is not None:
            columns["right"] = self.right.tolist()
        columns |= {"coverage": self.coverage.tolist(), "rank": self.rank.tolist(), "inside": self.inside.tolist(),
                    "sensitivity": self.sensitivity.tolist(), "nearest": self.nearest.tolist()}
        if self.nearest_labels is not None:
            columns["nearest label"] = self.nearest_labels
        return pd.DataFrame(columns | {name: values.tolist() for name, values in self.scores().items()})

    def check(self) -> Check:
        """Whether coverages are shares, k_x lies in the range of K, ridges matter little, and the bars hold."""
        rows = []
        low, high = (float(self.coverage.min()), float(self.coverage.max())) if len(self) else (0.0, 0.0)
        finite = bool(self.ladder.isfinite().all())
        rows.append(CheckRow("shares", "pass" if finite and low >= 0 and high <= 1 else "fail", high, 1.0,
                             f"Coverages are between {low:.4f} and {high:.4f}."))
        limit = RANGE.get(self.info.get("dtype", "float64"), RANGE["float64"])
        off = float(self.range_error.max()) if len(self) else 0.0
        rows.append(CheckRow("range", "pass" if off <= limit else "fail", off, limit, with_minus(
            f"The kernel rows of queries are in the range of the training kernel to {off:.1e}.")))
        order = float(spearman(self.ladder[0], self.ladder[-1])) if len(self) > 1 else 1.0
        rows.append(CheckRow("ridge", "pass" if order >= 0.9 else "warn", order, 0.9,
                             with_minus(f"Between ridges {max(self.ridges):g} and {min(self.ridges):g} queries keep "
                                        f"their order to a rank correlation of {order:.3f}.")))
        if self.held is not None:
            rows.append(CheckRow("error bar", "pass" if self.held >= HELD else "warn", self.held, HELD,
                                 f"The change of {self.held:.1%} of the queries is within the error bar of the kernel "
                                 "machine of the training samples, as that of 95 % of these is when left out."))
        return Check(tuple(rows))
