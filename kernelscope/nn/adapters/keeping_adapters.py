"""Adapters on the disk: their numbers, and in words what they are and where they belong. The model is not kept.

So are checksums of the frozen parameters: adapters are not placed in a model that they were not trained with.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import __version__
from ...arguments import as_path, as_switch, what_came
from ...errors import DataError, ModelError, StoreCorrupt
from ...machine.reading import digest_of
from ...storage import Store
from .adapter import SNNKAdapter
from .injecting import CHILD, Injected, place, placed

#: Types by their digits: a model that was rounded to one of fewer is still the same model.
TYPES = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def save_adapters(injected: Injected, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Keeps what was trained in a folder: a safetensors file and a page of JSON, no pickle.

    Directions are kept, not drawn again: another version of a generator would draw others.

    Args:
        injected: A model with its adapters.
        path: The folder.
        overwrite: Replace adapters that are there already.

    Returns:
        The folder.

    Raises:
        DataError: If something else was handed in, or its adapters were taken out.
        StoreExists: If the folder holds something already.

    Example:
        >>> from kernelscope.nn import inject
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> injected = inject(model, "0", features=2)
        >>> folder = save_adapters(injected, "adapters/first")
        >>> load_adapters(model, folder)
        1 adapter with 48 parameters are trained; 131 are frozen.
    """
    if not isinstance(injected, Injected) or not injected.adapters:
        came = "one without adapters" if isinstance(injected, Injected) else what_came(injected)
        raise DataError(f"save_adapters keeps what inject gave; {came} came. Pass it before its adapters are removed.")
    folder = as_path(path, "The folder of adapters", '"adapters/first"')
    inner = {id(p) for adapter in injected.adapters.values() for p in adapter.parameters()}
    beside = {name: p.detach() for name, p in injected.named_parameters() if id(p) not in inner}
    frozen = {name: p for name, p in injected.model.named_parameters() if not p.requires_grad and id(p) not in inner}
    tensors = {f"adapter.{i}.{name}": value for i, adapter in enumerate(injected.adapters.values())
               for name, value in adapter.state_dict().items()}
    tensors |= {f"beside.{name}": value for name, value in beside.items()}
    said = [{"after": name, "d": a.d, "features": a.features, "kind": a.kind, "seed": a.seed, "form": a.form}
            for name, a in injected.adapters.items()]
    meta = {"version": __version__, "adapters": said, "beside": sorted(beside),
            "frozen": {name: _described(value) for name, value in frozen.items()}}
    Store.create(folder, kind="adapters", meta=meta, overwrite=as_switch(overwrite, "overwrite"),
                 first={name: value.cpu() for name, value in tensors.items()}).close()
    return folder


