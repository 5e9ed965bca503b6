r"""A generated sample, split over the stages of the sampler that made it, training noise and training images.

.. math:: X(z; \theta_T) - X(z; \theta_0) = \sum_j \sum_b \sum_i T[j, b, i] + \text{other channels}

A stage has its own copy of the parameters. Its part is what training changed in the sample through the network as it is
asked at this stage, passed on by all later stages; so parts add up to the change of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...arguments import as_place
from ...result import Check, CheckRow
from .result import COMPLETE, LIMIT, DiffusionExplanation

__all__ = ["SamplerExplanation"]

#: What a quadrature may miss, as a share of the change of a sample, before stages are called uncertain.
MISSED = 0.01


@dataclass(frozen=True, eq=False, repr=False)
class SamplerExplanation(DiffusionExplanation):
    r"""Why samples are what they are, through the sampler: what each stage's network added to the sample itself.

    All is as in :class:`DiffusionExplanation`, but that cells, channels and ``change`` of a stage are parts of the
    sample's change, and no differences of stages are taken.

    Attributes:
        began: What the network would have generated from the same noise as training began, with shape (q, \*).
    """

    # Fields of the parent have defaults, so this one has too; explain_diffusion always gives it.
    began: Tensor = torch.zeros(0)

    @property
    def form(self) -> str:
        """Which of the two ways to split over stages this is, in words."""
        return "through the sampler, whose stages add up to the sample"

    @property
    def change(self) -> Tensor:
        """What cells and channels changed through each stage, along the directions, with shape (q, N, m)."""
        return self.tensor.sum((-2, -1)) + torch.stack(list(self.channels.values())).sum(0)

    @property
    def stage_change(self) -> Tensor:
        """The same: what changed through a stage is part of the sample."""
        return self.change

    @property
    def displacement(self) -> Tensor:
        """The way from what the initial network generates to the sample, with shape (q, m)."""
        return (self.directions @ (self.final - self.began).flatten(1)[..., None])[..., 0]

    @property
    def residual(self) -> Tensor:
        """What no stage's cells and channels hold of the sample's change, with shape (q, m)."""
        return self.displacement - self.change.sum(1)

    @property
    def missed(self) -> Tensor:
        """What the quadrature missed over all steps, before any correction, over the change, with shape (q,)."""
        size = self.displacement.norm(dim=-1).clamp_min(torch.finfo(torch.float64).tiny)
        return torch.tensor(self.info["missed"], dtype=torch.float64) / size

    def completeness(self) -> tuple[float, float]:
        r"""The largest :math:`\varepsilon_1`, the residual over the change, and :math:`\varepsilon_2`, over all terms.

        The terms of :math:`\varepsilon_2` are the cells of stages, images and noise bins, and the other channels.
        """
        left = self.residual.norm(dim=-1)
        terms = self.tensor.flatten(-2).norm(dim=-2).sum((-2, -1))
        terms = terms + sum(part.norm(dim=-1).sum(-1) for part in self.channels.values())
        tiny = torch.finfo(torch.float64).tiny
        one = left / self.displacement.norm(dim=-1).clamp_min(tiny)
        return float(one.max()), float((left / terms.clamp_min(tiny)).max())

    def check(self) -> Check:
        """Whether stages add up to the sample, what the quadrature missed, what is unattributed, how much cancels."""
        one, two = self.completeness()
        limit = COMPLETE[self.info["dtype"]]
        rule = self.info["ledger"]["quadrature"]
        corrected = rule.startswith("gonzalez")
        missed, kappa = float(self.missed.max()), self._cancelled()
        terms = self.tensor.flatten(-2).norm(dim=-2).sum((-2, -1)).clamp_min(torch.finfo(torch.float64).tiny)
        odd = float((self.channels["unattributed"].norm(dim=-1).sum(-1) / terms).max())
        # A rule that is not corrected claims no more than what it prints.
        wrong = "fail" if corrected else "warn"
        return Check((
            CheckRow("completeness", "pass" if two <= limit else wrong, two, limit,
                     f"All stages' cells and channels give what training changed of the sample to {two:.1e} of all "
                     f"terms, {one:.1e} of the change."),
            CheckRow("quadrature", "pass" if missed <= MISSED else "warn", missed, MISSED,
                     f"Over all steps {rule} missed {missed:.1e} of the change" +
                     (", which was then spread over all stages alike" if corrected else ", which is left") +
                     ("." if missed <= MISSED else ', so stages are uncertain by as much. Pass '
                      'quadrature="gonzalez5".')),
            CheckRow("unattributed", "pass" if odd <= 1e-6 else "warn", odd, 1e-6,
                     f"{odd:.1e} of the terms comes from changes that the update rule does not explain."),
            CheckRow("cancellation", "pass" if kappa <= LIMIT else "warn", kappa, LIMIT,
                     f"Terms of the sample are {kappa:.3g} times as large as their sum" +
                     ("." if kappa <= LIMIT else ", so no percentages of it are given, but centred ranks.")),
        ))

    def summary(self) -> str:
        """The answer in one sentence."""
        one, two = self.completeness()
        q, stages, m, b, n = self.tensor.shape
        copies = sum(self.memorised(i) for i in range(q))
        return (f"SamplerExplanation({q} sample{'s' * (q > 1)} x {stages} stages x {b} noise bins x {n} images, "
                f"{m} direction{'s' * (m > 1)} ({self.info['directions']}), {self.form} to {one:.0e} of the change and "
                f"{two:.0e} of the terms, quadrature {float(self.missed.max()):.0e} before correction, cancellation "
                f"{self._cancelled():.3g}, {copies} memorised and {q - copies} composed)")

    def toward(self, by: str = "bin") -> Tensor:
        """What each group added through each stage along the sample's displacement, in units of it, (q, N, G).

        Over stages and groups they add up to 1, less what the other channels hold.
        """
        return super().toward(by)

    def _cancelled(self) -> float:
        return float(self.cancellation("image and bin", stages=True).max())

    def _of_stages(self, added: Tensor) -> Tensor:
        return added

    def _asked(self, query: int, stage: int | None, by: str) -> tuple[Tensor, Tensor]:
        """What groups added to the sample through a stage, or through all of them, and what training changed."""
        query = self.place(query)
        if stage is None:
            return self.contributions(by)[query].sum(0), self.change[query].sum(0)
        stage = as_place(stage, "stage", len(self.levels), "stages")
        return self.contributions(by)[query, stage], self.change[query, stage]
