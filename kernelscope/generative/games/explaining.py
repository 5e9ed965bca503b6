r"""Why a generated point is where it is: the generator moved through the critic's geometry, traced to real images.

There are two exact questions, never under one name. ``how="path"``: how did z come to where it is, through the critics
that the generator met? That is the composite of both runs. ``how="frozen"``: where does the last critic move it now, by

.. math:: \dot G(z) = -E_{z'}[K^G(z, z')\, \nabla_x \ell_G(D_T(G(z')))], \qquad K^G(z, z') = J_G(z) J_G(z')^T,

and which real images made the critic's field what it is? Neither says what the generator would make without an image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count
from ...decomposition.ledger import Ledger
from ...decomposition.output import OutputFunctional, output_functional
from ...decomposition.query_side import QuerySide
from ...decomposition.questions import as_queries, checked_memory
from ...errors import DataError, OutOfBudget
from ...network import cast, undisturbed
from ...progress import counting, telling
from .composite import Draws, Fields, FieldSweep, GeneratorCourse, last_latents, moved_draws, standing_draws
from .critic_course import CriticCourse, CriticLedger, Places
from .game import GANRun
from .masses import mass, modes
from .result import GANExplanation
from .witnessing import Witness, checked_game, checked_labels, split_scores

__all__ = ["CHORDS", "explain_gan"]

#: Into how many chords the critic's run is cut along the path, if nobody says how long one is.
CHORDS = 16

#: Up to how many steps of the critic the path is split by single steps.
SHORT = 64


def explain_gan(run: GANRun, z: Any, *, how: str = "frozen", output: str | int | Callable[..., Tensor] | None = None,
                chord: int | None = None, labels: Any = None, held: Any = None, draws: int = 64,
                memory: int | str = 2**29, progress: bool | None = None) -> GANExplanation:
    r"""Traces generated points to the real images behind the critic that moved them.

    .. math:: F(G_T(z)) - F(G_0(z)) = \text{first critic} + \sum_i R_i(z) + \text{penalties} + \text{fakes}
              + \text{other channels}

    Args:
        run: The game.
        z: Latents, with shape (q, *).
        how: ``"path"`` for the motion since the first step, ``"frozen"`` for that which the last critic asks for.
        output: The number F that is explained of each point: ``None`` for the coordinate along the motion itself,
            ``"all"`` for all coordinates, the number of one, or a function ``(outputs) -> (n, c)``.
        chord: Along how many steps of the critic one gradient is averaged: 1 is exact, at a cost that grows with the
            square of the steps along the path. By default 1 for ``"frozen"`` and for short runs, else a sixteenth of
            the run. Totals are complete with any; what a chord half as long would change is measured.
        labels: The class of each real image, with n entries.
        held: Real points held out, the ceiling of coverage.
        draws: For ``"frozen"``, over how many of the last recorded latents the mean over z' goes.
        memory: About how many bytes may be used.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`GANExplanation`.

    Raises:
        DataError: If something does not fit the game.
        OutOfBudget: If not even one point fits in memory.

    References:
        | (h) of section 1.3 of the theory notes, and section 2.5 of the notes on generative models
        | "A Neural Tangent Kernel Perspective of GANs" (Franceschi et al., 2022): the generator's flow

    Example:
        >>> from kernelscope.generative import train_gan
        >>> game = train_gan(torch.randn(12, 2), latents=2, width=4, steps=5, batch=4, dtype=torch.float64)
        >>> found = explain_gan(game, torch.randn(3, 2), how="path")
        >>> found.real.shape, found.check().rows[0].status
        (torch.Size([3, 1, 12]), 'pass')
    """
    begun = time.perf_counter()
    game = checked_game(run)
    how = as_choice(how, "how", ("frozen", "path"))
    memory = checked_memory(memory)
    as_count(draws, "draws", least=1)
    latents = as_queries(z, tuple(game.generator.samples.inputs), alike=True)[0]
    if not len(latents):
        raise DataError("z must hold a latent at least, the one whose point is explained; none came. Pass for example "
                        "z=torch.randn(8, ...) of the shape that the generator takes.")
    held_points = None if held is None else as_queries(held, (game.critic.samples.inputs[0],), alike=True)[0]
    words = checked_labels(labels, game.real, "labels", "real points")
    length = _chord(game, how, chord)
    with undisturbed(latents.device), telling(progress):
        course = CriticCourse(game, memory)
        course.refuse_changing_buffers()
        generator = GeneratorCourse(course, memory)
        asked = cast(latents, torch.float64, course.device)
        made = game.generated(asked)
        functional = _functional(game, generator, asked, how, output, draws)
        side = QuerySide(game.generator.network, (asked,), functional, game.generator.names)
        block = _block(game, side, how, draws, memory)
        blocks = [slice(a, min(a + block, len(asked))) for a in range(0, len(asked), block)]
        along_generator = len(game.generator) if how == "path" else 0
        total = (len(blocks) * (along_generator + len(game.critic))
                 + course.passes(len(asked), 1) * len(game.critic))
        with counting(total, f'explain_gan, how="{how}"', "step") as done:
            parts = [_traced(course, generator, side.part(rows), how, length, draws, rows.start == 0, done)
                     for rows in blocks]
            seen = split_scores(course, made, words, None, False, done)
        return _result(game, generator, parts, seen, functional.names, how, length, held_points, begun)


def _chord(game: GANRun, how: str, chord: int | None) -> int:
    if chord is not None:
        return as_count(chord, "chord", least=1)
    steps = len(game.critic)
    return 1 if how == "frozen" or steps <= SHORT else -(-steps // CHORDS)


def _functional(game: GANRun, generator: GeneratorCourse, z: Tensor, how: str, output: Any,
                draws: int) -> OutputFunctional:
    """What is explained of the generated points."""
    final = game.generated(z)
    every = OutputFunctional(lambda out, side: out.flatten(1), None, [str(i) for i in range(final[:1].numel())])
    if output is not None:
        named = "logits" if isinstance(output, str) and output == "all" else output
        return output_functional(named, final, None, game.generator, len(z)).to(torch.float64)
    if how == "path":
        start = game.generator.network(generator.trajectory.at(0), generator.trajectory.first_buffers(), (z,))
        motion = (final - start).flatten(1)
    else:
        # The motion now, of which the coordinate along itself is the length.
        motion = _motion_now(game, generator, z, every, draws)
    direction = motion / motion.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return OutputFunctional(lambda out, side: (out.flatten(1) * side).sum(1, keepdim=True), direction, ["motion"])


def _motion_now(game: GANRun, generator: GeneratorCourse, z: Tensor, every: OutputFunctional, draws: int) -> Tensor:
    """The motion that the last critic asks for, with shape (q, d), by one gradient of the generator's loss."""
    run, trajectory = generator.run, generator.trajectory
    theta, buffers = trajectory.at(run.stop), trajectory.buffers(run.stop)
    latents = last_latents(generator, draws)
    leaves = {name: theta[name].clone().requires_grad_() for name in run.names}
    with torch.enable_grad():
        x = run.network({**theta, **leaves}, buffers, (latents,))
        field = game.game.field(lambda points: game_scores(generator, points), x.detach())
        found = torch.autograd.grad((x * field).sum() / len(latents), list(leaves.values()), allow_unused=True)
    downhill = {name: torch.zeros_like(theta[name]) if g is None else -g
                for name, g in zip(run.names, found, strict=True)}
    own = {name: theta[name].clone() for name in run.names}
    return torch.func.jvp(lambda p: every(run.network({**theta, **p}, buffers, (z,)), None), (own,), (downhill,))[1]


