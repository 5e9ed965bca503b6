r"""Universal random features: a neuron :math:`f(w \cdot x + b)` as a product of features of x and of (w, b).

With the waves of f, :math:`f(z) = c_0 + c_1 z + \sum_k a_k \cos(\kappa_k z + \varphi_k)`, what is left is
:math:`e^{i \kappa w \cdot x}`, the exponential of a product of two vectors of which one is real and one imaginary:
:math:`u = \tau x` and :math:`v = i \kappa w / \tau`. Random exponentials take it apart,

.. math:: e^{u \cdot v} = E\, \Lambda_g(u) \Lambda_g(v), \qquad
          \Lambda_g(u) = (1 + 4A)^{d/4} e^{-A |g|^2 + \sqrt{1 + 4A}\, g \cdot u - u \cdot u / 2},

where A and :math:`\tau` are the best for each frequency, and each frequency has as many g as its share of the variance.
The real side has positive features, and the other side waves that grow with length. All of the error is known in
closed form before anything is drawn; it grows as :math:`e^{\kappa |x| |w|}`, so layers with long inputs and weights
have to be fitted instead.

References:
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_choice, as_count, as_positive, as_seed, what_came
from ..data.points import Points
from ..errors import DataError
from .balancing import layer_of
from .base import FeatureMap
from .directions import KINDS, directions
from .moments import best_rho, log_absolute_moment, log_moment, log_variance_factor
from .of_vectors import check_vectors, exponential, rows_of
from .spectra import ACTIVATIONS, EXACT, LineSpectrum
from .spectrum_fitting import BEYOND, fit_spectrum

if TYPE_CHECKING:
    from ..kernels.of_features import FeatureKernel

#: Which side is real: its features are positive, and there is one for each direction.
SIDES = ("inputs", "parameters")

#: By how much root mean square lengths may be stretched, since variances are those of the longest vectors.
STRETCHES = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)

#: On how many numbers an activation is looked at that is given by its name.
GRID = 1001

#: What to do about an exponential that is too large.
REMEDY = "Balance the layer (balance), plan for their lengths, or fit the features of parameters instead."


class UniversalRandomFeatures:
    r"""Features :math:`\Phi(x)` and :math:`\Psi(w, b)` whose products are, on average, :math:`f(w \cdot x + b)`.

    Both share their directions g. Where f has a constant or a slope, they are exact columns beside the random ones.

    Args:
        activation: The waves of f, or its name in ``ACTIVATIONS``; those that are no few waves are fitted to
            :math:`|z| \le |x| |w|`.
        size: The number of random features; an even one where parameters are the positive side.
        dimension: The number of coordinates d of x and w.
        lengths: What lengths :math:`|x|` and :math:`|w|` the features are made for, the root mean squares.
        positive: The side with positive features. ``"inputs"`` has one feature for each direction.
            ``"parameters"`` has two, and waves of inputs: random Fourier features times :math:`e^{c |x|^2}`.
        A: ``"best"`` for that of the least variance at each frequency, or one number above -1/8 for all.
        kind: How directions are drawn, see ``RandomFourier``.
        seed: Which ones.

    Attributes:
        inputs: The map :math:`\Phi` of points x.
        parameters: The map :math:`\Psi` of points ``(W, b)`` or ``W``.
        spectrum: The waves of f.
        counts: How many directions each wave has.

    Raises:
        DataError: If an argument is none of these, or there are fewer directions than waves.
        NonFiniteError: On use, if a feature is too large a number, or all those of a point are too small ones.

    Example:
        >>> x, W = 0.5 * torch.randn(6, 3), torch.randn(4, 3) / 2
        >>> features = UniversalRandomFeatures("cos", 4000, 3, lengths=(0.9, 0.9))
        >>> features
        UniversalRandomFeatures(cos: 1 frequency up to 1, 4000 random features of 3 coordinates, inputs positive)
        >>> (features.kernel(x, W) - (x @ W.T).cos()).abs().max() < 0.2
        tensor(True)
        >>> 0.01 < features.predicted_error(x, W) < 0.05
        True
    """

    def __init__(self, activation: str | LineSpectrum, size: int, dimension: int,
                 lengths: Sequence[float] = (1.0, 1.0), positive: str = "inputs", A: float | str = "best",
                 kind: str = "orthogonal", seed: int = 0):
        self.size, self.dimension = as_count(size, "size", 1), as_count(dimension, "dimension", 1)
        self.positive, self.kind = as_choice(positive, "positive", SIDES), as_choice(kind, "kind", KINDS)
        self.seed, self.A = as_seed(seed), _tilt(A)
        self.lengths = _lengths(lengths)
        if isinstance(activation, str):
            activation = _named(activation, self.lengths[0] * self.lengths[1], self.dimension, self.size)
        if not isinstance(activation, LineSpectrum):
            raise DataError(f"activation must be a name or a LineSpectrum; {what_came(activation)} came. Pass for "
                            'example "tanh", or fit_spectrum(function, z).')
        self.spectrum = activation.without_small()
        if not (self.spectrum.frequencies or self.spectrum.slope or self.spectrum.constant):
            raise DataError("The activation is 0 everywhere, and has no features. Pass a LineSpectrum with waves, a "
                            "slope or a constant.")
        self.waves = _Waves(self.spectrum, self.dimension, self.lengths, self.positive, self.A, self.size)
        self.counts = tuple(self.waves.counts.tolist())
        self.inputs = Tower(self, "inputs")
        self.parameters = Tower(self, "parameters")

    @classmethod
    def for_layer(cls, activation: str | Callable[[Tensor], Tensor], size: int, x: Any, W: Tensor,
                  b: Tensor | None = None, terms: int = 8, positive: str = "inputs", kind: str = "orthogonal",
                  seed: int = 0) -> UniversalRandomFeatures:
        r"""Features for a layer: its waves are fitted to the numbers that it sees, less what features would vary.

        Balanced inputs and weights (``balance``) make the least of the same features.

        Args:
            activation: The name of f, or f itself.
            size: The number of random features.
            x: Inputs, points of d coordinates.
            W: Weights, with shape (l, d).
            b: The bias, with shape (l,); without it, 0.
            terms: How many frequencies are fitted.
            positive: The side with positive features.
            kind: How directions are drawn.
            seed: Which ones.

        Example:
            >>> x, W = torch.randn(50, 3) / 3, torch.randn(10, 3) / 3
            >>> features = UniversalRandomFeatures.for_layer("tanh", 500, x, W)
            >>> features.predicted_error(x, W) < 0.1
            True
        """
        rows, W, b = layer_of(x, W, b)
        d = rows.shape[1]
        z = rows @ W.T + b
        inside = as_choice(positive, "positive", SIDES) == "inputs"
        count = max(1, as_count(size, "size", 1) // (1 if inside else 2))
        squares = [side.square().sum(1).clamp(min=1e-24) for side in ((rows, W) if inside else (W, rows))]
        slow = math.pi / max(BEYOND * float(z.abs().max()), 1e-12)
        stretch = min(STRETCHES, key=lambda s: float(_mean_log_excess(torch.tensor([slow]), squares, s, d)))
        spectrum = fit_spectrum(activation, z, min(as_count(terms, "terms", 1), count), features=count,
                                log_variances=lambda kappa: _mean_log_excess(kappa, squares, stretch, d))
        lengths = [stretch * float(side.mean().sqrt()) for side in squares]
        return cls(spectrum, size, d, lengths if inside else lengths[::-1], positive, "best", kind, seed)

    def __repr__(self) -> str:
        words = repr(self.spectrum).removeprefix("LineSpectrum(").split(",")[0].removesuffix(")")
        return (f"UniversalRandomFeatures({words}, {self.size} random features of {self.dimension} coordinates, "
                f"{self.positive} positive)")

    @property
    def kernel(self) -> FeatureKernel:
        r"""The products :math:`\Phi(x) \cdot \Psi(w, b)`, a kernel of points x and points ``(W, b)``."""
        from ..kernels.of_features import FeatureKernel  # Kernels are made of features, and stand above them.

        return FeatureKernel(self.inputs, self.parameters)

    def variance(self, x: Any, W: Tensor, b: Tensor | None = None) -> Tensor:
        r"""The variance of :math:`\Phi(x) \cdot \Psi(w, b)` over independent directions, with shape (n, l)."""
        return self.waves.variance(*self._layer(x, W, b))

    def predicted_error(self, x: Any, W: Tensor, b: Tensor | None = None, truth: Tensor | None = None) -> float:
        r"""The error to be expected, relative to the root mean square of f, before anything is drawn.

        .. math:: \Big( \sum_{ij} \mathrm{Var}_{ij} + (\hat f - f)(z_{ij})^2 \Big/ \sum_{ij} f(z_{ij})^2 \Big)^{1/2}

        It holds for independent directions; orthogonal ones mostly do better.

        Args:
            x: Inputs, points of d coordinates.
            W: Weights, with shape (l, d).
            b: The bias, with shape (l,); without it, 0.
            truth: What the layer gives, with shape (n, l); without it, that of the activation by name, or of its waves.

        Raises:
            DataError: If shapes do not fit.
        """
        rows, W, b = self._layer(x, W, b)
        z = rows @ W.T + b
        waves = self.spectrum(z)
        if truth is None:
            truth = waves if self.spectrum.name not in ACTIVATIONS else ACTIVATIONS[self.spectrum.name](z)
        elif tuple(truth.shape) != tuple(z.shape):
            raise DataError(f"truth must have one number for each input and neuron, shape {tuple(z.shape)}; "
                            f"{tuple(truth.shape)} came. Pass activation(linear(x)).")
        wrong = self.waves.variance(rows, W, b).sum() + (waves - truth.to(z)).square().sum()
        return math.sqrt(float(wrong) / float(truth.double().square().sum()))

    def _layer(self, x: Any, W: Any, b: Any) -> tuple[Tensor, Tensor, Tensor]:
        rows, W, b = layer_of(x, W, b)
        if rows.shape[1] != self.dimension:
            raise DataError(f"These features are of {self.dimension} coordinates, and inputs have {rows.shape[1]}. "
                            f"Pass dimension={rows.shape[1]}.")
        return rows, W, b


class Tower(FeatureMap):
    """One side of universal random features: of inputs x, or of parameters (W, b).

    Args:
        features: Both sides.
        side: Which one, ``"inputs"`` or ``"parameters"``.
    """

    def __init__(self, features: UniversalRandomFeatures, side: str):
        self.features, self.side = features, as_choice(side, "side", SIDES)
        exact = features.dimension + 1 if features.spectrum.slope else int(features.spectrum.constant != 0)
        self.size = exact + features.waves.columns
        self._drawn: dict[Any, tuple[Tensor, ...]] = {}

    def __repr__(self) -> str:
        return f"{self.features!r}.{self.side}"

    def phi(self, x: Any) -> Tensor:
        points = self.points(x)
        if self.side == "inputs":
            return self.of(rows_of(points))
        part = points.part(0, len(points))
        if len(part.args) != 2 or part.kwargs:
            return self.of(rows_of(points))
        alone = Points(len(points), lambda numbers: part._replace(args=part.args[:1]))
        return self.of(rows_of(alone), part.args[1])

    def of(self, x: Tensor, b: Tensor | None = None) -> Tensor:
        r"""The features of tensors, in their precision and with their gradients.

        Args:
            x: Inputs, or weights, with shape (\*, d).
            b: The bias that belongs to weights, with shape (\*); without it, 0.
        """
        check_vectors(x)
        d = self.features.dimension
        if x.shape[-1] != d or (b is not None and (self.side == "inputs" or b.shape != x.shape[:-1])):
            beside = "" if b is None else f" with a bias of shape {tuple(b.shape)}"
            needed = "one bias for each vector at most" if self.side == "parameters" else "nothing beside them"
            raise DataError(f"These features are of {d} coordinates, with {needed}; vectors of shape {tuple(x.shape)}"
                            f"{beside} came.")
        if not x.shape[:-1]:
            return self.of(x[None], None if b is None else b[None])[0]
        waves = self.features.waves
        bias = x.new_zeros(x.shape[:-1]) if b is None else b.to(x)
        spectrum = self.features.spectrum
        if self.side == "inputs":
            exact = [torch.ones_like(x[..., :1]), x]
        else:
            exact = [spectrum.constant + spectrum.slope * bias[..., None], spectrum.slope * x]
        exact = exact if spectrum.slope else exact[:int(spectrum.constant != 0)]
        if not waves.columns:
            return torch.cat(exact, -1)
        projections, frequencies, heights, phases = self._rows(x)
        projected = x @ projections.T
        squares = x.square().sum(-1, keepdim=True)
        if self.side == waves.positive:
            found = exponential(heights[0] + projected - heights[1] * squares, REMEDY)
            angles = torch.zeros_like(found[..., :1])
        else:
            found = exponential(heights[0] + heights[1] * squares, REMEDY)
            angles = projected
        if self.side == "parameters":
            turned = bias[..., None] * frequencies + phases
            found = found * heights[2]
            found = (found * (angles + turned).cos() if waves.positive == "inputs"
                     else torch.cat([found * turned.cos(), found * turned.sin()], -1))
        elif waves.positive == "parameters":
            found = torch.cat([found * angles.cos(), -found * angles.sin()], -1)
        return torch.cat([*exact, found], -1)

    def _rows(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each direction has on this side, where and as the vectors are."""
        key = x.dtype, x.device
        if key not in self._drawn:
            # Kept ones are to serve calls with gradients too.
            with torch.inference_mode(False), torch.no_grad():
                found = self.features.waves.rows(self.side, self.features.kind, self.features.seed)
                self._drawn[key] = tuple(part.to(x.device, x.dtype) for part in found)
        return self._drawn[key]


