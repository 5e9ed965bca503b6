r"""The critic as a running witness function.

.. math:: D_T(x) - D_0(x) = \sum_i c_i(x) + \sum_i p_i(x) + \sum_j f_j(x) + \text{other channels}

with exact shares of the real points i, of their penalties and of generated points. For the losses of an integral
probability metric the first and the last are a mean of step kernels over real points minus one over generated points:
the witness function of a maximum mean discrepancy, kept up to date. It is the small difference of two large sums, so
shares of it are told with their cancellation

.. math:: \kappa = \frac{\sum_g \|C_g\|}{\|\sum_g C_g\|}

over groups g, and as ranks of :math:`c_i - \bar c` where :math:`\kappa > 10`, never as percentages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_count, as_place, as_switch, what_came
from ...decomposition.questions import as_queries, as_words, checked_memory
from ...decomposition.wording import counted
from ...errors import DataError
from ...network import undisturbed
from ...progress import counting, telling
from ...result import Check, CheckRow, Result
from ...text import with_minus
from .critic_course import CriticCourse, CriticLedger, Places
from .game import GANRun
from .masses import beside_mean

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PERCENT_LIMIT", "Witness", "checked_game", "witness"]

#: Above this cancellation no share is told as a percentage.
PERCENT_LIMIT = 10.0

#: Terms above this part of what is explained are named in its sentence.
NAMED = 0.05

#: The residual that a complete split may leave, as a share of the sum of its absolute terms.
COMPLETE = 1e-12

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False, repr=False)
class Witness(Result):
    r"""The critic's scores of some points, split over what it was shown.

    Attributes:
        initial: :math:`D_0(x)`, with shape (q,).
        final: :math:`D_T(x)`, with shape (q,).
        real: The share of each real point, with shape (q, n).
        penalty: That of its penalty, with shape (q, n), or (q, 0) without one.
        fake: That of each place of generated points in a batch, with shape (q, f).
        channels: Decay, momentum at the start, buffers, rounding, unattributed and what cancels, with shape (q,) each.
        by_step: The shares of real points, penalties and generated points at each step, with shape (q, 3, T).
        magnitude: The sum of the absolute values of all terms, the scale of the residual, with shape (q,).
        of_field: The gradient by the point, split in the same way, or nothing: ``initial`` and ``final`` with shape
            (q, d), ``real`` (q, d, G) by group of real points, ``penalty``, ``fake`` and ``others`` (q, d), and
            ``magnitude`` (q, d).
        groups: The groups of real points in ``of_field["real"]``: classes, or nothing for each by itself.
        points: The points x, with shape (q, *).
        shown: The real points, with shape (n, *).
        labels: The class of each real point, or ``None``.
        own: The class of each point x, or ``None``.
        info: Provenance.
    """

    initial: Tensor
    final: Tensor
    real: Tensor
    penalty: Tensor
    fake: Tensor
    channels: dict[str, Tensor]
    by_step: Tensor
    magnitude: Tensor
    of_field: dict[str, Tensor]
    groups: list[str]
    points: Tensor
    shown: Tensor
    labels: list[str] | None
    own: list[str] | None
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.initial)

    @property
    def residual(self) -> Tensor:
        """What no term holds, with shape (q,)."""
        return self.final - self.initial - self.parts().sum(1) - torch.stack(list(self.channels.values())).sum(0)

    def parts(self) -> Tensor:
        """The shares of real points, penalties and generated points, with shape (q, 3)."""
        return torch.stack([self.real.sum(1), self.penalty.sum(1), self.fake.sum(1)], 1)

    def by_group(self) -> dict[str, Tensor]:
        """The shares of each class of real points (all in one without labels), penalties and generated points, (q,)."""
        found = {"real": self.real.sum(1)}
        if self.labels is not None:
            found = {name: self.real[:, _members(self.labels, name)].sum(1) for name in sorted(set(self.labels))}
        if self.penalty.shape[1]:
            found["penalty"] = self.penalty.sum(1)
        return found | {"fake": self.fake.sum(1)}

    @property
    def kappa(self) -> float:
        r"""The cancellation :math:`\sum_g\|C_g\| / \|\sum_g C_g\|` over groups, norms over all points."""
        groups = torch.stack(list(self.by_group().values()))
        return float(groups.norm(dim=1).sum() / groups.sum(0).norm().clamp_min(_TINY))

    @property
    def cancellation(self) -> Tensor:
        r"""The cancellation :math:`\sum_i|c_i| / |\sum_i c_i|` over samples at each point, with shape (q,)."""
        every = torch.cat([self.real, self.penalty, self.fake], 1)
        return every.abs().sum(1) / every.sum(1).abs().clamp_min(_TINY)

    @property
    def epsilon1(self) -> float:
        """The residual as a share of the change of the score, norms over all points."""
        return float(self.residual.norm() / (self.final - self.initial).norm().clamp_min(_TINY))

    @property
    def epsilon2(self) -> float:
        """The residual as a share of the sum of the groups' norms."""
        return float(self.residual.norm() / sum(float(c.norm()) for c in self.by_group().values()))

    @property
    def centred(self) -> Tensor:
        """The shares of real points beside the mean of those shown, with shape (q, n); 0 of others."""
        return beside_mean(self.real, self.seen)

    @property
    def seen(self) -> Tensor:
        """Which real points the critic was shown, with shape (n,)."""
        return self.shown.flatten(1).isfinite().all(1)

    def ranks(self) -> Tensor:
        """The rank of each real point by its share, 1 for the largest, with shape (q, n); those not shown come last."""
        shown = self.real.masked_fill(~self.seen, -torch.inf)
        return shown.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1

    def classes(self) -> Tensor:
        """The centred shares summed over each class, with shape (q, classes), in the order of the classes' names."""
        if self.labels is None:
            raise DataError("The classes of the real points are not known. Pass labels= with a word for each of them.")
        centred = self.centred
        return torch.stack([centred[:, _members(self.labels, name)].sum(1) for name in sorted(set(self.labels))], 1)

    def own_class(self) -> float:
        """Of how many points the own class is the top centred contributor, as a share of all.

        Raises:
            DataError: If the classes of real points or of the points are not known.
        """
        if self.own is None:
            raise DataError("The classes of the points are not known. Pass own= with a word for each of them.")
        names = sorted(set(self.labels or []))
        top = [names[i] for i in self.classes().argmax(1).tolist()]
        return sum(a == b for a, b in zip(top, self.own, strict=True)) / max(len(top), 1)

    def top(self, k: int = 5, query: int = 0) -> pd.DataFrame:
        """The ``k`` real points with the largest centred share of one point's score."""
        import pandas as pd

        place = as_place(query, "query", len(self), "points")
        values = self.centred[place]
        order = values.masked_fill(~self.seen, -torch.inf).argsort(descending=True, stable=True)
        order = order[:min(as_count(k, "k", least=1), int(self.seen.sum()))]
        return pd.DataFrame({
            "real": order.tolist(), "centred": values[order].tolist(), "share": self.real[place, order].tolist(),
            "label": [None if self.labels is None else self.labels[i] for i in order.tolist()],
            "rank": list(range(1, len(order) + 1)),
        })

    def summary(self) -> str:
        """The witness in one sentence."""
        if not len(self):
            return "Witness(no points)"
        names = ["real points", "their penalties", "generated points"]
        kept = [i for i, c in enumerate((self.real, self.penalty, self.fake)) if c.shape[1]]
        means = self.parts().mean(0)
        change = float((self.final - self.initial).mean())
        if self.kappa > PERCENT_LIMIT:
            said = ", ".join(f"{names[i]} {float(means[i]):+.3g}" for i in kept)
            said += f"; they cancel {self.kappa:.3g} times over, so ranks are told and no percentages"
        else:
            said = with_minus(", ".join(f"{names[i]} {100 * float(means[i]) / change:.0f} %" for i in kept))
            said += f"; cancellation {self.kappa:.3g}"
        rest = {name: float(values.mean()) for name, values in self.channels.items()}
        said += "".join(f", {name} {value:+.3g}" for name, value in rest.items() if abs(value) > NAMED * abs(change))
        own = "" if self.own is None or self.labels is None else (
            f"; the own class is the top centred contributor of {100 * self.own_class():.0f} % of them")
        cancelled = self.info.get("cancelled", 0)
        told = "" if not cancelled else (
            f"; what cancels in the gradients of {counted(cancelled, 'step')} is told together")
        return (f"Witness({counted(len(self), 'point')}, {of_all(self.seen)} real: the score "
                f"changed by {change:+.3g} on the mean, {said}{own}{told})")

    def to_frame(self) -> pd.DataFrame:
        """One row for each point and group, with the share and its cancellation."""
        import pandas as pd

        rows = []
        for name, values in {**self.by_group(), **self.channels}.items():
            for query, value in enumerate(values.tolist()):
                rows.append({"query": query, "group": name, "share": value,
                             "cancellation": float(self.cancellation[query])})
        return pd.DataFrame(rows, columns=["query", "group", "share", "cancellation"])

    def check(self) -> Check:
        """Whether the split is complete, beside its terms and beside the change, and how much it cancels."""
        if not len(self):
            return Check(())
        worst = float((self.residual.abs() / self.magnitude.clamp_min(_TINY)).max())
        rows = [
            CheckRow("completeness", "pass" if worst <= COMPLETE else "fail", worst, COMPLETE,
                     f"The terms add up to the change of the score, up to {worst:.1e} of their absolute sum (at a "
                     "single point)."),
            CheckRow("epsilon 1", "pass" if self.epsilon1 <= 1e-6 else "warn", self.epsilon1, 1e-6,
                     f"The residual is {self.epsilon1:.1e} of the change."),
            CheckRow("epsilon 2", "pass" if self.epsilon2 <= 1e-10 else "warn", self.epsilon2, 1e-10,
                     f"The residual is {self.epsilon2:.1e} of the groups' shares."),
            CheckRow("cancellation", "pass" if self.kappa <= PERCENT_LIMIT else "warn", self.kappa, PERCENT_LIMIT,
                     f"The groups' shares are together {self.kappa:.3g} times their sum" + (
                         ": read centred ranks, not percentages." if self.kappa > PERCENT_LIMIT else ".")),
        ]
        lost = float(self.channels["unattributed"].abs().max() / self.magnitude.max().clamp_min(_TINY))
        rows.append(CheckRow("unattributed", "pass" if lost <= 1e-3 else "warn", lost, 1e-3,
                             f"Of the terms {lost:.1e} is unattributed."))
        if self.of_field:
            f = self.of_field
            total = f["initial"] + f["real"].sum(2) + f["penalty"] + f["fake"] + f["others"]
            gap = float(((f["final"] - total).abs() / f["magnitude"].clamp_min(_TINY)).max())
            rows.append(CheckRow("field", "pass" if gap <= 1e-10 else "fail", gap, 1e-10,
                                 f"The pieces of the field add up to it, up to {gap:.1e} of their absolute sum."))
        return Check(tuple(rows))


