r"""Whether what a denoiser learned at one noise level came from training at that level.

At each of K noise levels noisy points are asked what the draws of each bin b of training noise added to what training
changed there. Their mean share over points,

.. math:: M[k, b] = E_y \frac{\langle C_b(y, \sigma_k),\ \Delta(y, \sigma_k)\rangle}{|\Delta(y, \sigma_k)|^2}, \qquad
          \Delta = o_T - o_{\text{init}} = \sum_b C_b + \text{other channels},

is one linear functional of the network for each level, so that it needs one row of gradients however many points there
are. It is taken once more with each draw's share divided by the length of its gradient, as draws at some noise levels
have longer ones (ReTrac).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_count, as_seed, what_came
from ...decomposition.cells import Cells
from ...decomposition.exact import booked
from ...decomposition.questions import as_words, checked_run
from ...decomposition.training_side import TrainingSide
from ...errors import DataError, ModelError
from ...network import undisturbed
from ...progress import Bar
from ...result import Check, CheckRow, Result
from ...run.run import Run
from ...run.step import MicroBatch
from ..denoising.noise import as_numbers
from ..denoising.reading import DiffusionRun
from ..measures import cancellation, centred, localisation_index, surplus
from .noise_kernels import chosen_points
from .result import COMPLETE, LIMIT
from .stages import outputs_at

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NoiseLocalisation", "noise_localisation"]

#: How often the bins of draws are shuffled for the null.
SHUFFLES = 8

#: How many steps' parameters are read at a time.
HELD = 64

#: Into how many pools points without classes are divided, whose spread gives the standard errors.
POOLS = 5


@dataclass(frozen=True, eq=False, repr=False)
class NoiseLocalisation(Result):
    r"""Shares of training noise in what was learned at each noise level: K levels, B bins, P pools of points.

    Attributes:
        levels: The levels at which the network is asked, ascending, with shape (K,).
        centers: The median noise of each bin, ascending, with shape (B,).
        edges: The noise levels between bins, with shape (B - 1,).
        pooled: The mean share of each bin in each pool of points, with shape (P, K, B).
        shuffled: The same with the bins of draws shuffled, with shape (P, R, K, B).
        normalised: The same, true bins, each draw's share divided by the length of its gradient and the whole brought
            to the same sum, with shape (P, K, B), or ``None``.
        own: The share of the draws of a point's own class, with shape (P, K), or ``None``.
        others: The part of all other channels, with shape (P, K).
        pools: A word for each pool.
        info: The law, the parameterisation, how many points, the ledger, cost.
    """

    levels: Tensor
    centers: Tensor
    edges: Tensor
    pooled: Tensor
    shuffled: Tensor
    normalised: Tensor | None
    own: Tensor | None
    others: Tensor
    pools: list[str]
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def shares(self) -> Tensor:
        """M, the mean share of each bin at each level, with shape (K, B)."""
        return self.pooled.mean(0)

    @property
    def error(self) -> Tensor:
        """Its standard error over pools, with shape (K, B)."""
        return self.pooled.std(0) / len(self.pooled) ** 0.5

    @property
    def index(self) -> Tensor:
        r"""The noise-localisation index of each level, with shape (K,): 1 at the own noise alone, 0 evenly spread.

        Its mass is what each bin added more than the mean bin, :math:`\max(0, \tilde M)`.
        """
        return self._index(self.shares)

    @property
    def index_of_sizes(self) -> Tensor:
        r"""The index with the mass :math:`|\tilde M|`.

        Where the own bin alone adds it is :math:`1 - \sqrt{B / (2B - 2)}` for levels in the middle of B even bins, and
        not 1: the centred shares of the other bins hold half of that mass.
        """
        even = torch.full((len(self.centers),), 1 / len(self.centers), dtype=torch.float64)
        return localisation_index(centred(self.shares).abs(), self.levels, self.centers, even)

    @property
    def index_normalised(self) -> Tensor | None:
        """The same where each draw counts alike, whatever the length of its gradient."""
        return None if self.normalised is None else self._index(self.normalised.mean(0))

    @property
    def index_shuffled(self) -> Tensor:
        """The index with the bins of draws shuffled, mean and standard deviation, with shape (2, K)."""
        found = torch.stack([self._index(one) for one in self.shuffled.mean(0)])
        return torch.stack([found.mean(0), found.std(0)])

    @property
    def near(self) -> Tensor:
        """The part of what bins added more than the mean one within one bin of each level's own, with shape (K,)."""
        return self._near(self.shares)

    @property
    def near_uniform(self) -> Tensor:
        """What :attr:`near` is where all bins are alike."""
        return self._band().double().mean(1)

    @property
    def near_shuffled(self) -> Tensor:
        """What it is with the bins of draws shuffled, mean and standard deviation, with shape (2, K)."""
        found = torch.stack([self._near(one) for one in self.shuffled.mean(0)])
        return torch.stack([found.mean(0), found.std(0)])

    @property
    def cancellation(self) -> Tensor:
        """How much larger shares of bins are than their sum at each level, with shape (K,)."""
        return cancellation(self.shares)

    def _index(self, m: Tensor) -> Tensor:
        even = torch.full((len(self.centers),), 1 / len(self.centers), dtype=torch.float64)
        return localisation_index(surplus(m), self.levels, self.centers, even)

    def _band(self) -> Tensor:
        own = torch.bucketize(self.levels, self.edges)
        return (torch.arange(len(self.centers))[None] - own[:, None]).abs() <= 1

    def _near(self, m: Tensor) -> Tensor:
        size = surplus(m)
        return (size * self._band()).sum(1) / size.sum(1)

    def said(self) -> str:
        """Whether what was learned is local in noise, against the shuffled bins, in words."""
        mean, null = float(self.index.mean()), self.index_shuffled.mean(1)
        spread = float(torch.stack([self._index(one).mean() for one in self.shuffled.mean(0)]).std())
        beyond = mean > float(null[0]) + 2 * spread
        what = "local in noise beyond chance" if beyond else "no more local in noise than shuffled draws"
        return f"{what}: index {mean:.2f} on average, shuffled {float(null[0]):.2f} ± {spread:.2f}"

    def summary(self) -> str:
        """The answer in one sentence."""
        law = self.info["law"]
        return (f"NoiseLocalisation({len(self)} levels x {len(self.centers)} bins, {self.info['points']} points: "
                f"{self.said()}; {float(self.near.mean()):.0%} within one bin of the own noise (evenly "
                f"{float(self.near_uniform.mean()):.0%}); cancellation up to {float(self.cancellation.max()):.3g}; "
                f"{self.info['parameterisation']}, ln noise ~ N({law[0]:g}, {law[1]:g}²))")

    def to_frame(self) -> pd.DataFrame:
        """One row for each noise level."""
        import pandas as pd

        nothing = [float("nan")] * len(self)
        plain = self.index_normalised
        return pd.DataFrame({
            "noise": self.levels.tolist(), "index": self.index.tolist(),
            "index normalised": nothing if plain is None else plain.tolist(),
            "index shuffled": self.index_shuffled[0].tolist(),
            "index of sizes": self.index_of_sizes.tolist(),
            "near": self.near.tolist(),
            "near uniform": self.near_uniform.tolist(), "near shuffled": self.near_shuffled[0].tolist(),
            "cancellation": self.cancellation.tolist(),
            "own class": nothing if self.own is None else self.own.mean(0).tolist(),
            "other channels": self.others.mean(0).tolist(),
        })

    def check(self) -> Check:
        """Whether shares add up to 1 with the other channels, and how much they cancel."""
        left = float((self.pooled.sum(-1) + self.others - 1).abs().max())
        limit = 100 * COMPLETE[self.info["dtype"]]
        kappa = float(self.cancellation.max())
        return Check((
            CheckRow("completeness", "pass" if left <= limit else "fail", left, limit,
                     f"Shares of bins and other channels add up to 1 to {left:.1e}."),
            CheckRow("cancellation", "pass" if kappa <= LIMIT else "warn", kappa, LIMIT,
                     f"Shares of bins are up to {kappa:.3g} times as large as their sum."),
        ))


