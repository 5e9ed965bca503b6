"""Which of the points that a critic was shown are real, where their way did not tell.

Points of unknown origin are as many as a batch has, or part of a longer pass. What they may be is tried, and the
gradient that the critic holds says which of it happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...network import Network, exact_arithmetic, random_state
from ...run.wrappers import network_behind
from .adversary import FAKE, REAL, Adversary
from .hearing import Heard
from .origins import Origin

#: What to do where it cannot be told which points are real.
SAY = ("Call recording.batch(ids) before the critic is shown real points, with their places in the data set, or fetch "
       "a batch when it is used.")

#: Up to here two gradients are one, but for their size and rounding.
MET = 0.05

#: Consecutive points of one pass, and their places in the data set, if they are real.
Part = tuple[Heard, slice, Sequence[int] | None]


@dataclass(frozen=True, eq=False)
class Choice:
    """Points of unknown origin that are real, if the choice is right."""

    heard: Heard
    rows: slice
    ids: Sequence[int]
    whole: bool

    @property
    def origin(self) -> Origin:
        """What is known of their pass."""
        about: Origin = self.heard.about
        return about


@dataclass(frozen=True, eq=False)
class Unknown:
    """Consecutive points of one pass whose origin is not known."""

    heard: Heard
    rows: slice

    @property
    def count(self) -> int:
        """How many they are."""
        return self.rows.stop - self.rows.start

    def choices(self) -> list[Choice]:
        """Which of them may be the real points."""
        ids = self.heard.about.may_be
        if ids is None or len(ids) > self.count:
            return []
        if len(ids) == self.count:
            return [Choice(self.heard, self.rows, ids, whole=True)]
        first, last = (slice(a, a + len(ids)) for a in (self.rows.start, self.rows.stop - len(ids)))
        return [Choice(self.heard, first, ids, whole=False), Choice(self.heard, last, ids, whole=False)]

    def parts(self, chosen: list[Choice]) -> list[Part]:
        """These points by origin, with the real ones that were chosen."""
        own = [choice for choice in chosen if choice.heard is self.heard
               and self.rows.start <= choice.rows.start and choice.rows.stop <= self.rows.stop]
        if not own:
            return [(self.heard, self.rows, None)]
        choice = own[0]
        cuts = [(slice(self.rows.start, choice.rows.start), None), (choice.rows, choice.ids),
                (slice(choice.rows.stop, self.rows.stop), None)]
        return [(self.heard, rows, ids) for rows, ids in cuts if rows.stop > rows.start]


class Assigner:
    """Says of points of unknown origin whether they are real, and which.

    Args:
        critic: The score network as the loop calls it.
        network: The same as a function of its parameters.
        game: The losses.
        lazy: By what the loop multiplies the penalty.
        doubt: What is told what cannot be said for certain.
    """

    def __init__(self, critic: nn.Module, network: Network, game: Adversary, lazy: int, doubt: Callable[[str], None]):
        self._critic, self._network, self._game, self._lazy, self._doubt = critic, network, game, lazy, doubt

    def settle(self, unknown: list[Unknown], shown: list[Part],
                 known: bool) -> list[Part]:
        """Says of points of unknown origin whether they are real, and which."""
        used = [some for some in unknown if some.heard.used]
        choices = [choice for some in used for choice in some.choices()]
        generated = any(ids is None for heard, _, ids in shown if heard.used)
        chosen: list[Choice] = []
        if known or not used:
            # Once there are real points, the others are generated.
            pass
        elif not choices:
            self._doubt(
                f"None of the {sum(some.count for some in used)} points of unknown origin that the critic was shown "
                "could be told to be real: they are neither points of a batch nor as many as one has. They are booked "
                f"as generated. {SAY}"
            )
        elif len(choices) == 1 and generated and len(used) == 1 and choices[0].whole:
            # Real points that were scaled or augmented, beside generated ones.
            chosen = choices
        else:
            chosen = self._by_gradient(choices, used, shown)
        for choice in chosen:
            if not choice.origin.certain:
                self._doubt(
                    f"The critic was shown points that were computed from real ones, after {choice.origin.fetched} "
                    "batches had been fetched and not used, so it cannot be told which of these they are; they would "
                    f"be booked on the last one. {SAY}"
                )
        found = [part for some in used for part in some.parts(chosen)]
        real = [list(choice.ids) for choice in chosen]
        for some in unknown:
            if some.heard.used:
                continue
            # A pass of its own for the slope, at the same points.
            may_be = some.heard.about.may_be
            fits = may_be is not None and some.count == len(may_be)
            same = fits and (list(may_be) in real or not known and not used)
            found.append((some.heard, some.rows, may_be if same else None))
        return found

    def _by_gradient(self, choices: list[Choice], used: list[Unknown],
                     shown: list[Part]) -> list[Choice]:
        """The real points by which the recorded loss has the gradient that the critic holds."""
        whole = [choice for choice in choices if choice.whole]
        tried = [[choice] for choice in choices] + ([whole] if len(whole) > 1 else []) + [[]]
        gaps = []
        for chosen in tried:
            parts = [part for part in shown if part[0].used] + [part for some in used for part in some.parts(chosen)]
            gaps.append(self._gap(parts))
        best = min(range(len(tried)), key=gaps.__getitem__)
        second = min((gap for place, gap in enumerate(gaps) if place != best), default=float("inf"))
        if gaps[best] > MET and gaps[best] > second / 2:
            self._doubt(
                "The critic was shown several points of unknown origin, and the gradient does not tell which of them "
                "are real, so real and generated points may be booked on each other. Show the critic generated points "
                "as the generator made them, or let augmentations be a part of the data set and of the generator."
            )
            best = 0
        return tried[best]

    def _gap(self, parts: list[Part]) -> float:
        """How far the gradient of the recorded loss is from the one that the critic holds, but for its size."""
        network = network_behind(self._critic)
        leaves = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()
                  if p.grad is not None}
        held = {**{name: p.detach() for name, p in network.named_parameters()}, **leaves}
        buffers = {name: b.detach() for name, b in network.named_buffers()}
        training = tuple(name for name, module in network.named_modules() if module.training)
        reals = [heard.x[rows] for heard, rows, ids in parts if ids is not None]
        fakes = [heard.x[rows] for heard, rows, ids in parts if ids is None]
        with exact_arithmetic(), random_state(None, parts[0][0].x.device), torch.enable_grad():
            total = torch.zeros((), dtype=torch.float64, device=parts[0][0].x.device)
            for what, held_points in ((REAL, reals), (FAKE, fakes)):
                if held_points:
                    x = torch.cat(held_points)
                    scores = self._network(held, buffers, (x,), training).reshape(len(x), 1)
                    rows = torch.tensor([[what, 1.0]], device=x.device).expand(len(x), 2)
                    total = total + self._game.critic_loss(scores.expand(-1, 2), rows).mean()
            slopes = [heard.x for heard, _, _ in parts if heard.sloped is not None and bool(heard.sloped.any())]
            if slopes and self._game.r1:
                x = torch.cat(slopes).clone().requires_grad_()
                slope, = torch.autograd.grad(self._network(held, buffers, (x,), training).sum(), x, create_graph=True)
                total = total + self._lazy * self._game.r1 / 2 * slope.flatten(1).square().sum(1).mean()
            gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        named = dict(network.named_parameters())
        pairs = [(g.double().flatten(), named[name].grad.double().flatten())  # type: ignore[union-attr]
                 for name, g in zip(leaves, gradients, strict=True) if g is not None]
        if not pairs:
            return 1.0
        made, actual = (torch.cat(column) for column in zip(*pairs, strict=True))
        across, size = float(made @ actual), float(made.norm() * actual.norm())
        cosine = max(across / size, 0.0) if size > 0 else 0.0
        return max(1 - cosine**2, 0.0) ** 0.5
