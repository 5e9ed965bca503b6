r"""One pass through the times of a run, with one kernel matrix, and one eigensystem of it, for each."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...decomposition.stochastic.places import moves_plainly
from ...decomposition.training_side import TrainingSide
from ...decomposition.trajectory import Trajectory
from ...measures import effective_dimension
from ..reduction import reduction_of
from ..states import clock, states
from .choosing import evenly, sorted_by
from .moments import Kept, Pairs, aligned, alone, size
from .regression import Fits
from .scene import Look, Scene
from .silent import Flow, silent_alignment

#: How many samples the kernel movie shows, and the share of the memory for kernels that wait to be compared.
SHOWN, KEPT = 64, 0.3

#: What is timed.
PARTS = ("kernels", "eigenpairs", "measures", "regression")


def followed(scene: Scene, k: int, ridges: tuple[float, ...], regression: bool, movie: int,
             done: Callable[[], object]) -> dict[str, Any]:
    """The fields of the result, with ``notes`` and what is to be told ``about`` the work.

    Args:
        scene: What is looked at.
        k: How many eigenvalues are kept.
        ridges: The relative ridges to choose from.
        regression: Whether targets are fitted with each kernel, and the points predicted.
        movie: At how many times some of the matrix is kept.
        done: Called after each time.
    """
    n, steps, columns = scene.n, scene.steps, scene.columns
    k, classes = min(k, n), min(max(columns.shape[1], 1), n)
    fits = Fits(scene.task, columns, scene.first.outputs, scene.last.outputs, scene.truth,
                ridges) if regression else None
    spent, at = dict.fromkeys(PARTS, 0.0), time.perf_counter()

    def spend(part: str) -> None:
        nonlocal at
        now = time.perf_counter()
        spent[part] += now - at
        at = now

    ending = scene.kernel(scene.end)
    last = first = before = Kept(ending[:n, :n])
    pairs = _pairs(scene, columns, last.matrix)
    order = sorted_by(columns)
    shown, frames = evenly(order, SHOWN).to(last.matrix.device), _frames(len(steps), movie)
    rows, outputs, fitted, tops, pictures, dimensions = [], [], [], [], [], []
    systems: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for i, (_, state) in enumerate(states(scene.run, steps)):
        final = i == len(steps) - 1
        look = scene.last if final else scene.look(state)
        joint = ending if final else scene.kernel(state)
        spend("kernels")
        here = last if final else Kept(joint[:n, :n])
        values, vectors = (t.flip(-1) for t in torch.linalg.eigh(here.matrix))
        spend("eigenpairs")
        first = first if i else here
        row = alone(here, values, vectors, columns - columns.mean(0), classes, k)
        row |= _against(here, first, last, before if i else here) | _network(scene, look, joint)
        rows.append(row)
        outputs.append(look.outputs)
        tops.append(values[:k].double().cpu())
        dimensions.append(_dimensions(values, ridges))
        pairs.keep(i, here.matrix)
        if i in frames:
            pictures.append(here.matrix[shown][:, shown].double().cpu())
        spend("measures")
        if fits is not None:
            fitted.append(fits.at(here.matrix, joint[n:, :n], values, vectors))
            spend("regression")
        if i in (0, len(steps) - 1) and scene.slope is not None:
            systems[i] = values, vectors, joint[:, :n].clone()
        before = here
        done()
    series = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
    best, fit = _best(fitted, ridges)
    series["effective dimension"] = torch.stack(dimensions)[:, best]
    cka = pairs.cka()
    spend("measures")
    ticks = torch.tensor(steps, dtype=torch.float64)
    hours = clock(scene.run, steps)
    silent = silent_alignment(ticks, series["cosine last"], series["loss"], series["norm"])
    kept = len(pairs.points)
    notes = [] if kept == n else [
        f"CKA between all pairs of times is that of {kept:,} of these samples, which is what memory keeps."]
    return {
        "times": torch.tensor(steps), "clock": hours, "series": series, "values": torch.stack(tops), "cka": cka,
        "regression": fit, "ridge": ridges[best], "task": scene.task.score, "classes": classes, "silent": silent,
        "formula": _formula(scene, systems, outputs, series["scale"], hours),
        "movie": torch.stack(pictures) if pictures else None,
        "movie_times": [steps[i] for i in sorted(frames)],
        "movie_classes": columns.argmax(1)[shown.cpu()].tolist() if scene.task.kind in ("index", "rows") else None,
        "notes": notes, "about": {"pair_samples": kept, "ridges": list(ridges) if fits else [],
                                  "seconds_of": {name: round(value, 3) for name, value in spent.items()}},
    }


def _pairs(scene: Scene, columns: Tensor, like: Tensor) -> Pairs:
    count = Pairs.fitting(len(scene.steps), scene.n, like.element_size(), KEPT * scene.memory)
    places = torch.arange(scene.n) if count >= scene.n else evenly(sorted_by(columns), count).sort().values
    return Pairs(len(scene.steps), places.to(like.device), like)


def _frames(count: int, movie: int) -> set[int]:
    """The times of the movie: more of them early, when most happens; the first and the last always."""
    return {round((count - 1) * (i / max(movie - 1, 1)) ** 1.5) for i in range(movie)}


def _dimensions(values: Tensor, ridges: tuple[float, ...]) -> Tensor:
    mean = float(values.double().mean())
    return torch.tensor([effective_dimension(values, r * mean) if mean > 0 else 0.0 for r in ridges],
                        dtype=torch.float64)


def _against(here: Kept, first: Kept, last: Kept, before: Kept) -> dict[str, float]:
    """The kernel of a time beside those of the ends and the one before."""
    scale = first.sizes[0]
    return {"cosine first": here.cosine(first), "cosine last": here.cosine(last), "cka first": here.cka(first),
            "cka last": here.cka(last), "drift": size(here.matrix - first.matrix) / scale if scale else 0.0,
            "distance": max(1 - here.cosine(before), 0.0), "scale": here.along(last)}


def _network(scene: Scene, look: Look, joint: Tensor) -> dict[str, float]:
    """What the network itself scores, and how its kernel of the other points is aligned."""
    n, truth = scene.n, scene.truth
    found = {"loss": float(look.losses[:n].mean()), "score": scene.task.scored(look.outputs[:n], scene.columns)}
    if truth is not None:
        found |= {"loss x": float(look.losses[n:].mean()), "score x": scene.task.scored(look.outputs[n:], truth),
                  "alignment x": aligned(Kept(joint[n:, n:]).middle, truth - truth.mean(0))}
    return found


def _best(fitted: list[dict[str, Tensor]], ridges: tuple[float, ...]) -> tuple[int, dict[str, Tensor]]:
    """The place of the ridge with the least error of leaving one out, and what it gives at each time."""
    if not fitted:
        return len(ridges) // 2, {}
    gathered = {name: torch.stack([row[name] for row in fitted]) for name in fitted[0]}
    best = int(gathered["left out"].mean(0).argmin())
    return best, {name: values[:, best].clone() for name, values in gathered.items()}


def _formula(scene: Scene, systems: dict[int, tuple[Tensor, Tensor, Tensor]], outputs: list[Tensor],
             scale: Tensor, hours: Tensor) -> dict[str, float]:
    """How far the outputs of gradient flow with a kernel that only grows are from the network's, on its way."""
    run, n = scene.run, scene.n
    plain = all(moves_plainly(run.step(j)) for j in range(run.start + scene.steps[0], run.start + scene.steps[-1]))
    start = outputs[0]
    if scene.slope is None or not plain or scene.features.explained.output is not None:
        return {}
    paced = _paced(scene, hours)
    if paced is None:
        return {}
    whole = torch.cumulative_trapezoid(scale, paced)
    clocks = {"first": paced[1:], "last": whole}
    found = {"tau": float(whole[-1])}
    for (name, elapsed), place in zip(clocks.items(), (0, len(outputs) - 1), strict=True):
        values, vectors, cross = (t.double().cpu() for t in systems[place])
        # The kernel of all outputs stands for each of them by its mean.
        rate = scene.slope / (n * start.shape[1])
        flow = Flow.of(values, vectors, cross, scene.columns - start[:n])
        for part, where in ((slice(0, n), ""), (slice(n, None), " x")):
            size = float((outputs[-1] - start)[part].norm())
            if len(start[part]) and size:
                missed = [float((flow.at(rate * t) - (f - start))[part].norm()) / size
                          for t, f in zip(elapsed.tolist(), outputs[1:], strict=True)]
                found |= {f"{name}{where}": missed[-1], f"{name}{where} at most": max(missed)}
    return found


def _paced(scene: Scene, hours: Tensor) -> Tensor | None:
    r"""The time of gradient flow of the mean loss, :math:`\sum\eta\kappa`, with the factor of each time until the next.

    It is ``None`` where the gradient of a step is no multiple of that of the mean loss.
    """
    run, features = scene.run, scene.features
    side = TrainingSide(run, features.dtype, features.device, scene.memory)
    trajectory = Trajectory(run, features.dtype, features.device)
    found = [reduction_of(run, run.start + k, side, trajectory) for k in scene.steps[:-1]]
    factors = [factor for factor in found if factor is not None]
    if len(factors) < len(found):
        return None
    return torch.cat([hours.new_zeros(1), (hours.diff() * hours.new_tensor(factors)).cumsum(0)])