def noise_localisation(run: Run, x: Tensor | None = None, *, levels: Tensor | None = None, points: int = 60,
                       bins: int = 8, labels: Any = None, seed: int = 0, dtype: torch.dtype | None = None,
                       memory: int | str = 2**29, progress: bool | None = None) -> NoiseLocalisation:
    r"""Splits what a denoiser learned at each noise level over the noise levels of training, in F-space.

    .. math:: M[k, b] = E_y \frac{\langle C_b(y, \sigma_k),\ \Delta(y, \sigma_k)\rangle}{|\Delta(y, \sigma_k)|^2},
              \qquad \Delta = o_T - o_{\text{init}} = \sum_b C_b + \text{other channels}

    Args:
        run: The recorded run of a :class:`Denoiser`.
        x: Clean points, with shape (n, \*); some of the training images if not given.
        levels: The noise levels at which the network is asked, ascending; the median of each bin if not given.
        points: How many of the clean points are used, at each level with the same noise, scaled.
        bins: How many bins of equal mass under the law of training noise.
        labels: A class for each point of ``x``, or for each training image; those of the run if not given. Points are
            pooled by them, else at random; for points of ``x`` beside training the share of the own class is left out
            unless the run has labels.
        seed: Of the points, their noise and the shuffled bins.
        dtype: The precision of the ledger, as :func:`kernelscope.decompose` takes it.
        memory: About how many bytes may be used.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`NoiseLocalisation`.

    Raises:
        DataError: If the run is none of a denoiser, or arguments do not fit it.

    References:
        | Section 2.4 of the notes on generative models
        | "Data Attribution for Diffusion Models: Timestep-induced Bias in Influence Estimation" (Xie et al., 2024): the
          normalised shares

    Example:
        >>> from kernelscope.generative.training import train_diffusion
        >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
        >>> found = noise_localisation(train_diffusion(x, width=8, steps=20), points=10, bins=4)
        >>> found.shares.shape, found.check().ok
        (torch.Size([4, 4]), True)
    """
    begun = time.perf_counter()
    reader = DiffusionRun(checked_run(run))
    bins, seed = as_count(bins, "bins", least=2), as_seed(seed)
    source = torch.Generator().manual_seed(seed)
    some, words = chosen_points(reader, x, labels, as_count(points, "points", least=2), source)
    ends = reader.law.edges(2 * bins)
    centers, edges = torch.tensor(ends[::2]).double(), torch.tensor(ends[1::2]).double()
    at = centers if levels is None else _levels(levels)
    names, members = _pools(words, len(some), source)
    # Every pool is as large as the largest: a place that no point stands in repeats one, with no weight.
    size = max(len(pool) for pool in members)
    rows = torch.stack([torch.cat([pool, pool[:1].expand(size - len(pool))]) for pool in members])
    weight = torch.stack([(torch.arange(size) < len(pool)).double() / len(pool) for pool in members])
    noise = torch.randn(some.shape, generator=source, dtype=torch.float64)
    # Pools x levels x points of a pool.
    y = (some[rows][:, None] + at.view(1, -1, 1, *[1] * (some.ndim - 1)) * noise[rows][:, None]).flatten(0, 2)
    sigma = at[None, :, None].expand(len(rows), len(at), size).flatten()
    first, last = run.start or -1, run.stop
    change = outputs_at(reader, y, sigma, run.parameters(), last)
    change = (change - outputs_at(reader, y, sigma, run.parameters(0), first)).flatten(1)
    square = change.square().sum(1)
    if bool((square == 0).any()):
        raise DataError("Training changed nothing at some noisy point, so its change has no shares. Pass a run of at "
                        "least one step that moved its parameters.")
    side = change / square[:, None] * weight[:, None].expand(-1, len(at), -1).flatten()[:, None]
    groups = run.labels if run.labels is not None else None if x is not None else _as_given(labels)
    own = _Bookings(reader, edges, groups, seed, None if progress is None else not progress)
    ledger, found = booked(run, (y, sigma), lambda o, v: (o.flatten(1) * v).sum(1), own.cells(bins), targets=side,
                           dtype=dtype, memory=memory, progress=progress, pools=len(rows) * len(at))
    assert found is not None
    table = found.view(len(rows), len(at), own.kinds, bins, own.width)
    shares = table[:, :, 0].sum(-1)
    plain = table[:, :, 1].sum(-1) if own.lengths else None
    if plain is not None:
        plain = plain * (shares.sum(-1, keepdim=True) / plain.sum(-1, keepdim=True))
    others = torch.stack([part for name, part in ledger.channels.items() if name != "data"]).sum(0)
    return NoiseLocalisation(
        levels=at, centers=centers, edges=edges, pooled=shares, normalised=plain,
        shuffled=table[:, :, -SHUFFLES:].sum(-1).transpose(1, 2),
        own=own.of_own_class(table[:, :, 0].sum(-2), names) if words is not None else None,
        others=others.view(len(rows), len(at)), pools=names,
        info={"law": [reader.law.mean, reader.law.deviation], "points": len(some), "seed": seed,
              "parameterisation": f"output of {type(run.network.module(())).__name__} (F-space)",
              "dtype": ledger.info["dtype"], "ledger": ledger.info, "notes": own.notes,
              "seconds": round(time.perf_counter() - begun, 3)},
    )


