r"""Two explanations of the same inputs, side by side.

For group shares a and b of one input: how many groups push the same way, and the cosine ⟨a, b⟩ / (‖a‖ ‖b‖).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from .. import pictures
from ..decomposition.explanation import Explanation
from ..decomposition.wording import chance, counted, number, shortened
from .album import Album
from .reasons import MOST_QUERIES


def comparisons(sections: list[tuple[str, Explanation]], album: Album) -> list[dict[str, Any]]:
    """Each explanation beside the next one, where both explain the same inputs by the same groups."""
    return [
        _compare(first, second, a, b, album) for (first, a), (second, b) in pairwise(sections)
        if torch.equal(a.inputs, b.inputs) and sorted(a.group_names()) == sorted(b.group_names())
    ]


def _compare(first: str, second: str, a: Explanation, b: Explanation, album: Album) -> dict[str, Any]:
    low, high = pictures.limits(a.inputs)
    groups, rows, cosines, same_answers = a.group_names(), [], [], 0
    for query in range(len(a)):
        order = [b.group_names().index(name) for name in groups]
        p, q = a.group_shares(query), b.group_shares(query)[order]
        same = a.answer(query) == b.answer(query)
        same_answers += same
        # Shares of different leads (3 over 8, 3 over 5) explain different numbers: they are not compared.
        cosine = float(p @ q / (p.norm() * q.norm())) if same and p.norm() * q.norm() > 0 else None
        cosines += [] if cosine is None else [cosine]
        if query < MOST_QUERIES:
            common = _strongest(a, query) & _strongest(b, query)
            rows.append({
                "query": query, "picture": album.query(a.inputs[query], low, high, 64),
                "first": _answer(a, query), "second": _answer(b, query),
                "same_way": f"{int(((p > 0) == (q > 0)).sum())} of {len(groups)}" if same else "–",
                "agreement": "–" if cosine is None else f"{cosine:.2f}".replace("-", "−"),
                "common": f"{len(common)} of {len(_strongest(a, query))}" if same else "–",
            })
    names = f"{shortened(first)} and {shortened(second)}"
    if len(a) and a.answer(0) is not None:
        sentence = f"{names} agree on answer and runner-up for {same_answers} of {counted(len(a), 'input')}"
        where = "; there"
    else:
        sentence, where = f"{names} explain the same {counted(len(a), 'input')}", ";"
    if cosines:
        middle = float(torch.tensor(cosines, dtype=torch.float64).median())
        sentence += f"{where} their group shares agree with a median cosine of {middle:.2f}".replace("-", "−")
    return {"first": first, "second": second, "rows": rows, "sentence": sentence + "."}


def _strongest(why: Explanation, query: int) -> set[int]:
    ids = why.decomposition.sample_ids
    return {int(ids[i]) for sign in (1, -1) for i in why.ranked(query, why.k, sign)}


def _answer(why: Explanation, query: int) -> str:
    answer, chances = why.answer(query), why.probabilities(query)
    if answer is None or chances is None:
        return number(float(why.decomposition.final[query, 0]))
    said, runner_up = (shortened(why.class_name(i)) for i in answer)
    return f"{said} ({chance(float(chances[answer[0], -1]))}), over {runner_up}"