def of_all(seen: Tensor) -> str:
    """How many were shown, of how many.

    Example:
        >>> of_all(torch.tensor([True, True])), of_all(torch.tensor([True, False]))
        ('2', '1 of 2')
    """
    count = int(seen.sum())
    return f"{count:,}" if count == len(seen) else f"{count:,} of {len(seen):,}"


def _members(labels: list[str], name: str) -> Tensor:
    return torch.tensor([label == name for label in labels])


def checked_game(run: Any) -> GANRun:
    """The recorded game that is asked.

    Raises:
        DataError: If it is none.
    """
    if not isinstance(run, GANRun):
        raise DataError(f"What is asked must be a GANRun; {what_came(run)} came. Pass what "
                        "kernelscope.generative.train_gan gives, or the game that was recorded.")
    return run


def checked_labels(labels: Any, count: int, name: str, of: str) -> list[str] | None:
    """A word for each of some points.

    Raises:
        DataError: If there are not as many.
    """
    if labels is None:
        return None
    words = as_words(labels, name)
    if len(words) != count:
        raise DataError(f"{name} must hold a word for each of the {count} {of}; {len(words)} came. Pass one for each.")
    return words


def witness(run: GANRun, x: Any, labels: Any = None, *, own: Any = None, field: bool = False,
            memory: int | str = 2**29, progress: bool | None = None) -> Witness:
    r"""Splits the critic's scores of points over the real points, penalties and generated points it was shown.

    .. math:: D_T(x) - D_0(x) = \sum_i c_i(x) + \sum_i p_i(x) + \sum_j f_j(x) + \text{other channels}

    Args:
        run: The game.
        x: The points, with shape (q, *), real or generated.
        labels: The class of each real point, a word or a number, with n entries.
        own: The class of each of the points x.
        field: Whether the gradient by the point is split too, over real points, or over their classes with
            ``labels``: q times d numbers more are taken back through the run.
        memory: About how many bytes may be used.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`Witness`.

    Raises:
        DataError: If the points or labels do not fit the game.

    References:
        "A Kernel Two-Sample Test" (Gretton et al., 2012), section 2.3, for the witness function; "A Neural Tangent
        Kernel Perspective of GANs" (Franceschi et al., 2022).

    Example:
        >>> from kernelscope.generative import train_gan
        >>> x = torch.randn(12, 2)
        >>> game = train_gan(x, latents=2, width=4, steps=5, batch=4, dtype=torch.float64)
        >>> found = witness(game, x[:3])
        >>> found.real.shape, found.fake.shape, found.check().rows[0].status
        (torch.Size([3, 12]), torch.Size([3, 4]), 'pass')
    """
    game = checked_game(run)
    field = as_switch(field, "field")
    memory = checked_memory(memory)
    points = as_queries(x, (game.critic.samples.inputs[0],), alike=True)[0]
    words = checked_labels(labels, game.real, "labels", "real points")
    own_words = checked_labels(own, len(points), "own", "points")
    with undisturbed(points.device), telling(progress):
        course = CriticCourse(game, memory)
        q, d = len(points), game.critic.samples.inputs[0][0].numel()
        passes = course.passes(q, 1) + (course.passes(q, d) if field else 0)
        with counting(passes * len(game.critic), "witness", "step") as done:
            return split_scores(course, points, words, own_words, field, done)


