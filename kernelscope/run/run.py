r"""A recorded training run.

A run holds what an optimizer did: the parameters :math:`\theta_0, \dots, \theta_T`, and for each step the samples, the
numbers and the random state behind it. It is immutable; slicing gives a run again, of some of the steps.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..architecture import rebuild
from ..errors import DataError, ModelError, StoreCorrupt
from ..network import Network, Parameters, unflatten
from ..storage import MemoryStore, Store
from .losses import Loss, named_loss
from .replay import replay
from .samples import Samples
from .segments import Chunk, decode
from .step import Step
from .validating import Validator

#: Rows of parameters kept in memory while a run on disk is read, in bytes.
CACHE = 256 * 2**20

#: Whole numbers from here on are targets that count something, and get no list of names.
MOST_CLASSES = 2**16


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
                    "Use run[a:b], or thin the recording itself with record(..., keep=k)."
                )
            return Run(self.store, self.network, self.loss, self._index, self.start + start,
                       self.start + max(start, stop))
        if not -len(self) <= key < len(self):
            raise IndexError(f"This run has {len(self)} steps, so step {key} does not exist.")
        return self.step(self.start + key % len(self))

    def __repr__(self) -> str:
        rules = sorted({step.optimizer for step in self._index.steps[self.start:self.stop]})
        where = "in memory" if self.store.path is None else str(self.store.path)
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
        return sum(shape.numel() for shape in self.shapes)

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
        if names is None and self.is_classification:
            targets = self.samples.targets
            assert targets is not None
            largest = int(targets.max())
            names = [str(i) for i in range(largest + 1)] if largest < MOST_CLASSES else None
        return names

    @property
    def is_classification(self) -> bool:
        """Whether every target is a class index."""
        targets = self.samples.targets
        return targets is not None and targets.ndim == 1 and not targets.is_floating_point() and len(targets) > 0

    @property
    def labels(self) -> list[str] | None:
        """A word for each sample: the name of its class, or ``None`` when targets are not classes."""
        if not self.is_classification:
            return None
        names = self.class_names or []
        return ["never drawn" if c is None else names[c] if 0 <= c < len(names) else str(c)
                for c in self.samples.target_list()]

    def sample(self, i: int) -> tuple[Tensor, Tensor] | None:
        """The input and target of sample i, or ``None`` if training never drew it."""
        return self.samples.sample(i)

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
        rows: list[Tensor] = []
        k = start
        while k <= stop:
            row = self._index.row(k)
            if row is None:
                anchor = self._index.anchor(k)
                # From the anchor the optimizer is run again, up to the next stored row or the end of the request.
                end = min([stop, *(j - 1 for j in self._index.stored if j > k)])
                rows.extend(replay(self, anchor, k, end))
                k = end + 1
            else:
                rows.append(row)
                k += 1
        return rows

    def parameters(self, k: int | None = None) -> Parameters:
        """The parameters at the start of step k of this run, by name; without k after its last step."""
        k = self.stop if k is None else self.start + k
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

    def fingerprint(self) -> str:
        """A hash of everything the run holds."""
        digest = hashlib.sha256(json.dumps(self._index.meta, sort_keys=True).encode())
        for k in (self.start, self.stop):
            digest.update(self.trajectory(k, k)[0].contiguous().view(torch.uint8).numpy().tobytes())
        for step in self._index.steps[self.start:self.stop]:
            for batch in step.batches:
                digest.update(batch.columns.numpy().tobytes())
        return digest.hexdigest()

    def info(self) -> dict[str, Any]:
        """The run in plain data: steps, rules, samples, sizes, provenance."""
        steps = self._index.steps[self.start:self.stop]
        rates = [group["lr"] for step in steps for group in step.groups if "lr" in group]
        return {
            "path": None if self.store.path is None else str(self.store.path),
            "steps": len(self),
            "rules": sorted({step.optimizer for step in steps}),
            "learning_rate": [min(rates), max(rates)] if rates else None,
            "samples": self.size,
            "samples_drawn": int(self.samples.seen.sum()),
            "parameters": self.parameter_count,
            "dtype": str(self.dtype).removeprefix("torch."),
            "loss": self._index.meta.get("loss"),
            "keep": self._index.meta.get("keep"),
            "rows": len(self._index.stored),
            "bytes": self.store.nbytes,
            "complete": self.meta.get("complete", False),
            "averaged_weights": self.has_average,
            **{key: self._index.meta.get(key) for key in ("environment", "fingerprint", "notes")},
        }

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Copies the whole recording into the folder ``path``."""
        with Store.create(path, kind="run", meta=self.meta, overwrite=overwrite) as store:
            for segment in self.store.segments:
                store.append(self.store.read(segment), segment.meta)
        return Path(path)