def game_scores(generator: GeneratorCourse, points: Tensor) -> Tensor:
    """The last critic's scores of points, with shape (m,)."""
    course = generator.course
    theta = course.trajectory.at(course.run.stop)
    return course.scores(theta, course.trajectory.buffers(course.run.stop), (points,)).reshape(len(points))


def _block(game: GANRun, side: QuerySide, how: str, draws: int, memory: int) -> int:
    """How many points are traced at once."""
    entries = game.generator.network.parameters  # for the size of a row of gradients
    size = sum(p.numel() for p in entries.values()) + sum(p.numel() for p in game.critic.network.parameters.values())
    d = game.critic.samples.inputs[0][0].numel()
    drawn = draws if how == "frozen" else sum(len(b.columns) for k in range(len(game.generator))
                                              for b in game.generator.step(k).batches)
    # Between steps a row is its adjoints; along the path the pulls of all draws are held.
    each = max(len(side.functional.names), 1) * 8 * (6 * size + 2 * drawn * d)
    if each > 4 * memory:
        raise OutOfBudget(
            f"One point with {len(side.functional.names)} numbers needs about {each / 2**20:.0f} MiB, and memory "
            f"allows {memory / 2**20:.0f} MiB. Explain fewer numbers, or raise memory."
        )
    return max(1, memory // each)


def _traced(course: CriticCourse, generator: GeneratorCourse, side: QuerySide, how: str, chord: int, draws: int,
            first: bool, done: Callable[[int], object]) -> dict[str, Any]:
    """The ledgers of some points."""
    game, names, fields = course.game, side.functional.names, Fields(course)
    channels: dict[str, Tensor] = {}
    if how == "path":
        ledger = Ledger(generator.run, len(side), names, None, [])
        moving = moved_draws(generator, side, ledger, done)
        total = ledger.path[:, :, -1] - ledger.path[:, :, 0]
        channels = {name: c for name, c in ledger.channels.items() if name != "data"}
        pulled = _said(fields, moving, moving.seen).view(-1, len(names))
        channels["field"] = ledger.channels["data"] - pulled
    else:
        moving = standing_draws(generator, side, draws)
        total = _said(fields, moving, moving.seen).view(-1, len(names))
    start = _said(fields, moving, torch.zeros_like(moving.seen)).view(-1, len(names))
    of_critic = CriticLedger(game, len(side), names)
    sweeps = [FieldSweep(of_critic, slice(0, len(side)), fields, moving, chord)]
    beside: CriticLedger | None = None
    if first and chord > 1:
        # What half the chord would change is seen at the first point.
        beside = CriticLedger(game, 1, names)
        few = moving.of(slice(0, len(names)))
        sweeps.append(FieldSweep(beside, slice(0, 1), fields, few, chord // 2))
    course.back(sweeps, done)
    magnitude = of_critic.magnitude + start.abs() + sum(c.abs() for c in channels.values())
    return {"total": total, "start": start, "ledger": of_critic, "channels": channels, "magnitude": magnitude,
            "beside": beside}


def _said(fields: Fields, draws: Draws, seen: Tensor) -> Tensor:
    """The numbers V that the critic said when the generator asked it, or after other numbers of steps."""
    total = torch.zeros(len(draws.pulls), dtype=torch.float64)
    for k in seen.unique().tolist():
        which = (seen == k).nonzero().flatten()
        rows = slice(int(which[0]), int(which[-1]) + 1)
        total = total + fields.pulled(fields.course.trajectory.at(k), draws.part(rows)).cpu()
    return total


def _result(game: GANRun, generator: GeneratorCourse, parts: list[dict[str, Any]], seen: Witness, names: list[str],
            how: str, chord: int, held: Tensor | None, begun: float) -> GANExplanation:
    places, stop = Places.of(game), len(game.critic)
    ledgers: list[CriticLedger] = [part["ledger"] for part in parts]
    shares = torch.cat([ledger.contributions for ledger in ledgers])
    real = shares[..., places.real].clone()
    joined = lambda key, name: torch.cat([part[key][name] for part in parts])
    moved, aged = (sum(getattr(ledger, word)[..., places.real].sum((0, 1)) for ledger in ledgers)
                   for word in ("moved", "aged"))
    last = torch.full((game.critic.size,), -1, dtype=torch.int64)
    for k in range(stop):
        for batch in game.critic.step(k).batches:
            last[batch.columns] = stop - 1 - k
    seen_ones = last[places.real] >= 0
    weights = mass(real, seen_ones)
    images = game.points.detach().cpu()
    images[~seen_ones] = torch.nan
    latents = last_latents(generator, game.real)
    near, numbers = modes(weights, images, game.generated(latents).cpu(),
                          game.generated(latents, generator.trajectory.at(0)).cpu(), held)
    beside, apart = parts[0]["beside"] if parts else None, float("nan")
    if beside is not None:
        other = beside.contributions[0, :, places.real]
        apart = float((real[0] - other).abs().sum() / other.abs().sum())
    steps = torch.cat([ledger.group_steps for ledger in ledgers if ledger.group_steps is not None])
    return GANExplanation(
        how=how, total=torch.cat([part["total"] for part in parts]), real=real,
        penalty=shares[..., places.penalty].clone(), fake=shares[..., places.fake].clone(),
        first_critic=torch.cat([part["start"] for part in parts]),
        critic={name: torch.cat([ledger.others()[name] for ledger in ledgers]) for name in ledgers[0].others()},
        generator={name: joined("channels", name) for name in parts[0]["channels"]},
        magnitude=torch.cat([part["magnitude"] for part in parts]), by_step=steps, age=aged / moved,
        last=last[places.real], mass=weights, covered=near, modes=numbers, points=seen.points, witness=seen,
        outputs=list(names), moved=torch.tensor(apart, dtype=torch.float64),
        info={"loss": game.game.kind, "r1": game.game.r1, "chord": chord, "critic_steps": stop,
              "generator_steps": len(game.generator), "notes": list(dict.fromkeys(
                  note for ledger in ledgers for note in ledger.notes())),
              "seconds": round(time.perf_counter() - begun, 3)},
    )
