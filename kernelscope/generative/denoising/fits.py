r"""Which closed form a trained denoiser is, noise level by noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_seed
from ...errors import DataError
from ...progress import counting
from ...result import Check, CheckRow, Result
from ...text import with_minus
from .closed_forms import EquivariantLocalDenoiser, LocalDenoiser, OptimalDenoiser, WienerDenoiser
from .functions import DRAWS, as_denoiser, as_levels, as_points, noised

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DenoiserFit", "denoiser_fit"]

#: The closed form that does nothing: the noisy point itself.
NULL = "noisy point"


@dataclass(frozen=True, eq=False, repr=False)
class DenoiserFit(Result):
    r"""How near each closed form is to a denoiser D, per noise level.

    Attributes:
        names: The closed forms, and before them what needs no training: the noisy point, and the untrained network.
        levels: The noise levels, ascending, with shape (k,).
        r2: :math:`1 - \sum |D - D_c|^2 / \sum |D - \bar D|^2`, with shape (names, k).
        r2_error: Its standard error over the points (jackknife).
        skill: :math:`1 - \sum |D - D_c|^2 / \sum |D - y|^2`: the share of what the denoiser does to a noisy point
            that the closed form does too. The noisy point itself has 0.
        loss: The mean square :math:`|D_c - x|^2 / d` of each closed form at the clean points, with shape (names, k).
        own_loss: That of the denoiser, with shape (k,).
        info: Facts to print.
    """

    names: list[str]
    levels: Tensor
    r2: Tensor
    r2_error: Tensor
    skill: Tensor
    loss: Tensor
    own_loss: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def forms(self) -> list[int]:
        """The places of the closed forms, without those that need no training points."""
        return [i for i, name in enumerate(self.names) if name not in (NULL, "untrained")]

    def nearest(self, level: int) -> str:
        """The closed form with the largest r2 at the noise level of this place."""
        return self.names[max(self.forms, key=lambda i: float(self.r2[i, level]))]

    def stretches(self) -> list[tuple[str, int, int]]:
        """Which closed form is nearest from which level to which, in ascending order."""
        found: list[tuple[str, int, int]] = []
        for k in range(len(self.levels)):
            name = self.nearest(k)
            if found and found[-1][0] == name:
                found[-1] = (name, found[-1][1], k)
            else:
                found.append((name, k, k))
        return found

    def said(self) -> str:
        """Which closed form the denoiser is nearest to, in words."""
        parts = []
        for name, first, last in self.stretches():
            row = self.r2[self.names.index(name), first : last + 1]
            at = f"{float(self.levels[first]):.3g}"
            at += f" to {float(self.levels[last]):.3g}" if last > first else ""
            null = self.r2[self.names.index(NULL), first : last + 1]
            parts.append(f"{name} at {at} (r2 {_between(row)}; {NULL} {_between(null)})")
        return with_minus("nearest to " + ", ".join(parts))

    def summary(self) -> str:
        """The answer in one sentence."""
        return (f"DenoiserFit({self.info['points']} points, {self.info['draws']} draws, {len(self.levels)} noise "
                f"levels: {self.said()})")

    def to_frame(self) -> pd.DataFrame:
        """One row for each noise level and closed form; the denoiser itself is the row ``"denoiser"``."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for k, sigma in enumerate(self.levels.tolist()):
            rows.append({"sigma": sigma, "closed form": "denoiser", "r2": 1.0, "r2 error": 0.0, "skill": 1.0,
                         "loss": float(self.own_loss[k])})
            rows += [{"sigma": sigma, "closed form": name, "r2": float(self.r2[i, k]),
                      "r2 error": float(self.r2_error[i, k]), "skill": float(self.skill[i, k]),
                      "loss": float(self.loss[i, k])} for i, name in enumerate(self.names)]
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether the nearest closed form is nearer than the noisy point, and the denoiser better than the Wiener."""
        rows = []
        for k, sigma in enumerate(self.levels.tolist()):
            name = self.nearest(k)
            skill = float(self.skill[self.names.index(name), k])
            rows.append(CheckRow(f"null at {sigma:.3g}", "pass" if skill > 0 else "warn", skill, 0.0, with_minus(
                f"At noise {sigma:.3g} {name} does {skill:.3f} of what the denoiser does to a noisy point.")))
        if "Wiener" in self.names:
            excess = float((self.own_loss / self.loss[self.names.index("Wiener")]).max())
            rows.append(CheckRow("loss", "pass" if excess <= 1 else "warn", excess, 1.0,
                                 f"At its worst the denoiser's loss is {excess:.3f} of that of the Wiener denoiser."))
        return Check(tuple(rows))


def denoiser_fit(denoiser: Any, x: Tensor, levels: Sequence[float] | Tensor = (0.05, 0.1, 0.3, 1.0, 2.0, 5.0), *,
                 train: Tensor | None = None, windows: Sequence[int] = (3, 5, 7), equivariant: Sequence[int] = (3,),
                 side: int | None = None, channels: int = 1, draws: str = "paired", seed: int = 0,
                 dtype: torch.dtype = torch.float64) -> DenoiserFit:
    r"""Compares a denoiser with closed forms of its training points, at noisy versions of other points.

    Args:
        denoiser: A run of a denoiser, a module with ``denoised``, or a function (y, sigma) -> D.
        x: Clean points, held out from training, with shape (q, \*).
        levels: Noise levels.
        train: The clean training points; by default those of the run.
        windows: Widths of the windows of the local denoisers; empty for none.
        equivariant: Widths of those of the equivariant local ones, which cost the number of pixels times more.
        side: The height and width of an image; by default the root of its size.
        channels: The number of channels.
        draws: ``"paired"`` takes the same points and noise at all levels, ``"independent"`` others at each.
        seed: What the noise begins with.
        dtype: The precision in which the closed forms compute.

    Returns:
        The :class:`DenoiserFit`.

    Raises:
        DataError: If training points are needed and not known, or shapes do not go together.

    References:
        | An Analytic Theory of Creativity in Convolutional Diffusion Models (Kamb & Ganguli, 2025)
        | The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models (Wang & Vastola, 2024)

    Example:
        >>> x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        >>> denoiser_fit(WienerDenoiser(x), x[:8], [0.5, 1.0], train=x, windows=[3], equivariant=[])
        DenoiserFit(8 points, paired draws, 2 noise levels: nearest to Wiener at 0.5 to 1 (r2 1.00; noisy point ...))
    """
    asked = as_denoiser(denoiser)
    x, noise = as_points(x, "The points"), as_levels(levels)
    draws, seed = as_choice(draws, "draws", DRAWS), as_seed(seed)
    forms = _forms(_training(asked.clean, train), list(windows), list(equivariant), side, channels, dtype)
    forms = {NULL: lambda y, sigma: y, **({"untrained": asked.untrained} if asked.untrained else {}), **forms}
    r2, errors, skill, loss = (torch.zeros(len(forms), len(noise), dtype=torch.float64) for _ in range(4))
    own = torch.zeros(len(noise), dtype=torch.float64)
    with torch.no_grad(), counting(len(noise) * len(forms), "closed forms", "comparison") as done:
        for k, (clean, y) in enumerate(noised(x, noise, draws, seed)):
            sigma = noise[k].expand(len(y))
            told = asked.denoise(y, sigma).double()
            own[k] = (told - clean).square().mean()
            spread = (told - told.mean(0)).square().flatten(1).sum(1)
            moved = (told - y).square().flatten(1).sum(1)
            for i, form in enumerate(forms.values()):
                given = form(y, sigma).double()
                off = (told - given).square().flatten(1).sum(1)
                r2[i, k], errors[i, k] = _share(off, spread)
                skill[i, k], loss[i, k] = _share(off, moved)[0], (given - clean).square().mean()
                done(1)
    return DenoiserFit(list(forms), noise, r2, errors, skill, loss, own,
                       {"points": len(x), "draws": draws, "seed": seed, "borders": "cropped"})


def _training(known: Tensor | None, given: Tensor | None) -> Tensor:
    if given is None and known is None:
        raise DataError("Closed forms are made of the training points, and a denoiser that is no run does not know "
                        "them. Pass train=, the clean points with shape (n, *).")
    return as_points(known if given is None else given, "The training points")


def _forms(train: Tensor, windows: list[int], equivariant: list[int], side: int | None, channels: int,
           dtype: torch.dtype) -> dict[str, Any]:
    forms: dict[str, Any] = {"Wiener": WienerDenoiser(train, dtype), "optimal": OptimalDenoiser(train, dtype=dtype)}
    if windows or equivariant:
        channels = as_count(channels, "channels", least=1)
        side = round((train[0].numel() / channels) ** 0.5) if side is None else side
        forms |= {f"LS {k}": LocalDenoiser(train, side, k, channels, dtype) for k in windows}
        forms |= {f"ELS {k}": EquivariantLocalDenoiser(train, side, k, channels, dtype) for k in equivariant}
    return forms


def _between(values: Tensor) -> str:
    """The first and the last of some numbers, or one where they read alike."""
    first, last = (f"{float(value):.2f}" if float(value) > -10 else "below -10" for value in (values[0], values[-1]))
    return first if first == last else f"{first} to {last}"


def _share(off: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """1 - sum off / sum whole with its jackknife error over the points."""
    share = 1 - off.sum() / whole.sum()
    without = 1 - (off.sum() - off) / (whole.sum() - whole)
    q = len(off)
    return share, ((q - 1) / q * (without - without.mean()).square().sum()).sqrt()
