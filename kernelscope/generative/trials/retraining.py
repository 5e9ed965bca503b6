r"""Denoisers trained on halves of the points, and every score beside what leaving the other half out did."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...decomposition.exact import decompose
from ...errors import DataError
from ...run.recorder import record
from ...run.run import Run
from ..denoising.denoiser import Denoiser
from ..denoising.noise import NoiseLaw
from .attributions import (
    DAMPING,
    Features,
    damped,
    end_features,
    optimal_influence,
    optimal_weights,
    pixel_distance,
    wiener_influence,
)
from .many import draws, train_many
from .questions import Question, ask
from .removal import PIXELS, SubsetTrial, subset_trial

__all__ = ["Halves", "half_subsets", "path_contribution", "record_member"]

#: What is measured, in words.
WORDS = {"loss": "denoising loss", "output": "denoised point along its direction"}

#: The noise levels of the optimal denoiser's weights.
LEVELS = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Halves:
    """How denoisers are trained on halves.

    Attributes:
        subsets: How many halves.
        seeds: How many seeds each is trained with.
        steps: The steps of each training, by Adam.
        batch: The points of a step.
        rate: The learning rate.
        levels: At how many noise levels each query is asked.
        seed: The seed of halves, networks and noise.

    Example:
        >>> Halves(subsets=16).seeds
        4
    """

    subsets: int = 48
    seeds: int = 4
    steps: int = 500
    batch: int = 64
    rate: float = 2e-3
    levels: int = 6
    seed: int = 0


def half_subsets(denoiser: Callable[[], nn.Module], x: Tensor, queries: Tensor, tuning: Tensor, *,
                 asked: tuple[str, ...] = ("loss",), halves: Halves | None = None, law: NoiseLaw | None = None,
                 path: bool = True) -> dict[str, SubsetTrial]:
    """Trains denoisers on halves of the points and compares scores by their answers.

    Beside the influences of the end (gradient dot, TRAK, D-TRAK, Gauss-Newton) stand the exact contributions along one
    recorded run on all points, and what needs no network: pixel distance, the optimal denoiser's weights, and how the
    optimal and the Wiener denoiser move with the weight of a point. Inner products of gradients are exact, where TRAK
    projects them. Damping, and the sign of scores that have none (distances, weights, norms), are chosen on ``tuning``.

    Args:
        denoiser: Gives a new :class:`Denoiser`.
        x: The training points, with shape (n, d).
        queries: Held-out points, with shape (q, d).
        tuning: Other held-out points.
        asked: What is measured: ``"loss"``, ``"output"`` or both.
        halves: How many halves and seeds, and how they are trained.
        law: The law of training noise.
        path: Whether contributions along a recorded run are among the scores; they take about as long as the training.

    Returns:
        A :class:`SubsetTrial` for each word of ``asked``.

    Raises:
        DataError: If a query is also a tuning point, or a training point.

    References:
        | E11 of the notes on generative models
        | "Intriguing Properties of Data Attribution on Diffusion Models" (Zheng et al., 2024): LDS, D-TRAK
        | "Influence Functions for Scalable Data Attribution in Diffusion Models" (Mlodozeniec et al., 2025):
          Gauss-Newton

    Example:
        >>> from kernelscope.generative.networks import NoiseMLP
        >>> x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
        >>> small = Halves(subsets=8, seeds=2, steps=3, batch=8, levels=2)
        >>> found = half_subsets(lambda: Denoiser(NoiseMLP(3, width=4), 1.0), x[:16], x[16:20], x[20:], halves=small)
        >>> found["loss"].names[:3]
        ['contribution, exact path', 'contribution, less its mean over queries', 'influence, gradient dot']
    """
    plan, law = halves or Halves(), law or NoiseLaw()
    for held_out, known, words in ((queries, tuning, "a tuning point"), (queries, x, "a training point"),
                                   (tuning, x, "a training point")):
        if bool((held_out[:, None] == known[None]).flatten(2).all(-1).any()):
            raise DataError(f"A held-out point is also {words}. What is chosen on points must not be judged by them: "
                            "pass others.")
    begun = time.process_time()
    n, source = len(x), torch.Generator().manual_seed(plan.seed)
    subsets = [torch.randperm(n, generator=source)[:n // 2] for _ in range(plan.subsets)]
    members = torch.zeros(plan.subsets, n, dtype=torch.bool)
    for row, subset in zip(members, subsets, strict=True):
        row[subset] = True
    # All subsets share their seeds: what a seed does alike to all of them is no noise.
    seeds = [plan.seed + 1 + k for k in range(plan.seeds) for _ in subsets]
    many = train_many(denoiser, x, subsets * plan.seeds, seeds, steps=plan.steps, batch=plan.batch, rate=plan.rate,
                      law=law)
    trained = time.process_time() - begun
    run = record_member(denoiser, x, plan, law)
    end = run.network.module(())
    assert isinstance(end, Denoiser)
    end.load_state_dict(run.parameters(), strict=False)
    found = {}
    for kind in asked:
        begun = time.process_time()
        question, other = (ask(end, points, kind, levels=plan.levels, law=law, seed=plan.seed + extra)
                           for extra, points in enumerate((queries, tuning)))
        answers, others = (q(many(q.y, q.sigma)).view(plan.seeds, plan.subsets, -1) for q in (question, other))
        scores = {**(path_contribution(run, question) if path else {}),
                  **_chosen(end, x, question, other, members, others, law)}
        random = torch.randn(len(queries), n, generator=source)
        scores["random"] = ("null", random)
        found[kind] = subset_trial(scores, members, answers, seed=plan.seed, info={
            "asked": WORDS[kind], "points": n, "parameters": many.size, "steps": plan.steps, "batch": plan.batch,
            "seconds of training": trained, "seconds of scores": time.process_time() - begun,
            "chosen on other queries": "damping, and the sign of scores without one", "interval": "subsets resampled"})
    return found


def record_member(denoiser: Callable[[], nn.Module], x: Tensor, plan: Halves, law: NoiseLaw) -> Run:
    """One denoiser trained on all points as each of the halves is, recorded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        made = denoiser()
    assert isinstance(made, Denoiser)
    optimizer = torch.optim.Adam(made.parameters(), lr=plan.rate)
    with warnings.catch_warnings():
        # Targets are made of noise at each step, and handed over.
        warnings.simplefilter("ignore")
        with record(made, (x, x), loss=F.mse_loss) as recording:
            for draw in draws(x, torch.arange(len(x)), plan.seed, steps=plan.steps, batch=plan.batch, law=law):
                goal = made.target(x[draw.places], draw.y, draw.sigma)
                recording.deliver((draw.y, goal), draw.places.tolist())
                optimizer.zero_grad()
                F.mse_loss(made(draw.y, draw.sigma), goal).backward()
                optimizer.step()
    return recording.run


