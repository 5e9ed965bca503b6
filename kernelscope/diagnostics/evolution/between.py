r"""The kernels of two runs, compared on the same points.

.. math:: D_{st} = \mathrm{CKA}(K^a_s, K^b_t) = \frac{\langle HK^a_sH,\, HK^b_tH\rangle}{\|HK^a_sH\|\,\|HK^b_tH\|}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_count, as_switch, as_whole, what_came
from ...decomposition.precision import checked_dtype
from ...decomposition.questions import checked_memory, checked_place, checked_run
from ...decomposition.stochastic.points import Points, as_points
from ...errors import DataError
from ...network import undisturbed
from ...progress import Bar
from ...result import Check, CheckRow, Result
from ...run.run import Run
from ..states import gradients_of, states, times_of
from .choosing import evenly
from .moments import Pairs
from .scene import PRODUCTS, check_room
from .words import number

if TYPE_CHECKING:
    import pandas as pd

#: On how many points runs are compared at most.
MOST = 1000


@dataclass(frozen=True, eq=False, repr=False)
class KernelDistances(Result):
    """How alike the kernels of two runs are, at some times of each.

    Attributes:
        first: The steps of the first run, with shape (a,).
        second: The steps of the second run, with shape (b,).
        cka: CKA between them, with shape (a, b).
        points: On how many points.
        info: Facts to print.
    """

    first: Tensor
    second: Tensor
    cka: Tensor
    points: int
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def distance(self) -> Tensor:
        """1 - CKA."""
        return 1 - self.cka

    def said(self) -> str:
        """How the runs end, in words."""
        start, end = float(self.cka[0, 0]), float(self.cka[-1, -1])
        how = "came nearer" if end > start + 0.005 else "went apart" if end < start - 0.005 else "stayed as near"
        told = f"from {number(start)} to {number(end)}" if how != "stayed as near" else f"at {number(end)}"
        return f"on {self.points:,} points the kernels of the two runs {how}: CKA {told}"

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"KernelDistances({self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each time of the first run, one column for each of the second."""
        import pandas as pd

        columns: dict[str, Any] = {"step": self.first.tolist()}
        return pd.DataFrame(columns | {f"at {step}": values.tolist() for step, values in
                                       zip(self.second.tolist(), self.cka.T, strict=True)})

    def check(self) -> Check:
        """Whether CKA lies between 0 and 1."""
        low, high = float(self.cka.min()), float(self.cka.max())
        beyond, limit = max(-low, high - 1), 1e-4
        return Check((CheckRow("cka", "pass" if beyond <= limit else "fail", beyond, limit,
                               f"CKA lies between {low:.3g} and {high:.3g}."),))


def kernel_distances(run_a: Run, run_b: Run, x: Any = None, *, times: Any = None, samples: int = MOST,
                     output: int | Callable[..., Tensor] | None = None, dtype: torch.dtype | None = None,
                     device: torch.device | str | None = None, memory: int | str = "1GB",
                     progress: bool | None = None) -> KernelDistances:
    r"""CKA between the kernels of two runs, for all pairs of times, on the same points.

    Args:
        run_a: The first run.
        run_b: The second run; of another network too, if it takes the same inputs.
        x: The points; the training samples of the first run if not given.
        times: How many times of each, or their steps, as in :func:`evolution`.
        samples: On how many points at most, evenly among them.
        output: What the kernels are of.
        dtype: The precision; without it that of each network.
        device: Where to compute.
        memory: About how much may be used.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Raises:
        DataError: If the runs take other inputs, or have no steps.
        OutOfBudget: If the kernels do not fit into memory.

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> model, x, y = torch.nn.Linear(2, 1).double(), torch.eye(2).double(), torch.ones(2, 1).double()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> ks.kernel_distances(recording.run, recording.run, times=2).cka.round(decimals=9)
        tensor([[1., 1.],
                [1., 1.]], dtype=torch.float64)
    """
    runs = [checked_run(run_a), checked_run(run_b)]
    steps = [times_of(run, times) for run in runs]
    samples = as_count(samples, "samples", least=2)
    quiet = None if progress is None else not as_switch(progress, "progress")
    if output is not None and as_whole(output) is None and not callable(output):
        raise DataError(f"output must be None for all outputs, the number of one, or a function of them; "
                        f"{what_came(output)} came. Leave it out for the kernels of the whole networks.")
    checked_dtype(dtype)
    room = checked_memory(memory)
    shapes = [[tuple(t.shape[1:]) for t in run.samples.inputs] for run in runs]
    if shapes[0] != shapes[1]:
        raise DataError(f"Kernels are compared on the same points, and the networks take inputs of shapes {shapes[0]} "
                        f"and {shapes[1]}. Compare runs on the same data.")
    places = [checked_place(device, next(iter(run.network.parameters.values())).device) for run in runs]
    with undisturbed(places[0]):
        points = as_points(runs[0], x)
        points = points.chosen(evenly(torch.arange(len(points)), samples))
        if len(points) < 2:
            raise DataError("Kernels are compared on two points at least; one came. Pass more.")
        kinds = [dtype or (torch.float64 if run.dtype == torch.float64 else torch.float32) for run in runs]
        kind = max(kinds, key=lambda each: each.itemsize)
        count = sum(map(len, steps))
        check_room(len(points), 0, kind, room)
        fits = Pairs.fitting(count, len(points), kind.itemsize, (1 - PRODUCTS) / 2 * room)
        points = points.chosen(evenly(torch.arange(len(points)), fits))
        pairs: Pairs | None = None
        with Bar(total=count, desc="kernels of two runs", unit="time", disable=quiet) as bar:
            for i, (run, own, place, each) in enumerate(zip(runs, steps, places, kinds, strict=True)):
                for j, matrix in enumerate(kernels_at(run, own, points, output, each, place, int(PRODUCTS * room))):
                    matrix = matrix.to("cpu", kind)
                    pairs = Pairs(count, torch.arange(len(points)), matrix) if pairs is None else pairs
                    pairs.keep(i * len(steps[0]) + j, matrix)
                    bar.update()
        assert pairs is not None
    cka = pairs.cka()[:len(steps[0]), len(steps[0]):].clone()
    return KernelDistances(torch.tensor(steps[0]), torch.tensor(steps[1]), cka, len(points),
                           {"runs": [str(run) for run in runs], "dtype": str(kind).removeprefix("torch.")})


def kernels_at(run: Run, steps: list[int], points: Points, output: Any, dtype: torch.dtype, device: torch.device,
               memory: int) -> Iterator[Tensor]:
    """The empirical NTK on points at some steps of a run, one after the other, each with shape (n, n)."""
    features = gradients_of(run, output=output, dtype=dtype, device=device, memory=max(memory, 1))
    for _, at in states(run, steps):
        yield features.at(at).inner(points.inputs)
