r"""The bridge: the one quantity that a diffusion model and a GAN both have at every point.

At a point x a denoiser proposes the step :math:`D_\theta(x, \sigma) - x` and a critic the slope :math:`\nabla_x D(x)`.
A denoiser's step is :math:`\sigma^2 \nabla\log p_\sigma(x)`, p the law of real points; a critic of the non-saturating
game that has nothing left to learn is :math:`\log p - \log q`, q the law of what is generated. So a critic is no
denoiser even in theory, but a difference of two: their cosines tell how it is in practice, noise level by noise level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_count, as_positive, as_seed, as_whole, what_came
from ...decomposition.wording import counted
from ...errors import DataError
from ...kernels.base import Kernel
from ...kernels.stationary import Gaussian
from ...network import Parameters, undisturbed
from ...progress import counting
from ...result import Check, CheckRow, Result
from ...run.run import Run
from ...text import with_minus
from ..alike import points_like
from ..denoising.closed_forms import OptimalDenoiser, WienerDenoiser
from ..denoising.noise import NoiseLaw
from ..denoising.reading import DiffusionRun
from ..denoising.sampling import Denoise
from ..games.game import GANRun
from ..games.geometry import cosines, latents_of, real_of
from ..games.kernel_critics import kernel_critic, slope

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Bridge", "bridge"]

#: The quantile of the normal distribution that leaves out 2.5 %.
NORMAL = 1.96

#: The least lead of a mean cosine over another that is told: what is smaller is none, however sure.
LEAST = 0.01

#: What is compared at generated points.
GENERATED = ("critic, denoiser", "critic, denoiser elsewhere", "critic, untrained denoiser",
             "untrained critic, denoiser", "untrained critic, denoiser elsewhere", "critic, Wiener",
             "denoiser, Wiener", "critic, nearest", "denoiser, nearest", "untrained critic, nearest",
             "critic, random real", "critic, witness", "critic, two denoisers", "untrained critic, two denoisers")

#: What is compared too where real points came that neither model was trained on: the way to the nearest of them, and
#: to the nearest of as many training points.
HELD_OUT = ("critic, nearest held out", "critic, nearest of as many")

#: What is compared with the way back to the clean point, at real points with noise.
NOISY = ("critic", "denoiser", "untrained critic", "untrained denoiser", "Wiener", "optimal", "witness")


@dataclass(frozen=True, eq=False, repr=False)
class Bridge(Result):
    r"""Cosines of a critic's slope and a denoiser's step.

    Attributes:
        levels: The noise levels, ascending, with shape (L,).
        generated: At generated points the cosine of two directions, by name, with shape (L, n).
        noisy: At real points with noise the cosine of a direction with minus the noise, by name, with shape (L, m).
        size: The number of entries d of a point. The cosine with a random direction has mean 0 and standard deviation
            :math:`1 / \sqrt d`, exactly.
        info: Facts to print.
    """

    levels: Tensor
    generated: dict[str, Tensor]
    noisy: dict[str, Tensor]
    size: int
    info: dict[str, Any] = field(default_factory=dict)

    def mean(self, name: str, where: str = "generated") -> tuple[Tensor, Tensor]:
        """The mean cosine over points at each level, and half the width of its 95 % interval, both with shape (L,).

        Args:
            name: What is compared.
            where: ``"generated"`` or ``"noisy"``.

        Raises:
            DataError: If it was not.
        """
        table = {"generated": self.generated, "noisy": self.noisy}.get(where, {})
        if name not in table:
            known = [f"{word!r} of {there}" for there in ("generated", "noisy") for word in getattr(self, there)]
            raise DataError(f"Nothing called {name!r} is compared at {where!r} points. There are {', '.join(known)}.")
        values = table[name]
        return values.mean(1), NORMAL * values.std(1) / values.shape[1] ** 0.5

    def chance(self, where: str = "generated") -> float:
        """Within what the mean cosine with random directions is in 95 of 100 cases."""
        count = next(iter((self.generated if where == "generated" else self.noisy).values())).shape[1]
        return NORMAL / (self.size * count) ** 0.5

    def range(self, name: str, where: str = "generated") -> tuple[float, float]:
        """The smallest and the largest mean cosine over levels."""
        mean, _ = self.mean(name, where)
        return float(mean.min()), float(mean.max())

    def lead(self, name: str = "critic, denoiser", than: str = "critic, denoiser elsewhere") -> tuple[Tensor, Tensor]:
        """The mean of one cosine at generated points minus another at the same points, and half its interval."""
        self.mean(name), self.mean(than)
        values = self.generated[name] - self.generated[than]
        return values.mean(1), NORMAL * values.std(1) / values.shape[1] ** 0.5

    def above(self, lead: Tensor) -> Tensor:
        """At which levels the mean of a lead in cosine is surely above 0.01, with shape (L,).

        Args:
            lead: One cosine minus another at the same points, with shape (L, n). All levels are told at once, so that
                in 95 of 100 cases none of them is told wrongly.
        """
        sure = torch.special.ndtri(torch.tensor(1 - 0.025 / len(self.levels), dtype=torch.float64))
        return lead.mean(1) - sure * lead.std(1) / lead.shape[1] ** 0.5 > LEAST

    @property
    def learned(self) -> Tensor:
        """At which levels the denoiser points back better than before training, with shape (L,)."""
        return self.above(self.noisy["denoiser"] - self.noisy["untrained denoiser"])

    @property
    def near(self) -> Tensor:
        """At which levels the critic points where the denoiser does, with shape (L,).

        There their cosine is above half of that of two denoisers, which is the least that a third one would have, and
        above that with the steps at other points, that of the untrained critic, and that with the untrained denoiser.
        """
        own, two = self.generated["critic, denoiser"], self.generated["denoiser, Wiener"]
        nulls = ("critic, denoiser elsewhere", "untrained critic, denoiser", "critic, untrained denoiser")
        leads = [own, own - two / 2, *(own - self.generated[name] for name in nulls)]
        return torch.stack([self.above(lead) for lead in leads]).all(0)

    @property
    def verdict(self) -> str:
        """Whether the critic is a denoiser, in a few words; nothing is told where an interval holds the null."""
        if not bool(self.learned.any()):
            return "No verdict, as the denoiser points back no better than untrained"
        near, levels = self.near, len(self.levels)
        if bool(near.all()):
            return "The critic points where the denoiser does"
        if bool(near.any()):
            return f"The critic points where the denoiser does at {int(near.sum())} of {levels} noise levels"
        own, two = self.generated["critic, denoiser"], self.generated["denoiser, Wiener"]
        if bool(self.above(two / 2 - own).all()):
            return "The critic is not a denoiser"
        return "The critic is not shown to be a denoiser"

    def said(self) -> str:
        """The verdict with its numbers."""
        own, null, two = (_between(self.range(name)) for name in (
            "critic, denoiser", "untrained critic, denoiser", "denoiser, Wiener"))
        return (f"{self.verdict}: at generated points their cosine is {own} over noise levels, that of an untrained "
                f"critic {null}, that of two denoisers {two}")

    def summary(self) -> str:
        """The answer in one sentence."""
        own, ours, null = (_between(self.range(name, "noisy")) for name in (
            "critic", "denoiser", "untrained denoiser"))
        return (f"Bridge({counted(len(self.levels), 'noise level')}, "
                f"{counted(self.info['generated'], 'generated point')}: {self.said()}; "
                f"at real points with noise the slope's cosine with the way back is {own}, the denoiser's {ours}, "
                f"that of an untrained denoiser {null})")

    def to_frame(self) -> pd.DataFrame:
        """One row for each noise level and comparison."""
        import pandas as pd

        rows = []
        for where, table in (("generated", self.generated), ("noisy", self.noisy)):
            for name in table:
                mean, off = self.mean(name, where)
                rows += [{"points": where, "comparison": name, "sigma": float(s), "cosine": float(m),
                          "low": float(m - o), "high": float(m + o), "chance": self.chance(where)}
                         for s, m, o in zip(self.levels, mean, off, strict=True)]
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether the denoiser is one, and whether the bridge holds more than its nulls do."""
        rows, every = [], counted(len(self.levels), "noise level")
        above = int(self.learned.sum())
        rows.append(CheckRow("denoiser", "pass" if above == len(self.levels) else "warn", above,
                             float(len(self.levels)),
                             f"At {above} of {every} the denoiser points back better than an untrained one."))
        table = self.generated
        ahead, begun = (table[f"{name}, denoiser"] - table[f"{name}, denoiser elsewhere"]
                        for name in ("critic", "untrained critic"))
        above = int((self.above(ahead) & self.above(ahead - begun)).sum())
        rows.append(CheckRow("elsewhere", "pass" if above else "warn", above, 1.0,
                             f"At {above} of {every} the slope has more in common with the denoiser's step at its "
                             "point than with the steps at other points, and more so than an untrained one."))
        above = int(self.above(table["critic, two denoisers"] - table["untrained critic, two denoisers"]).sum())
        rows.append(CheckRow("two denoisers", "pass" if above else "warn", above, 1.0,
                             f"At {above} of {every} the slope has more in common with the "
                             "difference of two denoisers, of real and of generated points, than an untrained one."))
        return Check(tuple(rows))


