r"""A generated sample, split over sampling stages, training noise and training images.

Going down the noise levels, each stage's denoised point is telescoped, and each of its terms split along training:

.. math:: x = D(x_0, \sigma_0) + \sum_{k \ge 1} \Delta_k, \qquad
          D_T(x_k, \sigma_k) = D_{\text{init}}(x_k, \sigma_k) + \sum_g C_g(k) + \text{other channels},
          \qquad a_{k,g} = C_g(k) - C_g(k - 1)

A group g is an image, a class, a bin of training noise, or a pair of them. What groups add often cancels; where
:math:`\kappa = \sum_g |C_g| / |\sum_g C_g|` is above :data:`LIMIT` no percentage of the sum is given, but the rank of
what is left when the groups' mean is taken off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_place
from ...errors import DataError
from ...ranks import ranks, spearman
from ...result import Check, CheckRow, Result
from ..denoising.noise import NoiseLaw
from ..measures import Concentration, cancellation, centred, concentration, localisation_index, shares, surplus
from .optimal_result import first_of_the_last

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LIMIT", "DiffusionExplanation"]

#: Above this cancellation no percentages are given.
LIMIT = 10.0

#: What contributions may be grouped by.
GROUPS = ("image", "bin", "label", "image and bin", "label and bin")

#: The residual a complete tensor may leave, as a share of the sum of the lengths of its terms.
COMPLETE = {"float64": 1e-12, "float32": 1e-5}


@dataclass(frozen=True, eq=False, repr=False)
class DiffusionExplanation(Result):
    r"""Why a denoiser's samples are what they are: q samples, N stages, m directions, B noise bins, n images.

    Attributes:
        levels: The noise level of each stage, descending, with shape (N,).
        points: The noisy point at each stage, with shape (q, N, \*).
        denoised: What the trained network makes of it, with shape (q, N, \*); the last one is the sample.
        initial: What the network made of it as training began, with shape (q, N, \*).
        directions: The unit vectors along which points are split, with shape (q, m, d).
        tensor: The contribution of each draw's cell to each stage's denoised point, with shape (q, N, m, B, n).
        channels: For each other source of change its part, with shape (q, N, m).
        edges: The noise levels between the bins, ascending, with shape (B - 1,).
        clean: The training images, with shape (n, \*); NaN where training drew none.
        log_weights: The logarithm of the optimal denoiser's weight of each training image at each stage's noisy point,
            with shape (q, N, n); minus infinity where training drew none.
        ratios: For each sample the distance to the nearest training image over that to the second, with shape (q,).
        nearest: The place of the nearest training image, with shape (q,).
        null_ratios: The same ratios of real images that are no copies, with shape (r,); none where there are none.
        labels: A word for each training image, or ``None``.
        names: A word for each sample.
        info: Provenance: weights, sampler, noise law, parameterisation, directions, the ledger, cost, notes.
        shuffled: What bins added to each stage where each draw's bin is one of fresh noise, R times over, the null of
            what is said of noise, with shape (q, N, m, R, B).
    """

    levels: Tensor
    points: Tensor
    denoised: Tensor
    initial: Tensor
    directions: Tensor
    tensor: Tensor
    channels: dict[str, Tensor]
    edges: Tensor
    clean: Tensor
    log_weights: Tensor
    ratios: Tensor
    nearest: Tensor
    null_ratios: Tensor
    labels: list[str] | None
    names: list[str]
    info: dict[str, Any] = field(default_factory=dict)
    shuffled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tensor)

    @property
    def final(self) -> Tensor:
        """The samples, with shape (q, *)."""
        return self.denoised[:, -1]

    @property
    def change(self) -> Tensor:
        """What training changed at each stage, along the directions, with shape (q, N, m)."""
        moved = (self.denoised - self.initial).flatten(2)
        return moved @ self.directions.transpose(1, 2)

    @property
    def stage_change(self) -> Tensor:
        """What training changed of the sample at each stage, along the directions, with shape (q, N, m)."""
        return torch.cat([torch.zeros_like(self.change[:, :1]), self.change], 1).diff(dim=1)

    @property
    def displacement(self) -> Tensor:
        """The way from what the network made of the first noise as training began to the sample, with shape (q, m)."""
        whole = (self.final - self.initial[:, 0]).flatten(1)
        return (self.directions @ whole[..., None])[..., 0]

    @property
    def residual(self) -> Tensor:
        """What no cell and no channel holds, with shape (q, N, m)."""
        return self.change - self.tensor.sum((-2, -1)) - torch.stack(list(self.channels.values())).sum(0)

    @property
    def form(self) -> str:
        """Which of the two ways to split over stages this is, in words."""
        return "stages of the trained network's way held fixed"

    # -- groups ------------------------------------------------------------------------------------------------------

    def group_names(self, by: str = "image") -> list[str]:
        """A word for each group, in the order in which contributions stand."""
        bins = [self._bin_name(b) for b in range(self.tensor.shape[-2])]
        images = [f"image {i}" for i in range(self.tensor.shape[-1])]
        words = sorted(set(self.labels or []))
        plain = {"image": images, "bin": bins, "label": words}
        parts = [plain[part] for part in self._by(by).split(" and ")]
        return parts[0] if len(parts) == 1 else [f"{one}, {two}" for two in parts[1] for one in parts[0]]

    def contributions(self, by: str = "image") -> Tensor:
        """What each group added to each stage's denoised point, C, with shape (q, N, m, G)."""
        found = self.tensor
        if self._by(by).startswith("label"):
            words = self.group_names("label")
            places = {word: i for i, word in enumerate(words)}
            members = torch.tensor([places[word] for word in self.labels or []])
            found = found.new_zeros(*found.shape[:-1], len(words)).index_add_(-1, members, found)
        if by.endswith("and bin"):
            return found.flatten(-2)
        return found.sum(-1) if by == "bin" else found.sum(-2)

    def stage_contributions(self, by: str = "image") -> Tensor:
        """What each group added to the sample at each stage, a, with shape (q, N, m, G); the first stage's is C."""
        return self._of_stages(self.contributions(by))

    def shares(self, by: str = "image") -> Tensor:
        """The part of each group in each stage's change, with shape (q, N, G); they add up to the data's part."""
        return shares(self.contributions(by), self.change)

    def centred(self, by: str = "image") -> Tensor:
        """What each group added more than the mean one, with shape (q, N, m, G).

        Groups of images that training never drew are not counted, and have noughts.
        """
        added, shown = self.contributions(by), self.shown(by)
        found = torch.zeros_like(added)
        found[..., shown] = centred(added[..., shown])
        return found

    def shown(self, by: str = "image") -> Tensor:
        """Which groups hold an image that training drew, with shape (G,)."""
        parts = self._by(by).split(" and ")
        if parts[0] == "bin":
            return torch.ones(self.tensor.shape[-2], dtype=torch.bool)
        shown = self.log_weights[0, 0].isfinite()
        if parts[0] == "label":
            words = {word for word, drawn in zip(self.labels or [], shown.tolist(), strict=True) if drawn}
            shown = torch.tensor([word in words for word in self.group_names("label")])
        return shown.repeat(self.tensor.shape[-2]) if len(parts) == 2 else shown

    def cancellation(self, by: str = "image", stages: bool = False) -> Tensor:
        r"""How much larger the contributions are than their sum, :math:`\kappa`.

        Args:
            by: The groups.
            stages: Whether stages are groups as well: of the sample alone, with shape (q,), instead of (q, N).
        """
        if stages:
            return cancellation(self.stage_contributions(by).movedim(1, -1).flatten(-2), vectors=True)
        return cancellation(self.contributions(by), vectors=True)

    def concentration(self, by: str = "image") -> Concentration:
        """On how few groups that training drew each stage's centred contributions rest, measures with shape (q, N)."""
        return concentration(self.centred(by)[..., self.shown(by)].norm(dim=-2))

    def toward(self, by: str = "bin") -> Tensor:
        r"""What each group added at each stage along the sample's whole displacement, in units of it, (q, N, G).

        Over stages and groups they add up to what training changed at the last noise level alone. Where the network
        passes its input on at low noise, as in EDM, that is little: what earlier stages added has become input by then,
        so that later stages take it off again.
        """
        return torch.einsum("qm,qkmg->qkg", self._along(), self.stage_contributions(by))

    # -- claims ------------------------------------------------------------------------------------------------------

    def completeness(self) -> tuple[float, float]:
        r"""The largest :math:`\varepsilon_1`, the residual over the change, and :math:`\varepsilon_2`, over all terms.

        The terms of :math:`\varepsilon_2` are the cells of single images and noise bins, and the other channels.
        """
        left = self.residual.norm(dim=-1)
        terms = self.tensor.flatten(-2).norm(dim=-2).sum(-1)
        terms = terms + sum(part.norm(dim=-1) for part in self.channels.values())
        tiny = torch.finfo(torch.float64).tiny
        one = left / self.change.norm(dim=-1).clamp_min(tiny)
        return float(one.max()), float((left / terms.clamp_min(tiny)).max())

    def telescoped(self) -> float:
        """How far the sample is from the first denoised point and all later corrections, relative."""
        total = self.denoised[:, 0] + self.denoised.diff(dim=1).sum(1)
        return float((total - self.final).norm() / self.final.norm())

    def agreement(self) -> Tensor:
        """Spearman's correlation of the sizes of images' centred contributions and their posterior weights, (q, N)."""
        drawn = self.log_weights[0, 0].isfinite()
        sizes = self.centred("image").norm(dim=-2)[..., drawn]
        return spearman(sizes.flatten(0, 1), self.log_weights[..., drawn].flatten(0, 1)).view(sizes.shape[:2])

    def posterior(self) -> Concentration:
        """How many training images the optimal denoiser would still mix at each stage, measures with shape (q, N)."""
        return concentration(self.log_weights.exp())

    def fixed(self, query: int = 0) -> float:
        """The noise level from which on the training image nearest to the denoised point stays the same."""
        place = self.place(query)
        drawn = self.log_weights[0, 0].isfinite()
        nearest = torch.cdist(self.denoised[place].flatten(1), self.clean[drawn].flatten(1)).argmin(1)
        return float(self.levels[first_of_the_last(nearest)])

    def memorised(self, query: int = 0) -> bool:
        """Whether the sample is a copy: its nearest training image is far nearer than the second."""
        return float(self.ratios[self.place(query)]) < self.info["copied"]

    def verdict(self, query: int = 0) -> str:
        """Whether the sample is memorised or composed, with the threshold and what real images give."""
        place, copied = self.place(query), self.info["copied"]
        what = "memorised" if self.memorised(place) else "composed"
        ratio = float(self.ratios[place])
        if len(self.null_ratios):
            null = float((self.null_ratios < copied).double().mean())
            beside = f"of {len(self.null_ratios)} {self.info['null']} {null:.1%} are"
        else:
            beside = "there are too few different training images for a null"
        return (f"{what}: the nearest training image is at {ratio:.2f} of the distance of the second (a copy: below "
                f"{copied:.2f}; {beside})")

    def decided(self, query: int = 0) -> int:
        """The stage from which on the nearest training image stays the same."""
        return int((self.levels == self.fixed(query)).nonzero()[0])

    def _cancelled(self) -> float:
        """The largest cancellation of images and bins at the stage where a sample was decided."""
        kappa = self.cancellation("image and bin")
        return max(float(kappa[i, self.decided(i)]) for i in range(len(self)))

    def divisible(self, query: int = 0, by: str = "image", stage: int | None = None) -> bool:
        """Whether contributions at a stage cancel so little that percentages of their sum mean something."""
        return float(cancellation(self._asked(query, stage, by)[0], vectors=True)) <= LIMIT

    def top(self, k: int = 5, query: int = 0, stage: int | None = None, by: str = "image") -> pd.DataFrame:
        """The groups that added most, compared with the mean group, along what training changed at a stage.

        Groups are those that hold an image which training drew. The stage is that of :meth:`decided` if not given. The
        share is left out (NaN) where contributions cancel more than :data:`LIMIT` times.
        """
        import pandas as pd

        k = as_count(k, "k", least=1)
        added, change = self._asked(query, stage, by)
        shown = self.shown(by).nonzero().flatten()
        beside = centred((change / change.norm()) @ added[:, shown])
        first = beside.argsort(descending=True, stable=True)[:k]
        order = shown[first]
        kappa = float(cancellation(added, vectors=True))
        part = shares(added, change)[order]
        names = self.group_names(by)
        words = self.labels if by == "image" else None
        return pd.DataFrame({
            "group": [names[i] for i in order.tolist()],
            "label": [None if words is None else words[i] for i in order.tolist()],
            "share": part.tolist() if kappa <= LIMIT else [float("nan")] * len(order),
            "centred": beside[first].tolist(),
            "rank": (len(beside) + 1 - ranks(beside)[first]).tolist(),
        })

    # -- the shape of every answer -----------------------------------------------------------------------------------

    def place(self, query: Any) -> int:
        """The number of a sample from 0 on; raises if there is no such sample."""
        return as_place(query, "query", len(self), "samples")

    def summary(self) -> str:
        """The answer in one sentence."""
        one, two = self.completeness()
        kappa = self._cancelled()
        q, stages, m, b, n = self.tensor.shape
        copies = sum(self.memorised(i) for i in range(q))
        return (f"DiffusionExplanation({q} sample{'s' * (q > 1)} x {stages} stages x {b} noise bins x {n} images, "
                f"{m} direction{'s' * (m > 1)} ({self.info['directions']}), {self.form}, complete to {one:.0e} of the "
                f"change and {two:.0e} of the terms, cancellation {kappa:.3g} where it was decided, "
                f"{copies} memorised and {q - copies} composed)")

    def to_frame(self) -> pd.DataFrame:
        """One row for each sample and stage: what moved it, how much cancels, on how many images it rests."""
        import pandas as pd

        kappa, agreement = self.cancellation("image and bin"), self.agreement()
        rests, posterior = self.concentration("image"), self.posterior()
        toward = self.toward("bin").sum(-1)
        whole = torch.einsum("qm,qkm->qk", self._along(), self.stage_change)
        rows = []
        for i, name in enumerate(self.names):
            for k, level in enumerate(self.levels.tolist()):
                rows.append({"sample": name, "stage": k, "noise": level, "learned": float(whole[i, k]),
                             "by data": float(toward[i, k]), "cancellation": float(kappa[i, k]),
                             "gini": float(rests.gini[i, k]), "n_eff": float(rests.n_eff[i, k]),
                             "optimal n_eff": float(posterior.n_eff[i, k]), "agreement": float(agreement[i, k])})
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether the tensor is complete, telescopes, leaves nothing unattributed, and cancels little."""
        one, two = self.completeness()
        limit = COMPLETE[self.info["dtype"]]
        telescoped = self.telescoped()
        kappa = self._cancelled()
        terms = self.tensor.flatten(-2).norm(dim=-2).sum(-1).clamp_min(torch.finfo(torch.float64).tiny)
        odd = float((self.channels["unattributed"].norm(dim=-1) / terms).max())
        return Check((
            CheckRow("completeness", "pass" if two <= limit else "fail", two, limit,
                     f"Cells and channels give what training changed to {two:.1e} of all terms, {one:.1e} of the "
                     "change."),
            CheckRow("telescoping", "pass" if telescoped <= 1e-12 else "fail", telescoped, 1e-12,
                     f"The first denoised point and the later corrections give the sample to {telescoped:.1e}."),
            CheckRow("unattributed", "pass" if odd <= 1e-6 else "warn", odd, 1e-6,
                     f"{odd:.1e} of the terms comes from changes that the update rule does not explain."),
            CheckRow("cancellation", "pass" if kappa <= LIMIT else "warn", kappa, LIMIT,
                     f"Where samples were decided the terms are {kappa:.3g} times as large as their sum" +
                     ("." if kappa <= LIMIT else ", so no percentages of it are given, but centred ranks.")),
        ))

    def near_own_noise(self, query: int = 0) -> tuple[float, float]:
        """The part of what noise bins added unequally within one bin of each stage's own noise; that of even spread."""
        query = self.place(query)
        beside, near = centred(self.toward("bin"))[query].abs(), self._near()
        mass = float((beside * near).sum() / beside.sum())
        return mass, float(near.double().mean(1) @ beside.sum(1) / beside.sum())

    def near_shuffled(self, query: int = 0) -> tuple[float, float]:
        """What :meth:`near_own_noise` is with the bins of draws shuffled, mean and standard deviation."""
        beside = centred(self._shuffled_toward()[self.place(query)]).abs()
        mass = (beside * self._near()).sum((-2, -1)) / beside.sum((-2, -1))
        return float(mass.mean()), float(mass.std())

    def localisation(self, query: int | None = None) -> tuple[Tensor, Tensor]:
        """The noise-localisation index of what each stage added along the displacement, and with shuffled bins.

        Args:
            query: The sample; the mean over all of them if not given.

        Returns:
            With shapes (N,) and (R, N): 1 where a stage's part comes from draws at its own noise alone, 0 where from
            all alike.
        """
        found, null = self.toward("bin"), self._shuffled_toward()
        found, null = (one.mean(0) if query is None else one[self.place(query)] for one in (found, null))
        law = NoiseLaw(*self.info["law"])
        part = torch.cat([torch.zeros(1), law.below(self.edges), torch.ones(1)]).double()
        centers, weights = law.at((part[1:] + part[:-1]) / 2), part.diff()
        of = lambda m: localisation_index(surplus(m), self.levels, centers, weights)
        return of(found), torch.stack([of(one) for one in null])

    def said_of_noise(self, query: int = 0) -> str:
        """Where in training noise the corrections of a sample come from, in words."""
        mass, even = self.near_own_noise(query)
        null = "" if self.shuffled is None else "; shuffled draws: {:.0%} ± {:.0%}".format(*self.near_shuffled(query))
        return (f"{mass:.0%} of what noise bins added unequally acts within one bin of its own noise (evenly spread: "
                f"{even:.0%}{null})")

    def _near(self) -> Tensor:
        own = torch.bucketize(self.levels, self.edges)
        return (torch.arange(self.tensor.shape[-2])[None] - own[:, None]).abs() <= 1

    def _along(self) -> Tensor:
        return self.displacement / self.displacement.square().sum(-1, keepdim=True)

    def _of_stages(self, added: Tensor) -> Tensor:
        """What was added to the sample at each stage, from what was added to each stage's denoised point."""
        return torch.cat([added[:, :1], added.diff(dim=1)], dim=1)

    def _shuffled_toward(self) -> Tensor:
        """What bins of shuffled draws added toward the sample, with shape (q, R, N, B)."""
        if self.shuffled is None:
            raise DataError("This explanation holds no shuffled draws. Call explain_diffusion again.")
        return torch.einsum("qm,qkmrb->qrkb", self._along(), self._of_stages(self.shuffled))

    def _asked(self, query: int, stage: int | None, by: str) -> tuple[Tensor, Tensor]:
        """What groups added at a stage, where the sample was decided if none is given, and what training changed."""
        query = self.place(query)
        stage = self.decided(query) if stage is None else as_place(stage, "stage", len(self.levels), "stages")
        return self.contributions(by)[query, stage], self.change[query, stage]

    def _bin_name(self, b: int) -> str:
        ends = [0.0, *self.edges.tolist(), float("inf")]
        return f"noise {ends[b]:.2g} to {ends[b + 1]:.2g}" if b < len(self.edges) else f"noise above {ends[b]:.2g}"

    def _by(self, by: str) -> str:
        as_choice(by, "by", GROUPS)
        if by.startswith("label") and self.labels is None:
            raise DataError('No labels came with the explanation. Pass explain_diffusion(..., labels=...), a word for '
                            'each training image, or by="image".')
        return by
