"""Bundled blocks on the disk: only what stands in their place; the rest of the network is handed in again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...arguments import as_path, as_switch, what_came
from ...errors import DataError, ModelError, StoreCorrupt
from ...machine.reading import digest_of
from ...storage import Store
from ..towers import Fourier, Neurons, Rectified
from .blockwise import in_modes_of, reader_of
from .bundled import BundledLayer, tower_from
from .finding import ADDRESS, Block, Passed, described, find_blocks, part, put


def save_blocks(bundled: nn.Module, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Keeps the layers that bundling put into a network, in a folder. Nothing is pickled.

    Args:
        bundled: What :func:`~kernelscope.nn.bundle` gave with ``"ffn"`` or ``"layerwise"``.
        path: The folder.
        overwrite: Whether to replace what is there.

    Raises:
        DataError: If the network has no such layers.

    Example:
        >>> import torch, kernelscope as ks
        >>> model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
        >>> x = torch.randn(100, 4)
        >>> bundled, _ = ks.nn.bundle(model, x, features=8)
        >>> folder = ks.nn.save_blocks(bundled, "bundled")
        >>> torch.equal(ks.nn.load_blocks(model, folder)(x), bundled(x))
        True
    """
    if not isinstance(bundled, nn.Module):
        raise ModelError(f"What is kept is a network; {what_came(bundled)} came. Pass what bundle gave.")
    layers = {name: module for name, module in bundled.named_modules() if isinstance(module, BundledLayer)}
    if not layers or "" in layers:
        raise DataError("There is no bundled block in this network. Pass what bundle gave with mode=\"ffn\" or "
                        '"layerwise"; what it gives with mode="full" has a method save of its own.')
    meta: dict[str, Any] = {
        "layers": {name: {"towers": [type(tower).__name__ for tower in layer.towers],
                          "skip": layer.skip is not None, "replaced": layer.stands_for}
                   for name, layer in layers.items()},
        "passed": [name for name, module in bundled.named_modules() if isinstance(module, Passed)],
        "around": _around(bundled),
    }
    tensors = {f"{name}:{key}": value.detach().cpu() for name, layer in layers.items()
               for key, value in layer.state_dict().items()}
    folder = as_path(path, "The folder of bundled blocks", '"networks/blocks"')
    Store.create(folder, kind="blocks", meta=meta, overwrite=as_switch(overwrite, "overwrite"), first=tensors).close()
    return folder


def load_blocks(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """A copy of a network with the blocks in it that were kept.

    Args:
        model: The network that was bundled, with its parameters as they were; it is not changed.
        path: The folder.

    Raises:
        DataError: If it is another network: other layers where blocks were, or other layers or parameters around them.
        StoreCorrupt: If the folder holds something else.
    """
    store = Store.open(path, kind="blocks")
    bundled = reader_of(model)
    blocks = find_blocks(bundled)
    known = {block.box: Block(block.box, (block.box,)) for block in blocks if block.box is not None}
    known |= {block.entry: block for block in blocks}
    try:
        layers, passed, tensors = dict(store.meta["layers"]), list(store.meta["passed"]), store.read(0)
        odd = next((name for name in layers if name not in known), None)
        if odd is not None:
            raise DataError(f"{path} holds a layer for {odd!r}, and this network has no block there. Pass the network "
                            "that was bundled.")
        found, around = {}, store.meta["around"]
        for name, said in layers.items():
            own = {key.removeprefix(f"{name}:"): value for key, value in tensors.items() if key.startswith(f"{name}:")}
            here = described(bundled, known[name])
            if said["replaced"] != here:
                raise DataError(f"{path} holds a layer for {said['replaced']} in the place of {name!r}, where this "
                                f"network has {here}. Pass the network that was bundled.")
            activation = known[name].activation
            towers = [_tower(kind, own, f"towers.{i}.", None if activation is None else part(bundled, activation))
                      for i, kind in enumerate(said["towers"])]
            layer = BundledLayer(own["mean"], own["scale"], towers, len(own["constant"]), bool(said["skip"]))
            layer.load_state_dict(own)
            found[name] = layer.to(next(bundled.parameters()).device)
        for name, layer in found.items():
            put(bundled, name, layer)
        for name in passed:
            put(bundled, name, Passed())
        if _around(bundled) != around:
            raise DataError(f"What surrounds the blocks in {path} is not what surrounds them in this network: other "
                            "layers, or other parameters. Pass the network that was bundled, with its parameters as "
                            "they were.")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise StoreCorrupt(f"{path} lacks a part of bundled blocks, or they are those of another network ({error}). "
                           "Save them again.") from error
    return in_modes_of(model, bundled)


def _around(bundled: nn.Module) -> str:
    """A checksum of all but the blocks of a bundled network: modules, parameters and buffers."""
    own = tuple(f"{name}." for name, module in bundled.named_modules() if isinstance(module, BundledLayer))
    digest = hashlib.sha256()
    for name, module in bundled.named_modules():
        if not f"{name}.".startswith(own):
            said = ADDRESS.sub("", module.extra_repr())
            digest.update(f"{name}: {type(module).__qualname__}({said})\n".encode())
    for name, values in (*bundled.named_parameters(), *bundled.named_buffers()):
        if not name.startswith(own):
            digest.update(f"{name} {digest_of(values)}\n".encode())
    return digest.hexdigest()


def _tower(kind: str, tensors: dict[str, Tensor], prefix: str, activation: Any) -> Rectified | Fourier | Neurons:
    if kind == "Neurons" and activation is not None:
        return Neurons(tensors[f"{prefix}rows"], tensors[f"{prefix}shifts"], activation)
    return tower_from(kind, tensors, prefix)