class RunIndex:
    """Where in a store the parts of a run are; shared by all its slices.

    Chunks follow each other by their place. One that begins before the last ended takes up the recording at an earlier
    step: what was there from this step on is no longer part of the run.
    """

    def __init__(self, store: Store | MemoryStore):
        self.store = store
        self.meta = store.meta
        self._where = store.path or "this recording"
        self._check = Validator(self.meta, self._where)
        self.samples = Samples(self._check.samples)
        self.steps: list[Step] = []
        self._homes: dict[str, dict[int, str]] = {"rows": {}, "states": {}, "averages": {}}
        self._buffers: dict[str, dict[int, str]] = {}
        self._kinds: dict[str, set[str]] = {}
        self._cache: OrderedDict[str, tuple[Chunk, int]] = OrderedDict()
        chunks = self._in_order()
        self.place = max(chunks, default=-1) + 1
        self.shadowed = {segment.name for segment in store.segments} - set(chunks.values())
        for place in sorted(chunks):
            self._add(chunks[place])
        self._changes = {name: sorted(homes) for name, homes in self._buffers.items()}
        # A step is written once it has ended, and a replay tells where; without replays its end must be stored.
        ended = len(self.steps) in self._homes["rows"] or self.meta.get("keep", "all") != "all"
        self.length = len(self.steps) if ended else max(len(self.steps) - 1, 0)
        self.starts = sorted({step.owner for step in self.steps})
        self.stored = sorted(k for k in self._homes["rows"] if k <= self.length)
        if 0 not in self._homes["rows"]:
            raise DataError(
                f"{self._where} holds no parameters, so no step was committed before it ended. "
                "Record again; with commit_every=0 every step is committed at once."
            )

    def _in_order(self) -> dict[int, str]:
        """The names of the segments by their place; of two copies of a chunk the later one counts."""
        chunks: dict[int, str] = {}
        for segment in self.store.segments:
            place = segment.meta.get("place")
            if type(place) is not int or not 0 <= place < 2**53:
                raise StoreCorrupt(
                    f"{self._where}/{segment.name} does not say which part of the run it is. It was written by another "
                    "program; nothing of it was used. Record again, or restore the folder from a copy."
                )
            chunks[place] = segment.name
        return chunks

    def _add(self, name: str) -> None:
        chunk = self._read(name)
        if chunk.first > len(self.steps):
            raise StoreCorrupt(
                f"The steps {len(self.steps)} to {chunk.first - 1} of {self._where} are missing, so its later steps "
                "cannot be reached. The recording was changed by another program; record again."
            )
        if chunk.first < len(self.steps):
            del self.steps[chunk.first:]
            for homes in (*self._homes.values(), *self._buffers.values()):
                for k in [k for k in homes if k > chunk.first]:
                    del homes[k]
        if chunk.ids:
            self.samples.columns(chunk.ids)
        self._check.chunk(chunk, self.samples.size)
        self.steps += chunk.steps
        for part, homes in self._homes.items():
            homes.update(dict.fromkeys(getattr(chunk, part), name))
        for k, buffers in chunk.buffers.items():
            for buffer, value in buffers.items():
                self._buffers.setdefault(buffer, {})[k] = name
                self._kinds.setdefault(buffer, set()).add(_kind(value))
        for columns, *tables in chunk.samples:
            if not self.samples.keep(columns, tables[:-1], tables[-1])[1]:
                raise StoreCorrupt(
                    f"{self._where}/{name} holds samples that differ from those before it. It was written by another "
                    "program; nothing of it was used. Record again, or restore the folder from a copy."
                )

    def check_buffers(self, known: Parameters) -> None:
        """Compares the stored buffers with those of the model; raises if they are not the same."""
        for name in sorted({*known, *self._kinds}):
            mine, stored = _kind(known.get(name)), self._kinds.get(name, {_kind(None)})
            if stored != {mine}:
                raise ModelError(
                    f"The model has other buffers than the run in {self._where}: the buffer {name!r} is {mine} in the "
                    f"model and {', '.join(sorted(stored))} in the run. Build the model with the arguments it was "
                    "trained with."
                )

    def _read(self, name: str) -> Chunk:
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name][0]
        chunk = decode(self.store.read(name), f"{self._where}/{name}")
        self._cache[name] = (chunk, chunk.nbytes)
        # A store in memory is its own cache.
        while len(self._cache) > 1 and (self.store.path is None or sum(s for _, s in self._cache.values()) > CACHE):
            self._cache.popitem(last=False)
        return chunk

    def _find(self, part: str, k: int) -> Any:
        name = self._homes[part].get(k)
        return None if name is None else getattr(self._read(name), part)[k]

    def anchor(self, k: int) -> int:
        """The last step up to k from which steps can be computed again."""
        known = [j for j in self.stored if j <= k and j in self._homes["states"]]
        if not known:
            raise StoreCorrupt(
                f"{self._where} holds no optimizer states from which step {k} could be computed again. It was changed "
                "by another program; record again, or restore the folder from a copy."
            )
        return known[-1]

    def row(self, k: int) -> Tensor | None:
        """The stored row k."""
        return self._find("rows", k)

    def states(self, k: int) -> dict[str, Tensor] | None:
        """The stored optimizer states at k."""
        return self._find("states", k)

    def average(self, k: int) -> Tensor | None:
        """The stored averaged weights at k."""
        return self._find("averages", k)

    def buffers(self, k: int) -> Parameters:
        """The buffers that had changed by step k, each as last stored."""
        known: Parameters = {}
        for name, homes in self._buffers.items():
            before = bisect_right(self._changes[name], k)
            if before:
                last = self._changes[name][before - 1]
                known[name] = self._read(homes[last]).buffers[last][name]
        return known


