"""How good a converted layer is: its error on inputs it was not fitted to, between a floor and simpler layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...result import Check, CheckRow, Result

if TYPE_CHECKING:
    import pandas as pd

#: From which share of what its neuron varies by an error is small.
EXPLAINED = 0.5

#: Below which share of an error another one is better, and not just as good.
BETTER = 0.99

#: By how much a floor may be missed by round-off.
ROUND_OFF = 1e-9

#: How far an error may be from what was predicted.
APART = (0.8, 1.25)

#: The words of each mode.
MODE_WORDS = {"ridge": "ridge", "cur": "neurons of its own", "analytic": "analytic", "trainable": "not fitted"}


@dataclass(frozen=True, eq=False, repr=False)
class ConversionReport(Result):
    r"""How good a layer :math:`\Phi(x)\Psi^T + Lx + c` is in the place of :math:`f(Wx + b)`, on held-out inputs.

    Attributes:
        mode: How it was converted.
        tower: Its tower.
        activation: The name of f, if it has one.
        features: How many features m were asked for.
        inputs: d.
        outputs: l.
        skip: The rank of the linear skip; -1 for a full one.
        fitted: How many inputs were fitted.
        held_out: How many were held out.
        rel_frob: The error, relative to the outputs, as Frobenius norms.
        rel_max: The largest error of an output, relative to the largest output.
        svd_floor: The relative error that no product of m features can go below, without a linear skip.
        skip_floor: The same with a full linear skip and a constant.
        linear_rel: The relative error of a linear map, by least squares.
        low_rank_rel: That of the layer itself with a linear map of rank m.
        narrower_rel: That of m of its neurons with a linear map after them.
        kappa_r: The lowest frequency times the length of balanced inputs and weights.
        predicted_rel: What an analytic conversion promised.
        outside: The share of held-out inputs longer or shorter than all that were fitted.
        parameters: The parameters of the layer; before there were (d + 1) l.
        multiplications: Its multiplications for an input; before there were d l.
        r2_per_neuron: The share of what each output varies by that is explained, with shape (l,).
        info: Facts to print.
    """

    mode: str
    tower: str
    activation: str | None
    features: int
    inputs: int
    outputs: int
    skip: int
    fitted: int
    held_out: int
    rel_frob: float
    rel_max: float
    svd_floor: float
    skip_floor: float
    linear_rel: float
    low_rank_rel: float
    narrower_rel: float
    kappa_r: float
    predicted_rel: float | None
    outside: float
    parameters: int
    multiplications: int
    r2_per_neuron: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def above_floor(self) -> float:
        """How many times the floor of m features the error is."""
        return self.rel_frob / self.svd_floor if self.svd_floor else float("inf") if self.rel_frob else 1.0

    def summary(self) -> str:
        """The answer in one sentence."""
        promised = "" if self.predicted_rel is None else f", {self.predicted_rel:.3g} was predicted"
        times = "" if not self.svd_floor else f" ({self.above_floor:.2f} times)"
        asked = " asked for and none kept, since inputs are too few," if self.info.get("too few inputs") else ""
        return (f"ConversionReport({MODE_WORDS[self.mode]}, {self.features} features{asked} of {self.inputs} -> "
                f"{self.outputs}: relative error {self.rel_frob:.3g} on {self.held_out:,} held-out inputs{promised}; "
                f"floor of {self.features} features {self.svd_floor:.3g}{times}, linear map {self.linear_rel:.3g}, "
                f"low rank {self.low_rank_rel:.3g}, narrower {self.narrower_rel:.3g}{self._rivals()}; "
                f"{self.multiplications:,} multiplications instead of {self.inputs * self.outputs:,})")

    def _rivals(self) -> str:
        """Which of the simpler layers do as well."""
        said = [f"{name} does {'better' if error < BETTER * self.rel_frob else 'as well'}"
                for name, error in (("a linear map", self.linear_rel), ("low rank", self.low_rank_rel))
                if error <= self.rel_frob / BETTER]
        return f" ({', '.join(said)})" if said else ""

    def errors(self) -> dict[str, float]:
        """The relative error of the layer, of the baselines and of the floors."""
        return {"this layer": self.rel_frob, "linear map": self.linear_rel, "low rank": self.low_rank_rel,
                "narrower": self.narrower_rel, "floor": self.svd_floor, "floor with linear skip": self.skip_floor}

    def to_frame(self) -> pd.DataFrame:
        """One row for the layer, for each baseline and for each floor."""
        import pandas as pd

        return pd.DataFrame([(name, value) for name, value in self.errors().items()],
                            columns=["what", "relative error"])

    def check(self) -> Check:
        """Whether the layer beats a linear map, keeps to the floor and to what was promised, and serves each neuron."""
        better = self.rel_frob < self.linear_rel or self.rel_frob <= ROUND_OFF
        rows = [CheckRow("linear", "pass" if better else "warn", self.rel_frob, self.linear_rel,
                         f"The relative error is {self.rel_frob:.3g}, that of a linear map {self.linear_rel:.3g}.")]
        # The constant is a feature more, so that the floor of the features alone does not bind a layer without skip.
        least = self.skip_floor
        rows.append(CheckRow("floor", "pass" if self.rel_frob >= least - ROUND_OFF else "fail", self.rel_frob, least,
                             f"No {self.features} features go below {self.svd_floor:.3g}, and with a linear skip none "
                             f"below {self.skip_floor:.3g}."))
        missed = int((self.r2_per_neuron < EXPLAINED).sum())
        rows.append(CheckRow("neurons", "warn" if missed else "pass", float(missed), 0.0,
                             f"Of {missed} of {self.outputs} neurons less than half of what they vary by is explained; "
                             f"of the one that is met worst {float(self.r2_per_neuron.min()):.3g}."))
        before = self.inputs * self.outputs
        rows.append(CheckRow("size", "pass" if self.multiplications < before else "warn", float(self.multiplications),
                             float(before), f"An input takes {self.multiplications:,} multiplications, and {before:,} "
                             "in the layer itself. A linear skip of small rank, or none, makes them fewer."))
        rows.append(CheckRow("low rank", "pass" if self.rel_frob <= self.low_rank_rel else "warn", self.rel_frob,
                             self.low_rank_rel, f"The layer itself with weights of rank {self.features} is off by "
                             f"{self.low_rank_rel:.3g}, by {self.features * (self.inputs + self.outputs):,} "
                             "multiplications."))
        rows.append(CheckRow("inputs", "pass" if self.outside <= 0.05 else "warn", self.outside, 0.05,
                             f"{self.outside:.1%} of the held-out inputs are longer or shorter than all that were "
                             "fitted."))
        if self.predicted_rel:
            ratio = self.rel_frob / self.predicted_rel
            rows.append(CheckRow("predicted", "pass" if APART[0] <= ratio <= APART[1] else "warn", ratio, APART[1],
                                 f"The error is {ratio:.2f} times what was predicted."))
        return Check(tuple(rows))