def split_scores(course: CriticCourse, points: Tensor, labels: list[str] | None, own: list[str] | None,
                 slopes: bool, done: Callable[[int], object]) -> Witness:
    """The witness of points, along a course that is ready."""
    game, places = course.game, Places.of(course.game)
    q, d = len(points), points[0].numel() if len(points) else 1
    ledger = CriticLedger(game, q, ["score"])
    groups: list[str] = []
    pieces: dict[str, Tensor] = {}
    note = course.split(points, False, ledger, done)
    if slopes:
        of_field = CriticLedger(game, q, [str(i) for i in range(d)])
        course.split(points, True, of_field, done)
        groups = [] if labels is None else sorted(set(labels))
        pieces = _pieces(of_field, places, labels, groups)
    shares = ledger.contributions[:, 0]
    return Witness(
        initial=ledger.path[:, 0, 0].clone(), final=ledger.path[:, 0, -1].clone(),
        real=shares[:, places.real].clone(), penalty=shares[:, places.penalty].clone(),
        fake=shares[:, places.fake].clone(), channels={name: c[:, 0] for name, c in ledger.others().items()},
        by_step=_steps(ledger), magnitude=(ledger.magnitude + ledger.path[:, :, 0].abs())[:, 0], of_field=pieces,
        groups=groups, points=points.detach().cpu(), shown=game.points.detach().cpu(), labels=labels, own=own,
        info={"loss": game.game.kind, "r1": game.game.r1, "steps": len(game.critic), "cancelled": len(ledger.cancelled),
              "notes": [n for n in (note, course.training.note) if n] + ledger.notes()},
    )


def _steps(ledger: CriticLedger) -> Tensor:
    assert ledger.group_steps is not None
    return ledger.group_steps[:, 0].clone()


def _pieces(ledger: CriticLedger, places: Places, labels: list[str] | None, groups: list[str]) -> dict[str, Tensor]:
    shares = ledger.contributions
    real = shares[..., places.real]
    if labels is not None:
        real = torch.stack([real[..., _members(labels, name)].sum(-1) for name in groups], -1)
    return {
        "initial": ledger.path[:, :, 0].clone(), "final": ledger.path[:, :, -1].clone(), "real": real.clone(),
        "penalty": shares[..., places.penalty].sum(-1), "fake": shares[..., places.fake].sum(-1),
        "others": torch.stack(list(ledger.others().values())).sum(0),
        "magnitude": ledger.magnitude + ledger.path[:, :, 0].abs(),
    }
