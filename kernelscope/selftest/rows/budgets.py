"""F14: more points than the memory that may be used has room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kernelscope as ks

from ...errors import OutOfBudget
from ..judging import Case, Cases
from ..row import Done, Silent, refused
from ..subjects import chords, classes, network, points, run, spoken, texts
from ..traps import forget_peak, peak

#: What a call with no room may take all the same: blocks of some thousand points, and what libraries load.
ASIDE = 200 * 2**20

#: The points of a fit whose matrix would take 3 GB.
N = 20_000


def keeps_to(call: Callable[[str], Tensor], room: str, enough: str | None) -> Done | None:
    """A call with little room is refused before it takes more; or gives what it gives with enough.

    Raises:
        Silent: If it takes more than it may without a word, or gives something else.
    """
    forget_peak()
    before = peak()
    try:
        found = call(room)
    except OutOfBudget as error:
        if not any(unit in str(error) for unit in ("B", "bytes")):
            raise AssertionError(f"no number of bytes is named: {error}") from error
        if peak() - before > ASIDE:
            raise Silent(f"{(peak() - before) >> 20} MiB were taken before it was refused") from error
        return refused(error)
    if peak() - before > ASIDE:
        raise Silent(f"{(peak() - before) >> 20} MiB were taken, and {room} was allowed")
    if enough is not None:
        gap = float((found - call(enough)).abs().max())
        if not gap <= 1e-8:
            raise Silent(f"with {room} the answer is {gap:.1e} from that with {enough}")
    return None


def _fit(memory: str, solver: Any, n: int = N) -> Tensor:
    x = points(n)
    return ks.fit(ks.kernels.Gaussian(1.0), x, x[:, 0], ridge=1e-2, solver=solver, memory=memory,
                  progress=False).coefficients


class Budgets(Cases):
    """Calls that may use next to nothing."""

    id, sentence = "F14", "There are more points than memory has room for."

    def cases(self) -> Iterator[Case]:
        x, y = points(), classes()
        model = network()
        huge: dict[str, Callable[[str], Tensor]] = {
            "fit of 20,000 centers, direct": lambda m: _fit(m, "direct"),
            "posterior of 20,000 samples": lambda m: ks.posterior(
                ks.kernels.Gaussian(1.0), points(N), points(N)[:, 0], x[:5], ridge=1e-2, memory=m,
                progress=False).mean,
            "learning curves of 20,000 samples": lambda m: torch.tensor(len(ks.learning_curves(
                {"a": ks.kernels.Gaussian(1.0)}, (points(N), points(N)[:, 0]), (x, x[:, 0]), samples=[N], exact=N,
                repeats=1, memory=m).samples)),
        }
        for name, call in huge.items():
            yield name, partial(keeps_to, call, "20MB", None)
        small: dict[str, Callable[[str], Tensor]] = {
            "fit of 12 centers": lambda m: _fit(m, "direct", 12),
            "fit of 12 centers by conjugate gradients": lambda m: _fit(m, "cg", 12),
            "decompose": lambda m: ks.decompose(run(), x[:2], memory=m).contributions,
            "explain": lambda m: ks.explain(run(), x[:2], memory=m).decomposition.contributions,
            "path_kernel": lambda m: ks.path_kernel(run(), x, memory=m).matrix,
            "evolution": lambda m: ks.evolution(run(), x, y, memory=m, progress=False, movie=0).cka,
            "coverage": lambda m: ks.coverage(run(), x, memory=m).coverage,
            "Tangent": lambda m: ks.kernels.Tangent(model, memory=m)(x),
            "gradient_scores": lambda m: ks.gradient_scores(model, (x, y), (x, y), loss=F.cross_entropy,
                                                            memory=m).scores,
            "influence": lambda m: ks.influence(run(), x[:2], memory=m).influences,
            "influence, gauss-newton": lambda m: ks.influence(run(), x[:2], method="gauss-newton",
                                                              memory=m).influences,
            "decompose, thinned": lambda m: ks.decompose(run().thinned(2), x[:2], memory=m).contributions,
            "decompose, from checkpoints": lambda m: ks.decompose(chords(), x[:2], memory=m).contributions,
            "token_contributions": lambda m: ks.token_contributions(spoken(), texts()[0][:1], memory=m).contributions,
            "compare": lambda m: ks.compare(run(), run(), x, k=3, draws=10, memory=m).kernels["a"],
            "retrain": lambda m: ks.retrain(run(), [range(8)] * 3, memory=m).parameters["0.weight"],
            "evaluate": lambda m: ks.evaluate(run(), x[:3], y[:3], subsets=8, seeds=2, memory=m, progress=False
                                              ).own.measured,
            "scalars for trackers": lambda m: torch.tensor([v for v in ks.integrations.run_scalars(
                run(), x, targets=y, times=2, memory=m).five.values() if v is not None]),
            "products of a Gaussian": lambda m: ks.KernelOperator(ks.kernels.Gaussian(1.0, memory=m), points(500)
                                                                  ) @ points(500, 1),
        }
        for name, call in small.items():
            for room in ("2KB", "100KB"):
                yield f"{name}, {room}", partial(keeps_to, call, room, "1GB")


ROWS = (Budgets,)
