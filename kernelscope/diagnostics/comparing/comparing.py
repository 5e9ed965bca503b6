r"""Two recorded runs, asked about the same probes: what changed.

The runs may differ in anything: optimizer, data, architecture, seed. What is compared is what both say of the same
points: their answers, the training samples these lean on, and the kernels that join the points. No parameter of one is
ever held against one of the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_seed, as_switch, as_whole, what_came
from ...decomposition.precision import checked_dtype
from ...decomposition.questions import checked_memory, checked_place, checked_run
from ...errors import DataError
from ...network import undisturbed
from ...run.run import Run
from ..coverage.coverage import coverage as coverage_of
from ..evolution.scene import check_room
from ..spectrum import spectrum
from .matching import WAYS, Matching, matched
from .metrics import SIDES
from .reading import Gathered, Reading, beside, readings
from .result import RunComparison
from .sides import Setting, Side, chosen, is_generative, same_answers

#: How many probes that are answered differently are kept to be drawn.
DRAWN = 24

#: How many matrices of the probes are held at once.
MATRICES = 8


def compare(a: Run, b: Run, probes: Any, *, targets: Any = None,
            output: int | str | Callable[..., Tensor] | None = None, ids: Sequence[Any] | None = None,
            again: Run | None = None, match: str = "content", k: int = 10,
            contributions: bool = True, coverage: bool = True, names: Sequence[str] = ("a", "b"), draws: int = 1000,
            seed: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
            memory: int | str = "1GB", progress: bool | None = None) -> RunComparison:
    r"""Compares what two runs say of the same probes: answers, the samples they lean on, kernels, coverage.

    .. math:: \mathrm{CKA} = \frac{\mathrm{HSIC}(K_a, K_b)}{\sqrt{\mathrm{HSIC}(K_a, K_a)\,\mathrm{HSIC}(K_b, K_b)}},
              \qquad o_k(x) = \frac{|\mathrm{top}_k(x; a) \cap \mathrm{top}_k(x; b)|}{k}

    Each number stands beside what it is held against: untrained networks, chance, other probes, and a further run of
    the first where one is given. Intervals are over probes: they say what other probes like these would have given,
    and not other runs.

    Args:
        a: The first run, what was.
        b: The second run, what is; of another network too, if it takes the same inputs.
        probes: The points both are asked about, in any form that :func:`decompose` takes.
        targets: Their targets, in the form of training.
        output: What is explained, as in :func:`decompose`. If not given it is, of classifiers, the logit of one class
            minus the mean of the others, in both runs of the same class: the true one, or the first run's answer; and
            of others all outputs.
        ids: What the probes are called, a word or number for each.
        again: A further run like the first, from another seed: what differs between these two anyway.
        match: Which training samples are the same: those of the same ``"content"``, input and target; of the same
            ``"input"``; or of the same ``"id"``, where both name samples alike.
        k: How many samples an answer leans on most.
        contributions: Whether contributions are compared; this goes through all steps of both runs.
        coverage: Whether coverage is compared.
        names: What the runs are called.
        draws: How often probes are drawn for intervals.
        seed: Of all draws.
        dtype: The precision of kernels and coverage; without it that of each network. Contributions are in float64.
        device: Where to compute.
        memory: About how much may be used, a number of bytes or a size such as ``"1GB"``.
        progress: Whether bars are shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`RunComparison`.

    Raises:
        DataError: If the runs take other inputs or explain other numbers of outputs, or are generative.
        OutOfBudget: If the kernels of the probes do not fit into memory.

    References:
        | Similarity of Neural Network Representations Revisited (Kornblith et al., 2019)
        | Feature Selection via Dependence Maximization (Song et al., 2012), equation 5

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> x = torch.randn(12, 3); y = (x[:, 0] > 0).long()
        >>> def train(rate):
        ...     model = torch.nn.Linear(3, 2)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        ...     with ks.record(model, (x, y), loss=F.cross_entropy) as recording:
        ...         for _ in range(20):
        ...             optimizer.zero_grad()
        ...             F.cross_entropy(model(x), y).backward()
        ...             optimizer.step()
        ...     return recording.run
        >>> found = ks.compare(train(0.1), train(1.0), torch.randn(30, 3), k=3)
        >>> found.data
        '12 and 12 samples, the same'
        >>> round(found.measure("cka").value, 6)                # of linear models all kernels are the same
        1.0
    """
    begun = time.perf_counter()
    runs = [_checked(run) for run in (a, b)] + ([] if again is None else [_checked(again)])
    as_choice(match, "match", WAYS)
    k, draws, seed = as_count(k, "k", least=1), as_count(draws, "draws"), as_seed(seed)
    as_switch(contributions, "contributions")
    as_switch(coverage, "coverage")
    if output is not None and not isinstance(output, str) and as_whole(output) is None and not callable(output):
        raise DataError(f"output must be None, a word such as \"margin\", the number of an output, or a function; "
                        f"{what_came(output)} came. Leave it out for what says most.")
    checked_dtype(dtype)
    room = checked_memory(memory)
    called = _words(names, "names", 2)
    _check_inputs(runs)
    place = checked_place(device, next(iter(runs[0].network.parameters.values())).device)
    setting = Setting(output, dtype, room, progress)
    with undisturbed(place):
        sides = [Side.of(run, probes, targets, place, dtype) for run in runs]
        count = len(sides[0].points)
        if count < 2:
            raise DataError("Runs are compared on two probes at least; one came. Pass more; thirty or so make "
                            "intervals that mean something.")
        check_room(MATRICES * count // 8, 0, torch.float64, room)
        words = [str(i) for i in range(count)] if ids is None else _words(ids, "ids", count)
        kernels = [side.kernels(room) for side in sides]
        features = [side.features() for side in sides]
    picked = None if output is not None or not contributions else chosen(sides[:2])
    found = []
    for i, side in enumerate(sides):
        own = picked if picked is None or i < 2 else chosen([sides[0], side])
        ledger = side.ledger(setting, None if own is None else own[min(i, 1)]) if contributions else None
        found.append(Gathered(side, kernels[i], features[i], ledger, coverage_of(
            side.run, side.points.inputs, baselines=False, dtype=dtype, device=place, memory=memory,
            progress=progress) if coverage else None))
    _check_outputs(found)
    matching = matched(runs[0], runs[1], match)
    table = beside(readings(found[0], found[1], matching, k, draws, seed),
                   None if again is None else lambda: readings(found[0], found[2], matched(runs[0], runs[2], match), k,
                                                               0, seed))
    return _result(found[:2], matching, table, words, called, k, {
        "match": match, "again": again is not None, "draws": draws, "seed": seed, "explained": _explained(
            sides, output, picked) if contributions else "", "seconds": round(time.perf_counter() - begun, 3)})


def _checked(run: Any) -> Run:
    if is_generative(run):
        raise DataError("A run of a denoiser or of a GAN makes points and gives no answers to be compared. Use "
                        "kernelscope.generative.compare(a, b), or kernelscope compare A B on the command line.")
    run = checked_run(run)
    if not len(run):
        raise DataError("A run without steps was trained on nothing, so there is nothing to compare. Take a longer "
                        "slice.")
    return run


def _words(values: Any, name: str, count: int) -> list[str]:
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        came = f"{len(values)} came" if hasattr(values, "__len__") and not isinstance(values, str) else (
            f"{what_came(values)} came")
        raise DataError(f"{name} must hold {count} words or numbers; {came}. Pass one for each.")
    return [str(value.item() if isinstance(value, Tensor) else value) for value in values]


def _check_inputs(runs: list[Run]) -> None:
    shapes = [[tuple(t.shape[1:]) for t in run.samples.inputs] for run in runs]
    odd = next((own for own in shapes if own != shapes[0]), None)
    if odd is not None:
        raise DataError(f"Runs are compared on the same probes, and the networks take inputs of shapes {shapes[0]} and "
                        f"{odd}. Compare runs that take the same inputs.")


def _check_outputs(found: list[Gathered]) -> None:
    counts = [len(one.ledger.output_names) for one in found if one.ledger is not None]
    if len(set(counts)) > 1:
        raise DataError(f"The same numbers are explained in both runs, and these networks have {counts[0]} and "
                        f"{next(c for c in counts if c != counts[0])}. Pass output=, the number of one output or a "
                        "function of the outputs.")


def _explained(sides: list[Side], output: Any, picked: list[Tensor] | None) -> str:
    """What contributions are to, in words."""
    if output is not None:
        return f"output {output}" if isinstance(output, str | int) else "a function of the outputs"
    if picked is None:
        return "all outputs" if sides[0].outputs.shape[2] > 1 else "the output"
    if sides[0].outputs.shape[2] == 1:
        return "the logit"
    whose = "true class" if sides[0].truth is not None else "class that a answers with"
    return f"the logit of the {whose} minus the mean of the others"


def _result(found: list[Gathered], matching: Matching, table: dict[str, Reading], ids: list[str], names: list[str],
            k: int, info: dict[str, Any]) -> RunComparison:
    sides = [one.side for one in found]
    named, truth = same_answers(sides), sides[0].truth
    classes = sides[0].names or []
    ledgers = {name: one.ledger for name, one in zip(SIDES, found, strict=True) if one.ledger is not None}
    distinct = dict(zip(SIDES, (matching.a, matching.b), strict=True))
    told = [run.info() for run in (one.side.run for one in found)]
    return RunComparison(
        names, ids,
        [{"measure": name, **{key: _plain(getattr(one, key)) for key in ("value", "low", "high")},
          "nulls": {null: _plain(value) for null, value in one.nulls.items()}, "why": one.why}
         for name, one in table.items()],
        None if named is None else [named[0][1], named[1][1]],
        None if truth is None else [classes[i] if i < len(classes) else str(i) for i in truth.tolist()],
        {name: side.outputs for name, side in zip(SIDES, sides, strict=True)},
        {name: distinct[name].pooled(ledger.contributions) for name, ledger in ledgers.items()},
        {name: torch.tensor(one.ids) for name, one in distinct.items()},
        {name: one.labels for name, one in distinct.items()},
        matching.pairs, min(k, len(matching.a), len(matching.b)),
        {f"{name}{when}": matrix for name, one in zip(SIDES, found, strict=True)
         for when, matrix in zip((" start", ""), one.kernels, strict=True)},
        {f"{name}{when}": spectrum(matrix).values.clamp(min=0) for name, one in zip(SIDES, found, strict=True)
         for when, matrix in zip((" start", ""), one.kernels, strict=True)},
        _points(found, matching, named, k),
        {name: one.coverage for name, one in zip(SIDES, found, strict=True) if one.coverage is not None},
        info | {"data": matching.said(), "only": list(matching.only),
                "completeness": {name: ledger.completeness() for name, ledger in ledgers.items()},
                "complete": {name: ledger.check().rows[0].limit for name, ledger in ledgers.items()},
                "runs": [{key: one[key] for key in ("path", "steps", "rules", "samples", "parameters", "loss", "dtype")}
                         for one in told],
                "notes": [note for name, side in zip(names, sides, strict=True) for note in _notes(name, side, info)]})


def _points(found: list[Gathered], matching: Matching, named: list[list[list[str]]] | None, k: int
            ) -> dict[str, Tensor]:
    """What can be drawn of networks that take one input."""
    if len(found[0].side.points.inputs) != 1:
        return {}
    held = {}
    if named is not None:
        places = [i for i, (one, other) in enumerate(zip(named[0][1], named[1][1], strict=True)) if one != other]
        held["probes"] = found[0].side.points.inputs[0][places[:DRAWN]]
    for name, one, distinct in zip(SIDES, found, (matching.a, matching.b), strict=True):
        if one.ledger is not None:
            sizes = distinct.pooled(one.ledger.contributions).abs().mean((0, 1))
            top = sizes.argsort(descending=True, stable=True)[:k].tolist()
            ids = [distinct.ids[i] for i in top]
            columns = one.side.run.samples.columns(ids)
            held |= {name: one.side.run.samples.batch(columns)[0][0], f"{name} ids": torch.tensor(ids)}
    return held


def _notes(name: str, side: Side, info: dict[str, Any]) -> list[str]:
    if side.run.draws and info["match"] != "id":
        return [f"Samples of {name} came in several forms, and are matched by the first; match=\"id\" matches them by "
                "their ids."]
    return []


def _plain(value: float) -> float | None:
    """A number that JSON can hold."""
    return value if math.isfinite(value) else None
