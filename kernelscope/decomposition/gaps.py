"""Where a ledger leaves something unattributed: which steps, or which chords between kept parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import pandas as pd

    from .result import Decomposition

#: Gaps that a sentence names.
NAMED = 2


def table(ledger: Decomposition) -> pd.DataFrame:
    r"""One row for each step or chord, the largest gap first.

    The gap of chord j is :math:`\langle\bar\phi_j, \text{unattributed}_j\rangle`, as a share of the absolute terms of
    its ledger: in the mean over outputs of queries, and the largest. ``of_all`` is the chord's part of all gaps.
    """
    import pandas as pd

    moments, count = ledger.moments, ledger.steps.shape[-1]
    gaps = torch.zeros_like(ledger.steps) if ledger.unattributed is None else ledger.unattributed
    scale = ledger.magnitude.clamp_min(torch.finfo(torch.float64).tiny)
    shares = (gaps.abs() / scale[..., None]).reshape(-1, count)
    mean = shares.mean(0) if len(shares) else torch.zeros(count, dtype=torch.float64)
    largest = shares.amax(0) if len(shares) else mean
    total = float(mean.sum()) or 1.0
    first = ledger.info.get("points", [ledger.info.get("first_step", 0)])[0]
    frame = pd.DataFrame({
        "from": [first + moments[j] for j in range(count)], "to": [first + moments[j + 1] for j in range(count)],
        "unattributed": mean.tolist(), "largest": largest.tolist(), "of_all": (mean / total).tolist(),
    })
    return frame.sort_values("unattributed", ascending=False, kind="stable").reset_index(drop=True)


def advice(ledger: Decomposition) -> str:
    """The chords on which more kept parameters would help most, as a clause; empty where there is nothing to gain."""
    if "points" not in ledger.info or ledger.unattributed is None or not len(ledger):
        return ""
    rows = [row for row in table(ledger).head(NAMED).to_dict("records") if row["unattributed"] > 0]
    wide = [row for row in rows if row["to"] - row["from"] > 1]
    if not wide:
        return ""
    # The second one is worth a word where it weighs at least half of the first.
    wide = [row for row in wide if 2 * row["of_all"] >= wide[0]["of_all"]]
    where = " and ".join(f"{row['from']} and {row['to']}" if i == 0 else f"between {row['from']} and {row['to']}"
                         for i, row in enumerate(wide))
    kept = "checkpoints" if ledger.info.get("checkpoints") else "kept parameters"
    part = sum(row["of_all"] for row in wide)
    return f"more {kept} between {where} would help most ({100 * part:.0f} % of what is unattributed)"
