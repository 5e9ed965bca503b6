"""Two generative models asked the same questions."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_count, as_seed, as_switch, what_came
from ...decomposition.questions import as_words
from ...errors import DataError
from ...pictures import picture_shape
from ...progress import counting
from ..alike import points_like
from ..measures import centred, distances
from .bridging import bridge
from .comparison import GenerativeComparison
from .corrections import Correction, corrections, readings_of
from .fairness import rules
from .localities import localities
from .metrics import METRICS, why_empty, why_no_null
from .readings import HELD_OUT, REAL, Reading, Setting, quality, references
from .sides import DIFFUSION, GAN, DiffusionSide, GANSide, Side, side_of
from .steadiness import steadiness
from .views import kernel_readings

__all__ = ["compare"]

#: Points of each kind that are kept to be shown, and training points that are shown with an explanation.
SHOWN, BEHIND = 32, 4

#: How far apart two recordings of one point may be, of the spread of all points: a few roundings of float32.
SAME = 1e-4


def compare(a: Any, b: Any, *, probes: Any = None, held_out: Tensor | None = None, labels: Any = None,
            samples: int = 512, points: int = 64, paths: bool = True, names: Sequence[str] | None = None,
            seed: int = 0) -> GenerativeComparison:
    """Compares two generative models: the same metrics of both, with the same nulls, in one table.

    What they make (coverage, density, memorisation), whether another seed makes the same, where corrections are local
    (in noise, in training time, in space), what their kernels see, and what their corrections are made of.

    Args:
        a: The run of a denoiser, a :class:`GANRun`, or a list of runs of different seeds; from five on the numbers have
            intervals.
        b: The same; of the same kind or of the other.
        probes: Whose contributions are followed along the run: how many latents, 2 if not given, or for both models a
            pair of latents.
        held_out: Real points that no model was trained on, on the scale of training, with shape (m, *).
        labels: The class of each training sample, with shape (n,).
        samples: How many points each model generates.
        points: How many points kernels are read on.
        paths: Whether contributions are followed along the runs, which goes through every step of each.
        names: What the two are called; ``"diffusion"`` and ``"GAN"`` if not given.
        seed: What the draws begin with; both models are asked with the same.

    Returns:
        The :class:`GenerativeComparison`.

    Raises:
        DataError: If one is no generative run, has no step, or was trained on other points than the other.

    References:
        | "Reliable Fidelity and Diversity Metrics for Generative Models" (Naeem et al., 2020): coverage, density
        | "On Memorization in Diffusion Models" (Gu et al., 2025): memorisation

    Example:
        >>> from kernelscope.generative.training import train_diffusion, train_gan
        >>> x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        >>> found = compare(train_diffusion(x, steps=3, width=8), train_gan(x, steps=3, width=8, latents=2),
        ...                 samples=16, points=8, paths=False)
        >>> found.columns, found.row("coverage").values[0].mean <= 1
        (['diffusion', 'GAN'], True)
    """
    begun = time.process_time()
    sides = [_sides(value, name) for value, name in ((a, "a"), (b, "b"))]
    seed, paths = as_seed(seed), as_switch(paths, "paths")
    called = _names(names, sides)
    train, drawn = _shared([side for runs in sides for side in runs])
    reference = train if held_out is None else points_like(held_out, train, "held_out")
    setting = Setting(train, drawn, reference, held_out is not None,
                      _classes(labels, drawn), as_count(samples, "samples", least=2),
                      as_count(points, "points", least=4), seed)
    latents = _probes(probes, sides, setting)
    common = references(setting)
    found: list[list[list[Reading]]] = [[], []]
    made: list[Tensor] = []
    explained: dict[str, Tensor] = {}
    with counting(len(sides[0]) + len(sides[1]), "comparison", "runs") as done:
        for place, runs in enumerate(sides):
            for number, side in enumerate(runs):
                own, readings = quality(side, setting, common)
                readings += [*localities(side, setting), *kernel_readings(side, setting)]
                if paths:
                    behind = corrections(side, latents[place], setting)
                    readings += readings_of(behind, setting)
                    explained |= _explained(place, behind, setting) if not number else {}
                made += [own] if not number else []
                found[place].append(readings)
                done(1)
    for place, runs in enumerate(sides):
        found[place][0] += steadiness(runs, setting)
    table = _table(found, [runs[0].kind for runs in sides], [len(runs) for runs in sides], paths, setting)
    coverage = [_mean(_values(table, "coverage", place)) for place in (0, 1)]
    seconds = time.process_time() - begun
    shown = {"a": made[0], "b": made[1], **{name: common[name] for name in common if name not in (HELD_OUT, REAL)},
             "real": setting.reference[torch.randperm(len(setting.reference), generator=setting.source(30))]}
    return GenerativeComparison(
        called, [runs[0].kind for runs in sides], table,
        rules(sides[0], sides[1], (called[0], called[1]), (coverage[0], coverage[1]), setting.held_out),
        {name: values[:SHOWN].clone() for name, values in shown.items()}, explained, _bridge(sides, setting),
        {"seconds": round(seconds, 1), "samples": setting.samples, "points": setting.points, "probes": len(latents[0]),
         "seeds": [len(runs) for runs in sides], "held_out": setting.held_out, "training points": len(train),
         "reference points": len(setting.reference), "seed": seed, "paths": paths})


def _sides(value: Any, name: str) -> list[Side]:
    """The runs of one side, all of one kind.

    Raises:
        DataError: If they are not.
    """
    runs = list(value) if isinstance(value, list | tuple) else [value]
    if not runs:
        raise DataError(f"{name} is an empty list, and at least one run is compared. Pass a run, or several of "
                        "different seeds.")
    sides = [side_of(run, name if len(runs) == 1 else f"{name}[{i}]") for i, run in enumerate(runs)]
    if len({side.kind for side in sides}) > 1:
        raise DataError(f"{name} holds runs of denoisers and of games, and seeds are repeats of one model. Pass those "
                        "of one kind as a, and those of the other as b.")
    return sides


def _names(names: Sequence[str] | None, sides: list[list[Side]]) -> list[str]:
    if names is None:
        return [runs[0].kind for runs in sides]
    two = isinstance(names, Sequence) and not isinstance(names, str) and len(names) == 2
    if not two or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"names must be two names, that of a and that of b; {what_came(names)} came. Pass for example "
                        'names=("denoiser", "game").')
    return list(names)


def _shared(sides: list[Side]) -> tuple[Tensor, Tensor]:
    """The training points that every run drew, in float64, and their places.

    Raises:
        DataError: If the runs were trained on different points.
    """
    # A game holds the points themselves; of a denoiser they are worked out from noisy ones, up to a rounding.
    held = [side.points.double() for side in sorted(sides, key=lambda side: side.kind != GAN)]
    first = held[0]
    for points in held[1:]:
        if points.shape != first.shape:
            raise DataError(f"The models were trained on different sets: {len(first)} points of shape "
                            f"{tuple(first.shape[1:])}, and {len(points)} of shape {tuple(points.shape[1:])}. Train "
                            "both on the same split.")
    drawn = torch.stack([~points.flatten(1).isnan().any(1) for points in held])
    both = drawn.all(0)
    if int(both.sum()) < 2:
        raise DataError("There are not two training points that all runs drew, so they share no training set. Train "
                        "for more steps.")
    spread = float(first[both].std())
    for points in held[1:]:
        apart = float((points[both] - first[both]).abs().max())
        if apart > SAME * max(spread, 1e-12):
            raise DataError(f"The models were trained on different points: those of the same number differ by up to "
                            f"{apart:.3g}, with a spread of {spread:.3g}. Train both on the same split, in the same "
                            "order and scale.")
    return first[both], both.nonzero().flatten()


def _classes(labels: Any, drawn: Tensor) -> Tensor | None:
    """The classes of the training points that were drawn."""
    if labels is None:
        return None
    words = as_words(labels, "labels")
    if isinstance(labels, Tensor) and labels.ndim != 1 or len(words) <= int(drawn.max()):
        came = f"a tensor of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else f"{len(words)}"
        raise DataError(f"labels must be one class for each training sample; {came} came. Pass {int(drawn.max()) + 1} "
                        "or more whole numbers or words.")
    plain = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    broken = next((v for v in plain if isinstance(v, float) and not v.is_integer()), None)
    if broken is not None:
        raise DataError(f"labels must be whole numbers or words, a class for each training sample; {broken} came. "
                        "Round them, or pass the names of the classes.")
    return torch.tensor([sorted(set(words)).index(word) for word in words])[drawn]


def _probes(probes: Any, sides: list[list[Side]], setting: Setting) -> list[Tensor]:
    """The latents whose corrections are followed, of each side."""
    if isinstance(probes, tuple | list):
        if len(probes) == 2 and all(isinstance(z, Tensor) for z in probes):
            for z, runs, name in zip(probes, sides, "ab", strict=True):
                like = runs[0].latents(1, setting.source(20)).shape[1:]
                if z.shape[1:] != like or not len(z):
                    raise DataError(f"The latents of {name} must have the shape (n, {', '.join(map(str, like))}), with "
                                    f"one at least; {tuple(z.shape)} came. Draw them by torch.randn of that shape, or "
                                    "pass a number.")
            return [z.double() for z in probes]
        raise DataError(f"probes must be a number, or a pair of latents, those of a and those of b; "
                        f"{what_came(probes)} came. Pass for example probes=2.")
    count = 2 if probes is None else as_count(probes, "probes", least=1)
    return [runs[0].latents(count, setting.source(20)) for runs in sides]


def _table(found: list[list[list[Reading]]], kinds: list[str], runs: list[int], paths: bool, setting: Setting,
           ) -> list[dict[str, Any]]:
    """The rows in plain data: what each side has, why it has not, and the nulls."""
    slots: dict[tuple[str, str], None] = {(metric, "main"): None for metric in METRICS}
    for side in found:
        for readings in side:
            slots |= dict.fromkeys((reading.metric, reading.slot) for reading in readings)
    order = list(METRICS)
    rows = []
    for metric, slot in sorted(slots, key=lambda key: order.index(key[0])):
        each = [[reading for readings in side for reading in readings
                 if (reading.metric, reading.slot) == (metric, slot)] for side in found]
        if slot == "main" and metric == "noise_locality":
            continue  # low, middle and high noise stand for it
        nulls = [_nulls(readings) for readings in each]
        pictures = picture_shape(setting.train.shape[1:]) is not None
        rows.append({
            "metric": metric, "slot": slot, "where": [readings[0].where if readings else "" for readings in each],
            "values": [[_plain(reading.value) for reading in readings] for readings in each],
            "why": ["" if readings and not all(math.isnan(r.value) for r in readings) else why_empty(
                metric, slot, kinds[i], runs[i], paths, setting.labels is not None, setting.held_out, pictures)
                for i, readings in enumerate(each)],
            "nulls": nulls, "why_null": "" if any(nulls) else why_no_null(metric)})
    return rows


def _nulls(readings: list[Reading]) -> dict[str, float | None]:
    """The mean of each null over runs."""
    names = dict.fromkeys(name for reading in readings for name in reading.nulls)
    return {name: _plain(_mean([reading.nulls[name] for reading in readings if name in reading.nulls]))
            for name in names}


def _plain(value: float) -> float | None:
    """A number as JSON holds it."""
    return float(value) if math.isfinite(value) else None


def _mean(values: list[Any]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _values(table: list[dict[str, Any]], metric: str, side: int) -> list[Any]:
    return next(row["values"][side] for row in table if (row["metric"], row["slot"]) == (metric, "main"))


def _explained(place: int, behind: list[Correction], setting: Setting) -> dict[str, Tensor]:
    """One sample of a side, its nearest training point, and the points that raised and lowered it most."""
    correction = next(one for one in behind if one.slot == "main")
    each, sample = centred(correction.each[0]), correction.samples[0]
    order = each.argsort(descending=True)
    kept = torch.cat([order[:BEHIND], order[-BEHIND:]])
    near = int(distances(sample[None], setting.train).argmin())
    side = "ab"[place]
    return {f"{side}.sample": sample, f"{side}.nearest": setting.train[near], f"{side}.nearest_id": setting.ids[near],
            f"{side}.points": setting.train[kept].clone(), f"{side}.ids": setting.ids[kept],
            f"{side}.values": each[kept], f"{side}.change": correction.change[0].clone()}


def _bridge(sides: list[list[Side]], setting: Setting) -> Any:
    """The critic's field beside the denoiser's correction, where there is one of each."""
    one = {runs[0].kind: runs[0] for runs in sides}
    denoiser, game = one.get(DIFFUSION), one.get(GAN)
    if not isinstance(denoiser, DiffusionSide) or not isinstance(game, GANSide):
        return None
    return bridge(denoiser.run, game.gan, held_out=setting.reference if setting.held_out else None,
                  count=min(360, len(setting.reference)), seed=setting.seed)
