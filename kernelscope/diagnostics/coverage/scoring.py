"""From the span of training features to the scores of queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .result import BANDS
from .seen import Seen
from .span import Span, shares
from .spanning import Spanned

#: The ridges by which coverage is compared, as shares of tr K / n.
LADDER = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)

#: How many of the training samples lie within an error bar when they are left out.
WITHIN = 0.95


def kernel_scores(found: Spanned, seen: Seen, ridge: float, ids: list[int], labels: list[str] | None,
                  rounding: float) -> dict[str, Any]:
    """All that the kernel tells of queries, by the names of :class:`Coverage`.

    Args:
        found: The span of the samples, and the queries beside it.
        seen: What the network answers.
        ridge: The ridge as a share of the mean eigenvalue.
        ids: The id of each sample.
        labels: Its label.
        rounding: How far two coverages may differ by round-off alone.
    """
    span, diagonal, count = found.span, found.diagonal, len(found.span)
    energies = span.energies(found.rows)
    lam = span.ridge(ridge)
    within = span.within(energies, lam)
    covered = shares(within, diagonal)
    left_out = shares(span.left_out(lam), span.diagonal)
    # Of two features that are as well covered, neither is less.
    less = torch.searchsorted(left_out.sort().values, covered + rounding, right=True)
    variance = (diagonal - within).clamp(min=0)
    cosine = found.kernel / (diagonal[:, None].sqrt() * span.diagonal.sqrt()).clamp(min=torch.finfo(torch.float64).tiny)
    nearest = cosine.argmax(1).tolist()
    return {
        "coverage": covered, "ridges": list(LADDER),
        "ladder": torch.stack([shares(span.within(energies, span.ridge(rho)), diagonal) for rho in LADDER]),
        "schur": (diagonal - span.within(energies)).clamp(min=0), "variance": variance,
        "left_out": left_out, "rank": (1 + less).double() / (count + 1),
        "profile": _profile(span, energies, diagonal), "range_error": span.outside_range(found.rows) if span.dual else
        torch.zeros_like(diagonal),
        "cosine": cosine.amax(1), "nearest": torch.tensor([ids[i] for i in nearest], dtype=torch.long),
        "nearest_labels": None if labels is None else [labels[i] for i in nearest],
        **_machine(found, seen, lam, variance, left_out),
    }


def layer_scores(found: Spanned, ridge: float) -> dict[str, Tensor]:
    """The coverage by each layer alone, each with a ridge relative to its own kernel."""
    scores = {}
    for name, own in found.layers.items():
        span = Span.of_kernel(own.matrix, found.eps)
        scores[name] = shares(span.within(span.energies(own.rows), span.ridge(ridge)), own.diagonal)
    return scores


def _profile(span: Span, energies: Tensor, diagonal: Tensor) -> Tensor:
    """The share of each feature in each band of eigenvalues, and outside the span: rows add up to 1."""
    relative = span.values / span.diagonal.mean()
    above = [torch.inf, *BANDS]
    parts = [shares(energies[:, (relative >= low) & (relative < high)].sum(1), diagonal)
             for high, low in zip(above, BANDS, strict=False)]
    inside = torch.stack(parts, 1)
    # Round-off may leave a little more than all of it.
    inside = inside / inside.sum(1, keepdim=True).clamp(min=1)
    return torch.cat([inside, 1 - inside.sum(1, keepdim=True)], 1)


def _machine(found: Spanned, seen: Seen, lam: float, variance: Tensor, left_out: Tensor) -> dict[str, Tensor | None]:
    r"""The kernel machine of what changed at the samples, at queries, and how far it is trusted there.

    Left out, sample i is missed by :math:`[(K+\lambda)^{-1}y]_i / [(K+\lambda)^{-1}]_{ii}`.
    """
    span = found.span
    if seen.change is None or not span.dual or not lam:
        return {"machine": None, "bound": None, "error_bar": None}
    change = seen.change[1]
    weights = span.solve(change, lam)
    square = float(weights @ (change - lam * weights))  # a.Ka = a.((K + ridge) a) - ridge a.a
    missed = (weights / span.inverse_diagonal(lam)).abs()
    spread = ((1 - left_out) * span.diagonal).clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    scale = float((missed / spread).quantile(WITHIN))
    return {"machine": found.kernel @ weights, "bound": (variance * max(square, 0.0)).sqrt(),
            "error_bar": scale * variance.sqrt()}
