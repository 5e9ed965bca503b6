"""Maps of random features as plain words: their numbers and a seed, from which the same directions are drawn again."""

from __future__ import annotations

from dataclasses import asdict
from inspect import signature
from typing import Any

from ..features import (
    ArcCosineFeatures,
    FeatureMap,
    LineSpectrum,
    PositiveFeatures,
    RandomFourier,
    UniversalRandomFeatures,
)
from ..features import Sum as SideBySide
from ..features.doubled import Doubled
from ..features.universal import Tower

#: Maps that are plain numbers: each is made from its arguments, which it keeps under their names.
MAPS: tuple[type[FeatureMap], ...] = (RandomFourier, ArcCosineFeatures, PositiveFeatures)


def map_in_words(features: FeatureMap) -> dict[str, Any] | None:
    """A map in words and numbers; ``None`` for one that holds more than these, such as a model.

    Example:
        >>> map_in_words(ArcCosineFeatures(8))
        {'features': 'ArcCosineFeatures', 'size': 8, 'order': 1, 'kind': 'orthogonal', 'seed': 0}
    """
    if type(features) is SideBySide:
        left, right = map_in_words(features.left), map_in_words(features.right)
        return None if left is None or right is None else {"features": "Sum", "left": left, "right": right}
    if type(features) is Doubled:
        part = map_in_words(features.features) if features.widened else None
        return None if part is None else {"features": "Doubled", "part": part}
    if isinstance(features, Tower):
        both = features.features
        arguments = {name: getattr(both, name) for name in signature(type(both)).parameters if name != "activation"}
        return {"features": "Tower", "side": features.side, "spectrum": asdict(both.spectrum), "arguments": arguments}
    if type(features) not in MAPS:
        return None
    kind = type(features)
    return {"features": kind.__name__} | {name: getattr(features, name) for name in signature(kind).parameters}


def map_from(words: Any) -> FeatureMap:
    """The map that a description is of.

    Raises:
        LookupError: If no map has this description.

    Example:
        >>> map_from(map_in_words(RandomFourier(8) + ArcCosineFeatures(4, order=0)))
        RandomFourier(8, bandwidth=1, kind='orthogonal', seed=0) + \
ArcCosineFeatures(4, order=0, kind='orthogonal', seed=0)
    """
    match words:
        case {"features": "Sum", "left": left, "right": right, **rest} if not rest:
            return SideBySide(map_from(left), map_from(right))
        case {"features": "Doubled", "part": part, **rest} if not rest:
            return Doubled(map_from(part))
        case {"features": "Tower", "side": str(side), "spectrum": dict(spectrum), "arguments": dict(both)}:
            return Tower(_universal(spectrum, both), side)
        case {"features": str(name)}:
            make: Any = next((kind for kind in MAPS if kind.__name__ == name), None)
            arguments = {key: value for key, value in words.items() if key != "features"}
            if make is not None and set(arguments) <= set(signature(make).parameters):
                return make(**arguments)
    raise LookupError("no map has this description")


def _universal(spectrum: dict[str, Any], arguments: dict[str, Any]) -> UniversalRandomFeatures:
    for words, kind in ((spectrum, LineSpectrum), (arguments, UniversalRandomFeatures)):
        if not set(words) <= set(signature(kind).parameters) - {"activation"}:
            raise LookupError("no map has this description")
    return UniversalRandomFeatures(LineSpectrum(**spectrum), **arguments)
