r"""A run from checkpoints alone.

Between two checkpoints the outputs change by the averaged gradient along the chord, whatever the path was. Which sample
was drawn when is not known, so each chord sees all of them once at each of its nodes, with the weight that learning
rate and number of steps give: :math:`\gamma m / n`. Of the chord itself nothing is estimated; what the samples so
weighted do not give of it is unattributed.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from ..arguments import as_finite, as_function, as_whole, what_came
from ..errors import DataError, ModelError
from ..losses import Loss
from ..network import Parameters, cast, flatten, undisturbed
from ..text import shown
from .calling import Calling, known_to_transformers
from .checkpoint_files import Checkpoint, Found, find_checkpoints
from .checkpoint_states import Matching, another_optimizer, outliers, parameter_groups, second_moments
from .chords import Chord, ChordIndex, ChordRun, Kept, node_batches, parse_nodes
from .classes import checked_names
from .comparing import random_numbers_kept
from .samples import Samples, split_batch
from .step import Step
from .subject import Subject
from .thinning import described

#: Checkpoints held in memory while a run of files is read, in bytes.
CACHE = 256 * 2**20

#: Samples that are read from a data set at once.
READ = 256

#: What the true answers are called in samples that come by name.
LABELS = ("labels", "label")

#: Optimizers whose steps are known to follow from second moments that a checkpoint holds.
ADAMS = ("Adam", "AdamW")


def from_checkpoints(
    checkpoints: Any,
    *,
    model: nn.Module | Callable[[], nn.Module],
    data: Any,
    loss: Callable[..., Tensor],
    optimizer: str | None = None,
    lr: float | Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    nodes: str = "ends",
    batch: Callable[[Any], tuple[Any, Any]] | None = None,
    class_names: Sequence[str] | None = None,
) -> ChordRun:
    r"""A run from checkpoints that a training left behind, for those who did not record it.

    .. math:: f_T(x) - f_0(x) = \sum_j \langle\bar\phi_j(x), C_j\rangle, \qquad
              C_j = -\frac{\gamma_j m_j}{n} \sum_i \tilde g_{i,j} + \dots + \text{unattributed}_j

    with :math:`C_j` the chord between two checkpoints, :math:`m_j` steps apart. The total is exact. How it is split
    over samples is known as far as the unattributed part is small; the ledger states it, and
    :meth:`Decomposition.gaps` names the chords on which more checkpoints would help most.

    Args:
        checkpoints: A pattern such as ``"ckpts/*.pt"``, a folder, a list of paths, or a list of state dictionaries (or
            a dictionary of them by step). Files of torch (``.pt``, ``.pth``, ``.bin``, and Lightning's ``.ckpt``) are
            read by ``torch.load(weights_only=True)`` alone; ``.safetensors``; folders ``checkpoint-*`` of Hugging
            Face's Trainer. They are read when they are needed, a few at a time.
        model: A module of the trained architecture, or what makes one; its values do not matter, it is not changed.
        data: The training set: a data set, its loader, or a pair of tensors. Samples are as the data set gives them
            when it is read here, once.
        loss: The per-sample loss that was minimised, as for :func:`record`.
        optimizer: ``"SGD"``, ``"Adam"``, ``"AdamW"``; if not given what a checkpoint's optimizer state tells, or SGD.
        lr: The learning rate, one for all or one for each chord; if not given what the checkpoints tell. Where they do
            not, it is on each chord the rate that brings the samples' motion closest to the chord, by least squares.
        steps: How many updates each checkpoint was saved after; needed where neither file nor name says so.
        momentum: That of SGD.
        weight_decay: The optimizer's.
        nodes: Where on a chord samples' gradients are taken: ``"ends"``, ``"start"``, ``"simpson"``, ``"gaussM"``.
        batch: ``batch -> (inputs, targets)`` for a data set whose samples are something else than ``(..., target)``.
            A model of ``transformers`` needs none where its samples are dictionaries with ``labels`` among them; its
            logits are then explained, and the loss is one of logits and labels.
        class_names: A word for each class.

    Returns:
        A :class:`Run` whose steps are the chords. Samples' gradients are those of eval mode, without dropout.

    Raises:
        StoreError: If a checkpoint is not there, damaged, or would run code.
        ModelError: If one is of another network.
        NonFiniteError: If one holds NaN.
        DataError: If steps or data do not fit.

    References:
        Gradients at checkpoints after "Estimating Training Data Influence by Tracing Gradient Descent" (Pruthi et al.,
        arXiv 2002.08484), whose sums are those of ``nodes="start"`` without the chords; 4.6 of the theory notes.

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> x = torch.randn(8, 3); y = x @ torch.ones(3, 1)
        >>> model = nn.Linear(3, 1)
        >>> optimizer, saved = torch.optim.SGD(model.parameters(), lr=0.05), {}
        >>> for k in range(41):
        ...     if k % 10 == 0:
        ...         saved[k] = {name: t.clone() for name, t in model.state_dict().items()}
        ...     optimizer.zero_grad()
        ...     F.mse_loss(model(x), y).backward()
        ...     optimizer.step()
        >>> run = ks.from_checkpoints(saved, model=nn.Linear(3, 1), data=(x, y), loss=F.mse_loss, lr=0.05)
        >>> run
        Run(4 chords over the 40 steps 0 to 40 of SGD, 8 samples, 4 parameters)
        >>> ks.decompose(run, torch.ones(1, 3)).completeness() < 1e-12
        True
    """
    with torch.inference_mode(False):
        module = _module(model)
        calling, batch = _called_by_name(module, data, batch)
        subject = Subject(module, calling=calling)
        found = find_checkpoints(checkpoints)
        if len(found) < 2:
            raise DataError(
                f"{f'One checkpoint came ({found[0].name})' if found else 'No checkpoint came'}, and what training did "
                "lies between two. Pass the ones before it as well; where the seed is known, the state dictionary "
                "before the first step can be made again."
            )
        matching = Matching(subject.model, subject.network, "model." if calling else "")
        seen = [_look(checkpoint, matching, subject) for checkpoint in found]
        counted, told = _counted(found, seen, steps, lr)
        order = sorted(range(len(found)), key=counted.__getitem__)
        found, seen = [found[i] for i in order], [seen[i] for i in order]
        points = [counted[i] for i in order]
        _refuse_twins(found, points)
        samples = _samples(data, batch)
        kept = _KeptInFiles(found, matching, subject, seen)
        # Rates that files tell are of an update, and say nothing where updates are not counted.
        fitted = told.startswith("counted")
        groups = _numbers(seen, points, optimizer, lr, momentum, weight_decay, subject, fitted)
        nested = parse_nodes(nodes)
        chords: list[Step] = [_chord(j, points, group, nested, samples, subject) for j, group in enumerate(groups)]
        notes = _notes(found, points, matching, told, chords, seen, nodes)
        own_loss = Loss(loss)
        meta = {
            **subject.about(), "samples": samples.size, "loss": own_loss.name, "loss_options": own_loss.options,
            "class_names": checked_names(class_names), "keep": "all", "notes": {"checkpoints": notes},
            "complete": True, "points": points, "thinned": False,
            **({} if calling is None else {"calling": calling.about()}),
        }
        index = ChordIndex(meta, samples, chords, kept)
        run = ChordRun(index.store, subject.network, own_loss, index, 0, len(chords))
        run.restore_surroundings()
        _try(run)
        return run


def _try(run: ChordRun) -> None:
    """The network on the first sample, so that data of another model are refused before anything is computed."""
    own = next(iter(run.network.parameters.values()))
    inputs = cast(tuple(t[:1] for t in run.samples.inputs), run.dtype, own.device)
    with undisturbed(own.device):
        try:
            run.network(cast(run.parameters(0), run.dtype, own.device), cast(run.buffers(0), run.dtype, own.device),
                        inputs)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise DataError(
                f"The model cannot take these samples ({shown(str(error).strip().splitlines()[0][:200])}). The inputs "
                f"of one have the shapes {[tuple(t.shape[1:]) for t in run.samples.inputs]}. Pass the data that it was "
                "trained on, or batch=lambda b: (inputs, targets) that makes inputs of them."
            ) from error


class _Seen:
    """What was found when a checkpoint was looked at, without its tensors."""

    def __init__(self, found: Found, parameters: Parameters, subject: Subject):
        self.step, self.rates = found.step, found.rates
        self.groups = parameter_groups(found.optimizer, subject.network)
        self.has_optimizer = found.optimizer is not None
        self.moments = bool(second_moments(found.optimizer, subject.network))
        self.sizes = {name: float(t.abs().max()) for name, t in parameters.items() if t.numel()}
        self.frozen = {name: parameters[name].clone() for name in subject.frozen if name in parameters}


class _KeptInFiles(Kept):
    """Checkpoints, read when their parameters are asked for."""

    def __init__(self, checkpoints: list[Checkpoint], matching: Matching, subject: Subject, seen: list[_Seen]):
        self._checkpoints, self._matching, self._names, self._dtype = (
            checkpoints, matching, subject.names, subject.dtype)
        self._network, self._frozen = subject.network, seen[0].frozen
        self._held: OrderedDict[int, tuple[Tensor, Parameters, dict[str, Tensor]]] = OrderedDict()

    def row(self, j: int) -> Tensor:
        return self._read(j)[0]

    def buffers(self, j: int) -> Parameters:
        return self._read(max(j, 0))[1]

    def states(self, j: int) -> dict[str, Tensor] | None:
        return self._frozen if j < 0 else self._read(j)[2] or None

    def _read(self, j: int) -> tuple[Tensor, Parameters, dict[str, Tensor]]:
        if j not in self._held:
            checkpoint = self._checkpoints[j]
            found = checkpoint.read()
            parameters, buffers = self._matching(found.tensors, checkpoint.name)
            row = flatten([parameters[name] for name in self._names], self._dtype).cpu()
            self._held[j] = row, buffers, second_moments(found.optimizer, self._network)
            size = row.nbytes + sum(t.nbytes for part in self._held[j][1:] for t in part.values())
            while len(self._held) > max(2, CACHE // max(size, 1)):
                self._held.popitem(last=False)
        self._held.move_to_end(j)
        return self._held[j]


def _module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module) and callable(model):
        try:
            model = model()
        except TypeError as error:
            raise ModelError(f"The model cannot be made without arguments ({error}). Pass a module, as in "
                             "model=Net(num_classes=10); its values do not matter.") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be a torch.nn.Module of the trained architecture; {what_came(model)} came.")
    return model


def _called_by_name(model: nn.Module, data: Any,
                    batch: Any) -> tuple[Calling | None, Callable[[Any], tuple[Any, Any]] | None]:
    """How a model of ``transformers`` is called, and what its batches hold, where samples come by name."""
    loader = data if isinstance(data, DataLoader) else None
    rows = loader.dataset if loader is not None else data
    known = known_to_transformers(model)
    if batch is not None or known is None or not hasattr(rows, "__getitem__") or not hasattr(rows, "__len__"):
        return None, batch
    with random_numbers_kept():
        looked = [rows[i] for i in range(min(2, len(rows)))]
        if not looked or not isinstance(looked[0], Mapping):
            return None, batch
        first = (default_collate if loader is None else loader.collate_fn)(looked)
    label = next((name for name in LABELS if name in first), None)
    if label is None:
        raise DataError(f"The samples hold {', '.join(map(str, first))}, and none of these is called "
                        f"{' or '.join(LABELS)}. Pass batch=lambda b: (inputs, targets).")
    taken = inspect.signature(model.forward).parameters
    names = tuple(name for name, value in first.items()
                  if isinstance(value, Tensor) and name != label and name in taken)
    return Calling(names, known=known), lambda given: (tuple(given[name] for name in names), given[label])


def _look(checkpoint: Checkpoint, matching: Matching, subject: Subject) -> _Seen:
    found = checkpoint.read()
    return _Seen(found, matching(found.tensors, checkpoint.name)[0], subject)


def _counted(found: list[Checkpoint], seen: list[_Seen], steps: Any, lr: Any) -> tuple[list[int], str]:
    """The number of updates before each checkpoint, and how it is known."""
    told = [own.step for own in seen]
    names = [checkpoint.named_step() for checkpoint in found]
    if steps is not None:
        given = [as_whole(step) for step in (steps if isinstance(steps, Iterable) and not isinstance(steps, str)
                                             else [steps])]
        if len(given) != len(found) or any(step is None or step < 0 for step in given):
            raise DataError(f"steps must hold a whole number for each of the {len(found)} checkpoints, in their order; "
                            f"{shown(str(steps)[:80])} came. Their order is {', '.join(c.name for c in found[:4])} …")
        return [int(step or 0) for step in given], _given([int(step or 0) for step in given], found, told, names)
    if all(step is not None for step in told):
        return [int(step or 0) for step in told], "told by the files"
    numbers, kinds = [name[0] for name in names if name], {name[1] for name in names if name}
    # A number of another kind, as in final_3 among step_100 and step_200, is of no step.
    if len(numbers) == len(found) and len(kinds) == 1:
        # A number without a word may count anything; one in a row counts epochs, or files, and hardly ever updates.
        in_a_row = max(numbers) - min(numbers) < 2 * len(numbers)
        if kinds == {"steps"} or kinds == {"numbers"} and not in_a_row:
            return numbers, "told by their names"
        if lr is None:
            return numbers, f"counted in {'epochs' if 'epochs' in kinds else 'numbers of their names'}"
    elif lr is None and all(checkpoint.path is None for checkpoint in found):
        return list(range(len(found))), "counted by checkpoints"
    raise DataError(
        "How many updates lie between the checkpoints cannot be read from the files or their names "
        f"({found[0].name}, …), and with a learning rate it is needed. Pass steps=[...], the number of updates before "
        f"each of the {len(found)}, in this order, or {{step: path}} for the checkpoints; or leave lr out, and it is "
        "fitted."
    )


def _given(steps: list[int], found: list[Checkpoint], told: list[int | None],
           names: list[tuple[int, str] | None]) -> str:
    """How steps are known that were given: also against what files or names say, which is then said."""
    for where, own in (("files", told), ("names", [name and name[0] for name in names])):
        known = [step for step in own if step is not None]
        if len(known) == len(steps) and any((a - b) * (c - d) < 0 for (a, c), (b, d) in combinations(
                zip(steps, known, strict=True), 2)):
            return f"given, in another order than that of the numbers in the {where}, beginning with {found[0].name}"
    return "given"


def _refuse_twins(found: list[Checkpoint], points: list[int]) -> None:
    twin = next((i for i in range(1, len(points)) if points[i] == points[i - 1]), None)
    if twin is not None:
        raise DataError(
            f"{found[twin - 1].name} and {found[twin].name} are both of step {points[twin]}, and a run passes a step "
            "once. Leave one of them out, or pass steps=[...] if the names mislead."
        )


def _samples(data: Any, batch: Callable[[Any], tuple[Any, Any]] | None) -> Samples:
    """The training set as a table, read once and in order."""
    split = split_batch if batch is None else as_function(batch, "batch", "of a batch that gives (inputs, targets)")
    if isinstance(data, list | tuple) and len(data) >= 2 and all(isinstance(t, Tensor) and t.ndim for t in data):
        if len({len(t) for t in data}) != 1:
            raise DataError(f"Inputs and targets must have one row for each sample; they have {[len(t) for t in data]} "
                            "rows. Cut them to the same length.")
        data = TensorDataset(*data)
    collate: Callable[[list[Any]], Any] = default_collate
    if isinstance(data, DataLoader):
        collate, data = data.collate_fn, data.dataset
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or isinstance(data, str | bytes | Tensor):
        raise DataError(f"data must be the training set: a data set with a length, its loader, or a pair of tensors; "
                        f"{what_came(data)} came.")
    if not len(data):
        raise DataError("The training set is empty. Pass the data set that the network was trained on.")
    samples = Samples(len(data))
    with random_numbers_kept():
        for start in range(0, len(data), READ):
            ids = range(start, min(start + READ, len(data)))
            inputs, targets = split(collate([data[i] for i in ids]))
            inputs = tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
            if not all(isinstance(t, Tensor) and t.shape[:1] == (len(ids),) for t in (*inputs, targets)):
                raise DataError(
                    f"A batch of {len(ids)} samples must become tensors with one row for each, and samples {start} on "
                    "did not. Pass batch=lambda b: (inputs, targets), or a loader whose collate_fn makes them."
                )
            if not samples.keep(samples.columns(ids), inputs, targets)[1]:
                raise DataError(f"The samples from {start} on have other shapes than those before. Pass a loader whose "
                                "collate_fn pads all of them alike.")
    return samples


def _numbers(seen: list[_Seen], points: list[int], optimizer: str | None, lr: Any, momentum: float | None,
             weight_decay: float | None, subject: Subject,
             fitted: bool) -> list[tuple[str, list[dict[str, Any]], bool]]:
    """For each chord its rule, its parameter groups, and whether the learning rate must be fitted."""
    rule = _rule(optimizer, seen)
    usual = {p.name: p.default for p in list(inspect.signature(getattr(torch.optim, rule).__init__).parameters.values())
             if p.default is not p.empty}
    rates = _given_rates(lr, len(points) - 1)
    if momentum is not None and not 0 <= as_finite(momentum, "momentum", "0.9") < 1:
        raise DataError(f"momentum must be a number from 0 on and below 1; {momentum} came. Pass for example "
                        "momentum=0.9.")
    another = optimizer is None and another_optimizer(seen[-1].groups) is not None
    found: list[tuple[str, list[dict[str, Any]], bool]] = []
    for j in range(len(points) - 1):
        ends = [own.groups for own in (seen[j], seen[j + 1]) if own.groups]
        groups = [dict(group) for group in (ends[-1] if ends else [{"names": subject.names}])]
        logged = [rate for own in seen[j + 1:] for step, rate in own.rates.items() if points[j] < step <= points[j + 1]]
        for i, group in enumerate(groups):
            saved = [float(end[i]["lr"]) for end in ends if i < len(end) and isinstance(end[i].get("lr"), int | float)]
            own = rates[j] if rates else None
            if own is None:
                # Where a schedule went down to nought at the end, what was logged on the way says more.
                own = sum(logged) / len(logged) if logged else sum(saved) / len(saved) if saved else None
                if logged and own is not None:
                    # What a trainer logs is the rate of its first group.
                    own *= _beside_the_first(group, groups[0])
            group.update({key: group.get(key, value) for key, value in usual.items()})
            group["lr"] = own
            if momentum is not None and rule == "SGD":
                group["momentum"] = momentum
            if weight_decay is not None:
                group["weight_decay"] = as_finite(weight_decay, "weight_decay", "1e-2")
        moments = rule not in ADAMS or seen[j].moments or seen[j + 1].moments
        fits = fitted or another or not moments or any(group["lr"] is None for group in groups)
        found.append((rule, groups, fits))
    return found


def _beside_the_first(group: dict[str, Any], first: dict[str, Any]) -> float:
    """How many times the rate of the first group that of another one is."""
    rates = group.get("initial_lr"), first.get("initial_lr")
    return rates[0] / rates[1] if all(isinstance(rate, int | float) for rate in rates) and rates[1] else 1.0


def _rule(optimizer: Any, seen: list[_Seen]) -> str:
    if optimizer is not None:
        known = {name.lower(): name for name in ("SGD", *ADAMS)}
        name = optimizer.lower() if isinstance(optimizer, str) else ""
        if name not in known:
            raise DataError(f'optimizer must be "SGD", "Adam" or "AdamW"; {what_came(optimizer)} came. Leave it '
                            "out, with the rate, where it was another: the rate is then fitted.")
        return known[name]
    groups = next((own.groups for own in reversed(seen) if own.groups), None)
    if groups and "betas" in groups[0] and another_optimizer(groups) is None:
        return "Adam" if groups[0].get("decoupled_weight_decay") is False else "AdamW"
    return "SGD"


def _given_rates(lr: Any, count: int) -> list[float] | None:
    if lr is None:
        return None
    if isinstance(lr, Tensor):
        lr = lr.tolist()
    given = list(lr) if isinstance(lr, Sequence) and not isinstance(lr, str) else [lr] * count
    if len(given) != count or not all(isinstance(rate, int | float) and not isinstance(rate, bool)
                                      and 0 <= rate < float("inf") for rate in given):
        raise DataError(f"lr must be a finite learning rate from 0 on, or one for each of the {count} chords; "
                        f"{shown(str(lr)[:80])} came. Leave it out where it is unknown.")
    return [float(rate) for rate in given]


def _chord(j: int, points: list[int], numbers: tuple[str, list[dict[str, Any]], bool], nodes: tuple[float, ...],
           samples: Samples, subject: Subject) -> Chord:
    rule, groups, fits = numbers
    count = points[j + 1] - points[j]
    norms = torch.zeros(len(subject.names), dtype=torch.float64)
    template = Step(rule, groups, [], norms, 0.0)
    # Diagnostics weigh a chord by its learning rates added up; where they are not known, by its steps.
    whole = [{**group, "lr": count * (1.0 if fits or group["lr"] is None else group["lr"])} for group in groups]
    batches = node_batches(j, nodes, torch.arange(samples.size), ())
    return Chord(rule, whole, batches, norms, 0.0, inner=[template], begun=points[j], updates=count, nodes=nodes,
                 fits=fits, averaged=True)


def _notes(found: list[Checkpoint], points: list[int], matching: Matching, told: str, chords: list[Any],
           seen: list[_Seen], nodes: str) -> list[str]:
    """What a reader of every result should know."""
    stripped = f" ({matching.prefix!r} stripped)" if matching.prefix else ""
    left = f", {len(matching.left_out)} others left out" if matching.left_out else ""
    places = {"ends": "at each checkpoint", "start": "at the start of each chord"}.get(nodes, "on each chord")
    notes = [f"{len(found)} checkpoints (steps {described(points)}, {told}) · keys matched "
             f"{matching.count}/{matching.count}{stripped}{left} · sample order unknown: all samples {places}"]
    if points[0] != 0:
        notes.append(f"There is no checkpoint of step 0: the sum explains what changed since step {points[0]}, and "
                     f"whatever was learned before it is in the initial output. Add the state before the first step if "
                     "the seed is known.")
    fitted = [chord for chord in chords if chord.fits]
    if told.startswith("counted"):
        notes.append("How many updates lie between the checkpoints is not known, so on each chord a rate is fitted. "
                     "Pass steps=[...] to have the rate of the training instead.")
    elif fitted and fitted[0].optimizer in ADAMS:
        notes.append(f"The second moments of {fitted[0].optimizer} are not known on {len(fitted)} of {len(chords)} "
                     "chords: there one rate for all parameters is fitted, as if it were plain gradient descent.")
    another = another_optimizer(seen[-1].groups)
    if fitted and another is not None and fitted[0].optimizer not in ADAMS:
        notes.append(f"The checkpoints are those of another optimizer than SGD, Adam and AdamW (its numbers have "
                     f"{another!r} among them): on each chord one rate for all parameters is fitted, as if it were "
                     "plain gradient descent.")
    notes += outliers([own.sizes for own in seen], [checkpoint.name for checkpoint in found])
    moved = sorted({name for own in seen for name, t in own.frozen.items() if not torch.equal(t, seen[0].frozen[name])})
    if moved:
        raise ModelError(
            f"The model holds {moved[0]!r} fixed (requires_grad=False), and it moves between the checkpoints. Make it "
            "trainable before it is passed, so that its motion is part of the chords."
        )
    return notes
