"""Machines on the disk: the kernel in words, everything else as tensors.

A kernel that holds more than numbers, such as the model of a tangent kernel, is not kept. Its values at a few centers
are, so that another one is not taken for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_path, as_switch
from ..errors import DataError, KernelscopeError, StoreCorrupt
from ..kernels.base import Kernel
from ..result import put_together, taken_apart
from ..storage import Store
from .describing import described, rebuilt
from .fitting import Fitting

if TYPE_CHECKING:
    from .machine import KernelMachine

#: At how many centers the values of a kernel are kept, and how far another's may be off.
PROBES, CLOSE = 32, {torch.float64: 1e-8}


def save(machine: KernelMachine, path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Keeps a machine in a folder."""
    tensors = {"coefficients": machine.coefficients.cpu(), "intercept": machine.intercept.cpu()}
    tensors |= {f"centers.{name}": value.cpu() for name, value in named(machine.centers).items()}
    tensors["probe"] = probe(machine.kernel, machine.centers).cpu()
    said = None if machine.fitting is None else taken_apart(machine.fitting, "fitting.", tensors)
    meta = {"kernel": described(machine.kernel), "words": repr(machine.kernel), "centers": form(machine.centers),
            "fitting": said}
    folder = as_path(path, "The folder of a machine", '"machines/digits"')
    Store.create(folder, kind="machine", meta=meta, overwrite=as_switch(overwrite, "overwrite"), first=tensors).close()
    return folder


def load(kind: type[KernelMachine], path: str | os.PathLike[str], kernel: Kernel | None) -> KernelMachine:
    """Opens a machine."""
    store = Store.open(path, kind="machine")
    if not store.segments:
        raise StoreCorrupt(f"{path} holds no machine: saving it was interrupted. Save it again.")
    meta, tensors = store.meta, store.read(0)
    if kernel is None:
        if meta.get("kernel") is None:
            raise DataError(
                f"The kernel of this machine, {meta.get('words')}, holds more than numbers and was not kept. Make it "
                f"as it was and pass it: KernelMachine.load({str(path)!r}, kernel=...)."
            )
        kernel = rebuilt(meta["kernel"], str(path))
    elif meta.get("kernel") is not None and described(kernel) not in (None, meta["kernel"]):
        raise DataError(f"{path} was saved with {meta.get('words')}, and {kernel!r} came. Leave kernel out: the "
                        "machine knows its own.")
    try:
        centers = put(meta["centers"], tensors)
        fitting = None if meta["fitting"] is None else put_together(meta["fitting"], tensors, str(path))
        coefficients, intercept, true = tensors["coefficients"], tensors["intercept"], tensors["probe"]
    except (KeyError, TypeError) as error:
        raise StoreCorrupt(f"{path} lacks a part of a machine ({error}). Save it again.") from error
    if fitting is not None and not isinstance(fitting, Fitting):
        raise StoreCorrupt(f"{path} holds a {type(fitting).__name__} where the fitting of a machine should be.")
    _check_kernel(kernel, centers, true, path)
    return kind(kernel, centers, coefficients, intercept, fitting=fitting)


@torch.no_grad()
def probe(kernel: Kernel, centers: Any) -> Tensor:
    """The kernel of some centers, spread over all of them."""
    points = kernel.points(centers)
    count = min(PROBES, len(points))
    return kernel(points.chosen([i * len(points) // count for i in range(count)]))


def _check_kernel(kernel: Kernel, centers: Any, true: Tensor, path: str | os.PathLike[str]) -> None:
    try:
        found = probe(kernel, centers).cpu().double()
    except KernelscopeError as error:
        raise DataError(f"The centers of {path} are no points for {kernel!r}: {error}") from error
    gap = float((found - true.double()).abs().max()) if found.shape == true.shape else float("inf")
    if not gap <= CLOSE.get(true.dtype, 1e-4) * float(true.double().abs().max()):
        raise DataError(
            f"{kernel!r} is not the kernel that {path} was saved with: its values at its centers differ by "
            f"{gap:.1e}. Pass the kernel as it was, with the same parameters."
        )


def named(centers: Any) -> dict[str, Tensor]:
    """The tensors of centers by their names."""
    if isinstance(centers, Tensor):
        return {"0": centers}
    return centers if isinstance(centers, dict) else {str(i): value for i, value in enumerate(centers)}


def form(centers: Any) -> str | int | list[str]:
    """How the tensors of centers belong together: one, several, or several by name."""
    if isinstance(centers, Tensor):
        return "tensor"
    return sorted(centers) if isinstance(centers, dict) else len(centers)


def put(form: Any, tensors: dict[str, Tensor]) -> Any:
    """Centers from their tensors."""
    if form == "tensor":
        return tensors["centers.0"]
    if isinstance(form, list):
        return {name: tensors[f"centers.{name}"] for name in form}
    return tuple(tensors[f"centers.{i}"] for i in range(form))