def bridge(diffusion: Run | DiffusionRun, gan: GANRun, *, levels: int | Sequence[float] | Tensor = 9,
           points: str | Tensor = "generated", held_out: Tensor | None = None, count: int = 360,
           witness: Kernel | None = None, seed: int = 0) -> Bridge:
    r"""Compares a critic's slope with a denoiser's step, over noise levels.

    .. math:: \cos\big(\nabla_x D(x),\ D_\theta(x, \sigma) - x\big) \qquad\text{and}\qquad
              \cos\big(\nabla_x D(x + \sigma n),\ -n\big)

    The first is taken at generated points, the second at real points with noise. Beside them stand the nulls: a random
    direction, the steps at other points, both networks as training began, and the closed forms: the Wiener denoiser,
    the witness function's slope, the way to the nearest training point, and the *two denoisers*
    :math:`D^*_{real}(x, \sigma) - D^*_{gen}(x, \sigma)
    = \sigma^2 \nabla(\log p_\sigma - \log q_\sigma)`.

    Args:
        diffusion: The run of a denoiser.
        gan: The game; both were trained on points of the same shape and scale.
        levels: The noise levels; or how many, evenly in the logarithm over four standard deviations of the law that
            training drew them from.
        points: ``"generated"`` for what the generator makes, or points with shape (n, *).
        held_out: Real points to add noise to; without them training points, which both models have seen.
        count: How many points of each kind.
        witness: The kernel of the witness function; Gaussian with the median distance if not given.
        seed: What the draws begin with.

    Returns:
        The :class:`Bridge`.

    Raises:
        DataError: If the two were not trained on the same kind of points.

    References:
        | "Generative Adversarial Nets" (Goodfellow et al., 2014), proposition 1: the critic that has nothing to learn
        | "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), equation 3

    Example:
        >>> from kernelscope.generative.training import train_diffusion, train_gan
        >>> x = torch.randn(40, 4)
        >>> found = bridge(train_diffusion(x, steps=3, width=8, batch=8),
        ...                train_gan(x, steps=3, width=8, latents=2, batch=8), levels=[0.1, 1.0], count=8)
        >>> found.generated["critic, denoiser"].shape
        torch.Size([2, 8])
    """
    if not isinstance(gan, GANRun):
        raise DataError(f"A bridge leads from a diffusion run to a game; {what_came(gan)} came as the game. Pass what "
                        "train_gan gave.")
    ours = diffusion if isinstance(diffusion, DiffusionRun) else DiffusionRun(diffusion)
    source = torch.Generator().manual_seed(as_seed(seed))
    count, sigmas = as_count(count, "count", least=2), _levels(levels, ours.law)
    real = real_of(gan).double()
    fresh = None if held_out is None else points_like(held_out, real, "held_out", least=2)
    clean = _some(real if fresh is None else fresh, count, source)
    with undisturbed(real.device):
        x = _made(gan, count, source) if isinstance(points, str) else points_like(points, real, "points", least=2)
        others = _made(gan, len(real), source)
        if isinstance(points, str) and points != "generated":
            raise DataError(f'points must be "generated", or points; {what_came(points)} came.')
        form = ours.clean.shape[1:]
        if form.numel() != real[0].numel():
            raise DataError(f"Both models must make the same kind of points; the denoiser's have shape {tuple(form)}, "
                            f"the game's {tuple(real.shape[1:])}. Train both on the same ones.")

        def denoise(y: Tensor, sigma: Tensor, parameters: Parameters | None = None) -> Tensor:
            # One may have been trained on images, the other on the same images as vectors.
            return ours.denoised(y.reshape(len(y), *form), sigma, parameters).reshape(y.shape)

        begun, first = gan.critic.parameters(0), ours.run.parameters(0)
        wiener, optimal = WienerDenoiser(real), OptimalDenoiser(real)
        counter = OptimalDenoiser(others)
        machine = kernel_critic(Gaussian() if witness is None else witness, real, others)
        denoisers: dict[str, Denoise] = {
            "denoiser": denoise, "untrained denoiser": lambda y, s: denoise(y, s, first),
            "Wiener": wiener, "optimal": optimal}
        ahead = {"critic": gan.slope(x), "untrained critic": gan.slope(x, begun), "witness": slope(machine, x),
                 "nearest": nearest(x, real) - x, "random real": _random(real, len(x), source) - x}
        if fresh is not None:
            ahead |= {"nearest held out": nearest(x, fresh) - x,
                      "nearest of as many": nearest(x, _some(real, len(fresh), source)) - x}
        asked = GENERATED if fresh is None else GENERATED + HELD_OUT
        generated: dict[str, list[Tensor]] = {name: [] for name in asked}
        noisy: dict[str, list[Tensor]] = {name: [] for name in NOISY}
        noise = torch.randn(clean.shape, generator=source, dtype=clean.dtype)
        with counting(len(sigmas), "bridge", "levels") as done:
            for sigma in sigmas:
                at = ahead | {name: step - x for name, step in _steps(denoisers, x, sigma).items()}
                at["two denoisers"] = at["optimal"] + x - counter(x, sigma.expand(len(x)))
                at["denoiser elsewhere"] = at["denoiser"].roll(1, 0)
                for name in asked:
                    one, other = name.split(", ")
                    generated[name].append(cosines(at[one], at[other]))
                y = clean + sigma * noise
                there = {name: step - y for name, step in _steps(denoisers, y, sigma).items()}
                there |= {"critic": gan.slope(y), "untrained critic": gan.slope(y, begun), "witness": slope(machine, y)}
                for name in NOISY:
                    noisy[name].append(cosines(there[name], -noise))
                done(1)
    return Bridge(sigmas, {name: torch.stack(rows) for name, rows in generated.items()},
                  {name: torch.stack(rows) for name, rows in noisy.items()}, real[0].numel(),
                  {"generated": len(x), "noisy": len(clean), "held out": held_out is not None,
                   "points": "generated" if isinstance(points, str) else "given", "real": len(real),
                   "witness": repr(machine.kernel), "game": gan.game.kind, "r1": gan.game.r1, "seed": seed,
                   "law": [ours.law.mean, ours.law.deviation]})


