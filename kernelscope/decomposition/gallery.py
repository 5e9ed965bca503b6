"""An explanation in a notebook's cell: plain text first, then groups, then samples; scoped, and without a script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from torch import Tensor

from .. import pictures
from ..text import shown
from .wording import is_long, shortened, sides, signed

if TYPE_CHECKING:
    from .explanation import Explanation

#: Queries and groups shown in one cell.
MOST_QUERIES = 4
MOST_GROUPS = 10


def gallery(why: Explanation) -> str:
    """The cell of an explanation."""
    blocks = [f"<p>{escape(why.summary())}</p>"]
    for query in range(min(len(why), MOST_QUERIES)):
        blocks += [f"<p>{escape(why.sentence(query))}</p>", _groups(why, query), _samples(why, query)]
    if len(why) > MOST_QUERIES:
        blocks.append(f"<p>Showing {MOST_QUERIES} of {len(why)} queries; why[i] shows query i.</p>")
    return shown(f'<div class="kernelscope">{"".join(blocks)}</div>', keep="\n\t")


def _marked(share: float) -> str:
    return f"{'▲' if share > 0 else '▼' if share < 0 else '·'} {signed(share)}"


def _title(name: str) -> str:
    return f' title="{escape(name)}"' if is_long(name) else ""


def _groups(why: Explanation, query: int) -> str:
    pairs = sorted(zip(why.group_names(), why.group_shares(query).tolist(), strict=True), key=lambda p: -abs(p[1]))
    kept = sorted(pairs[:MOST_GROUPS], key=lambda pair: -pair[1])
    names = "".join(f'<th scope="col"{_title(name)}>{escape(shortened(name))}</th>' for name, _ in kept)
    shares = "".join(f"<td>{_marked(share)}</td>" for _, share in kept)
    return (
        f'<table><tr><th scope="row">group</th>{names}</tr>'
        f'<tr><th scope="row">{escape(why.unit)}</th>{shares}</tr></table>'
    )


def _samples(why: Explanation, query: int) -> str:
    low, high = pictures.limits(why.inputs, why.sample_inputs)
    place = {position: row for row, position in enumerate(why.samples.tolist())}
    ledger = why.decomposition

    def cell(x: Tensor, name: str, share: str) -> str:
        if pictures.picture_shape(x.shape) is None:
            return f"<td>{escape(name)}<br>{share}</td>"  # without its numbers, which would hide the shares
        shown = f'<img src="{pictures.data_uri(pictures.png(x, low, high))}" width="48" alt="{escape(name)}">'
        return f"<td>{shown}<br>{escape(name)}<br>{share}</td>"

    asked, x = shortened(str(query) if why.names is None else why.names[query]), why.inputs[query]
    values = f'<td colspan="{why.k}">{escape(asked)}: {escape(pictures.words(x))}</td>'
    shown = cell(x, asked, "") if pictures.picture_shape(x.shape) is not None else values
    rows = [f'<tr><th scope="row">query</th>{shown}</tr>']
    for side, sign in zip(sides(why), (1, -1), strict=True):
        cells = []
        for i in why.singled(query, sign):
            if i in place:
                target = "" if why.kind != "output" or not why.sample_targets else why.sample_targets[place[i]]
                label = f"true {target}" if target else "" if ledger.labels is None else shortened(ledger.labels[i])
                name = f"{label}{' · ' if label else ''}#{int(ledger.sample_ids[i])}"
                cells.append(cell(why.sample_inputs[place[i]], name, _marked(float(why.shares[query, i]))))
        if cells:
            rows.append(f'<tr><th scope="row">{side.mark} {escape(side.title)}</th>{"".join(cells)}</tr>')
    return f"<table>{''.join(rows)}</table>"
