"""Scores of training points beside what leaving points out of a generative model's training did.

The trial is that of :mod:`kernelscope.diagnostics.leaving_out.trial`, and here pixel distance must be beside the
scores: it needs no network, and much of what generative models seem to owe to a point is told by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...diagnostics.leaving_out import trial
from ...diagnostics.leaving_out.trial import ROLES, SubsetTrial

__all__ = ["PIXELS", "ROLES", "SubsetTrial", "subset_trial"]

#: The baseline that must be there.
PIXELS = "pixel distance"


def subset_trial(scores: Mapping[str, tuple[str, Tensor]], members: Tensor, measured: Tensor, *, resamples: int = 200,
                 seed: int = 0, info: Mapping[str, Any] | None = None) -> SubsetTrial:
    """Compares scores of training points by answers of models that were trained on subsets.

    It is not shown without the trivial baseline, pixel distance, among the scores.

    Args:
        scores: For each name its role (``"contribution"``, ``"influence"``, ``"baseline"``, ``"null"``) and its
            scores, with shape (q, n); more means that training on the point raises the answer.
        members: Whether each point is in each subset, with shape (subsets, n).
        measured: The answers, with shape (seeds, subsets, q).
        resamples: How many times subsets are drawn anew, for intervals.
        seed: The seed of these draws.
        info: Facts to print.

    Raises:
        DataError: If there are fewer than 8 subsets or 2 seeds, or shapes do not go together.

    Example:
        >>> import torch
        >>> members = torch.rand(16, 20, generator=torch.Generator().manual_seed(0)) < 0.5
        >>> effects = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
        >>> answers = (members.float() @ effects.T).expand(2, 16, 3)
        >>> found = subset_trial({"pixel distance": ("baseline", effects)}, members, answers)
        >>> found.interval("pixel distance").mean, found.ceiling
        (1.0, 1.0)
    """
    return trial.subset_trial(scores, members, measured, resamples=resamples, seed=seed, info=info, trivial=PIXELS)
