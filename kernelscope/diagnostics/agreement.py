r"""Whether the formula for the expected output holds, as the learning rate grows.

For each learning rate there are recorded runs, what each of them foretells without any training, and an ensemble of
runs that were trained anew. Compared are the mean that the terms predict along the seeds' own paths, the standard
deviation that single runs tell, and the mean that single runs tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..decomposition.stochastic.result import Expected
from ..errors import DataError
from ..result import Check, CheckRow, Result

if TYPE_CHECKING:
    import pandas as pd

#: How much of the mean is counted.
LEVELS = ("path", "curvature", "noise")

#: How many of the 95 % intervals hold 0 where a prediction is right, correlated as they are.
HELD = 0.93

#: The guesses that single runs make of the mean.
GUESSES = ("mean", "final", "adjusted")


@dataclass(frozen=True, eq=False, repr=False)
class Agreement(Result):
    """Predicted against measured means and variances, over learning rates.

    Attributes:
        rates: The learning rates, ascending, with shape (a,).
        covered: By the last term counted the share of (query, output) pairs whose 95 % interval of measured minus
            predicted mean holds 0, each with shape (a,).
        controlled: The same with the martingale taken off each seed, which narrows the intervals; NaN where batches of
            an epoch know of each other.
        bias: By the last term counted the mean absolute difference, martingale taken off where it can be.
        variance: Predicted over measured variance, ``carried`` to the end and of contribution ``rows``.
        guesses: How far the guesses of single runs lie from the measured mean, root mean square.
        foretold: How far off they say that they are.
        spread: The measured standard deviation of runs, root mean square.
        seeds: The number of seeds of each ensemble.
        pairs: The number of (query, output) pairs.
        info: Facts to print.
    """

    rates: Tensor
    covered: dict[str, Tensor]
    controlled: dict[str, Tensor]
    bias: dict[str, Tensor]
    variance: dict[str, Tensor]
    guesses: dict[str, Tensor]
    foretold: dict[str, Tensor]
    spread: Tensor
    seeds: int
    pairs: int
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def largest(self) -> int:
        """The place of the largest learning rate whose intervals hold 0 as often as they should, with all terms."""
        held = (self.covered["noise"] >= HELD).nonzero().flatten().tolist()
        return held[-1] if held else 0

    def said(self) -> str:
        """What is foretold up to which learning rate, in words."""
        at = self.largest
        return (f"at learning rate {float(self.rates[at]):g} the 95 % intervals of {self.seeds} seeds hold 0 for "
                f"{float(self.covered['noise'][at]):.0%} of {self.pairs} pairs with all terms and for "
                f"{float(self.covered['path'][at]):.0%} with the path alone; the predicted variance is "
                f"{float(self.variance['carried'][at]):.2f} of the measured one")

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"Agreement({self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each learning rate."""
        import pandas as pd

        columns: dict[str, Any] = {"learning rate": self.rates.tolist()}
        for what in ("covered", "controlled", "bias"):
            columns |= {f"{what}, {name}": getattr(self, what)[name].tolist() for name in LEVELS}
        columns |= {f"variance, {name}": values.tolist() for name, values in self.variance.items()}
        columns |= {f"{name} off by": values.tolist() for name, values in self.guesses.items()}
        columns |= {f"{name} says": values.tolist() for name, values in self.foretold.items()}
        return pd.DataFrame(columns | {"std of runs": self.spread.tolist()})

    def check(self) -> Check:
        """Whether the smallest learning rate is predicted, its mean and its variance."""
        share, ratio = float(self.covered["noise"][0]), float(self.variance["carried"][0])
        return Check((
            CheckRow("mean", "pass" if share >= HELD else "warn", share, HELD,
                     f"{share:.1%} of the 95 % intervals of measured minus predicted mean hold 0 at the least rate."),
            CheckRow("variance", "pass" if abs(ratio - 1) <= 0.2 else "warn", ratio, 1.2,
                     f"The predicted variance is {ratio:.2f} of the measured one at the smallest rate."),
        ))


