r"""A recorded training run.

A run holds what an optimizer did: the parameters :math:`\theta_0, \dots, \theta_T`, and for each step the samples, the
numbers and the random state behind it. It is immutable; slicing gives a run again, of some of the steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_place, as_switch, as_whole, what_came
from ..errors import DataError, OutOfRange
from ..losses import Loss
from ..network import Network, Parameters, unflatten
from ..storage import MemoryStore, Store
from ..text import shown
from .classes import MOST_CLASSES, QUANTITIES, class_count, class_indices, thirds
from .index import RunIndex
from .replay import replay
from .step import Step


class Run:
    r"""What training left behind: steps in order, parameters, samples and provenance.

    ``len(run)`` is the number of steps T, ``run[k]`` a step, ``run[a:b]`` the run of the steps a to b.

    Attributes:
        network: The network as a function of parameters, buffers and inputs.
        loss: The per-sample loss it was trained with.
        samples: The training samples as the network saw them.
        start: The number of the first step of this run within the recording.
        stop: The number after its last step.
    """

    def __init__(self, store: Store | MemoryStore, network: Network, loss: Loss, index: RunIndex,
                 start: int, stop: int):
        self.store = store
        self.network = network
        self.loss = loss
        self.samples = index.samples
        self.start = start
        self.stop = stop
        self._index = index

    @classmethod
    def from_store(cls, store: Store | MemoryStore, network: Network, loss: Loss) -> Run:
        """A run over a store of kind ``run``."""
        index = RunIndex(store)
        return cls(store, network, loss, index, 0, index.length)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            start, stop, stride = key.indices(len(self))
            if stride != 1:
                raise DataError(
                    f"A run is cut into consecutive steps, and run[::{stride}] asks for every {stride}th. "
                    "Use run[a:b], run.thinned(every=k), or thin the recording itself with record(..., keep=k)."
                )
            return type(self)(self.store, self.network, self.loss, self._index, self.start + start,
                              self.start + max(start, stop))
        place = as_whole(key)
        if place is None:
            raise DataError(
                f"A run is asked for a step by its number, or for several by a slice; {what_came(key)} came. "
                "Use run[0] or run[a:b]."
            )
        if not -len(self) <= place < len(self):
            raise OutOfRange(f"This run has {len(self)} steps, so step {place} does not exist.")
        return self.step(self.start + place % len(self))

    def __repr__(self) -> str:
        rules = sorted({step.optimizer for step in self._index.steps[self.start:self.stop]})
        where = "in memory" if self.store.path is None else shown(str(self.store.path))
        return (f"Run({where}: {len(self)} steps of {', '.join(rules) or 'no optimizer'}, "
                f"{self.size} samples, {self.parameter_count} parameters)")

    @property
    def meta(self) -> dict[str, Any]:
        """What the recorder wrote about the run as a whole."""
        return self.store.meta

    @property
    def size(self) -> int:
        """The number of training samples n."""
        return self.samples.size

    @property
    def names(self) -> list[str]:
        """The recorded parameters, in the order of their vector."""
        return [entry["name"] for entry in self._index.meta["parameters"]]

    @property
    def shapes(self) -> list[torch.Size]:
        """The shape of each recorded parameter."""
        return [torch.Size(entry["shape"]) for entry in self._index.meta["parameters"]]

    @property
    def parameter_count(self) -> int:
        """The number of recorded parameters P."""
        return self._index.parameter_count

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the parameters are stored, which holds all of them."""
        return getattr(torch, self._index.meta["dtype"])

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The precision in which each recorded parameter was trained."""
        return [getattr(torch, entry["dtype"]) for entry in self._index.meta["parameters"]]

    @property
    def precision(self) -> torch.dtype:
        """The lowest precision in which a parameter was trained, which bounds what rounding did to the steps."""
        return max(self.dtypes, key=lambda dtype: torch.finfo(dtype).eps)

    @property
    def class_names(self) -> list[str] | None:
        """The names of the classes, if the targets are classes."""
        names = self._index.meta.get("class_names")
        indices, targets = self.class_indices, self.samples.held_targets
        if names is None and indices is not None and targets is not None:
            count = class_count(targets, indices)
            names = [str(i) for i in range(count)] if count <= MOST_CLASSES else None
        return names

    @property
    def class_indices(self) -> Tensor | None:
        """The class of each sample that was drawn, or ``None`` if targets are quantities."""
        targets = self.samples.held_targets
        return None if targets is None else class_indices(targets, self.loss.name)

    @property
    def is_classification(self) -> bool:
        """Whether the network was trained to tell classes apart."""
        targets = self.samples.held_targets
        return self.class_indices is not None and targets is not None and not (
            targets.is_floating_point() and self.loss.name in QUANTITIES)

    @property
    def labels(self) -> list[str] | None:
        """A word for each sample: the name of its class, or of which third its target is; ``None`` of other targets."""
        indices, targets = self.class_indices, self.samples.held_targets
        if indices is not None:
            names = self.class_names or []
            words = [names[c] if 0 <= c < len(names) else str(c) for c in indices.tolist()]
        elif targets is not None and targets.is_floating_point() and targets[:1].numel() == 1:
            found = thirds(targets.flatten())
            if found is None:
                return None
            words = found
        else:
            return None
        return ["never drawn" if word is None else word for word in self.samples.in_order(words)]

    def sample(self, i: int) -> tuple[Any, Tensor] | None:
        """The input (of several, a tuple) and the target of sample i, or ``None`` if training never drew it."""
        return self.samples.sample(as_place(i, "i", self.size, "samples"))

    def step(self, k: int) -> Step:
        """Step k of the recording."""
        return self._index.steps[k]

    def restore_surroundings(self) -> None:
        """Gives the network the frozen parameters and the first buffers of the recording."""
        self._index.check_buffers(self.network.buffers)
        self.network.parameters |= self.states(-1) or {}
        self.network.buffers |= self._index.buffers(-1)

    def trajectory(self, start: int, stop: int) -> list[Tensor]:
        """The parameter vectors at the steps ``start`` to ``stop``, both included, replayed where not stored."""
        return list(self.rows(start, stop))

    def rows(self, start: int, stop: int) -> Iterator[Tensor]:
        """The parameter vectors of :meth:`trajectory`, one after the other, each computed when it is asked for."""
        k = start
        while k <= stop:
            row = self._index.row(k)
            if row is None:
                anchor = self._index.anchor(k)
                # From the anchor the optimizer is run again, up to the next stored row or the end of the request.
                end = min([stop, *(j - 1 for j in self._index.stored if j > k)])
                yield from replay(self, anchor, k, end)
                k = end + 1
            else:
                yield row
                k += 1

    @contextmanager
    def sparing(self, room: int) -> Iterator[None]:
        """Within it no more than ``room`` bytes of what was read from a disk are kept in memory, beside the last."""
        before, self._index.room = self._index.room, room
        try:
            yield
        finally:
            self._index.room = before

    @property
    def anchors(self) -> list[int]:
        """The steps at which parameters and optimizer states were stored, from which the loop can go on."""
        return [k for k in self._index.anchors if k <= self.stop]

    def parameters(self, k: int | None = None) -> Parameters:
        """The parameters at the start of step k of this run, by name; without k after its last step."""
        k = self.stop if k is None else self.start + as_place(k, "k", len(self) + 1, "parameter vectors of the run")
        return self.named(self.trajectory(k, k)[0])

    def named(self, row: Tensor) -> Parameters:
        """A parameter vector as tensors by name."""
        return dict(zip(self.names, unflatten(row, self.shapes), strict=True))

    def row(self, k: int) -> Tensor | None:
        """The stored parameter vector at the start of step k, or ``None`` where only a replay has it."""
        return self._index.row(k)

    def buffers(self, k: int) -> Parameters:
        """The buffers at the start of step k of the recording; ``k = -1`` gives them as recording began."""
        return {**self.network.buffers, **self._index.buffers(k)}

    def states(self, k: int) -> dict[str, Tensor] | None:
        """The optimizer's states at the start of step k, as ``owner|parameter|name``, where they were stored."""
        return self._index.states(k)

    @property
    def restarts(self) -> list[int]:
        """The first step of each optimizer, and of each time that the recording was taken up."""
        return [k for k in self._index.starts if k < self.stop]

    @property
    def shadowed(self) -> set[str]:
        """The segments of which the store holds a later copy."""
        return self._index.shadowed

    @property
    def place(self) -> int:
        """The place of the chunk that would come next."""
        return self._index.place

    @property
    def draws(self) -> bool:
        """Whether the network saw some samples in more than one form, as under augmentation."""
        return any(batch.drawn is not None for step in self._index.steps for batch in step.batches)

    @property
    def has_average(self) -> bool:
        """Whether averaged weights were recorded beside the trained ones."""
        return self._index.average(0) is not None

    def average(self, k: int) -> Tensor | None:
        """The averaged weights at the start of step k, stored for the first and the last."""
        return self._index.average(k)

    def thinned(self, every: int | None = None, *, keep: int | None = None, points: Iterable[int] | None = None,
                nodes: str = "ends") -> Run:
        r"""The run of chords between some of its parameters: a ledger of it costs less, and is complete all the same.

        .. math:: f_T(x) - f_0(x) = \sum_j \langle\bar\phi_j(x), C_j\rangle, \qquad
                  C_j = \sum_{s \in j} \sum_{i \in S_s} w_{j,s}\, \tilde g_i + \text{unattributed}_j

        Each visit of a sample keeps the weight that the recorded learning rates and the optimizer's memory give it;
        its gradient is taken at the nodes of the chord. What this misses is booked as unattributed.

        Args:
            every: Keep the parameters at every so many steps.
            keep: Keep so many parameter vectors, evenly spread.
            points: Keep those before these steps of the run (and the first and the last).
            nodes: Where on a chord gradients are taken: ``"ends"``, ``"start"``, ``"simpson"`` or ``"gaussM"``. Passes
                that drew random numbers, or whose samples depend on each other, keep a place of their own.

        Raises:
            DataError: If none or several of the three are given, or the run is thinned already.

        References:
            Certified thinning, 4.6 of the theory notes; checkpoints as nodes after "Estimating Training Data Influence
            by Tracing Gradient Descent" (Pruthi et al., arXiv 2002.08484).
        """
        from .thinning import thinned

        return thinned(self, every, keep, points, nodes)

    def fingerprint(self) -> str:
        """A hash of everything the run holds but the seconds it took."""
        # Seconds, and the name that the two runs of a game share, differ each time the same is recorded.
        meta = {key: value for key, value in self._index.meta.items() if key != "cost"}
        if isinstance(meta.get("notes"), dict):
            meta["notes"] = {key: value for key, value in meta["notes"].items() if key != "game"}
        digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
        for k in (self.start, self.stop):
            digest.update(self.trajectory(k, k)[0].contiguous().view(torch.uint8).numpy().tobytes())
        for step in self._index.steps[self.start:self.stop]:
            for batch in step.batches:
                digest.update(batch.columns.numpy().tobytes())
        return digest.hexdigest()

    def info(self) -> dict[str, Any]:
        """The run in plain data: steps, rules, samples, sizes, provenance."""
        return self._index.info(self.start, self.stop)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Copies the whole recording into the folder ``path``; what is replaced there stays until all of it is."""
        Store.create(path, kind="run", meta=self.meta, overwrite=as_switch(overwrite, "overwrite"),
                     source=self.store).close()
        return Path(path)
