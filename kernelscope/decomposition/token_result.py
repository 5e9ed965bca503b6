"""Contributions of single tokens: what a network said, split over every token it was trained to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_count, as_place
from ..result import Check, CheckRow, Result
from ..text import with_minus
from .result import Decomposition

if TYPE_CHECKING:
    import pandas as pd

#: How far the tokens of a sample may be from its share, as a part of all terms.
WHOLE = {"float64": 1e-12, "float32": 1e-5}

#: From this ratio of the terms to their sum on, a share of the sum tells nothing.
CANCELLED = 10.0

#: How many tokens before and after one are shown with it.
AROUND = 16


@dataclass(frozen=True, eq=False, repr=False)
class TokenContributions(Result):
    r"""The log-probability of next tokens, split over the tokens of training.

    Attributes:
        contributions: What each token of each training text added, with shape :math:`(q, c, n, T)`: the token that had
            to be said at place t of text i, given those before it.
        ledger: The decomposition of which these are the parts, with shape :math:`(q, c, n)` for whole texts.
        texts: The training texts, with shape :math:`(n, T)`; -1 of those that training never drew.
        answers: The tokens that had to be said, with shape :math:`(n, T)`.
        queries: The texts that are asked about, with shape :math:`(q, T')`.
        said: The tokens that are explained, with shape :math:`(q, c)`.
        places: Where in a query each stands.
        words: A word for each number of a token, or nothing.
    """

    contributions: Tensor
    ledger: Decomposition
    texts: Tensor
    answers: Tensor
    queries: Tensor
    said: Tensor
    places: list[int]
    words: list[str]

    def word(self, token: int) -> str:
        """A token in words."""
        return self.words[token] if 0 <= token < len(self.words) else str(token)

    def line(self, tokens: Tensor) -> str:
        """A text in words: characters one after the other, longer words apart."""
        words = [self.word(int(token)) for token in tokens]
        return ("" if all(len(word) == 1 for word in words) else " ").join(words)

    def cancellation(self) -> Tensor:
        r"""How many times the terms are as large as their sum, :math:`\sum|c_{it}| / |\sum c_{it}|`, shape (q, c)."""
        flat = self.contributions.flatten(2)
        return flat.abs().sum(-1) / flat.sum(-1).abs().clamp_min(torch.finfo(flat.dtype).tiny)

    def by_token(self, query: int = 0, output: int = 0) -> pd.DataFrame:
        """What each kind of token added, wherever it had to be said, the most first."""
        import pandas as pd

        rows = self._one(query, output)
        kinds = self.answers.unique()
        kinds = kinds[kinds >= 0]
        table = pd.DataFrame({
            "token": [self.word(int(kind)) for kind in kinds],
            "times": [int((self.answers == kind).sum()) for kind in kinds],
            "contribution": [float(rows[self.answers == kind].sum()) for kind in kinds],
        })
        return table.sort_values("contribution", ascending=False, ignore_index=True)

    def by_place(self) -> Tensor:
        """What all texts added at each of their places, with shape (q, c, T)."""
        return self.contributions.sum(2)

    def top(self, k: int = 5, query: int = 0, output: int = 0) -> pd.DataFrame:
        """The ``k`` tokens with the largest absolute contribution: text, place, what stood before, and the token."""
        import pandas as pd

        k = as_count(k, "k", least=1)
        rows = self._one(query, output)
        order = rows.flatten().abs().argsort(descending=True, stable=True)[:k]
        found = []
        for rank, flat in enumerate(order.tolist(), 1):
            i, t = divmod(flat, rows.shape[1])
            found.append({
                "sample": int(self.ledger.sample_ids[i]), "place": t,
                "before": self.line(self.texts[i, max(0, t + 1 - AROUND):t + 1]),
                "token": self.word(int(self.answers[i, t])), "contribution": float(rows[i, t]), "rank": rank,
            })
        return pd.DataFrame(found)

    def strongest(self, k: int, query: int = 0, output: int = 0) -> list[int]:
        """The places of the ``k`` training texts whose tokens moved the answer most, in whichever direction."""
        return self._one(query, output).abs().sum(1).argsort(descending=True, stable=True)[:k].tolist()

    def _one(self, query: int, output: int) -> Tensor:
        return self.contributions[self.ledger.place(query), as_place(output, "output", len(self.places), "places")]

    def question(self, query: int = 0, output: int = 0) -> str:
        """What is asked, in words: the token after which text."""
        place = self.places[output]
        before = self.line(self.queries[query, max(0, place + 1 - AROUND):place + 1])
        return f"{self.word(int(self.said[query, output]))!r} after {before!r}"

    def summary(self) -> str:
        """The answer in one sentence."""
        q, c, n, length = self.contributions.shape
        if not q or not n:
            return f"TokenContributions(queries={q}, places={c}, texts={n})"
        best = self.top(1).iloc[0]
        change = float(self.ledger.final[0, 0] - self.ledger.initial[0, 0])
        return (
            f"Training changed the log-probability of {self.question()} by {with_minus(f'{change:+.3g}')}; of the "
            f"{n * length:,} tokens of training {best.token!r} after {best.before!r} (text {best['sample']}) did most, "
            f"{with_minus(f'{best.contribution:+.3g}')}; the terms are {float(self.cancellation()[0, 0]):.1f} times as "
            "large as their sum")

    def to_frame(self) -> pd.DataFrame:
        """One row for each query, place and training text: its share, and what its strongest token added."""
        import pandas as pd

        q, c, n, _ = self.contributions.shape
        strongest = self.contributions.abs().argmax(-1)
        rows: list[dict[str, Any]] = []
        for a in range(q):
            for b in range(c):
                for i in range(n):
                    t = int(strongest[a, b, i])
                    rows.append({"query": a, "place": self.places[b], "sample": int(self.ledger.sample_ids[i]),
                                 "share": float(self.ledger.contributions[a, b, i]),
                                 "strongest place": t, "token": self.word(int(self.answers[i, t])),
                                 "contribution": float(self.contributions[a, b, i, t])})
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether tokens add up to the shares of their texts, and the ledger of these closes."""
        limit = WHOLE[self.ledger.info.get("dtype", "float64")]
        apart = (self.contributions.sum(-1) - self.ledger.contributions).abs().sum(-1)
        missed = float((apart / self.ledger.magnitude.clamp_min(torch.finfo(torch.float64).tiny)).max()) if len(
            apart) else 0.0
        kappa = float(self.cancellation().max()) if self.contributions.numel() else 0.0
        return Check((
            CheckRow("tokens", "pass" if missed <= limit else "fail", missed, limit,
                     f"The tokens of each text add up to its share, to {missed:.1e} of all terms."),
            *self.ledger.check().rows,
            CheckRow("cancellation", "pass" if kappa <= CANCELLED else "warn", kappa, CANCELLED,
                     f"The terms are up to {kappa:.1f} times as large as what they add up to"
                     + ("; parts of the sum tell nothing, order does." if kappa > CANCELLED else ".")),
        ))