def load_adapters(model: nn.Module, path: str | os.PathLike[str], in_place: bool = False) -> Injected:
    """Places adapters that were kept into the model that they were trained with, and freezes the rest.

    Args:
        model: The model without adapters; a copy of it gets them.
        path: The folder.
        in_place: Change the model itself, not a copy.

    Raises:
        DataError: If the model is another one, by its layers, its shapes or its numbers; one that was rounded to a type
            of fewer digits is the same.
        ModelError: If the model has adapters already.
        StoreCorrupt: If the folder lacks something.

    Example:
        >>> from kernelscope.nn import inject
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
        >>> injected = inject(model, "0", features=2)
        >>> again = load_adapters(model, save_adapters(injected, "adapters/one"))
        >>> x = torch.randn(3, 4)
        >>> torch.equal(again.model(x), injected.model(x))
        True
    """
    if not isinstance(model, nn.Module):
        raise DataError(f"Adapters are placed in a torch.nn.Module; {what_came(model)} came. Pass the model itself.")
    in_place = as_switch(in_place, "in_place")
    store = Store.open(path, kind="adapters")
    if not store.segments:
        raise StoreCorrupt(f"{path} holds no adapters: saving them was interrupted. Save them again.")
    meta, tensors = store.meta, store.read(0)
    try:
        adapters = {said["after"]: _adapter(said, i, tensors) for i, said in enumerate(meta["adapters"])}
        beside = {name: tensors[f"beside.{name}"] for name in meta["beside"]}
        frozen = {name: (list(said["shape"]), str(said["dtype"]), dict(said["sha256"]))
                  for name, said in meta["frozen"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise StoreCorrupt(f"{path} lacks a part of the adapters ({error}). Save them again.") from error
    _check(model, adapters, beside, frozen, path)
    model = model if in_place else copy.deepcopy(model)
    with torch.no_grad():
        for name, value in beside.items():
            model.get_parameter(name).copy_(value)
    for name, adapter in adapters.items():
        device, dtype = place(model.get_submodule(name), model)
        adapter.to(device, dtype)
    return placed(model, adapters, beside)


def _adapter(said: dict[str, Any], i: int, tensors: dict[str, Tensor]) -> SNNKAdapter:
    own = {name.removeprefix(f"adapter.{i}."): value for name, value in tensors.items()
           if name.startswith(f"adapter.{i}.")}
    options = {name: said[name] for name in ("d", "features", "kind", "seed", "form")}
    adapter = SNNKAdapter(**options, dtype=own["psi"].dtype)
    adapter.load_state_dict(own)
    return adapter


def _described(p: Tensor) -> dict[str, Any]:
    """The shape and type of a parameter, and its checksums in this type and in those of fewer digits."""
    fewer = [kind for kind, digits in TYPES.items() if digits < TYPES.get(p.dtype, 0)]
    return {"shape": list(p.shape), "dtype": _named(p.dtype),
            "sha256": {_named(kind): digest_of(p.to(kind)) for kind in (p.dtype, *fewer)}}


def _named(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _is_same(p: Tensor, dtype: str, sums: dict[str, str]) -> bool:
    """Whether a parameter has the numbers of the checksums, in the type of the fewer digits."""
    if _named(p.dtype) in sums:
        return digest_of(p) == sums[_named(p.dtype)]
    wide = next((kind for kind in TYPES if _named(kind) == dtype), None)
    return wide is not None and p.dtype in TYPES and digest_of(p.to(wide)) == sums[dtype]


def _check(
    model: nn.Module, adapters: dict[str, SNNKAdapter], beside: dict[str, Tensor],
    frozen: dict[str, tuple[list[int], str, dict[str, str]]], path: Any,
) -> None:
    layers, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for name, layer in layers.items():
        # Those that were frozen when these were trained belong to the model.
        if isinstance(layer, SNNKAdapter) and f"{name}.psi" not in frozen.keys() | beside.keys():
            after = name.rpartition(".")[0] if name.endswith(CHILD) else name
            raise ModelError(f"This model has an adapter at {after!r} already, which those of {path} were not trained "
                             "with. Take adapters out first with .remove(), or pass the model without them.")
    for name in adapters:
        if name not in layers:
            raise DataError(f"{path} has an adapter after the layer {name!r}, and this model has none of that name. "
                            "Pass the model that the adapters were trained with.")
    for name, value in beside.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise DataError(f"{path} has a trained parameter {name!r} with shape {tuple(value.shape)}, and this model "
                            "has none such. Pass the model that the adapters were trained with.")
    for name, (shape, dtype, sums) in frozen.items():
        if name not in parameters or list(parameters[name].shape) != shape:
            raise DataError(f"{path} belongs to a model with a parameter {name!r} with shape {tuple(shape)}, and this "
                            "model has none such. Pass that model.")
        if not _is_same(parameters[name].detach(), dtype, sums):
            raise DataError(f"{path} belongs to another model: the checksum of the frozen parameter {name!r} is "
                            "another here. Pass the model that the adapters were trained with, or one that was rounded "
                            f"from its {dtype} to a type of fewer digits.")