def agreement(found: Mapping[float, Expected | Sequence[Expected]]) -> Agreement:
    r"""Compares what runs foretell with what their ensembles measure, for several learning rates.

    .. math:: \text{covered} = \frac{1}{qc}\,\#\big\{|\bar\delta| \le t_{.975}\, s_\delta/\sqrt S\big\},\qquad
              \delta = f_T - f_0 - \text{terms along the seed's own path}

    Args:
        found: For each learning rate one result of ``ks.expected(run, x, seeds=...)``, or several of runs that differ
            by their batches, the first with an ensemble.

    Raises:
        DataError: If there is none, or one without an ensemble and its terms.

    Example:
        >>> agreement({})
        Traceback (most recent call last):
        ...
        kernelscope.errors.DataError: agreement needs a result of ks.expected(..., seeds=...) for each learning rate...
    """
    if not isinstance(found, Mapping) or not found:
        raise DataError("agreement needs a result of ks.expected(..., seeds=...) for each learning rate; none came.")
    if not all(isinstance(rate, int | float) and not isinstance(rate, bool) for rate in found):
        raise DataError("The keys of agreement are learning rates, and others came. Pass {0.1: ks.expected(...)}.")
    rates = sorted(found)
    each = [_several(rate, found[rate]) for rate in rates]
    kinds = {(tuple(e.final.shape), e.sampling) for several in each for e in several}
    counts = {len(several[0].ensemble or ()) for several in each}
    if len(kinds) > 1 or len(counts) > 1:
        raise DataError("agreement compares like with like, and results with other queries, outputs, seeds or ways to "
                        "draw batches came. Ask for the same at each learning rate.")
    rows = [_row(rate, found[rate]) for rate in rates]
    first = _several(rates[0], found[rates[0]])[0].ensemble
    assert first is not None

    def gathered(key: str) -> dict[str, Tensor]:
        return {name: torch.tensor([row[key][name] for row in rows], dtype=torch.float64) for name in rows[0][key]}

    return Agreement(torch.tensor(rates, dtype=torch.float64), gathered("covered"), gathered("controlled"),
                     gathered("bias"), gathered("variance"), gathered("guesses"), gathered("foretold"),
                     gathered("spread")["std"], len(first), first.mean.numel(),
                     {"runs": len(_several(rates[0], found[rates[0]])), "sampling": first.sampling})


def _several(rate: float, given: Expected | Sequence[Expected]) -> list[Expected]:
    several = [given] if isinstance(given, Expected) else list(given) if isinstance(given, list | tuple) else []
    known = [e for e in several if isinstance(e, Expected) and e.mean_error is not None]
    if not known or len(known) < len(several) or known[0].ensemble is None or not known[0].ensemble.terms:
        raise DataError(
            f"The result for {rate:g} holds no ensemble with terms. Make it with ks.expected(run, x, seeds=200) of a "
            "run of SGD, and leave carried=True."
        )
    return several


def _row(rate: float, given: Expected | Sequence[Expected]) -> dict[str, dict[str, float]]:
    several = _several(rate, given)
    ensemble = several[0].ensemble
    assert ensemble is not None
    measured = ensemble.std.square()
    carried, rows = (torch.stack([getattr(e, name) for e in several]).mean(0) for name in ("variance", "row_variance"))
    control = "martingale" in ensemble.terms
    return {
        "covered": {upto: ensemble.covered(upto) for upto in LEVELS},
        "controlled": {upto: ensemble.covered(upto, True) if control else torch.nan for upto in LEVELS},
        "bias": {upto: float(ensemble.bias(upto, control)[0].abs().mean()) for upto in LEVELS},
        "variance": {"carried": float(carried.sum() / measured.sum()), "rows": float(rows.sum() / measured.sum())},
        "guesses": {name: _typical(torch.stack([getattr(e, name) - ensemble.mean for e in several]))
                    for name in GUESSES},
        "foretold": {"mean": _typical(torch.stack([e.mean_error for e in several if e.mean_error is not None])),
                     "final": _typical(torch.stack([e.std for e in several])),
                     "adjusted": _typical(torch.stack([e.adjusted_error for e in several
                                                       if e.adjusted_error is not None]))},
        "spread": {"std": _typical(ensemble.std)},
    }


def _typical(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
