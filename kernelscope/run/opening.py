"""A run opened from its folder, with a model that fits it."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..architecture import rebuild
from ..arguments import as_path
from ..errors import DataError, ModelError, StoreError
from ..losses import Loss, named_loss
from ..network import Network
from ..storage import Store
from ..storage.manifest import NAME
from ..storage.store import Verify
from ..text import shown
from .calling import ByName, Calling, is_known, made_again
from .comparing import compare_samples
from .index import RunIndex
from .run import Run
from .validating import Validator

#: What a run is, and the way to one.
RUN = ("A run is the folder that kernelscope.record(..., out=...) or the command kernelscope record wrote: name that "
       "folder, such as runs/train.")


def load(path: str | Path, model: nn.Module | None = None, data: Any = None,
         loss: Callable[..., Tensor] | None = None) -> Run:
    """Opens a run from its folder; every checksum is verified, and nothing is ever unpickled.

    Args:
        path: The folder that ``record(..., out=path)`` wrote.
        model: A module of the trained architecture; its values do not matter and it is not changed. Needed unless the
            model is made of plain torch layers, which the folder describes itself.
        data: The training set (or its loader, or a pair of tensors), to be compared with the samples of the run: a
            look at some of them, 64 at most. Inputs agree if they are the same numbers, be it with permuted axes, or
            an affine map of them, :math:`a u + b`, with one a and b for all numbers, for each entry, or for each
            sample, to single precision. Targets agree if they are the same, such a map with a > 0, or the same class
            as an index and as a row that marks it. Of a run whose network saw samples in several forms, as under
            augmentation, only sizes and targets are compared.
        loss: The per-sample loss; needed unless it is one of ``torch.nn.functional``.

    Raises:
        StoreError: If the folder is no run, or not the bytes that were written.
        ModelError: If the model has other parameters than the recorded one.
        DataError: If ``data`` does not hold the samples that the run was trained on, or something that they cannot be
            told from.
    """
    path = as_path(path, "The folder of a run", 'kernelscope.load("runs/digits")')
    # What is made in inference mode takes no part in a gradient, and a run is asked for gradients.
    with torch.inference_mode(False):
        store = run_store(path)
        meta = store.meta
        Validator(meta, path)
        expected = {entry["name"]: tuple(entry["shape"]) for entry in meta["parameters"] + meta["frozen"]}
        if model is None:
            model = made_again(meta)
        if model is None:
            if meta.get("architecture") is None:
                raise ModelError(
                    f"{path} was recorded from a model with code of its own, which a run does not keep. "
                    "Pass model=YourModel(...) of the same architecture; its values do not matter."
                )
            model = rebuild(meta["architecture"], parameters=expected)
        calling = Calling.of(meta.get("calling"))
        if calling is not None and not isinstance(model, ByName):
            model = ByName(model, calling)
        network = Network(model)
        _compare_parameters(network, expected, path)
        network.trainable = [entry["name"] for entry in meta["parameters"]]
        run = Run.from_store(store, network, _loss(meta, loss, path))
        run.restore_surroundings()
        if data is not None:
            compare_samples(run, data)
        return run


def contents(path: Path) -> dict[str, Any]:
    """What a stored run holds, in plain data as from :meth:`Run.info`; no network is made, so no code is needed.

    Raises:
        StoreError: If the folder is no run, or not the bytes that were written.
    """
    store = run_store(path)
    index = RunIndex(store)
    code = [name for name, known in (("model", store.meta.get("architecture") or is_known(store.meta) or None),
                                     ("loss", named_loss(store.meta.get("loss"), store.meta.get("loss_options") or {})))
            if known is None]
    return index.info(0, index.length) | {"files": len(store.segments), "needs": code}


def run_store(path: Path, verify: Verify = "sha256") -> Store:
    """The store of a run.

    Raises:
        StoreError: If there is none, with what a run is.
    """
    # os.path says no where a path cannot be looked at, as where it is too long.
    if not os.path.exists(path):
        raise StoreError(f"There is no folder {str(path)!r}. {RUN}")
    if not os.path.isdir(path):
        raise StoreError(f"{path} is a file, and no run. {RUN}")
    if not os.path.lexists(path / NAME):
        inside = sorted(str(found.parent) for found in path.glob(f"*/{NAME}"))[:5]
        if {Path(name).name for name in inside} >= {"critic", "generator"}:
            raise StoreError(f"{path} is no run but a recorded game, with two of them in it: open it with "
                             f"kernelscope.generative.load({str(path)!r}), or name one of {', '.join(inside)}.")
        raise StoreError(f"{path} is no run: there is no {NAME} in it. "
                         + (f"In it are {', '.join(inside)}: name one." if inside else RUN))
    store = Store.open(path, verify=verify)
    if store.kind != "run":
        name = store.meta.get("class") if store.kind == "result" else None
        way = f"Open it with {_public(name)}.load({str(path)!r})." if isinstance(name, str) else RUN
        raise StoreError(f"{path} is no run: what is stored in it is of the kind {store.kind!r}. {way}")
    return store


def _public(name: str) -> str:
    """The name of a kind of result as a user writes it, with where it is found."""
    for home in ("kernelscope", "kernelscope.generative", "kernelscope.nn"):
        if name in import_module(home).__all__:
            return f"{home}.{name}"
    return shown(name)


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