def path_contribution(run: Run, question: Question) -> dict[str, tuple[str, Tensor]]:
    """The exact contributions of training points to what is asked along a run, as they are and less their mean.

    Less the mean over training points would foretell the same: all subsets are of one size. The mean over queries is
    what a point does to all of them.

    Args:
        run: The recorded run.
        question: What is asked.
    """
    ledger = decompose(run, (question.y, question.sigma), output=question.term, targets=question.goals)
    own = ledger.contributions[:, 0].unflatten(0, (len(question), -1)).sum(1).to(question.y)
    return {"contribution, exact path": ("contribution", own),
            "contribution, less its mean over queries": ("contribution", own - own.mean(0))}


def _chosen(end: Denoiser, x: Tensor, question: Question, other: Question, members: Tensor, others: Tensor,
            law: NoiseLaw) -> dict[str, tuple[str, Tensor]]:
    """Influences and baselines, whose damping and sign are chosen on the other queries."""
    at, beside = (end_features(end, x, one, law=law) for one in (question, other))

    def told(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Of scores of the queries and of the other queries, those of the queries whose twin foretells best."""
        judged = subset_trial({str(i): ("null", twin) for i, (_, twin) in enumerate(pairs)}, members, others,
                              resamples=1)
        return pairs[int(judged.order[0])][0]

    def at_best(rows: Callable[[Features], Tensor], train: Tensor, gradients: Callable[[Features], Tensor],
                signs: tuple[int, ...] = (1,)) -> Tensor:
        made = [[damped(gradients(one), rows(at), train, damping) for damping in DAMPING] for one in (at, beside)]
        return told([(sign * a, sign * b) for a, b in zip(*made, strict=True) for sign in signs])

    def either(function: Callable[[Question], Tensor]) -> Tensor:
        one, two = function(question), function(other)
        return told([(one, two), (-one, -two)])

    scores: Mapping[str, tuple[str, Tensor]] = {
        "influence, gradient dot": ("influence", -at.asked @ at.losses.T),
        "influence, TRAK": ("influence", at_best(lambda f: f.losses, -at.losses, lambda f: f.asked)),
        "influence, D-TRAK": ("influence", at_best(lambda f: f.norms, at.norms, lambda f: f.norms_asked, (1, -1))),
        "influence, Gauss-Newton": ("influence", at_best(lambda f: f.probes, -at.losses, lambda f: f.asked)),
        "influence of the optimal denoiser": ("baseline", optimal_influence(x, end, question)),
        "influence of the Wiener denoiser": ("baseline", wiener_influence(x, end, question)),
        PIXELS: ("baseline", either(lambda one: pixel_distance(x, one))),
        **{f"optimal weights, σ = {level:g}": ("baseline", either(partial(optimal_weights, x, sigma=level)))
           for level in LEVELS},
    }
    return dict(scores)
