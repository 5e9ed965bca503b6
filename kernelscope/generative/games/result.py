"""Generated points traced to the real ones: the answer of explain_gan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_count, as_place
from ...decomposition.wording import counted
from ...result import Check, CheckRow, Result
from ..measures import Concentration, concentration
from .masses import FAINT, beside_mean, shares_of_classes
from .witnessing import COMPLETE, NAMED, PERCENT_LIMIT, Witness, of_all

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GANExplanation"]

_TINY = torch.finfo(torch.float64).tiny

#: What is traced, by the way it is traced.
WORDS = {"path": "the motion from the first step on, through the critic of each step",
         "frozen": "the motion that the last critic asks for now"}


@dataclass(frozen=True, eq=False, repr=False)
class GANExplanation(Result):
    r"""Generated points, and how the critic moved them, traced to real images.

    The motion told of is ``how="path"``: :math:`F(G_T(z)) - F(G_0(z))`, through every critic that the generator met; or
    ``how="frozen"``: the rate :math:`-E_{z'}\langle\nabla F, K^G(z, z')\, v(G(z'))\rangle` at which the last critic
    moves it now, with :math:`K^G = J_G J_G^T`. Both are contributions along the recorded game: what would happen
    without a real image is another question.

    Attributes:
        how: ``"path"`` or ``"frozen"``.
        total: The motion, with shape (q, c).
        real: What of it each real image contributed, :math:`R_i(z)`, with shape (q, c, n).
        penalty: What its penalty did, with shape (q, c, n), or (q, c, 0) without one.
        fake: What each place of generated points in a batch did, with shape (q, c, f).
        first_critic: What the critic's first parameters did, with shape (q, c).
        critic: The critic's other channels, (q, c) each.
        generator: The generator's channels but for its draws, (q, c) each; ``field``: what the recorded fields differ
            from those of the recorded critic.
        magnitude: The sum of the absolute values of all terms, with shape (q, c).
        by_step: The shares of real images, penalties and generated points by the critic's step, (q, c, 3, T).
        age: For each real image the mean age of its shares in steps of the critic, with shape (n,); NaN if never shown.
        last: How many steps before the end the critic was shown it last, with shape (n,); -1 if never.
        mass: Its part of the mass of all real images that the critic was shown, with shape (n,); 0 of others.
        covered: Whether a generated point is near it, with shape (n,).
        modes: Coverage, mass and their nulls, in numbers.
        points: The generated points G(z), with shape (q, *).
        witness: The critic's scores of them.
        outputs: A word for each of the c numbers.
        moved: What a chord half as long changes at the first point, as a share of the absolute real shares; NaN where
            chords are single steps.
        info: Provenance and cost.
    """

    how: str
    total: Tensor
    real: Tensor
    penalty: Tensor
    fake: Tensor
    first_critic: Tensor
    critic: dict[str, Tensor]
    generator: dict[str, Tensor]
    magnitude: Tensor
    by_step: Tensor
    age: Tensor
    last: Tensor
    mass: Tensor
    covered: Tensor
    modes: dict[str, float]
    points: Tensor
    witness: Witness
    outputs: list[str]
    moved: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.total)

    def terms(self) -> dict[str, Tensor]:
        """All terms of the motion, (q, c) each: their sum is the total."""
        return {"real": self.real.sum(-1), "penalty": self.penalty.sum(-1), "fake": self.fake.sum(-1),
                "first critic": self.first_critic, **{f"critic {name}": c for name, c in self.critic.items()},
                **{f"generator {name}": c for name, c in self.generator.items()}}

    @property
    def residual(self) -> Tensor:
        """What no term holds, with shape (q, c)."""
        return self.total - torch.stack(list(self.terms().values())).sum(0)

    @property
    def centred(self) -> Tensor:
        """The contributions of real images beside the mean of those shown, with shape (q, c, n); 0 of others."""
        return beside_mean(self.real, self.seen)

    @property
    def seen(self) -> Tensor:
        """Which real images the critic was shown, with shape (n,)."""
        return self.last >= 0

    def _groups(self) -> list[Tensor]:
        labels = self.witness.labels
        real = [self.real.sum(-1)] if labels is None else [
            self.real[..., torch.tensor([label == name for label in labels])].sum(-1) for name in sorted(set(labels))]
        kept = [self.penalty.sum(-1)] if self.penalty.shape[-1] else []
        return [*real, *kept, self.fake.sum(-1), self.first_critic]

    @property
    def kappa(self) -> float:
        r"""The cancellation :math:`\sum_g\|C_g\| / \|\sum_g C_g\|` over real classes, penalty, fakes, first critic."""
        groups = torch.stack(self._groups())
        return float(groups.flatten(1).norm(dim=1).sum() / groups.sum(0).norm().clamp_min(_TINY))

    @property
    def real_against_fake(self) -> float:
        """How far real and generated points cancel: 1 where they undo each other, 0 where they pull one way."""
        real, fake = self.real.sum(-1), self.fake.sum(-1)
        return float(1 - (real + fake).norm() / (real.norm() + fake.norm()).clamp_min(_TINY))

    @property
    def epsilon1(self) -> float:
        """The residual as a share of the motion, norms over all points."""
        return float(self.residual.norm() / self.total.norm().clamp_min(_TINY))

    @property
    def epsilon2(self) -> float:
        """The residual as a share of the sum of the groups' norms."""
        return float(self.residual.norm() / sum(float(c.norm()) for c in self._groups()))

    @property
    def concentration(self) -> Concentration:
        """On how few real images the mass rests."""
        return concentration(self.mass[self.seen])

    @property
    def share_of_first_critic(self) -> float:
        """The part of the motion that the critic's first parameters made, summed over points; may be negative."""
        return float((self.first_critic * self.total.sign()).sum() / self.total.abs().sum().clamp_min(_TINY))

    @property
    def dropped(self) -> Tensor:
        """The places of the real images with next to no mass and no generated point near."""
        limit = FAINT / max(int(self.seen.sum()), 1)
        return ((self.mass < limit) & ~self.covered & self.seen).nonzero().flatten()

    def by_class(self) -> dict[str, dict[str, float]]:
        """For each class its part of the images shown, its mass and how much is covered; nothing without labels."""
        labels = self.witness.labels
        return {} if labels is None else shares_of_classes(self.mass, self.covered, labels, self.seen)

    def top(self, k: int = 5, query: int = 0, output: int = 0) -> pd.DataFrame:
        """The ``k`` real images that pulled one generated point most, beside their mean, largest first."""
        import pandas as pd

        place = as_place(query, "query", len(self), "points")
        column = as_place(output, "output", len(self.outputs), "outputs")
        values, labels = self.centred[place, column], self.witness.labels
        order = values.masked_fill(~self.seen, -torch.inf).argsort(descending=True, stable=True)
        order = order[:min(as_count(k, "k", least=1), int(self.seen.sum()))]
        return pd.DataFrame({
            "real": order.tolist(), "centred": values[order].tolist(),
            "contribution": self.real[place, column, order].tolist(),
            "label": [None if labels is None else labels[i] for i in order.tolist()],
            "rank": list(range(1, len(order) + 1)),
        })

    def said(self) -> str:
        """How the real images pulled, in words, with no percentages where they cancel."""
        usual = {"real": "real", "fake": "generated", "first critic": "first critic"}
        terms, motion = self.terms(), float(self.total.norm())
        parts = [f"{word} {float(terms.pop(name).mean()):+.3g}" for name, word in usual.items()]
        # Any other term is named where it is no small part of what is explained.
        parts += [f"{_named(name)} {float(c.mean()):+.3g}" for name, c in terms.items()
                  if float(c.norm()) > NAMED * motion]
        parts[-1] += f" of a motion of {float(self.total.mean()):.3g}"
        told = f"they cancel {self.kappa:.3g} times over"
        if self.kappa <= PERCENT_LIMIT:
            told = (f"cancellation {self.kappa:.3g}; the first critic made {100 * self.share_of_first_critic:.0f} % "
                    "of it")
        return f"{', '.join(parts)}; {told}"

    def said_of_modes(self) -> str:
        """What became of the real images, in words, beside the nulls."""
        m = self.modes
        told = m["auroc"]
        inside = m["auroc_shuffled_low"] <= told <= m["auroc_shuffled_high"]
        tells = "mass does not tell which" if inside else f"mass tells which with an AUROC of {told:.2f}"
        return (f"{100 * m['covered']:.0f} % of real images have a generated point near (untrained "
                f"{100 * m['covered_untrained']:.0f} %, real points {100 * m['covered_by_real']:.0f} %), and {tells}; "
                f"{len(self.dropped)} {'is' if len(self.dropped) == 1 else 'are'} dropped: next to no mass and nothing "
                f"near (shuffled {m['dropped_shuffled']:.1f})")

    def summary(self) -> str:
        """The answer in one sentence."""
        found = self.concentration
        chord = "" if self.info["chord"] == 1 else (
            f"; chords of {self.info['chord']} critic steps: half as long would move {float(self.moved):.2g} of it")
        return (f'GANExplanation(how="{self.how}", {WORDS[self.how]}: {counted(len(self), "point")}, '
                f"{of_all(self.seen)} real images{'' if bool(self.seen.all()) else ' seen'}: {self.said()}; the mass "
                f"is that of {counted(round(float(found.n_eff)), 'image')}, Gini {float(found.gini):.2f}; "
                f"{self.said_of_modes()}{chord})")

    def to_frame(self) -> pd.DataFrame:
        """One row for each generated point, output and term."""
        import pandas as pd

        rows = []
        for name, values in self.terms().items():
            for q, numbers in enumerate(values.tolist()):
                rows += [{"query": q, "output": self.outputs[c], "term": name, "amount": amount, "how": self.how}
                         for c, amount in enumerate(numbers)]
        return pd.DataFrame(rows, columns=["query", "output", "term", "amount", "how"])

    def of_images(self) -> pd.DataFrame:
        """One row for each real image: mass, whether it is covered, when it was shown last."""
        import pandas as pd

        labels = self.witness.labels
        words: list[str | None] = [None] * len(self.mass)
        return pd.DataFrame({
            "real": range(len(self.mass)), "label": labels if labels is not None else words, "mass": self.mass.tolist(),
            "covered": self.covered.tolist(), "age": self.age.tolist(), "last": self.last.tolist(),
        })

    def check(self) -> Check:
        """Whether the terms add up, beside their sizes and beside the motion, and how much they cancel."""
        if not self.total.numel():
            return Check(())
        worst = float((self.residual.abs() / self.magnitude.clamp_min(_TINY)).max())
        rows = [
            CheckRow("completeness", "pass" if worst <= COMPLETE else "fail", worst, COMPLETE,
                     f"The terms add up to the motion, up to {worst:.1e} of their absolute sum."),
            CheckRow("epsilon 1", "pass" if self.epsilon1 <= 1e-6 else "warn", self.epsilon1, 1e-6,
                     f"The residual is {self.epsilon1:.1e} of the motion."),
            CheckRow("epsilon 2", "pass" if self.epsilon2 <= 1e-10 else "warn", self.epsilon2, 1e-10,
                     f"The residual is {self.epsilon2:.1e} of the groups' shares."),
            CheckRow("cancellation", "pass" if self.kappa <= PERCENT_LIMIT else "warn", self.kappa, PERCENT_LIMIT,
                     f"The groups are together {self.kappa:.3g} times their sum" + (
                         ": read centred ranks, not percentages." if self.kappa > PERCENT_LIMIT else ".")),
        ]
        others = [self.critic["unattributed"], *(self.generator[name] for name in ("unattributed", "field")
                                                 if name in self.generator)]
        lost = max(float(c.abs().max()) for c in others) / float(self.total.abs().max().clamp_min(_TINY))
        rows.append(CheckRow("unattributed", "pass" if lost <= 1e-2 else "warn", lost, 1e-2,
                             f"Unattributed steps, and fields of another critic than the recorded one, made {lost:.1e} "
                             "of the motion."))
        if self.info["chord"] > 1:
            moved = float(self.moved)
            rows.append(CheckRow("chord", "pass" if moved <= 0.1 else "warn", moved, 0.1,
                                 f"Chords of {self.info['chord']} steps move {moved:.2g} of the absolute shares of "
                                 "real images beside chords half as long; the total is complete with both."))
        return Check((*rows, *self.witness.check().rows[:1]))


def _named(term: str) -> str:
    """A term in a sentence.

    Example:
        >>> _named("critic buffers"), _named("penalty")
        ("the critic's buffers", 'penalty')
    """
    whose, _, channel = term.partition(" ")
    return f"the {whose}'s {channel}" if channel else whose
