"""Estimates of single neurons by random features: errors by the number of features, and what was said beforehand.

Nothing is fitted here. Inputs and weights have length 1, which is where random features are at their best.
"""

import math

import torch
from torch import Tensor

import kernelscope as ks

D, POINTS = 8, 64
ARC = "arc-cosine kernel"
NEURONS = {"cos": torch.cos, "sin": torch.sin, "gaussian": lambda z: (-z.square() / 2).exp(),
           "sech": lambda z: 1 / z.cosh()}

#: Frequencies of what is no single wave: steps of so much, from half a step on.
STEP, WAVES = 0.5, 12


def waves(name: str) -> str | ks.features.LineSpectrum:
    """The waves of a function: what its Fourier integral is by the rule of midpoints, right to four digits or more."""
    if name in ("cos", "sin"):
        return name
    kappa = STEP * (torch.arange(WAVES, dtype=torch.float64) + 0.5)
    density = (-kappa.square() / 2).exp() * math.sqrt(2 / math.pi) if name == "gaussian" else (
        1 / (math.pi * kappa / 2).cosh())
    return ks.features.LineSpectrum(0.0, 0.0, tuple(kappa.tolist()), tuple((STEP * density).tolist()), (0.0,) * WAVES)


def unit(count: int, seed: int) -> Tensor:
    """Vectors of length 1."""
    rows = torch.randn(count, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def estimated(name: str, size: int, draws: int) -> tuple[float, list[float]]:
    """The relative error that is predicted before anything is drawn, and that of each draw."""
    x, w = unit(POINTS, 0), unit(POINTS, 1)
    b = torch.rand(POINTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
    if name == ARC:
        true, squares = (ks.kernels.ArcCosine(order=order)(x, w) for order in (1, 2))
        # A term is 2 max(0, g.x) max(0, g.w), whose square is twice a term of order 2.
        said = math.sqrt(float((2 * squares - true.square()).sum()) / size / float(true.square().sum()))
        found = [ks.features.ArcCosineFeatures(size, kind="independent", seed=seed).inner(x, w)
                 for seed in range(draws)]
    else:
        true = NEURONS[name](x @ w.T + b)
        maps = [ks.features.UniversalRandomFeatures(waves(name), size, D, kind="independent", seed=seed)
                for seed in range(draws)]
        said, found = maps[0].predicted_error(x, w, b, true), [one.kernel(x, (w, b)) for one in maps]
    return said, [float((one - true).norm() / true.norm()) for one in found]


def slope(sizes: list[int], errors: list[float]) -> float:
    """The exponent of the power of the size that is nearest to errors."""
    steps, logs = (torch.tensor(values, dtype=torch.float64).log() for values in (sizes, errors))
    steps = steps - steps.mean()
    return float(steps @ logs / steps.square().sum())


def pointwise(quick: bool = False) -> tuple[str, list[str | tuple[str, ks.TradeOffs | ks.Predictions]]]:
    """Errors of five functions by the number of features, beside those that were predicted; in short, and in full."""
    sizes, draws = ([64, 256, 1024], 4) if quick else ([64, 256, 1024, 4096], 20)
    names = [*NEURONS, ARC]
    found = {(name, size): estimated(name, size, draws) for name in names for size in sizes}
    # The root of the mean of squares, as a variance is what is predicted.
    measured = {key: math.sqrt(sum(e * e for e in errors) / draws) for key, (_, errors) in found.items()}
    slopes = {name: slope(sizes, [measured[name, size] for size in sizes]) for name in names}
    ratios = {key: said / measured[key] for key, (said, _) in found.items()}
    met = ks.predictions([said for said, _ in found.values()], list(measured.values()),
                         names=[f"{name}, {size}" for name, size in found],
                         what=("predicted relative error", "measured relative error"))
    errors = ks.trade_offs([(name, size, each) for (name, size), (_, each) in found.items()], cost="features",
                           measure="relative error", higher=False)
    said = ", ".join(f"{name} {value:.2f}".replace("-", "−") for name, value in slopes.items() if name != ARC)
    arc = f"{slopes[ARC]:.2f}".replace("-", "−")
    worst = max(measured[name, sizes[-1]] for name in names)
    close = f"{min(ratios.values()):.2f} to {max(ratios.values()):.2f}"
    short = (f"Errors of random features are known before anything is drawn ({close} times those measured), and fall "
             f"with their number to the power of −{-max(slopes.values()):.2f} to −{-min(slopes.values()):.2f}.")
    return short, [
        f"A neuron f(w·x + b) as a product of random features of x and of (w, b), with nothing fitted: {POINTS} inputs "
        f"and {POINTS} weights of length 1 with {D} coordinates, biases within ±½, {draws} draws, and ReLU features "
        "whose products are the arc-cosine kernel. The error is relative to all values. It should fall as the root of "
        f"the number of features, a slope of −½ in logarithms. Slopes are {said}, {arc} for the arc-cosine kernel. "
        f"With {sizes[-1]:,} features the worst is still off by {worst:.3f}: a digit more takes a hundred times as "
        "many features.",
        ("Single neurons, with nothing fitted", errors),
        "The error follows from a formula of lengths and angles, before anything is drawn. Predicted errors are "
        f"{close} times those measured, over all draws.",
        ("Errors that were predicted", met),
    ]
