"""What query gradients meet on their way back through a run, booked in the ledger."""

from __future__ import annotations

import torch
from torch import Tensor

from ..network import Parameters
from ..run.run import Run
from .adjoint import Adjoint
from .chords import ChordForm
from .ledger import TURNED, Ledger
from .training_side import Products, rows_of
from .unrolling import Key, OptimizerState, UnrolledStep, sample_weights


class WayBack:
    """Query gradients on their way back through a run: what they meet at each step goes to the ledger.

    Args:
        ledger: Where the amounts go.
        rows: Which of the ledger's queries these are.
        run: The run.
    """

    def __init__(self, ledger: Ledger, rows: slice, run: Run):
        self.ledger, self.rows, self.run = ledger, rows, run
        self._adjoints = Adjoint()

    def step(self, k: int, theta: Parameters, unrolled: UnrolledStep, p: Parameters, products: list[Products]) -> None:
        """Books step k, which began at ``theta`` and along which the query gradients are ``p``."""
        gap = dots(p, unrolled.gap)
        self.ledger.book("rounding" if unrolled.explained else "unattributed", self.rows, gap)
        if not unrolled.explained:
            self.ledger.unexplained[k] = TURNED if unrolled.turned else unrolled.led
            self.ledger.leave(self.rows, k, gap)
        if unrolled.chord is not None:
            self._along(k, unrolled, unrolled.chord, p, products)
            return
        if unrolled.restored:
            self.ledger.restored.add(k)
        directions = {name: self._adjoint(name, p[name], theta[name], unrolled) for name in unrolled.linear}
        directions = {name: rows for name, rows in directions.items() if name not in unrolled.silent}
        scales = {name: rule.sign for name, rule in unrolled.linear.items()}
        if isinstance(unrolled.clip, float):
            scales = {name: sign * unrolled.clip for name, sign in scales.items()}
        together = {name: directions.pop(name) for name in unrolled.cancelled if name in directions}
        if together:
            self.ledger.cancelled[k] = sorted(together)
        for j, (batch, meet) in enumerate(zip(self.run.step(k).batches, products, strict=False)):
            weight = -sample_weights(unrolled, batch, j)
            weights = {name: weight * scale for name, scale in scales.items()}
            if directions:
                self.ledger.share(self.rows, k, j, batch, meet(directions, weights))
            if together:
                self.ledger.book("cancelled", self.rows, meet(together, weights).sum(1))

    def _along(self, k: int, unrolled: UnrolledStep, form: ChordForm, p: Parameters,
               products: list[Products]) -> None:
        """Books what the samples and decay did on a chord."""
        if form.rate is not None:
            self.ledger.rates[k] = form.rate
        directions: list[Parameters] = [{}, {}]
        for name in form.memories:
            if name in form.shrunk:
                self.ledger.book("decay", self.rows, -dot(p[name], form.shrunk[name]))
            for i, rows in enumerate(self._adjoints.along(name, p[name], unrolled, self._meet_momentum)):
                if rows is not None:
                    directions[i][name] = rows
                    if name in form.pulled:
                        self.ledger.book("decay", self.rows, -dot(rows, form.pulled[name][i]))
        for j, (batch, meet) in enumerate(zip(form.passes, products, strict=True)):
            shares: Tensor | None = None
            for names, own in zip(form.groups, form.weights[j], strict=True):
                for rows_of_kind, weights in zip(directions, own, strict=True):
                    asked = {name: rows_of_kind[name] for name in names if name in rows_of_kind}
                    if asked and bool(weights.any()):
                        scales = {name: -form.memories[name].linear.sign for name in asked}
                        found = meet(asked, scales)
                        found = found * weights.to(found)
                        shares = found if shares is None else shares + found
            if shares is not None:
                self.ledger.share(self.rows, k, j, batch, shares)

    def cross(self, k: int, ends: OptimizerState, begins: OptimizerState, close: bool) -> None:
        """Books by how much the states stored before step k are not those that the steps before it left."""
        channel = "rounding" if close else "unattributed"
        self._adjoints.cross(ends, begins, lambda adjoint, apart: self.ledger.book(channel, self.rows,
                                                                                  dot(adjoint, apart)))
        if not close:
            self.ledger.unexplained.setdefault(k - 1, True)

    def end(self, momentum: dict[Key, Tensor]) -> None:
        """Books the momentum that was there before the first step."""
        self._adjoints.left(momentum, self._meet_momentum)

    def _adjoint(self, name: str, p: Tensor, theta: Tensor, unrolled: UnrolledStep) -> Tensor:
        """The direction that the gradient of this parameter meets; books its decay."""
        rule = unrolled.linear[name]
        if rule.decoupled:
            self.ledger.book("decay", self.rows, -rule.decoupled * dot(p, theta))
        psi = self._adjoints.direction(name, p, unrolled, self._meet_momentum)
        if rule.coupled:
            self.ledger.book("decay", self.rows, -rule.coupled * dot(psi, theta))
        return psi if isinstance(unrolled.clip, float) else psi * unrolled.clip[name]

    def _meet_momentum(self, adjoint: Tensor, momentum: Tensor) -> None:
        self.ledger.book("momentum", self.rows, dot(adjoint, momentum))


def dot(rows: Tensor, vector: Tensor) -> Tensor:
    """The inner products of rows with a vector."""
    return rows_of(rows) @ vector.reshape(-1).to(rows.dtype)


def dots(rows: Parameters, vectors: Parameters) -> Tensor:
    """The inner products of rows with a vector, over all parameters."""
    return torch.stack([dot(part, vectors[name]) for name, part in rows.items()]).sum(0)