class _Waves:
    """The waves of a spectrum with their scales and their numbers of directions."""

    def __init__(self, spectrum: LineSpectrum, d: int, lengths: tuple[float, float], positive: str, A: float | str,
                 size: int):
        self.d, self.lengths, self.positive = d, lengths, positive
        self.kappa, self.amplitudes, self.phases = (
            torch.tensor(part, dtype=torch.float64)
            for part in (spectrum.frequencies, spectrum.amplitudes, spectrum.phases))
        steep = self.kappa * lengths[0] * lengths[1]
        self.rho = best_rho(steep, d) if isinstance(A, str) else torch.full_like(steep, 1 + 8 * A)
        logs = d / 2 * ((1 + self.rho).square() / (4 * self.rho)).log() + 2 * steep / self.rho.sqrt()
        self.A = (self.rho - 1) / 8
        real, other = lengths if positive == "inputs" else lengths[::-1]
        #: The square of what real vectors are multiplied by.
        self.tau2 = self.kappa * other * self.rho.sqrt() / real
        pair = 1 if positive == "inputs" else 2
        self.counts = _shared(size, pair, self.amplitudes.abs().log() + _log_less_one(logs) / 2)
        self.columns = pair * int(self.counts.sum())

    def rows(self, side: str, kind: str, seed: int) -> tuple[Tensor, ...]:
        """For each direction: what projects vectors, its frequency, its exponents and factor, and its phase."""
        draw = torch.Generator().manual_seed(seed)
        g = torch.cat([directions(count, self.d, kind, draw) for count in self.counts.tolist()])
        count, kappa, A, rho, tau2, amplitude, phase = (
            part.repeat_interleave(self.counts)
            for part in (self.counts, self.kappa, self.A, self.rho, self.tau2, self.amplitudes, self.phases))
        tall = self.d / 4 * (1 + 4 * A).log() - A * g.square().sum(1) - count.double().log() / 2
        # Waves grow with length: by what they do at the planned one, they are lowered, and the other side is raised.
        other = self.lengths[1] if self.positive == "inputs" else self.lengths[0]
        shift = kappa.square() / tau2 * other**2 / 2
        stretched = (1 + 4 * A).sqrt()[:, None] * g
        if side == self.positive:
            projections, heights = stretched * tau2.sqrt()[:, None], torch.stack([tall + shift, tau2 / 2, amplitude])
        else:
            projections = stretched * (kappa / tau2.sqrt())[:, None]
            heights = torch.stack([tall - shift, kappa.square() / tau2 / 2, amplitude])
        return projections, kappa, heights, phase

    def variance(self, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        """The variance of products, with shape (n, l)."""
        products, total = x @ W.T, x.new_zeros(len(x), len(W))
        squares = x.square().sum(1)[:, None], W.square().sum(1)
        real, other = squares if self.positive == "inputs" else squares[::-1]
        for k, count in enumerate(self.counts.tolist()):
            kappa, A, tau2 = float(self.kappa[k]), self.A[k], float(self.tau2[k])
            p, o = tau2 * real, kappa**2 / tau2 * other
            absolute = log_absolute_moment(A, self.d, p, -o, p).exp()
            square = log_moment(A, self.d, p - o + 2j * kappa * products, -o, p)
            phase = kappa * b + float(self.phases[k])
            found = (absolute + (square + 2j * phase).exp().real) / 2 - (kappa * products + phase).cos().square()
            total += float(self.amplitudes[k]) ** 2 / count * found.clamp(min=0)
        return total


def _shared(size: int, pair: int, logs: Tensor) -> Tensor:
    """Directions shared among waves in proportion to numbers given by their logarithms, at least one for each."""
    if size % pair:
        raise DataError(f"With positive parameters features come in pairs; size={size} came. Pass size={size + 1}.")
    count, waves = size // pair, len(logs)
    if count < waves:
        raise DataError(f"Each of {waves} waves needs a direction of its own, {pair * waves} features; size={size} "
                        f"came. Raise it, or take fewer waves.")
    if not waves:
        return torch.zeros(0, dtype=torch.int64)
    exact = (logs - torch.logsumexp(logs, 0)).exp() * (count - waves)
    found = exact.floor()
    rest = count - waves - int(found.sum())
    found[(exact - found).argsort(descending=True)[:rest]] += 1
    return found.long() + 1


def _mean_log_excess(kappa: Tensor, squares: list[Tensor], stretch: float, d: int) -> Tensor:
    r""":math:`\ln(V - 1)` for the mean of V over all pairs of vectors, where features are made for stretched lengths.

    V is a product of a number for each side, and its mean that of the means.
    """
    real, other = (float(side.mean()) * stretch**2 for side in squares)
    kappa = kappa.double()[:, None]
    rho = best_rho(kappa * math.sqrt(real * other), d)
    tau2 = kappa * (other / real * rho).sqrt()
    sides = [torch.logsumexp(exponents, 1) - math.log(exponents.shape[1]) for exponents in (
        tau2 / rho * squares[0].to(kappa), kappa.square() / tau2 * squares[1].to(kappa))]
    return _log_less_one(d / 2 * ((1 + rho).square() / (4 * rho)).log()[:, 0] + sides[0] + sides[1])


def _log_less_one(logs: Tensor) -> Tensor:
    return logs + (-torch.expm1(-logs)).clamp(min=1e-300).log()


def _tilt(A: Any) -> float | str:
    if A == "best":
        return "best"
    if isinstance(A, bool) or not isinstance(A, int | float) or not -0.125 < A < math.inf:
        raise DataError(f'A must be "best" or a number above -1/8, below which no variance is finite; {what_came(A)} '
                        'came. Pass A="best".')
    return float(A)


def _named(name: str, r: float, d: int, size: int) -> LineSpectrum:
    """The waves of an activation where w.x is for vectors of such lengths, less what so many features of them vary."""
    if as_choice(name, "name", ACTIVATIONS) in EXACT:
        return EXACT[name]
    return fit_spectrum(name, r * torch.linspace(-1, 1, GRID, dtype=torch.float64),
                        log_variances=lambda kappa: log_variance_factor(kappa * r, d), features=size)


def _lengths(lengths: Any) -> tuple[float, float]:
    if not isinstance(lengths, Sequence) or isinstance(lengths, str) or len(lengths) != 2:
        raise DataError(f"lengths must be two numbers, those of inputs and of weights; {what_came(lengths)} came. Pass "
                        "for example lengths=(1.0, 1.0).")
    return as_positive(lengths[0], "the length of inputs"), as_positive(lengths[1], "the length of weights")
