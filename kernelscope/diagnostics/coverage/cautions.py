"""What makes coverage say less than it seems to: features that are nought, and samples that stand twice."""

from __future__ import annotations

from collections import Counter

import torch

from .gradients import Side
from .result import LEVEL
from .spanning import Spanned


def cautions(found: Spanned, samples: Side) -> list[str]:
    """What is said of these queries and samples.

    Args:
        found: The features of both.
        samples: The training samples.
    """
    said = []
    queries, diagonal = int((found.diagonal <= 0).sum()), found.span.diagonal
    if queries:
        subject = (f"No parameter moves the answer to {queries:,} of the {len(found.diagonal):,} queries"
                   if len(found.diagonal) > 1 else "No parameter moves the answer to the query")
        said.append(f"{subject}: the feature is nought, nothing was learned of it, so its coverage is 0 and it counts "
                    "as outside.")
    silent = int((diagonal <= 0).sum())
    if silent:
        said.append(f"No parameter moves the answer to {silent:,} of the {len(diagonal):,} training samples, whose "
                    "coverage by the others is 0; this lowers the threshold below which a query counts as outside.")
    doubled = _doubled(samples)
    if doubled > LEVEL * len(diagonal):
        said.append(f"{doubled:,} of the {len(diagonal):,} training samples have the same inputs as another one. Left "
                    "out, each is covered by its like, so the threshold below which a query counts as outside is too "
                    "high. Train on each sample once to have a fair one.")
    return said


def _doubled(samples: Side) -> int:
    """How many samples have inputs that another one has too."""
    rows = torch.cat([t.detach().cpu().reshape(len(t), -1).double() for t in samples.inputs], 1).numpy()
    return sum(times for times in Counter(row.tobytes() for row in rows).values() if times > 1)
