r"""Why a trained network says what it says about x.

One number m(x) is explained: for a classifier the margin, the predicted class's logit minus the runner-up's, with both
classes fixed at the final parameters; for two classes told apart by one output, that output, the logit of the second
class; otherwise an output itself. The ledger of the run gives

.. math:: m_T(x) = m_0(x) + \sum_g \sum_{i \in g} c_i(x) + \text{decay} + \dots

and an explanation reads it: groups g first, then samples i; those that pushed m(x) up and those that pushed it down;
and the step by which it was learned. When the shares largely cancel, :math:`|\sum_i c_i| < 0.5 \sum_i |c_i|`, a
percentage of their sum would mean little, and none is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from ..arguments import as_count, as_whole, what_came
from ..errors import DataError
from ..result import Check, CheckRow, Result, as_float64, rows_of
from . import tables, wording
from .gallery import gallery
from .result import DOUBTFUL, Decomposition
from .wording import CANCELLATION_LIMIT

if TYPE_CHECKING:
    import pandas as pd

#: Queries that are told in a line each where an explanation of several says itself.
LINES = 8


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Result):
    r"""Groups and samples that made one output of each query what it is.

    Attributes:
        decomposition: The ledger of the explained output, with one output for each of the q queries.
        inputs: The queries, with shape :math:`(q, *)`; of a network of several inputs the entries of all of them in one
            row, with shape :math:`(q, 1, p)`.
        samples: Positions in the ledger of the samples that are shown for some query, with shape :math:`(m,)`.
        sample_inputs: The inputs of these samples only, in the same form, with shape :math:`(m, *)`.
        kind: ``"margin"``, ``"logit"`` or ``"output"``.
        classes: A word for each class; empty when nothing is classified.
        targets: The true answer for each query in words, or ``None``.
        k: How many samples are shown on each side.
        sample_targets: The true answer for each sample that is shown, in words, or ``None``.
        names: A word for each query, or ``None``.
    """

    decomposition: Decomposition
    inputs: Tensor
    samples: Tensor
    sample_inputs: Tensor
    kind: str
    classes: list[str]
    targets: list[str] | None
    k: int
    sample_targets: list[str] | None = None
    names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.decomposition)

    def __getitem__(self, queries: int | slice | list[int] | Tensor) -> Self:
        """The explanations of some of the queries."""
        rows = rows_of(queries, len(self))
        ledger = self.decomposition[rows]
        samples = shown(ledger, self.k)
        kept = torch.isin(self.samples, samples)
        pick = lambda words, places: None if words is None else [words[i] for i in places.tolist()]
        return replace(self, decomposition=ledger, inputs=self.inputs[rows], samples=self.samples[kept],
                       sample_inputs=self.sample_inputs[kept], targets=pick(self.targets, rows),
                       sample_targets=pick(self.sample_targets, kept.nonzero().flatten()), names=pick(self.names, rows))

    @property
    def unit(self) -> str:
        """What a contribution is measured in."""
        return "units of the output" if self.kind == "output" else "logits"

    @property
    def shares(self) -> Tensor:
        """The contribution of each sample to each query's explained output, with shape :math:`(q, n)`."""
        return self.decomposition.contributions[:, 0]

    @property
    def steps(self) -> int:
        """How many steps the run took, or how many chords it is seen through."""
        return self.decomposition.steps.shape[-1]

    @property
    def updates(self) -> int:
        """How many steps training took, those within chords too."""
        return self.decomposition.moments[-1]

    def net(self, query: int = 0) -> float:
        r"""The cancellation ratio :math:`|\sum_i c_i| / \sum_i |c_i|`: 1 when all pull one way, 0 when they cancel."""
        shares = self.shares[self.decomposition.place(query)]
        total = float(shares.abs().sum())
        return abs(float(shares.sum())) / total if total > 0 else 0.0

    def divisible(self, query: int = 0) -> bool:
        """Whether the contributions cancel so little that percentages of their sum mean something."""
        return self.net(query) >= CANCELLATION_LIMIT and not self.doubtful(query)

    def doubtful(self, query: int = 0) -> bool:
        """Whether so much of the terms is unattributed that no percentage or sample is singled out."""
        ledger, query = self.decomposition, self.decomposition.place(query)
        missing = abs(float(ledger.channels["unattributed"][query, 0]))
        return missing > DOUBTFUL * (float(ledger.magnitude[query, 0]) or 1.0)

    def unmoved(self, query: int = 0) -> bool:
        """Whether no step of the run changed the explained output, as with a learning rate of zero."""
        query = self.decomposition.place(query)
        path = self.decomposition.path[query, 0]
        return not bool(self.shares[query].any()) and bool((path == path[0]).all())

    def answer(self, query: int = 0) -> tuple[int, int] | None:
        """The predicted class and the runner-up at the final parameters, or ``None`` if nothing is classified."""
        scores = self._scores(query)
        if scores is None:
            return None
        predicted, runner_up = scores[:, -1].topk(2).indices.tolist()
        return predicted, runner_up

    def class_name(self, index: int) -> str:
        """The word for a class."""
        index = as_count(index, "index")
        return self.classes[index] if index < len(self.classes) else str(index)

    def probabilities(self, query: int = 0) -> Tensor | None:
        """The probability of each class along the run, with shape :math:`(C, T + 1)`, or ``None``."""
        scores = self._scores(query)
        return None if scores is None else scores.softmax(0)

    def _scores(self, query: int) -> Tensor | None:
        """The logit of each class along the run, with shape :math:`(C, T + 1)`, or ``None`` if nothing is classified.

        One output z that tells two classes apart stands for the logits (0, z).
        """
        query, outputs = self.decomposition.place(query), self.decomposition.outputs
        if self.kind == "output" or (self.kind == "margin" and outputs is None):
            return None
        one = self.decomposition.path[query] if self.kind == "logit" or outputs is None else outputs[query]
        one = as_float64(one)
        return torch.cat([torch.zeros_like(one), one]) if len(one) == 1 else one

    def group_names(self) -> list[str]:
        """The names of the groups; one group of all samples if they carry no labels."""
        ledger = self.decomposition
        if ledger.group_steps is not None and ledger.groups:
            return list(ledger.groups)
        return sorted(set(ledger.labels)) if ledger.labels else ["all samples"]

    def group_shares(self, query: int = 0) -> Tensor:
        """The contribution of each group, with shape :math:`(G,)`."""
        ledger = self.decomposition
        query = ledger.place(query)
        if ledger.group_steps is not None and ledger.groups:
            return as_float64(ledger.group_steps[query, 0]).sum(-1)
        if not ledger.labels:
            return self.shares[query].sum(0, keepdim=True)
        place = {name: i for i, name in enumerate(self.group_names())}
        index = torch.tensor([place[label] for label in ledger.labels])
        return torch.zeros(len(place), dtype=torch.float64).index_add_(0, index, self.shares[query])

    def group_sizes(self) -> list[int | None]:
        """How many samples each group has, where labels tell."""
        labels = self.decomposition.labels
        if not labels:
            return [self.shares.shape[1]] if len(self.group_names()) == 1 else [None] * len(self.group_names())
        sizes: dict[str, int] = {}
        for label in labels:
            sizes[label] = sizes.get(label, 0) + 1
        return [sizes.get(name) for name in self.group_names()]

    def booked(self, query: int = 0) -> Tensor:
        """What the data had added after each number of steps, from none on, with shape :math:`(T + 1,)`."""
        steps = as_float64(self.decomposition.steps[self.decomposition.place(query), 0])
        return torch.cat([steps.new_zeros(1), steps.cumsum(0)])

    def learned(self, query: int = 0) -> tuple[int | None, int | None]:
        r"""Two step numbers: when half of the way was made to stay, and when the prediction settled.

        The first is the smallest number of steps k after which the explained output never again is further than half
        of its whole way from where it ends,

        .. math:: |m_j(x) - m_T(x)| \le |m_0(x) - m_T(x)| / 2 \quad\text{for all } j \ge k;

        the second the number of steps after which the predicted class never changes. Either is ``None`` when it has no
        meaning: the output ends where it began, nothing is classified.
        """
        path = as_float64(self.decomposition.path[self.decomposition.place(query), 0])
        left = (path - path[-1]).abs()
        half = None if left[0] == 0 else _stays(left <= left[0] / 2)
        answer, scores = self.answer(query), self._scores(query)
        settled = None if answer is None or scores is None else _stays(scores.argmax(0) == answer[0])
        return half, settled

    def helpful(self, k: int | None = None) -> pd.DataFrame:
        """For each query the samples that pushed the explained output up the most, strongest first."""
        return tables.strongest(self, self.k if k is None else k, sign=1)

    def harmful(self, k: int | None = None) -> pd.DataFrame:
        """For each query the samples that pushed the explained output down the most, strongest first."""
        return tables.strongest(self, self.k if k is None else k, sign=-1)

    def ranked(self, query: int, k: int, sign: int) -> list[int]:
        """Positions of the ``k`` samples with the strongest share of this sign, strongest first."""
        if as_whole(sign) not in (-1, 1):
            raise DataError(f"sign must be 1, for what pushed up, or -1, for what pushed down; {what_came(sign)} came.")
        shares = self.shares[self.decomposition.place(query)] * sign
        order = shares.argsort(descending=True, stable=True)[:as_count(k, "k", least=1)]
        return order[shares[order] > 0].tolist()

    def singled(self, query: int, sign: int, k: int | None = None) -> list[int]:
        """Positions of the samples that are shown: the strongest, or none where too much is missing for that."""
        query = self.decomposition.place(query)
        vague = self.doubtful(query) or wording.rank_is_uncertain(self, query)
        return [] if vague else self.ranked(query, self.k if k is None else k, sign)

    def by_group(self) -> pd.DataFrame:
        """For each query the contribution of each group of samples, strongest push up first."""
        return tables.by_group(self)

    def over_time(self) -> pd.DataFrame:
        """For each query and step: the explained output, the data share booked so far, the prediction."""
        return tables.over_time(self)

    def balance(self, query: int = 0) -> list[tuple[str, str, float]]:
        """The balance sheet of one query: (name, kind, value) from the initial output to the final one.

        One line for each group, one for each other channel. The residual is the exact difference of all other lines,
        computed in rational numbers and then rounded once, so that the sheet closes to the last digit of float64.
        """
        return tables.balance(self, query)

    def to_frame(self) -> pd.DataFrame:
        """One row for each query and training sample: contribution, percentage where it means something, centred rank.

        The centred rank is +1 for the sample that pushed up the most, 0 in the middle, -1 for the one that pushed down
        the most; it can be compared between queries however much their contributions cancel.
        """
        return tables.by_sample(self)

    def sentence(self, query: int = 0) -> str:
        """Why, in words; every clause is computed from the ledger, and claims less when the ledger holds less."""
        clauses = wording.clauses(self, self.decomposition.place(query))
        return " ".join(text for text in clauses.values() if text)

    def check(self) -> Check:
        """The checks of the ledger, whether groups add up to the data channel, and how much the shares cancel."""
        ledger = self.decomposition
        scale = ledger.magnitude[:, 0].clamp_min(torch.finfo(torch.float64).tiny)
        booked = torch.stack([self.group_shares(q).sum() for q in range(len(self))]) if len(self) else scale
        gap = float(((booked - ledger.channels["data"][:, 0]).abs() / scale).max()) if len(self) else 0.0
        moved = [q for q in range(len(self)) if bool(self.shares[q].any())]
        net = min((self.net(q) for q in moved), default=1.0)
        return Check((
            *ledger.check().rows,
            CheckRow("groups", "pass" if gap <= 1e-10 else "fail", gap, 1e-10,
                     f"The groups' contributions add up to the data channel to {gap:.1e} of the absolute terms."),
            CheckRow("cancellation", "pass" if net >= CANCELLATION_LIMIT else "warn", net, CANCELLATION_LIMIT,
                     f"The sum of all contributions is at least {net:.2g} of the sum of their absolute values; "
                     f"below {CANCELLATION_LIMIT} no percentages are given."),
        ))

    def summary(self) -> str:
        """The explanation in one line."""
        if len(self) != 1:
            samples = self.shares.shape[1]
            return f"Explanation(queries={len(self)}, samples={samples}, steps={self.steps}, shown={self.k})"
        answer, chances = self.answer(), self.probabilities()
        if answer is None or chances is None:
            head = f"output {wording.number(float(self.decomposition.final[0, 0]))}"
        else:
            said = wording.shortened(self.class_name(answer[0]))
            head = f"predicted {said}, p {wording.chance(float(chances[answer[0], -1]))}"
        sides = [
            f"{mark} " + ", ".join(f"#{row['sample']} {wording.signed(row['contribution'])}" for row in
                                   (tables.row(self, 0, i) for i in self.singled(0, sign, 2)))
            for mark, sign in (("▲", 1), ("▼", -1)) if self.singled(0, sign, 1)
        ]
        if not sides and bool(self.shares[0].any()):
            why = "so much is unattributed" if self.doubtful() else "so much was missed by the quadrature"
            sides = [f"{why} that no sample is named"]
        return f"Explanation({head}; {' '.join(sides)}; residual {self.decomposition.completeness():.1e} of the terms)"

    def __repr__(self) -> str:
        if len(self) == 1:
            return f"{self.summary()}\n{self.sentence()}"
        lines = [f"  {i}  {self[i].summary().removeprefix('Explanation(').removesuffix(')')}"
                 for i in range(min(len(self), LINES))]
        return "\n".join([self.summary(), *lines, *(["  …"] if len(self) > LINES else [])])

    def _repr_html_(self) -> str:
        return gallery(self)


def shown(ledger: Decomposition, k: int) -> Tensor:
    """Positions of the samples among the ``k`` strongest on either side of some query, ascending."""
    shares = ledger.contributions[:, 0]
    chosen = torch.zeros(shares.shape[1], dtype=torch.bool)
    for side in (shares, -shares):
        strongest = side.topk(min(k, side.shape[1]), dim=1)
        chosen[strongest.indices[strongest.values > 0]] = True
    return chosen.nonzero().flatten()


def _stays(holds: Tensor) -> int:
    """The first place from which on all of ``holds`` is true."""
    broken = (~holds).nonzero().flatten()
    return int(broken[-1]) + 1 if len(broken) else 0
