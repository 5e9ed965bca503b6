"""What comes in with a question: a run, queries, their targets, a place and memory.

All of it is looked at before anything is computed, so that what does not fit ends in a sentence that says what would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..arguments import as_whole, what_came
from ..data.items import items_of
from ..errors import DataError, NonFiniteError
from ..run.calling import Calling
from ..run.comparing import random_numbers_kept
from ..run.keeping import bytes_in
from ..run.run import Run
from ..run.step import Step


def checked_run(run: Any) -> Run:
    """The run that is asked.

    Raises:
        DataError: If it is something else, with the way from there to a run.
    """
    if isinstance(run, Run):
        return run
    ways = {
        str: f"Open the run in a folder first: kernelscope.load({run!r}).",
        nn.Module: "A network does not know how it was trained: record its training with kernelscope.record(...), and "
                   "pass the run that this leaves.",
        Step: "run[k] is one step; the run of this step alone is run[k:k + 1].",
    }
    way = next((sentence for kind, sentence in ways.items() if isinstance(run, kind)), None)
    if hasattr(run, "__fspath__"):
        way = f"Open the run in a folder first: kernelscope.load({str(run)!r})."
    if way is None and hasattr(type(run), "run"):
        way = "The run of a recording is recording.run, after its block."
    raise DataError(
        f"What is asked must be a recorded run, and a {type(run).__name__} came. "
        f"{way or 'Pass recording.run, or what kernelscope.load(folder) gives.'}"
    )


def in_order(run: Run, x: Any) -> Any:
    """Queries that come by name, as a tokenizer or a collator gives them, in the order of the run's inputs.

    What else comes is left as it is.
    """
    calling = Calling.of(run.meta.get("calling"))
    if calling is None:
        return x
    if isinstance(x, Mapping):
        return calling.ordered(x)
    if isinstance(x, list) and x and all(isinstance(item, Mapping) for item in x):
        rows = [calling.ordered({name: torch.as_tensor(value)[None] for name, value in item.items()
                                 if name in calling.names}) for item in x]
        return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    if isinstance(x, tuple) and len(x) == len(calling.names) and all(isinstance(t, Tensor) for t in x):
        return calling.long_inputs(x)
    return x


def as_queries(x: Any, like: tuple[Tensor, ...], alike: bool = False) -> tuple[Tensor, ...]:
    """Queries as tensors with one row for each, one tensor for each input of the network.

    Args:
        x: A tensor or an array; a tuple of them where the network takes several inputs, or a list of single points
            where it takes one; or a data set, or a loader that does not shuffle, whose samples hold the inputs first.
        like: The training inputs.
        alike: Whether each must have the shape of a training sample; one without its leading axis may come then.

    Raises:
        DataError: If they are nothing of the kind, not finite, or of another shape than the training inputs.
    """
    parts = _points(x, like[0]) if len(like) == 1 and _are_points(x, like[0]) else _parts(x, max(len(like), 1))
    if like and len(parts) != len(like):
        inputs = f"{len(like)} inputs" if len(like) > 1 else "1 input"
        raise DataError(
            f"The network takes {inputs} and {len(parts)} came. "
            + (f"Pass x as a tuple of {len(like)} tensors." if len(like) > 1 else
               "Pass one tensor with a row for each query; of a batch (inputs, targets) the inputs alone.")
        )
    if alike and like:
        if all(t.shape == known.shape[1:] for t, known in zip(parts, like, strict=True)):
            parts = tuple(t[None] for t in parts)
        _compare_shapes(parts, like)
    for t, known in zip(parts, like, strict=bool(like)):
        if t.ndim != known.ndim:
            hint = " A single query needs a leading axis: x[None]." if t.ndim == known.ndim - 1 else ""
            raise DataError(
                f"Queries must have {known.ndim} axes like the training inputs, "
                f"(n, {', '.join(map(str, known.shape[1:]))}); came {tuple(t.shape)}.{hint}"
            )
        if len(t) != len(parts[0]):
            raise DataError(
                f"The inputs of the queries have {[len(p) for p in parts]} rows. Give each the same number."
            )
        if t.is_complex() > known.is_complex() or t.is_floating_point() and not known.is_floating_point():
            raise DataError(
                f"The network was trained on {known.dtype}, and queries of {t.dtype} came. Convert them before."
            )
        finite = torch.isfinite(t).flatten(1).all(1) if t.ndim > 1 else torch.isfinite(t)
        if not bool(finite.all()):
            raise NonFiniteError(
                f"Query {int((~finite).nonzero()[0])} holds NaN or infinite values. Remove it, or mend it."
            )
    if not like:
        return parts
    # Whole numbers, as of pictures, may come to a network that was trained on fractions.
    return tuple(t if t.is_floating_point() or not known.is_floating_point() else t.to(known.dtype)
                 for t, known in zip(parts, like, strict=True))


def _compare_shapes(parts: tuple[Tensor, ...], like: tuple[Tensor, ...]) -> None:
    if any(t.shape[1:] != known.shape[1:] or t.ndim != known.ndim for t, known in zip(parts, like, strict=True)):
        needed = " and ".join(f"(q, {', '.join(map(str, known.shape[1:]))})" for known in like)
        came = " and ".join(str(tuple(t.shape)) for t in parts)
        raise DataError(f"explain needs queries shaped like the run's samples, {needed}; got {came}.")


def _are_points(x: Any, like: Tensor) -> bool:
    """Whether this is a list of points without a leading axis, each as the network takes one in a batch."""
    return isinstance(x, list) and bool(x) and all(_is_array(t) and np.ndim(t) == like.ndim - 1 for t in x)


def _points(x: list[Any], like: Tensor) -> tuple[Tensor, ...]:
    points = [_tensor(t) for t in x]
    odd = next((i for i, t in enumerate(points) if t.shape != points[0].shape), None)
    if odd is not None:
        raise DataError(
            f"The points of a list must have one shape, as {tuple(like.shape[1:])} in training; point 0 has "
            f"{tuple(points[0].shape)} and point {odd} {tuple(points[odd].shape)}. Ask for those of one shape at a "
            "time."
        )
    return (torch.stack(points),)


def _loaded(loader: DataLoader[Any], count: int) -> tuple[Tensor, ...]:
    """The inputs of all samples of a loader, in its order."""
    items = items_of(loader)
    assert items is not None
    if not len(items):
        raise DataError("The loader gives no sample at all. Pass one over those points of which you want to know why.")
    batch = items.batch(range(len(items)))
    parts = (batch,) if _is_array(batch) else tuple(batch[:count]) if isinstance(batch, list | tuple) else ()
    if len(parts) != count or not all(_is_array(t) for t in parts):
        raise DataError(
            f"The batches of a loader must hold the {count} input{'s' * (count > 1)} of the network first, as tensors; "
            f"this one gives a {type(batch).__name__}. Pass a tensor with one row for each query."
        )
    return tuple(_tensor(t) for t in parts)


def _parts(x: Any, count: int) -> tuple[Tensor, ...]:
    if isinstance(x, list | tuple) and x and all(_is_array(t) for t in x):
        return tuple(_tensor(t) for t in x)
    if _is_array(x):
        return (_tensor(x),)
    if isinstance(x, DataLoader):
        return _loaded(x, count)
    if isinstance(x, list | tuple):
        way = "Use torch.tensor(x), with a row for each query." if x else "Pass a row for each query."
    elif isinstance(x, Mapping):
        way = "Pass its tensors as a tuple, in the order of the network's arguments."
    elif not isinstance(x, str) and hasattr(x, "__getitem__") and hasattr(x, "__len__"):
        return _stacked(x, count)
    else:
        way = "Pass the inputs of those points of which you want to know why, as a tensor with a row for each."
    raise DataError(
        f"Queries must be a tensor with one row for each, or a tuple of such tensors; a {type(x).__name__} came. {way}"
    )


def _is_array(x: Any) -> bool:
    return isinstance(x, Tensor) or hasattr(x, "__array__") and not isinstance(x, type)


def _tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return _usable(x)
    array = np.asarray(x)
    if array.dtype.kind not in "biufc":
        raise DataError(
            f"An array of numbers was needed, and one of {array.dtype} came. Convert it before, for example with "
            "x.astype('float32')."
        )
    # A copy: an array may be read backwards, forbid to be written, or keep its bytes in another order.
    return torch.tensor(array.astype(array.dtype.newbyteorder("=")))


def _usable(x: Tensor) -> Tensor:
    """The tensor; a copy of one that was made in inference mode, which takes no part in a gradient.

    Raises:
        DataError: If it has no values, or not all of them.
    """
    if x.is_meta or x.layout != torch.strided:
        came, way = (("one without values (device meta)", "Pass the numbers themselves.") if x.is_meta else
                     (f"a sparse one ({str(x.layout).removeprefix('torch.')})", "Pass x.to_dense()."))
        raise DataError(f"A tensor with all its numbers was needed, and {came} of shape {tuple(x.shape)} came. {way}")
    return x.detach().clone() if x.is_inference() else x.detach()


def _stacked(data: Any, count: int) -> tuple[Tensor, ...]:
    """The inputs of all samples of a data set."""
    with random_numbers_kept():
        items = [data[i] for i in range(len(data))]
    rows = [tuple(item[:count]) if isinstance(item, list | tuple) else (item,) for item in items]
    if not rows or not all(len(row) == count and all(_is_array(t) for t in row) for row in rows):
        inside = f"a {type(items[0]).__name__}" if items else "nothing"
        raise DataError(
            f"The samples of a data set must hold the {count} input{'s' * (count > 1)} of the network first, as "
            f"tensors or arrays; this {type(data).__name__} holds {inside}. Pass a tensor with one row for each query."
        )
    columns = [[_tensor(t) for t in column] for column in zip(*rows, strict=True)]
    for column in columns:
        if len({t.shape for t in column}) > 1:
            raise DataError(
                f"The samples of this {type(data).__name__} have different shapes, so they are no rows of one tensor. "
                "Ask for those of one shape at a time."
            )
    return tuple(torch.stack(column) for column in columns)


def as_targets(targets: Any, count: int, run: Run | None = None) -> Tensor | None:
    """Targets as a tensor with one row for each query; those of tokens as long as the rows of a run.

    Raises:
        DataError: If they are no numbers, or not as many as there are queries.
    """
    if targets is None:
        return None
    try:
        given = _usable(targets) if isinstance(targets, Tensor) else torch.as_tensor(np.asarray(targets))
    # What is no array of numbers is refused by one of these.
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"targets must be numbers, one or a row of them for each query; a {type(targets).__name__} came that is no "
            "array of numbers. Give classes by their index."
        ) from error
    if given.ndim == 0 and count == 1:
        given = given[None]
    if given.ndim == 0 or len(given) != count:
        came = f"the number {given.item()}" if given.ndim == 0 else f"{len(given)}"
        raise DataError(
            f"targets must hold one target for each of the {count} queries; {came} came. Leave targets out where they "
            "are not known."
        )
    calling = None if run is None else Calling.of(run.meta.get("calling"))
    return given if calling is None else calling.long_targets(given)


def checked_place(device: Any, usual: torch.device) -> torch.device:
    """The device to compute on.

    Raises:
        DataError: If this machine has no such device.
    """
    try:
        place = usual if device is None else torch.device(device)
        if place.type != "meta":
            torch.zeros(1, device=place)
            return place
        problem = "it holds no numbers"
    # torch says by any of these that there is no such device, or none that it was built for.
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        problem = str(error).strip().splitlines()[0][:160]
    raise DataError(
        f'device={str(device)[:80]!r} cannot be computed on here ({problem}). Pass device="cpu", or leave device out: '
        "the computation is then where the model was."
    )


def checked_memory(memory: Any) -> int:
    """A number of bytes, from a number or a size in words.

    Raises:
        DataError: If it is neither.
    """
    size = bytes_in(memory) if isinstance(memory, str) else memory
    if isinstance(size, bool) or not isinstance(size, int | float) or not 1 <= size < 2**63:
        raise DataError(
            f'memory must be a number of bytes or a size such as "1GB"; {memory!r} came. The default is "512MiB".'
        )
    return int(size)


def checked_count(k: Any) -> int:
    """How many samples are shown on each side.

    Raises:
        DataError: If it is no whole number from 1 on.
    """
    number = as_whole(k)
    if number is None or number < 1:
        raise DataError(
            f"k says how many samples are shown on each side, a whole number from 1 on; got k={what_came(k)}."
        )
    return number


def as_words(labels: Any, name: str) -> list[str]:
    """A word for each training sample, whatever holds them: a tensor's repr is no word for a sample.

    Raises:
        DataError: If they are one word, or no list at all.
    """
    plain = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(plain, str | bytes | Mapping) or not isinstance(plain, Iterable):
        raise DataError(
            f"{name} must hold a word for each training sample, as a list; {what_came(labels)} came. Pass one word for "
            "each, in the order of the samples."
        )
    return [str(word.item() if isinstance(word, Tensor) and word.ndim == 0 else word) for word in plain]
