"""A kernel of a recorded run as a result: its matrix, what kind it is, and the laws that it does or does not obey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import what_came
from ...errors import DataError
from ...result import Check, CheckRow, Result
from ...text import with_minus

if TYPE_CHECKING:
    import pandas as pd

#: What each kind is called.
NAMES = {"step": "step kernel", "path": "path kernel", "second": "second-order kernel", "loss": "loss path kernel"}

#: How far from its laws a kernel may be by rounding, relative.
ROUNDED = {"float64": 1e-12, "float32": 1e-5}

#: The largest matrix of which all eigenvalues are computed; of a larger one a corner, which obeys the same laws.
MOST = 1024


@dataclass(frozen=True, eq=False, repr=False)
class PathKernel(Result):
    r"""A kernel of a recorded run between two sets of points.

    Attributes:
        matrix: Its values: with shape :math:`(q, m)`, or :math:`(q, c, m, c)` where pairs of outputs are kept apart, or
            :math:`(q, c, n)` for the second-order kernel times the loss derivatives of the n samples.
        error: The standard error of each value, of a mean over runs; else ``None``.
        kind: ``"step"``, ``"path"``, ``"second"`` or ``"loss"``.
        outputs: ``"trace"`` if outputs are summed over, ``"full"`` if pairs of them are kept apart, ``"each"`` of a
            second-order kernel.
        symmetric: Whether a kernel of this kind is symmetric.
        definite: Whether it is positive semi-definite.
        square: Whether rows and columns are the same points, so that these laws can be measured.
        ids: The id of each row: of a training sample its own, of another point its place.
        column_ids: The id of each column.
        labels: A word for each row, or ``None``.
        column_labels: A word for each column, or ``None``.
        output_names: A word for each output.
        info: Provenance: run, step, quadrature, the time of the run, dtype, cost, notes.
    """

    matrix: Tensor
    error: Tensor | None
    kind: str
    outputs: str
    symmetric: bool
    definite: bool
    square: bool
    ids: list[int]
    column_ids: list[int]
    labels: list[str] | None
    column_labels: list[str] | None
    output_names: list[str]
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def mean_of(cls, kernels: Sequence[PathKernel]) -> PathKernel:
        r"""The mean of the kernels of several runs, entry by entry, with its standard error :math:`s / \sqrt S`.

        Of path kernels of runs with S seeds it estimates :math:`E \int K_t\,dt`. It keeps their laws: a mean of
        symmetric or positive semi-definite kernels is one.

        Args:
            kernels: Kernels of one kind between the same points, two or more.

        Raises:
            DataError: If they are not.

        Example:
            >>> made = lambda value: PathKernel(torch.full((1, 1), value), None, "path", "trace", True, True, True,
            ...                                 [0], [0], None, None, ["0"])
            >>> mean = PathKernel.mean_of([made(1.0), made(3.0)])
            >>> float(mean.matrix), float(mean.error)
            (2.0, 1.0)
        """
        some = list(kernels) if isinstance(kernels, Sequence) else []
        if len(some) < 2 or not all(isinstance(kernel, PathKernel) for kernel in some):
            raise DataError(
                f"A mean with an error needs the kernels of two runs or more, as a list; {what_came(kernels)} of "
                f"{len(some)} came. Compute ks.path_kernel for each run at the same points."
            )
        first = some[0]
        alike = lambda k: (k.kind, k.outputs, k.square, k.matrix.shape, k.ids, k.column_ids, k.output_names)
        odd = next((i for i, kernel in enumerate(some) if alike(kernel) != alike(first)), None)
        if odd is not None:
            raise DataError(
                f"A mean is taken of kernels of one kind between the same points; kernel 0 is {first.extent()}, and "
                f"kernel {odd} is {some[odd].extent()}. Ask for the same kind, points and outputs of each run."
            )
        values = torch.stack([kernel.matrix for kernel in some])
        info = {**first.info, "runs": len(some)}
        if "correction" in info:
            info["correction"] = sum(kernel.info["correction"] for kernel in some) / len(some)
        info["notes"] = list(dict.fromkeys(note for kernel in some for note in kernel.info.get("notes", [])))
        return replace(first, matrix=values.mean(0), error=values.std(0) / len(some) ** 0.5,
                       info=info)

    def flat(self) -> Tensor:
        """The values as a matrix with a row for each point, or for each point and output."""
        axes = 1 if self.outputs == "trace" else 2
        return self.matrix.reshape(self.matrix.shape[:axes].numel(), self.matrix.shape[axes:].numel())

    def traced(self) -> Tensor:
        """The values summed over outputs, with shape :math:`(q, m)`."""
        if self.outputs == "trace":
            return self.matrix
        return self.matrix.sum(1) if self.outputs == "each" else torch.einsum("icjc->ij", self.matrix)

    def asymmetry(self) -> float:
        r""":math:`\|K - K^T\| / \|K\|`.

        Raises:
            DataError: If rows and columns are not the same points.
        """
        self._check_square()
        flat = self.flat()
        size = float(flat.norm())
        return float((flat - flat.T).norm()) / size if size else 0.0

    def least(self) -> float:
        """The least eigenvalue of the symmetric part, as a share of the largest absolute one.

        Raises:
            DataError: If rows and columns are not the same points.
        """
        self._check_square()
        corner = self.flat()[:MOST, :MOST]
        if not len(corner):
            return 0.0
        found = torch.linalg.eigvalsh((corner + corner.T) / 2)
        size = float(found.abs().max())
        return float(found[0]) / size if size else 0.0

    def _check_square(self) -> None:
        if not self.square:
            raise DataError(
                "Whether a kernel is symmetric or positive is seen between the same points; rows and columns of this "
                "one differ. Compute it with z=None."
            )

    def extent(self) -> str:
        """Which kernel it is, and between how many points."""
        rows, columns = len(self.ids), len(self.column_ids)
        step = self.info.get("step")
        where = "" if step is None else f" of step {step}"
        runs = f", mean of {self.info['runs']} runs" if self.error is not None else ""
        c = len(self.output_names)
        outputs = {"trace": f"{c} outputs summed over", "full": f"pairs of {c} outputs", "each": f"{c} outputs"}
        said = f", {outputs[self.outputs]}" if c > 1 else ""
        what = "samples" if self.kind == "second" else "points"
        return f"{NAMES[self.kind]}{where}, {rows:,} by {columns:,} {what}{said}{runs}"

    def summary(self) -> str:
        return f"PathKernel({self.extent()}: {self.said()})"

    def said(self) -> str:
        """What can be said of the values in a few numbers."""
        if not self.matrix.numel():
            return "no entries"
        said = [f"from {self._number(self.matrix.min())} to {self._number(self.matrix.max())}"]
        if self.square:
            said.append(f"asymmetry {with_minus(f'{self.asymmetry():.1e}')}")
            said.append(f"least eigenvalue {with_minus(f'{self.least():.1e}')} of the largest")
        if "correction" in self.info:
            said.append(f"{self.info['correction']:.2%} of it of second order")
        if self.error is not None:
            said.append(f"standard error {self._share_of_error():.2%} of its norm")
        return ", ".join(said)

    @staticmethod
    def _number(value: Tensor) -> str:
        return with_minus(f"{float(value):.3g}")

    def _share_of_error(self) -> float:
        assert self.error is not None
        size = float(self.matrix.norm())
        return float(self.error.norm()) / size if size else 0.0

    def to_frame(self) -> pd.DataFrame:
        """One row for each value: its point and its other point, their outputs and labels, and its error."""
        import pandas as pd

        axes: list[tuple[str, list[Any]]] = [("row", self.ids), ("column", self.column_ids)]
        if self.outputs != "trace":
            axes.insert(1, ("output", self.output_names))
        if self.outputs == "full":
            axes.append(("other output", self.output_names))
        index = pd.MultiIndex.from_product([range(len(values)) for _, values in axes])
        places = dict(zip((name for name, _ in axes), (index.get_level_values(i) for i in range(len(axes))),
                          strict=True))
        table = pd.DataFrame({name: pd.Series(values, dtype=object if name.endswith("output") else None)
                             .iloc[places[name]].to_numpy() for name, values in axes})
        for name, words in (("row", self.labels), ("column", self.column_labels)):
            if words is not None:
                table[f"{name} label"] = pd.Series(words, dtype=object).iloc[places[name]].to_numpy()
        table["value"] = self.matrix.flatten().numpy()
        if self.error is not None:
            table["error"] = self.error.flatten().numpy()
        return table

    def check(self) -> Check:
        """Whether the values are numbers, and the laws of the kind measured on them."""
        finite = bool(self.matrix.isfinite().all())
        rows = [CheckRow("finite", "pass" if finite else "fail", None, None,
                         "All values are finite." if finite else "Some values are NaN or infinite.")]
        if finite and self.kind == "second":
            rows.append(CheckRow("laws", "pass", None, None,
                                 "It stands between an output and a sample's loss: neither symmetric nor positive "
                                 "semi-definite, and none is claimed."))
        elif finite and self.square:
            rows += self._laws()
        elif finite:
            rows.append(CheckRow("laws", "pass", None, None,
                                 "Rows and columns are different points, so symmetry and sign are not measured."))
        return Check(tuple(rows))

    def _laws(self) -> list[CheckRow]:
        asymmetry, least = self.asymmetry(), self.least()
        limit = ROUNDED[self.info.get("dtype", "float64")]
        corner = f" of its first {MOST:,} rows" if len(self.flat()) > MOST else ""
        apart = f"K and its transpose differ by {with_minus(f'{asymmetry:.1e}')} of its norm"
        lowest = f"the least eigenvalue{corner} is {with_minus(f'{least:.1e}')} of the largest"
        if not self.symmetric:
            return [
                CheckRow("symmetry", "pass", asymmetry, None,
                         f"{apart}: a step kernel is not symmetric, and none is claimed."),
                CheckRow("sign", "pass", least, None,
                         f"Of the symmetric part {lowest}: a step kernel need not be positive, and none is claimed."),
            ]
        return [
            CheckRow("symmetry", "pass" if asymmetry <= limit else "fail", asymmetry, limit,
                     f"{apart}; it is symmetric."),
            CheckRow("sign", "pass" if least >= -limit else "fail", least, -limit,
                     f"{lowest[0].upper()}{lowest[1:]}; it is positive semi-definite."),
        ]
