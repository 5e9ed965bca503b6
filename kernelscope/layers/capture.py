"""The gradients of all samples from one forward pass of a batch, and one backward pass for each number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..network import Parameters
from .batch import Batch
from .beside import check_alone
from .factors import Factor, Outer, merge
from .function import Function
from .layout import Layout
from .plan import OTHER, OtherUses, Plan
from .rules import Rule, Seen
from .watching import Piece, Use


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of n samples by each piece of the parameters.

    Attributes:
        values: What was differentiated, with shape (n, c).
        factors: The gradients by piece.
    """

    values: Tensor
    factors: dict[Piece, Factor]

    def by_name(self, names: list[str], parameters: Parameters) -> Parameters:
        """The gradients as rows with shape (n, c, p) by parameter; 0 by those that nothing depends on."""
        n, c = self.values.shape
        rows: dict[str, Tensor] = {}
        for piece, factor in self.factors.items():
            if piece.name not in names:
                continue
            size = parameters[piece.name].numel()
            values = factor.rows()
            if piece.stop - piece.start == size:
                rows[piece.name] = values
            else:
                whole = rows.setdefault(piece.name, values.new_zeros(n, c, size))
                whole[:, :, piece.start:piece.stop] = values
        return {name: rows[name] if name in rows else self.values.new_zeros(n, c, parameters[name].numel())
                for name in names}

    def of(self, number: int) -> Gradients:
        """Those of one sample."""
        part = slice(number, number + 1)
        return Gradients(self.values[part], {piece: factor[part] for piece, factor in self.factors.items()})


def capture(function: Function, plan: Plan, names: list[str], batch: Batch) -> Gradients:
    """The gradients by the parameters in ``names`` that the plan finds from their uses.

    Args:
        function: What is differentiated.
        plan: What was observed of it.
        names: The parameters.
        batch: The samples.

    Raises:
        OtherUses: If the network does not do with these samples what was planned for.
        ModelError: If a sample depends on those beside it.
    """
    if not plan.signs:
        with torch.no_grad():
            return Gradients(function(batch), {})
    watch, explained = function.watched(names, batch, plan.habits)
    if tuple(use.sign for use in watch.uses) != plan.signs:
        raise OtherUses(OTHER)
    if watch.by_content or len(explained) not in plan.sizes:
        check_alone(function, plan, names, batch, watch, explained)
        plan.sizes.add(len(explained))
    gradients = _backward(explained, watch.uses, plan.layouts)
    parts: dict[Piece, list[Factor]] = {}
    with torch.no_grad():
        for use, gradient, (inside, outside) in zip(watch.uses, gradients, plan.layouts, strict=True):
            if gradient is None:
                continue
            found = use.rule.factors(Seen(use.call, gradient, len(explained), inside, outside))
            for role, piece in use.pieces.items():
                if role in found:
                    whole = replace(piece, turned=False) if piece.turned else piece
                    parts.setdefault(whole, []).append(_turned(found[role], piece.turned))
        return Gradients(explained.detach(), {piece: merge(uses) for piece, uses in parts.items()})


def _backward(explained: Tensor, uses: list[Use], layouts: Sequence[tuple[Layout, Layout]]) -> list[Tensor | None]:
    """The gradients of each number, summed over samples, at the output of each use: with shape (c, *)."""
    found: dict[int, Tensor] = {}
    edges, (n, c) = [use.edge for use in uses], explained.shape
    for j in range(c if explained.requires_grad else 0):
        direction = explained.new_zeros(n, c)
        direction[:, j] = 1
        gradients: Sequence[Tensor | None] = torch.autograd.grad(explained, edges, direction, retain_graph=j + 1 < c,
                                                                 allow_unused=True)
        for k, gradient in enumerate(gradients):
            if gradient is None and k in found:
                found[k][j] = 0
            elif gradient is not None and c == 1:
                found[k] = gradient.unsqueeze(0)
            elif gradient is not None:
                if k not in found:
                    found[k] = _room(gradient, c, uses[k].rule, layouts[k][1])
                    found[k][:j] = 0
                found[k][j] = gradient
    return [found.get(k) for k in range(len(uses))]


def _room(gradient: Tensor, c: int, rule: Rule, layout: Layout) -> Tensor:
    """Room for the gradients of c numbers, with shape (c, *), laid out as products will read them."""
    shape = list(gradient.shape)
    place = len(shape) - 1 if rule.features_last else (layout.axis or 0) + 1
    return gradient.new_empty(*shape[:place], c, *shape[place:]).movedim(place, 0)


def _turned(factor: Factor, turned: bool) -> Factor:
    return replace(factor, first=not factor.first) if turned and isinstance(factor, Outer) else factor