def nearest(x: Tensor, real: Tensor) -> Tensor:
    """The nearest real point of each point, with the shape of ``x``.

    Example:
        >>> nearest(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0]]))
        tensor([[1.]])
    """
    return real[torch.cdist(x.flatten(1), real.flatten(1)).argmin(1)]


def _between(limits: tuple[float, float]) -> str:
    return with_minus(f"{limits[0]:.2f} to {limits[1]:.2f}")


def _steps(denoisers: dict[str, Denoise], y: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    return {name: denoise(y, sigma.expand(len(y))).to(y) for name, denoise in denoisers.items()}


def _made(gan: GANRun, count: int, source: torch.Generator) -> Tensor:
    return gan.generated(latents_of(gan, count, source).double())


def _some(points: Tensor, count: int, source: torch.Generator) -> Tensor:
    return points[torch.randperm(len(points), generator=source)[:count]]


def _random(points: Tensor, count: int, source: torch.Generator) -> Tensor:
    return points[torch.randint(len(points), (count,), generator=source)]


def _levels(levels: Any, law: NoiseLaw) -> Tensor:
    if as_whole(levels) is not None:
        many = as_count(levels, "levels", least=2)
        return (law.mean + 2 * law.deviation * torch.linspace(-1, 1, many, dtype=torch.float64)).exp()
    if not isinstance(levels, Tensor | Sequence) or isinstance(levels, str) or not getattr(levels, "ndim", 1) or (
            not len(levels)):
        raise DataError(f"levels must be noise levels, or how many; {what_came(levels)} came. Pass levels=9, or "
                        "[0.1, 1.0].")
    given = levels.tolist() if isinstance(levels, Tensor) else levels
    return torch.tensor([as_positive(s, "levels", "[0.1, 1.0]") for s in given], dtype=torch.float64).sort().values
