r"""How a denoiser's tangent kernel couples noise levels.

.. math:: K_{\sigma\sigma'} = E\, \mathrm{tr}\, J_F(y, \sigma)\, J_F(y', \sigma')^T, \qquad
          \cos_{\sigma\sigma'} = \frac{K_{\sigma\sigma'}}{\sqrt{K_{\sigma\sigma} K_{\sigma'\sigma'}}}

in F-space, the space of what the network is regressed on: in D-space the factors :math:`b(\sigma) b(\sigma')` would
look like locality and be none. *Paired* takes the same clean point and the same noise, scaled, at both levels;
*independent* takes different ones, and is the cosine of the mean Jacobians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_seed, as_switch, as_whole, what_came
from ...decomposition.questions import as_words, checked_run
from ...diagnostics.states import state
from ...errors import DataError
from ...kernels.tangent import Tangent
from ...measures import alignment
from ...network import Parameters, undisturbed
from ...result import Check, CheckRow, Result
from ...run.run import Run
from ..denoising.noise import NoiseLaw, as_numbers
from ..denoising.reading import DiffusionRun
from ..measures import effective_rank, localisation_index

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NoiseKernel", "half_widths", "law_weights", "noise_kernel"]

#: Points with more numbers than this are probed with random directions.
EXACT = 64

#: How often levels are shuffled for the null.
SHUFFLES = 200


@dataclass(frozen=True, eq=False, repr=False)
class NoiseKernel(Result):
    r"""The coupling of noise levels by a denoiser's tangent kernel.

    Attributes:
        levels: Noise levels, ascending, with shape (L,).
        cosine: The cosines of their kernels, with shape (L, L).
        error: Their standard errors over probes, with shape (L, L); nought where traces are exact.
        weights: How much of the training noise each level stands for, with shape (L,); they add up to 1.
        untrained: The cosines of the network as training began, or ``None``.
        shuffled: The mean and the standard deviation of the index with levels shuffled, with shape (2, L), or ``None``.
        pixels: The alignment of each level's kernel of points with that of their clean numbers, with shape (L,).
        classes: The alignment with that of their classes, or ``None``.
        rank: The effective rank of each level's kernel of points, centred, with shape (L,).
        info: The sampling mode, points, probes, noise law and parameterisation.
    """

    levels: Tensor
    cosine: Tensor
    error: Tensor
    weights: Tensor
    untrained: Tensor | None
    shuffled: Tensor | None
    pixels: Tensor
    classes: Tensor | None
    rank: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.levels)

    @property
    def index(self) -> Tensor:
        """The noise-localisation index of each level, with shape (L,): 0 spread as training noise, 1 the same noise."""
        return localisation_index(self.cosine.clamp_min(0) * self.weights, self.levels, self.levels, self.weights)

    @property
    def index_untrained(self) -> Tensor | None:
        """The index of the network as training began."""
        if self.untrained is None:
            return None
        return localisation_index(self.untrained.clamp_min(0) * self.weights, self.levels, self.levels, self.weights)

    @property
    def half_width(self) -> Tensor:
        r"""The range of :math:`\ln\sigma'` around each level in which the cosine is above 1/2, with shape (L,)."""
        return half_widths(self.cosine, self.levels)

    def split(self) -> tuple[int, float, float]:
        """Where the levels fall into two blocks: the first level above, the mean cosine within blocks, and across."""
        found = []
        for s in range(1, len(self)):
            below, above, across = self.cosine[:s, :s], self.cosine[s:, s:], self.cosine[:s, s:]
            within = float((below.sum() + above.sum()) / (below.numel() + above.numel()))
            found.append((within - float(across.mean()), s, within, float(across.mean())))
        _, s, within, apart = max(found)
        return s, within, apart

    def summary(self) -> str:
        """The answer in one sentence."""
        s, within, apart = self.split()
        mean = float(self.index @ self.weights)
        null = self.index_untrained
        beside = "" if null is None else f", untrained {float(null @ self.weights):.2f}"
        if self.shuffled is not None:
            beside += f", levels shuffled {float(self.shuffled[0] @ self.weights):.2f}"
        law = self.info["law"]
        return (f"NoiseKernel({len(self)} levels, {self.info['mode']}: cosines {within:.2f} within and {apart:.2f} "
                f"across two blocks that meet at noise {float(self.levels[s]):.2g}; index {mean:.2f} on average{beside}"
                f"; {self.info['parameterisation']}, ln noise ~ N({law[0]:g}, {law[1]:g}²))")

    def to_frame(self) -> pd.DataFrame:
        """One row for each noise level."""
        import pandas as pd

        nothing = [float("nan")] * len(self)
        untrained = self.index_untrained
        return pd.DataFrame({
            "noise": self.levels.tolist(), "index": self.index.tolist(),
            "index untrained": nothing if untrained is None else untrained.tolist(),
            "index shuffled": nothing if self.shuffled is None else self.shuffled[0].tolist(),
            "half width": self.half_width.tolist(), "alignment pixels": self.pixels.tolist(),
            "alignment classes": nothing if self.classes is None else self.classes.tolist(),
            "rank": self.rank.tolist(), "weight": self.weights.tolist(),
        })

    def check(self) -> Check:
        """Whether the cosines are those of a kernel, how sharp their estimate is, and whether nulls were computed."""
        least = float(torch.linalg.eigvalsh(self.cosine)[0])
        error = float(self.error.max())
        told = self.untrained is not None and self.shuffled is not None
        return Check((
            CheckRow("positive", "pass" if least >= -1e-8 or self.info["mode"] != "paired" else "fail", least, -1e-8,
                     f"The smallest eigenvalue of the cosines is {least:.1e}."),
            CheckRow("probes", "pass" if error <= 0.1 else "warn", error, 0.1,
                     f"The largest standard error of a cosine over probes is {error:.2f}."),
            CheckRow("nulls", "pass" if told else "warn", None, None,
                     "The index is given beside those of the untrained network and of shuffled levels." if told else
                     'The index stands without its nulls. Pass null="both".'),
        ))


def noise_kernel(run: Run, x: Tensor | None = None, *, levels: int | Tensor = 12, points: int = 32,
                 paired: bool = True, null: str = "both", labels: Any = None, probes: int = 16, seed: int = 0,
                 dtype: torch.dtype | None = None, memory: int | str = "1GB") -> NoiseKernel:
    r"""Computes how the tangent kernel of a denoiser couples noise levels.

    .. math:: K_{\sigma\sigma'} = E\, \mathrm{tr}\, J_F(y, \sigma)\, J_F(y', \sigma')^T, \qquad
              \cos_{\sigma\sigma'} = K_{\sigma\sigma'} / \sqrt{K_{\sigma\sigma} K_{\sigma'\sigma'}}

    Args:
        run: The recorded run of a :class:`Denoiser`.
        x: Clean points, with shape (n, \*); some of the training images if not given.
        levels: Noise levels, ascending, or how many, evenly in their logarithm from 0.02 to 20.
        points: How many of the clean points are used.
        paired: Whether both levels see the same clean point and the same noise; else different ones.
        null: ``"untrained"``, ``"shuffled"``, ``"both"`` or ``"none"``: what the index is compared with.
        labels: A class for each point of ``x``, or for each training image; those of the run if not given.
        probes: Rademacher probes of the trace where points have more than 64 numbers.
        seed: Of the points, their noise, the probes and the shuffles.
        dtype: The precision; ``float64`` if not given.
        memory: About how many bytes may be used.

    Returns:
        The :class:`NoiseKernel`.

    Raises:
        DataError: If the run is none of a denoiser, or arguments do not fit it.

    References:
        Sections 2.1 and 2.4 of the notes on generative models.

    Example:
        >>> from kernelscope.generative.training import train_diffusion
        >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
        >>> found = noise_kernel(train_diffusion(x, width=8, steps=5), levels=4, points=6)
        >>> found.cosine.shape, bool((found.cosine.diagonal() - 1).abs().max() < 1e-12)
        (torch.Size([4, 4]), True)
    """
    reader = DiffusionRun(checked_run(run))
    as_choice(null, "null", ("both", "untrained", "shuffled", "none"))
    paired, seed = as_switch(paired, "paired"), as_seed(seed)
    source = torch.Generator().manual_seed(seed)
    dtype = dtype or torch.float64
    some, words = chosen_points(reader, x, labels, as_count(points, "points", least=2), source)
    at = _levels(levels)
    noise = torch.randn(*((len(some),) if paired else (len(at), len(some))), *some.shape[1:], generator=source,
                        dtype=torch.float64)
    y = some + at.view(-1, *[1] * some.ndim) * noise  # (L, P, *)
    d = some[0].numel()
    directions = None if d <= EXACT else _rademacher(as_count(probes, "probes", least=2), d, source)
    ends = {"trained": (run.parameters(), run.stop)}
    if null in ("both", "untrained"):
        ends["untrained"] = run.parameters(0), run.start or -1
    kernels = {name: _kernels(run, held, k, y, at, directions, dtype, memory) for name, (held, k) in ends.items()}
    cosines = {name: _cosines(found.mean(0), len(at), paired) for name, found in kernels.items()}
    own = kernels["trained"].mean(0).unflatten(0, (len(at), -1)).unflatten(2, (len(at), -1))
    within = [own[a, :, a] for a in range(len(at))]
    weights = law_weights(reader.law, at)
    coded = None if words is None else torch.tensor([[word == other for other in sorted(set(words))]
                                                     for word in words], dtype=torch.float64)
    return NoiseKernel(
        levels=at, cosine=cosines["trained"], error=_errors(kernels["trained"], len(at), paired), weights=weights,
        untrained=cosines.get("untrained"),
        shuffled=_shuffled(cosines["trained"], at, weights, source) if null in ("both", "shuffled") else None,
        pixels=torch.tensor([alignment(k, some.flatten(1)) for k in within], dtype=torch.float64),
        classes=None if coded is None else torch.tensor([alignment(k, coded) for k in within], dtype=torch.float64),
        rank=torch.tensor([float(effective_rank(k)) for k in within], dtype=torch.float64),
        info={"mode": "paired" if paired else "independent", "points": len(some), "seed": seed,
              "probes": 0 if directions is None else len(directions), "law": [reader.law.mean, reader.law.deviation],
              "parameterisation": f"output of {type(run.network.module(())).__name__} (F-space)"},
    )


def half_widths(cosine: Tensor, levels: Tensor) -> Tensor:
    """The range of the logarithm of noise, without a gap around each level, in which its cosines are above 1/2."""
    found = []
    for a in range(len(levels)):
        low = high = a
        while low > 0 and cosine[a, low - 1] > 0.5:
            low -= 1
        while high < len(levels) - 1 and cosine[a, high + 1] > 0.5:
            high += 1
        found.append(float((levels[high] / levels[low]).log()))
    return torch.tensor(found, dtype=torch.float64)


def law_weights(law: NoiseLaw, levels: Tensor) -> Tensor:
    """The density of the logarithm of training noise at levels, brought to sum 1, each with the gap it stands in."""
    log = levels.double().log()
    density = (-0.5 * ((log - law.mean) / law.deviation) ** 2).exp()
    gaps = torch.cat([log.diff()[:1], log.diff()])
    gaps = (gaps + torch.cat([log.diff(), log.diff()[-1:]])) / 2
    return density * gaps / (density * gaps).sum()


def chosen_points(reader: DiffusionRun, x: Any, labels: Any, count: int,
                  source: torch.Generator) -> tuple[Tensor, list[str] | None]:
    """Some clean points in double precision, and their classes.

    Raises:
        DataError: If they have not the shape of the training images.
    """
    clean = reader.clean
    given = labels
    if x is None:
        given = reader.run.labels if labels is None else labels
        kept = (~clean.flatten(1).isnan().any(1)).nonzero().flatten()
        x = clean
    else:
        if not isinstance(x, Tensor) or x.shape[1:] != clean.shape[1:]:
            came = tuple(x.shape) if isinstance(x, Tensor) else what_came(x)
            raise DataError(f"x must hold clean points of shape (n, {', '.join(map(str, clean.shape[1:]))}); {came} "
                            "came. Pass images as the run was trained on.")
        kept = torch.arange(len(x))
    words = None if given is None else as_words(given, "labels")
    if words is not None and len(words) != len(x):
        raise DataError(f"labels must hold a word for each of the {len(x)} points; {len(words)} came.")
    kept = kept[torch.randperm(len(kept), generator=source)[:count]]
    return x[kept].double(), None if words is None else [words[i] for i in kept.tolist()]


def _levels(levels: Any) -> Tensor:
    if as_whole(levels) is not None:
        count = as_count(levels, "levels", least=2)
        return torch.linspace(math.log(0.02), math.log(20.0), count, dtype=torch.float64).exp()
    at = as_numbers(levels)
    if at is None or at.ndim != 1 or len(at) < 2 or not bool((at > 0).all() & (at.diff() > 0).all()):
        raise DataError("levels must be two noise levels or more, ascending and above 0, or how many; "
                        f"{what_came(levels)} came. Pass levels=12.")
    return at


def _rademacher(count: int, d: int, source: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count, d), generator=source, dtype=torch.float64) * 2 - 1


def _kernels(run: Run, held: Parameters, k: int, y: Tensor, levels: Tensor, directions: Tensor | None,
             dtype: torch.dtype, memory: int | str) -> Tensor:
    """The trace kernel of all points at all levels, or that of each probe, with shape (probes, L P, L P)."""
    at = state(run, k, held)
    flat = y.flatten(0, 1).to(dtype), levels.repeat_interleave(y.shape[1]).to(dtype)
    found = []
    for v in [None] if directions is None else list(directions):
        output = None if v is None else _probe(v.to(dtype))
        kernel = Tangent(run.network.module(()), parameters=list(run.names), output=output, dtype=dtype, device="cpu",
                         memory=memory).at(at)
        with undisturbed(torch.device("cpu")):
            found.append(kernel(flat).double())
    return torch.stack(found)


def _probe(v: Tensor) -> Any:
    return lambda outputs: (outputs.flatten(1) * v).sum(1)


def _cosines(kernel: Tensor, count: int, paired: bool) -> Tensor:
    """The cosines of levels, from the kernel of all points at all levels."""
    blocks = kernel.unflatten(0, (count, -1)).unflatten(2, (count, -1)).transpose(1, 2)  # (L, L, P, P)
    same = blocks.diagonal(dim1=2, dim2=3).sum(-1)
    total = same if paired else blocks.sum((2, 3)) - same
    length = total.diagonal().clamp_min(0).sqrt()
    return (total / length[:, None] / length).clamp(-1, 1)


def _errors(kernels: Tensor, count: int, paired: bool) -> Tensor:
    """Standard errors over probes, by leaving out one at a time."""
    r = len(kernels)
    if r < 2:
        return torch.zeros(count, count, dtype=torch.float64)
    total = kernels.sum(0)
    left = torch.stack([_cosines((total - one) / (r - 1), count, paired) for one in kernels])
    return ((r - 1) / r * (left - left.mean(0)).square().sum(0)).sqrt()


def _shuffled(cosine: Tensor, levels: Tensor, weights: Tensor, source: torch.Generator) -> Tensor:
    """The mean and the standard deviation of the index when each level carries another one's kernel."""
    found = []
    for _ in range(SHUFFLES):
        order = torch.randperm(len(levels), generator=source)
        found.append(localisation_index(cosine[order][:, order].clamp_min(0) * weights, levels, levels, weights))
    drawn = torch.stack(found)
    return torch.stack([drawn.mean(0), drawn.std(0)])
