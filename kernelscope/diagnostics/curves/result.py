r"""What learning curves are kept as: errors by kernel, number of samples and order, and what is read off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_choice, what_came
from ...errors import DataError
from ...result import Check, CheckRow, Result
from . import wording
from .power_laws import BENT, FLOORED, Estimated, bends, estimated, exponents, floored

if TYPE_CHECKING:
    import pandas as pd

#: What is measured: the squared error relative to that of the best constant, and the share of wrong classes.
MEASURES = ("error", "wrong")

#: What stands for a squared error of nought, which has no logarithm.
TINY = 1e-300


@dataclass(frozen=True, eq=False, repr=False)
class LearningCurves(Result):
    r"""The test errors of several kernels on more and more samples, in several orders.

    Attributes:
        names: The kernels, k of them.
        kernels: What each is, in words.
        samples: The numbers of samples n, ascending, s of them.
        errors: For ``"error"``, the mean squared error over that of the best constant, and for ``"wrong"``, of
            classes, the share of test points that are told wrong, with shape (k, s, r) for r orders; NaN where there
            is no fit.
        draws: The mean over orders of each, with orders and test points drawn again, with shape (k, s, d); the same
            draws for all kernels.
        ridges: The ridge of each fit, relative to the mean diagonal of the kernel matrix, with shape (k, s, r); NaN of
            what is no kernel.
        offered: The ridges to choose from.
        costs: For each kernel the seconds of its entries, the seconds of its fits, the number of entries, and the
            bytes of its matrices, with shape (k, 4).
        orders: The orders, as far as the largest number of samples goes, with shape (r, n).
        points: The number of samples there were.
        copies: How many points each sample comes in, by kernel.
        tests: The number of test points.
        info: Facts to print.
    """

    names: list[str]
    kernels: list[str]
    samples: list[int]
    errors: dict[str, Tensor]
    draws: dict[str, Tensor]
    ridges: Tensor
    offered: list[float]
    costs: Tensor
    orders: Tensor
    points: int
    copies: list[int]
    tests: int
    info: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, names: str | Sequence[str]) -> LearningCurves:
        """The curves of some of the kernels, by their names."""
        names = [names] if isinstance(names, str) else list(names)
        rows = [self.place(name) for name in names]
        return replace(
            self, names=names, kernels=[self.kernels[i] for i in rows], ridges=self.ridges[rows],
            errors={measure: table[rows] for measure, table in self.errors.items()},
            draws={measure: table[rows] for measure, table in self.draws.items()}, costs=self.costs[rows],
            copies=[self.copies[i] for i in rows])

    # -- numbers -----------------------------------------------------------------------------------------------------

    def mean(self, measure: str = "error") -> Tensor:
        """The mean over orders, with shape (k, s)."""
        return self._of(self.errors, measure).mean(-1)

    def standard_error(self, measure: str = "error") -> Tensor:
        """How far the means may be off, by the draw of orders and of test points, with shape (k, s)."""
        return self._of(self.draws, measure).std(-1)

    def exponent(self, name: str, than: str | None = None, measure: str = "error") -> Estimated:
        r"""The exponent :math:`\alpha` of an error like :math:`n^{-\alpha}`, or by how much it is larger than another.

        The interval is that of 95 % of the draws of orders and test points, which are the same for both kernels. The
        samples of an order are nested and its test points are shared; both stay so in each draw. It covers the choice
        of samples and of test points that stand for those that there are; neither other data, nor what a curve that
        is no power law would do beyond the sizes that were measured. Where n is all there is, all orders hold the
        same samples, and what another training set would do is not in it.

        Args:
            name: The kernel.
            than: The other one.
            measure: ``"error"`` or ``"wrong"``.
        """
        both = [self._fitted(one, measure, exponents) for one in ([name] if than is None else [name, than])]
        values, draws = zip(*both, strict=True)
        return estimated(values[0], draws[0]) if than is None else estimated(values[0] - values[1],
                                                                            draws[0] - draws[1])

    def ratio(self, name: str, than: str, samples: int | None = None, measure: str = "error") -> Estimated:
        """The error of a kernel over that of another one, on the same samples and test points.

        Args:
            name: The kernel.
            than: The other one.
            samples: The number of samples; if not given, the largest that both were fitted to.
            measure: ``"error"`` or ``"wrong"``.
        """
        i, j = self.place(name), self.place(than)
        mean, draws = (self._above_nought(values, measure)
                       for values in (self.mean(measure), self._of(self.draws, measure)))
        shared = [place for place, n in enumerate(self.samples) if samples in (None, n)
                  and not bool(mean[[i, j], place].isnan().any())]
        if not shared:
            raise DataError(f"{name!r} and {than!r} have no fits to {'the same' if samples is None else samples} "
                            f"samples. Numbers of samples are {self.samples}.")
        place = shared[-1]
        return estimated(mean[i, place] / mean[j, place], draws[i, place] / draws[j, place])

    def bend(self, name: str, measure: str = "error") -> Estimated | None:
        r"""The coefficient of :math:`\log^2 n` beside the line: positive where the curve flattens, nought for a line.

        ``None`` for fewer than three sizes.
        """
        if int(self.there(name, measure).sum()) < BENT:
            return None
        return estimated(*self._fitted(name, measure, bends))

    def floor(self, name: str, measure: str = "error") -> Estimated | None:
        r"""The floor :math:`e_\infty` of :math:`e_\infty + A n^{-\alpha}`, where the curve asks for one.

        It does if it flattens, so that the interval of its bend is above nought, if that of the floor is too, and if
        there are five sizes at least. Otherwise ``None``.
        """
        bend = self.bend(name, measure)
        if bend is None or bend.low <= 0 or int(self.there(name, measure).sum()) < FLOORED:
            return None
        found = estimated(*self._fitted(name, measure, lambda sizes, errors: floored(sizes, errors)[0]))
        return found if found.low > 0 else None

    def local(self, measure: str = "error") -> Tensor:
        """The exponents from each number of samples to the next, with shape (k, s - 1)."""
        logs = self._above_nought(self.mean(measure), measure).log()
        return -logs.diff(dim=1) / torch.tensor(self.samples, dtype=torch.float64).log().diff()

    def best(self, measure: str = "error", samples: int | None = None) -> list[str]:
        """The kernels with the least error, and those whose difference from it is within its interval."""
        mean = self.mean(measure)
        place = len(self.samples) - 1 if samples is None else self._size(samples)
        while samples is None and place and bool(mean[:, place].isnan().any()):
            place -= 1
        order = [i for i in mean[:, place].argsort().tolist() if not bool(mean[i, place].isnan())]
        first = self.names[order[0]]
        level = [self.names[i] for i in order[1:]
                 if self.ratio(self.names[i], first, self.samples[place], measure).low <= 1]
        return [first, *level]

    @classmethod
    def beside(cls, found: Mapping[str, LearningCurves] | Sequence[LearningCurves]) -> LearningCurves:
        """Learning curves in one; orders and test points have to be the same.

        Args:
            found: Curves; or curves by name, and the name is put behind those of their kernels, in brackets.

        Raises:
            DataError: If none came, names come twice, or samples were taken in other orders.
        """
        words = list(found) if isinstance(found, Mapping) else [""] * len(found)
        all_ = list(found.values()) if isinstance(found, Mapping) else list(found)
        if not all_:
            raise DataError("There are no curves to put beside each other. Pass results of ks.learning_curves, in a "
                            "list or by name.")
        first = all_[0]
        samples = sorted({n for curves in all_ for n in curves.samples})
        names = [f"{name} ({word})" if word else name for word, curves in zip(words, all_, strict=True)
                 for name in curves.names]
        for curves in all_:
            most = min(curves.orders.shape[1], first.orders.shape[1])
            alike = (curves.errors.keys() == first.errors.keys() and curves.tests == first.tests
                     and curves.points == first.points and curves.orders.shape[0] == first.orders.shape[0]
                     and curves.info["seed"] == first.info["seed"]
                     and torch.equal(curves.orders[:, :most], first.orders[:, :most]))
            if not alike:
                raise DataError("Curves are put beside each other that are of the same samples in the same orders, and "
                                "of the same test points. Take as many samples, repeats and test points, and the same "
                                "seed.")
        if len(set(names)) < len(names):
            raise DataError(f"Kernels are told apart by their names, and these came: {', '.join(names)}. Name them "
                            "apart.")
        spread = lambda table, curves: _spread(table, [samples.index(n) for n in curves.samples], len(samples))
        joined = lambda of: torch.cat([spread(of(curves), curves) for curves in all_])
        return cls(
            names, [text for curves in all_ for text in curves.kernels], samples,
            {measure: joined(lambda curves, m=measure: curves.errors[m]) for measure in first.errors},
            {measure: joined(lambda curves, m=measure: curves.draws[m]) for measure in first.errors},
            joined(lambda curves: curves.ridges), sorted({ridge for curves in all_ for ridge in curves.offered}),
            torch.cat([curves.costs for curves in all_]), max((c.orders for c in all_), key=lambda t: t.shape[1]),
            first.points, [count for curves in all_ for count in curves.copies], first.tests, dict(first.info))

    # -- words -------------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"LearningCurves({self.extent()}: {self.said()})"

    def extent(self) -> str:
        """How much there is of everything."""
        k, r = len(self.names), self.orders.shape[0]
        return (f"{k} kernel{'s' * (k != 1)}, {self.samples[0]:,} to {self.samples[-1]:,} samples in {r} "
                f"order{'s' * (r != 1)}, {self.tests:,} test points")

    def said(self, measure: str = "error") -> str:
        """Which kernel has the least error, and whose falls fastest, in words."""
        return wording.said(self, measure)

    def to_frame(self) -> pd.DataFrame:
        """One row for each kernel and number of samples."""
        import pandas as pd

        rows = []
        means, offs = ({measure: table(measure) for measure in self.errors}
                       for table in (self.mean, self.standard_error))
        for i, name in enumerate(self.names):
            for j, n in enumerate(self.samples):
                if bool(means["error"][i, j].isnan()):
                    continue
                row: dict[str, Any] = {"kernel": name, "samples": n, "points": n * self.copies[i]}
                for measure in self.errors:
                    row |= {measure: float(means[measure][i, j]), f"{measure} ±": float(offs[measure][i, j])}
                rows.append(row | {"ridge": float(self.ridges[i, j].median())})
        return pd.DataFrame(rows)

    def laws(self, measure: str = "error") -> pd.DataFrame:
        """One row for each kernel: its exponent, its bend, its floor, and what it cost."""
        return wording.laws(self, measure)

    def table(self, measure: str = "error") -> pd.DataFrame:
        """One row for each kernel: its errors by the number of samples, its law, and what it cost, as text."""
        return wording.table(self, measure)

    def check(self) -> Check:
        """Whether fits beat a constant, ridges are inside of what was offered, and orders differ."""
        mean = self.mean()
        worst = float(mean[~mean.isnan()].max())
        rows = [CheckRow("constant", "pass" if worst < 1 else "warn", worst, 1.0,
                         f"The worst fit has {worst:.3g} of the error of the best constant.")]
        chosen = self.ridges[~self.ridges.isnan()]
        if len(self.offered) > 1 and len(chosen):
            ends = {end: float((chosen == end).double().mean()) for end in (self.offered[0], self.offered[-1])}
            end, share = max(ends.items(), key=lambda item: item[1])
            rows.append(CheckRow("ridges", "pass" if share <= 0.5 else "warn", share, 0.5,
                                 f"{share:.0%} of the fits took the ridge {end:g}, at one end of what was offered."))
        part = self.samples[-1] / self.points
        rows.append(CheckRow("orders", "pass" if part <= 0.5 else "warn", part, 0.5,
                             f"The most samples of an order are {part:.0%} of all there are: orders share "
                             f"{'most' if 0.5 < part < 1 else 'all' if part == 1 else 'few enough'} of them."))
        return Check(tuple(rows))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _of(self, tables: Mapping[str, Tensor], measure: str) -> Tensor:
        return tables[as_choice(measure, "measure", self.errors)]

    def place(self, name: str) -> int:
        """The place of a kernel among the names."""
        if name not in self.names:
            raise DataError(f"There is no kernel {what_came(name)}. There are {', '.join(self.names)}.")
        return self.names.index(name)

    def _size(self, samples: int) -> int:
        if samples not in self.samples:
            raise DataError(f"Numbers of samples are {self.samples}; {what_came(samples)} came. Pass one of them.")
        return self.samples.index(samples)

    def there(self, name: str, measure: str = "error") -> Tensor:
        """At which numbers of samples a kernel was fitted, with shape (s,)."""
        return ~self._of(self.errors, measure)[self.place(name)].isnan().any(-1)

    def shared(self, measure: str) -> int:
        """The place of the largest number of samples that all kernels were fitted to."""
        shared = (~self.mean(measure).isnan().any(0)).nonzero().flatten()
        return int(shared[-1]) if len(shared) else 0

    def _above_nought(self, values: Tensor, measure: str) -> Tensor:
        """Errors that have a logarithm: a share of nought wrong is less than one test point."""
        least = 0.5 / self.tests / max(1, self.orders.shape[0]) if measure == "wrong" else TINY
        return values.clamp(min=least)

    def _fitted(self, name: str, measure: str, law: Any) -> tuple[Tensor, Tensor]:
        """What a law finds in the errors of a kernel, and in those that were drawn again."""
        i, there = self.place(name), self.there(name, measure)
        if int(there.sum()) < 2:
            raise DataError(f"A law is read off two numbers of samples at least, and {name!r} was fitted to "
                            f"{int(there.sum())}. Pass more in samples.")
        sizes = torch.tensor(self.samples, dtype=torch.float64)[there]
        errors = self._above_nought(self.mean(measure)[i, there], measure)
        return law(sizes, errors), law(sizes, self._above_nought(self._of(self.draws, measure)[i, there], measure))


def _spread(table: Tensor, places: list[int], size: int) -> Tensor:
    """A table with its columns at these places, and NaN at the others."""
    wide = table.new_full((table.shape[0], size, table.shape[2]), torch.nan)
    wide[:, places] = table
    return wide
