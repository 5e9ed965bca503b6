"""Machines of features on the disk: the map in words where it is numbers alone, the sums, and a few points.

A map that holds more than numbers is not kept. Its features of a few points are, so that another one is not taken for
it. Samples are not kept either; those that are handed over have to have the same targets.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_path, as_switch, what_came
from ..errors import DataError, KernelscopeError, StoreCorrupt
from ..features.base import FeatureMap
from ..kernels.of_features import FeatureKernel
from ..result import put_together, taken_apart
from ..solvers.ridge import NormalEquations, RidgePath
from ..storage import Store
from .describing import described, rebuilt
from .keeping import CLOSE, form, named, put
from .points import equal
from .reading import points_and_targets, read_weights
from .ridges import Ridges
from .samples import Samples, rows_of

if TYPE_CHECKING:
    from .primal import FeatureMachine

#: What the store of such a machine is called.
KIND = "feature-machine"

#: The tensors of the sums that are kept.
SUMS = ("gram", "totals", "center", "near_cross", "near_squares", "near_totals")

#: How much the sums of squares of targets that are handed over may differ.
SAME = 1e-6


def save(machine: FeatureMachine, path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Keeps a machine in a folder."""
    folder = as_path(path, "The folder of a machine", '"machines/digits"')
    equations, points = machine.path.equations, machine.some_points()
    tensors = {name: getattr(equations, name).cpu() for name in SUMS}
    tensors |= {"free": machine.path.free, "probe": probe(machine.features, points).cpu()}
    tensors |= {f"centers.{name}": value.cpu() for name, value in named(points).items()}
    meta = {"kernel": described(FeatureKernel(machine.features)), "words": repr(machine.features),
            "points": form(points), "count": equations.count, "weight": equations.weight,
            "intercept": machine.constant, "single": machine.single, "unit": machine.unit, "memory": machine.memory,
            "fitting": taken_apart(machine.fitting, "fitting.", tensors)}
    Store.create(folder, kind=KIND, meta=meta, overwrite=as_switch(overwrite, "overwrite"), first=tensors).close()
    return folder


@torch.no_grad()
def load(kind: type[FeatureMachine], path: str | os.PathLike[str], features: FeatureMap | None,
         given: tuple[Any, ...] | None) -> FeatureMachine:
    """Opens a machine."""
    store = Store.open(path, kind=KIND)
    if not store.segments:
        raise StoreCorrupt(f"{path} holds no machine: saving it was interrupted. Save it again.")
    meta, tensors = store.meta, store.read(0)
    try:
        features = _features(meta, features, str(path))
        equations = NormalEquations(*tensors["near_cross"].shape)
        for name in SUMS:
            setattr(equations, name, tensors[name])
        equations.count, equations.weight = int(meta["count"]), float(meta["weight"])
        points, true, free = put(meta["points"], tensors), tensors["probe"], tensors["free"]
        ridges = put_together(meta["fitting"], tensors, str(path))
        settings = {name: meta[name] for name in ("intercept", "single", "unit", "memory")}
    except (KeyError, TypeError) as error:
        raise StoreCorrupt(f"{path} lacks a part of a machine ({error}). Save it again.") from error
    if not isinstance(ridges, Ridges):
        raise StoreCorrupt(f"{path} holds a {type(ridges).__name__} where the ridges of a machine should be.")
    _check_features(features, points, true, path)
    samples = None if given is None else _samples(features, given, settings["unit"], equations, points, path)
    return kind(features, RidgePath(equations, free), ridges, samples=samples, few=points, **settings)


def probe(features: FeatureMap, points: Any) -> Tensor:
    """The features of a few points."""
    with torch.no_grad():
        return torch.cat([values for _, values in rows_of(features, features.points(points), features.memory)])


def _features(meta: dict[str, Any], features: FeatureMap | None, path: str) -> FeatureMap:
    words = meta["kernel"]
    if features is None:
        kernel = None if words is None else rebuilt(words, path)
        if not isinstance(kernel, FeatureKernel):
            raise DataError(f"The map of this machine, {meta['words']}, holds more than numbers and was not kept. Make "
                            f"it as it was and pass it: FeatureMachine.load({path!r}, features=...).")
        return kernel.left
    if not isinstance(features, FeatureMap):
        raise DataError(f"features is the map that the machine was fitted with; {what_came(features)} came. Pass "
                        f"{meta['words']}, or leave it out where the machine knows its own.")
    return features


def _check_features(features: FeatureMap, points: Any, true: Tensor, path: str | os.PathLike[str]) -> None:
    try:
        found = probe(features, points).cpu().double()
    except KernelscopeError as error:
        raise DataError(f"The points of {path} are no points for {features!r}: {error}") from error
    gap = float((found - true.double()).abs().max()) if found.shape == true.shape else float("inf")
    if not gap <= CLOSE.get(true.dtype, 1e-4) * float(true.double().abs().max()):
        raise DataError(f"{features!r} is not the map that {path} was saved with: its features of the same points "
                        f"differ by {gap:.1e}. Pass the map as it was, with the same parameters.")


def _samples(features: FeatureMap, given: Any, unit: float, equations: NormalEquations,
             few: Any, path: str | os.PathLike[str]) -> Samples:
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise DataError(f"samples are what the machine was fitted to, (x, y) or (x, y, weights); {what_came(given)} "
                        "came.")
    points, targets = points_and_targets(FeatureKernel(features), given[0], given[1])
    weights = read_weights(given[2], len(points)) / unit if len(given) == 3 and given[2] is not None else None
    samples = Samples(points, targets.view(len(points), -1), weights)
    y = samples.targets.double()
    w = y.new_ones(len(y)) if weights is None else weights.to(y)
    true = equations.near_squares.to(y)
    told = len(true) == y.shape[1]
    if told:
        squares = w @ (y - equations.center.to(y)).square()
        told = not bool(((squares - true).abs() > SAME * true).any())
    if not told or int((w > 0).sum()) != equations.count or not equal(samples.few, few):
        raise DataError(f"These are not the samples that {path} was fitted to, {equations.count:,} of them: points, "
                        "targets or weights differ. Pass them in the order and with the weights of the fit.")
    return samples
