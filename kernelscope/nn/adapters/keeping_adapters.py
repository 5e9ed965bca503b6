"""Adapters on the disk: their numbers, and in words what they are and where they belong. The model is not kept.

What the frozen parameters measured is, so that adapters are not placed in a model that they were not trained with.
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
from ...errors import DataError, StoreCorrupt
from ...storage import Store
from .adapter import SNNKAdapter
from .injecting import Injected, place, placed

#: How far the size of a frozen parameter may be off: types of fewer digits are let pass, other models are not.
CLOSE = 1e-2


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
    tensors |= {f"size.{name}": _size(value) for name, value in frozen.items()}
    said = [{"after": name, "d": a.d, "features": a.features, "kind": a.kind, "seed": a.seed, "form": a.form}
            for name, a in injected.adapters.items()]
    meta = {"version": __version__, "adapters": said, "beside": sorted(beside)}
    with Store.create(folder, kind="adapters", meta=meta, overwrite=as_switch(overwrite, "overwrite")) as store:
        store.append({name: value.cpu() for name, value in tensors.items()})
    return folder


def load_adapters(model: nn.Module, path: str | os.PathLike[str], in_place: bool = False) -> Injected:
    """Places adapters that were kept into the model that they were trained with, and freezes the rest.

    Args:
        model: The model without adapters; a copy of it gets them.
        path: The folder.
        in_place: Change the model itself, not a copy.

    Raises:
        DataError: If the model is another one, by its layers, its shapes or its numbers.
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
    except (KeyError, TypeError, RuntimeError) as error:
        raise StoreCorrupt(f"{path} lacks a part of the adapters ({error}). Save them again.") from error
    sizes = {name.removeprefix("size."): value for name, value in tensors.items() if name.startswith("size.")}
    _check(model, adapters, beside, sizes, path)
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


def _size(p: Tensor) -> Tensor:
    """The shape of a parameter and its root mean square."""
    return torch.tensor([*p.shape, float(p.detach().double().square().mean().sqrt())], dtype=torch.float64)


def _check(
    model: nn.Module, adapters: dict[str, SNNKAdapter], beside: dict[str, Tensor], sizes: dict[str, Tensor], path: Any
) -> None:
    layers, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for name in adapters:
        if name not in layers:
            raise DataError(f"{path} has an adapter after the layer {name!r}, and this model has none of that name. "
                            "Pass the model that the adapters were trained with.")
    for name, value in beside.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise DataError(f"{path} has a trained parameter {name!r} with shape {tuple(value.shape)}, and this model "
                            "has none such. Pass the model that the adapters were trained with.")
    for name, true in sizes.items():
        found = _size(parameters[name]) if name in parameters else None
        if found is None or found.shape != true.shape or not torch.equal(found[:-1], true[:-1]):
            raise DataError(f"{path} belongs to a model with a parameter {name!r} with shape "
                            f"{tuple(int(n) for n in true[:-1])}, and this model has none such. Pass that model.")
        if not abs(float(found[-1] - true[-1])) <= CLOSE * float(true[-1]):
            raise DataError(f"{path} belongs to another model: the root mean square of {name!r} was "
                            f"{float(true[-1]):.4g} there and is {float(found[-1]):.4g} here. Pass the model that the "
                            "adapters were trained with.")