class _Bookings:
    """Where a draw's share is booked: in its bin and class; again by its gradient's length; and in shuffled bins."""

    def __init__(self, reader: DiffusionRun, edges: Tensor, groups: list[str] | None, seed: int,
                 quiet: bool | None):
        run = reader.run
        self.reader, self.edges, self.seed = reader, edges, seed
        self.words = [] if groups is None else sorted(set(groups))
        self.members = None if groups is None else torch.tensor([self.words.index(word) for word in groups])
        self.width = max(len(self.words), 1)
        self.notes: list[str] = []
        # A length needs no more digits than training had.
        self._place = next(iter(run.network.parameters.values())).device
        self._training = TrainingSide(run, run.precision, self._place, 2**27)
        self._quiet = quiet
        self._lengths = self._measured()
        self.lengths = bool(self._lengths)
        self.kinds = 1 + self.lengths + SHUFFLES

    def cells(self, bins: int) -> Cells:
        """The cells, for a number of bins."""
        def of(k: int, j: int, batch: MicroBatch) -> Tensor:
            own = torch.bucketize(self.reader.run.samples.read(batch)[0][1].double().cpu(), self.edges)
            source = torch.Generator().manual_seed((self.seed + 1) * 10**6 + k)
            kinds = [own] * (1 + self.lengths) + [torch.randint(0, bins, own.shape, generator=source)
                                                  for _ in range(SHUFFLES)]
            group = torch.zeros_like(own) if self.members is None else self.members[batch.columns]
            return torch.stack([(kind * bins + b) * self.width + group for kind, b in enumerate(kinds)])

        def factors(k: int, j: int, batch: MicroBatch) -> Tensor:
            found = torch.ones(self.kinds, len(batch.columns), dtype=torch.float64)
            if self.lengths:
                found[1] = 1 / self._lengths[k, j].clamp_min(torch.finfo(torch.float64).tiny)
            return found

        return Cells(self.kinds * bins * self.width, of, factors)

    def of_own_class(self, table: Tensor, pools: list[str]) -> Tensor | None:
        """The share of a pool's own class, from the shares of classes with shape (P, K, classes)."""
        if self.members is None or not all(word in self.words for word in pools):
            return None
        return torch.stack([table[i, :, self.words.index(word)] for i, word in enumerate(pools)])

    def _measured(self) -> dict[tuple[int, int], Tensor]:
        """The lengths of the gradients of all draws by step and forward pass; none if draws have none of their own."""
        run, found = self.reader.run, {}
        frozen = {name: p for name, p in run.network.parameters.items() if name not in run.names}
        bar = Bar(total=len(run), desc="lengths of gradients", unit="step", disable=self._quiet)
        try:
            with bar, undisturbed(self._place):
                for start in range(run.start, run.stop, HELD):
                    rows = run.trajectory(start, min(start + HELD, run.stop))
                    for k in range(start, min(start + HELD, run.stop)):
                        held = self._training.to(run.named(rows[k - start]) | frozen)
                        for j, batch in enumerate(run.step(k).batches):
                            theta = held if batch.at == k else self._training.to(
                                run.named(run.trajectory(batch.at, batch.at)[0]) | frozen)
                            of_draws = self._training.rows(batch, k, theta, list(run.names)).values()
                            parts = torch.stack([part.flatten(1).norm(dim=1) for part in of_draws])
                            found[k, j] = parts.norm(dim=0).double().cpu()
                        bar.update(1)
        except ModelError as error:
            self.notes.append(f"Shares are not normalised by lengths of gradients: {error}")
            return {}
        return found


def _levels(levels: Any) -> Tensor:
    at = as_numbers(levels)
    if at is None or at.ndim != 1 or not len(at) or not bool((at > 0).all() & (at.diff() > 0).all()):
        raise DataError(f"levels must be noise levels, ascending and above 0; {what_came(levels)} came. Leave them out "
                        "for one in each bin.")
    return at


def _as_given(labels: Any) -> list[str] | None:
    return None if labels is None else as_words(labels, "labels")


def _pools(words: list[str] | None, count: int, source: torch.Generator) -> tuple[list[str], list[Tensor]]:
    """The points of each pool: of a class, or some at random."""
    if words is None:
        parts = torch.randperm(count, generator=source).tensor_split(min(POOLS, count))
        return [f"pool {i}" for i in range(len(parts))], list(parts)
    names = sorted(set(words))
    return names, [torch.tensor([i for i, word in enumerate(words) if word == name]) for name in names]