def _kind(t: Tensor | None) -> str:
    return "missing" if t is None else f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}"


def load(path: str | Path, model: nn.Module | None = None, data: Any = None,
         loss: Callable[..., Tensor] | None = None) -> Run:
    """Opens a run from its folder; every checksum is verified, and nothing is ever unpickled.

    Args:
        path: The folder that ``record(..., out=path)`` wrote.
        model: A module of the trained architecture; its values do not matter and it is not changed. Needed unless the
            model is made of plain torch layers, which the folder describes itself.
        data: The training set, to be compared with the samples of the run.
        loss: The per-sample loss; needed unless it is one of ``torch.nn.functional``.

    Raises:
        StoreError: If the folder is no run, or not the bytes that were written.
        ModelError: If the model has other parameters than the recorded one.
        DataError: If ``data`` holds other samples than the run was trained on.
    """
    store = Store.open(path, kind="run")
    meta = store.meta
    Validator(meta, path)
    expected = {entry["name"]: tuple(entry["shape"]) for entry in meta["parameters"] + meta["frozen"]}
    if model is None:
        if meta.get("architecture") is None:
            raise ModelError(
                f"{path} was recorded from a model with code of its own, which a run does not keep. "
                "Pass model=YourModel(...) of the same architecture; its values do not matter."
            )
        model = rebuild(meta["architecture"], parameters=expected)
    network = Network(model)
    _compare_parameters(network, expected, path)
    network.trainable = [entry["name"] for entry in meta["parameters"]]
    run = Run.from_store(store, network, _loss(meta, loss, path))
    run.restore_surroundings()
    if data is not None:
        compare_samples(run, data)
    return run


def _loss(meta: dict[str, Any], loss: Callable[..., Tensor] | None, path: str | Path) -> Loss:
    if loss is not None:
        return Loss(loss)
    known = named_loss(meta.get("loss"), meta.get("loss_options", {}))
    if known is None:
        raise DataError(
            f"{path} was recorded with the loss {meta.get('loss')!r}, which is no function of torch.nn.functional. "
            "Pass loss=... to load, the function that was given to record."
        )
    return known


def _compare_parameters(network: Network, expected: dict[str, tuple[int, ...]], path: str | Path) -> None:
    found = {name: tuple(p.shape) for name, p in network.parameters.items()}
    if found == expected:
        return
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            raise ModelError(
                f"The model has other parameters than the run in {path}: {name!r} has shape "
                f"{found.get(name, 'none')} in the model and {expected.get(name, 'none')} in the run. "
                "Build the model with the arguments it was trained with."
            )


def compare_samples(run: Run, data: Any, probes: int = 64) -> None:
    """Compares some samples of a data set with those of the run; raises if they differ."""
    count = len(data)
    if run.samples.fixed and count != run.size:
        raise DataError(
            f"The run was trained on {run.size} samples, and the data given holds {count}. "
            "Pass the training set itself, not the test set or a part."
        )
    seen = run.samples.seen[:run.size].nonzero().flatten().tolist()
    some: Sequence[int] = seen[:: max(1, len(seen) // probes)]
    with torch.random.fork_rng(devices=[]):
        alike = {i: _alike(run, i, data[run.samples.ids[i]]) for i in some}
    # A loop that scales its inputs changes all of them, and no target.
    scaled = not any(inputs for inputs, _ in alike.values())
    differing = [i for i, (inputs, targets) in alike.items() if not (targets and (inputs or scaled or run.draws))]
    if differing:
        raise DataError(
            f"{len(differing)} of {len(some)} samples compared differ from those of the run (the first is sample "
            f"{differing[0]}). Pass the data set as it was recorded, or leave data= out: the run keeps its own copy."
        )


def _alike(run: Run, i: int, item: Any) -> tuple[bool, bool]:
    """Whether the input and the target of sample i are those of the data set's item."""
    kept = run.sample(i)
    assert kept is not None
    if not isinstance(item, list | tuple) or len(item) < 2:
        return True, True
    return _same(kept[0], item[0]), _same(kept[1], item[-1])


def _same(kept: Tensor, given: Any) -> bool:
    if not isinstance(given, Tensor | int | float):
        return True
    # The loop may have reshaped and converted it on its way to the network.
    flat = torch.as_tensor(given).reshape(-1)
    return flat.numel() != kept.numel() or torch.equal(flat.to(kept.dtype), kept.reshape(-1))
