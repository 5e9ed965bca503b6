"""The tables of an explanation: its strongest samples, its groups, its way along the run, its balance sheet."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from .result import CHANNELS

if TYPE_CHECKING:
    import pandas as pd

    from .explanation import Explanation


def strongest(why: Explanation, k: int, sign: int) -> pd.DataFrame:
    """For each query the ``k`` samples with the strongest contribution of this sign, strongest first."""
    import pandas as pd

    rows = [
        {"query": q, "rank": rank} | row(why, q, i)
        for q in range(len(why)) for rank, i in enumerate(why.ranked(q, k, sign), start=1)
    ]
    return pd.DataFrame(rows, columns=["query", "rank", "sample", "label", "contribution", "percent"])


def row(why: Explanation, query: int, position: int) -> dict[str, Any]:
    """What a table says of one sample, given by its position in the ledger."""
    ledger, share = why.decomposition, float(why.shares[query, position])
    return {
        "sample": int(ledger.sample_ids[position]),
        "label": None if ledger.labels is None else ledger.labels[position],
        "contribution": share,
        "percent": 100 * share / float(why.shares[query].sum()) if why.divisible(query) else None,
    }


def by_group(why: Explanation) -> pd.DataFrame:
    """For each query the contribution of each group of samples, strongest push up first."""
    import pandas as pd

    names, sizes, rows = why.group_names(), why.group_sizes(), []
    for query in range(len(why)):
        shares = why.group_shares(query)
        total = float(shares.sum()) if why.divisible(query) else None
        rows += [
            {"query": query, "group": names[g], "samples": sizes[g], "contribution": float(shares[g]),
             "percent": None if total is None else 100 * float(shares[g]) / total}
            for g in shares.argsort(descending=True, stable=True).tolist()
        ]
    return pd.DataFrame(rows, columns=["query", "group", "samples", "contribution", "percent"])


def over_time(why: Explanation) -> pd.DataFrame:
    """For each query and step: the explained output, the data share booked so far, the prediction."""
    import pandas as pd

    frames = []
    for query in range(len(why)):
        columns: dict[str, Any] = {
            "query": query,
            "step": range(why.steps + 1),
            "output": why.decomposition.path[query, 0].tolist(),
            "data": why.booked(query).tolist(),
        }
        chances, answer = why.probabilities(query), why.answer(query)
        if chances is not None and answer is not None:
            columns["prediction"] = [why.class_name(i) for i in chances.argmax(0).tolist()]
            columns["probability"] = chances[answer[0]].tolist()
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def balance(why: Explanation, query: int) -> list[tuple[str, str, float]]:
    """The lines of the balance sheet of one query: (name, kind, value) from the initial output to the final one."""
    ledger = why.decomposition
    query = ledger.place(query)
    shares, names = why.group_shares(query), why.group_names()
    lines = [("initial", "initial", float(ledger.initial[query, 0]))]
    lines += [(names[g], "group", float(shares[g])) for g in shares.argsort(descending=True, stable=True).tolist()]
    lines += [(name, "channel", float(ledger.channels[name][query, 0])) for name in CHANNELS if name != "data"]
    final = float(ledger.final[query, 0])
    residual = Fraction(final) - sum(Fraction(value) for _, _, value in lines)
    return [*lines, ("residual", "residual", float(residual)), ("final", "final", final)]


def by_sample(why: Explanation) -> pd.DataFrame:
    """One row for each query and training sample."""
    import pandas as pd

    ledger, n = why.decomposition, why.shares.shape[1]
    frames = []
    for query in range(len(why)):
        shares = why.shares[query]
        rank = torch.empty(n, dtype=torch.float64)
        rank[shares.argsort(stable=True)] = torch.linspace(-1, 1, n, dtype=torch.float64)
        frames.append(pd.DataFrame({
            "query": query,
            "sample": ledger.sample_ids.tolist(),
            "label": [None] * n if ledger.labels is None else ledger.labels,
            "contribution": shares.tolist(),
            "percent": (100 * shares / shares.sum()).tolist() if why.divisible(query) else [None] * n,
            "centred_rank": rank.tolist(),
        }))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
