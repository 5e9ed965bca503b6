"""What is known of the kernel of a network along its training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_path
from ...errors import DataError
from ...result import Check, CheckRow, Result
from ...text import with_minus
from .words import aligned_when, carries, course_of, is_known, moved_when, number, regressed

if TYPE_CHECKING:
    import pandas as pd

#: How far rounding may bring CKA beyond 1, a matrix from symmetric, and an eigenvalue below 0, relative to the largest.
ROUNDING = {"float64": 1e-10, "float32": 1e-4}


@dataclass(frozen=True, eq=False, repr=False)
class KernelEvolution(Result):
    r"""The kernel of a network at several times of its training.

    Kernels are those of the training samples, unless another thing is said.

    Attributes:
        times: The steps at whose start they are taken, ascending, with shape (t,).
        clock: The sum of the learning rates until then, with shape (t,).
        series: By name a number for each time, with shape (t,): ``"trace"``, ``"norm"``; ``"alignment"`` with the
            targets, centred, and ``"alignment x"`` of the points, NaN where targets are all the same; ``"cosine
            first"``, ``"cosine last"``, ``"cka first"`` and ``"cka last"`` with the kernel of the first and the last
            time; ``"drift"`` :math:`\|K_t - K_0\|/\|K_0\|`; ``"distance"`` :math:`S = 1 - \cos(K_t, K_{t'})` from
            the time before (0 at the first); ``"scale"`` :math:`\langle K_t, K_T\rangle/\langle K_T, K_T\rangle`;
            ``"entropy rank"``, ``"participation"``, ``"effective dimension"`` at the ridge; ``"label mass"``, the
            share of the targets in the span of as many eigenvectors as targets have columns; ``"top share"`` of the k
            largest eigenvalues in the trace; ``"least"`` eigenvalue relative to the largest, ``"asymmetry"``;
            ``"loss"``, ``"score"``, ``"loss x"``, ``"score x"`` of the network itself.
        values: The k largest eigenvalues, with shape (t, k).
        cka: CKA between all times, with shape (t, t).
        regression: By name a number for each time, of kernel regression with its kernel: ``"left out"``, the squared
            error of leaving one sample out, relative to the variance of the targets; of the points ``"score"``,
            ``"agreement"`` (share of the answers of the network in the end) and ``"distance"`` from its outputs; the
            same ``" from f0"``, from the initial output; and ``"carried"``, how far the network's own outputs, fitted
            on the samples, are from those on the points.
        ridge: The relative ridge of the regression, and of the effective dimension.
        task: What a score is: ``"accuracy"`` or ``"R²"``.
        classes: The number of columns of the targets.
        silent: The test of silent alignment, see :func:`silent_alignment`.
        formula: Of squared losses and plain steps, how far :math:`f_0 + k_x^T K^{-1}(I - e^{-s\tau K/n})(y - f_0)` is
            from the network, relative to its whole change: with the ``"last"`` kernel and with the ``"first"``, on
            samples and (``" x"``) on points, in the end and ``" at most"`` on the way; ``"tau"``, in the time of the
            mean loss, in which a sum over a batch goes faster by its size. Empty of others.
        movie: Kernel matrices of some samples, sorted by class or target, with shape (f, s, s), or ``None``.
        movie_times: Their steps.
        movie_classes: The class of each of these samples, or ``None``.
        info: Facts to print.
    """

    times: Tensor
    clock: Tensor
    series: dict[str, Tensor]
    values: Tensor
    cka: Tensor
    regression: dict[str, Tensor]
    ridge: float
    task: str
    classes: int
    silent: dict[str, Any]
    formula: dict[str, float]
    movie: Tensor | None
    movie_times: list[int]
    movie_classes: list[int] | None
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def velocity(self) -> Tensor:
        r"""The distance from each time to the next per step, :math:`S(K_t, K_{t'}) / (t' - t)`, with shape (t - 1,)."""
        return self.series["distance"][1:] / self.times.diff()

    @property
    def velocity_by_clock(self) -> Tensor:
        """The same per unit of the sum of learning rates."""
        return self.series["distance"][1:] / self.clock.diff()

    def effective_rank(self, kind: str = "entropy") -> Tensor:
        """The effective rank at each time, by ``"entropy"`` or by ``"participation"``."""
        return self.series["entropy rank" if kind == "entropy" else "participation"]

    def said(self) -> str:
        """What the kernel did, in words."""
        parts = [moved_when(self.times, self.series["cka first"], self.series["cka last"]),
                 course_of("alignment with the targets", self.series["alignment"], self.series.get("alignment x"))]
        if "carried" in self.regression:
            parts.append(regressed(self.regression, self.series.get("score x"), self.task))
        elif "left out" in self.regression:
            parts.append(course_of("what kernel regression misses of a sample that is left out",
                                   self.regression["left out"], None))
        return with_minus("; ".join(part for part in parts if part))

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"KernelEvolution({self.said()})"

    def silent_words(self) -> str:
        """What the test of silent alignment found, in a sentence."""
        return with_minus(aligned_when(self.silent, self.formula))

    def to_frame(self) -> pd.DataFrame:
        """One row for each time."""
        import pandas as pd

        columns: dict[str, Any] = {"step": self.times.tolist(), "clock": self.clock.tolist()}
        columns |= {name: values.tolist() for name, values in self.series.items()}
        columns |= {f"regression {name}": values.tolist() for name, values in self.regression.items()}
        return pd.DataFrame(columns)

    def check(self) -> Check:
        """Whether the numbers are those of positive semidefinite kernels, and what a regression with them says."""
        limit = ROUNDING[self.info.get("dtype", "float64")]
        lowest, highest = float(self.cka.min()), float(self.cka.max())
        beyond = max(-lowest, highest - 1, float((self.cka.diagonal() - 1).abs().max())
                     if float(self.series["norm"].min()) else 0.0)
        skew = float(self.series["asymmetry"].max())
        least = float(self.series["least"].min())
        rows = [
            _row("cka", beyond, limit, f"CKA between times lies between {lowest:.3g} and {highest:.3g}, and is 1 with "
                                       "itself."),
            _row("symmetry", skew, limit, f"Kernel matrices differ from their transposes by {skew:.1e} of the largest "
                                          "entry."),
            _row("positive", -least, limit, f"The least eigenvalue of a kernel is {least:.1e} of the largest."),
        ]
        if "carried" in self.regression and is_known(self.regression["carried"]):
            near, far = (float(self.regression["carried"][i]) for i in (-1, 0))
            rows.append(CheckRow("closer", "pass" if near <= far else "warn", near, far,
                                 with_minus(f"{carries(near).capitalize()}, with the first up to {number(far)}.")))
        return Check(tuple(rows))

    def animate(self, path: str | Path, seconds: float = 0.7) -> Path:
        """Writes the kernel movie as a GIF, all of it or nothing.

        Args:
            path: The file, which ends on ``.gif``.
            seconds: How long a picture stands.

        Raises:
            DataError: If no movie was kept, or the file is none for a movie.
        """
        from ...plots.movies import write_movie

        place = as_path(path, "The file of a movie", 'animate("kernel.gif")')
        if self.movie is None or len(self.movie) < 2:
            raise DataError("This result keeps fewer than two pictures of the kernel. Ask for them: "
                            "ks.evolution(run, movie=6).")
        if place.suffix.lower() != ".gif":
            raise DataError(f"A movie is written as a GIF, and the file {place.name!r} is another. Call it kernel.gif.")
        return write_movie(self, place, seconds)


def _row(name: str, value: float, limit: float, sentence: str) -> CheckRow:
    ok = value <= limit and torch.isfinite(torch.tensor(value))
    return CheckRow(name, "pass" if ok else "fail", value, limit, sentence)
