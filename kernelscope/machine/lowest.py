"""The solution with the lowest validation error that a fit has passed, for each ridge.

An iteration that goes on fits the samples better and better, and other points only for a while. So what it passed at
the lowest error on other points is kept beside where it stands; and when no ridge has had a lower one for some passes,
that is enough.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..solvers import Solution, State

#: What the names of its tensors begin with in a state that is kept.
PREFIX = "lowest."


class Lowest:
    """The solutions with the lowest errors, for coefficients of r ridges.

    Args:
        patience: For how many passes an error may not have been lower before it is enough.
        step: What the solver calls a pass.
        kept: The tensors of one that was kept, to go on from.
    """

    def __init__(self, patience: int, step: str, kept: dict[str, Tensor] | None = None):
        self.patience, self._step = patience, step
        self._best = {} if kept is None else {name.removeprefix(PREFIX): t for name, t in kept.items()
                                              if name.startswith(PREFIX)}

    @property
    def enough(self) -> bool:
        """Whether no ridge has had a lower error for so many passes."""
        return bool(self._best) and int(self._best["heard"] - self._best["last"].max()) >= self.patience

    def take(self, errors: Tensor, state: State) -> bool:
        """Keeps what is better than all before.

        Args:
            errors: The validation error of each ridge, with shape (r,).
            state: Where the solver stands.

        Returns:
            Whether it is enough.
        """
        alpha, b = state.coefficients()
        found = errors.double().cpu().nan_to_num(nan=math.inf)
        objective = torch.tensor([math.nan] * len(found) if state.objective is None else state.objective,
                                 dtype=torch.float64)
        fresh = {"errors": found, "passes": torch.full_like(found, state.passes), "objective": objective,
                 "coefficients": alpha.clone(), "intercepts": b.clone()}
        if not self._best:
            self._best = fresh | {"heard": torch.tensor(1), "last": torch.ones(len(found), dtype=torch.long)}
            return self.enough
        better, heard = found < self._best["errors"], self._best["heard"] + 1
        self._best |= {name: torch.where(better.view(-1, *[1] * (t.ndim - 1)).to(t.device), t, self._best[name])
                       for name, t in fresh.items()}
        self._best |= {"heard": heard, "last": torch.where(better, heard, self._best["last"])}
        return self.enough

    def tensors(self) -> dict[str, Tensor]:
        """What it has to keep to go on; empty before the first pass."""
        return {PREFIX + name: t for name, t in self._best.items()}

    def of(self, solution: Solution) -> Solution:
        """A solution with what was lowest in the place of what was last."""
        best = self._best
        if not best or int(best["heard"] - best["last"].min()) == 0:
            return solution
        passes = ", ".join(dict.fromkeys(f"{value:.3g}" for value in best["passes"].tolist()))
        errors = ", ".join(f"{value:.4g}" for value in best["errors"].tolist())
        one = len(best["errors"]) == 1
        what = "This is the machine" if one else "These are the machines of the ridges"
        said = (f"{what} after {self._step} {passes}, where the validation error{' was' if one else 's were'} "
                f"lowest: {errors}.")
        if self.enough:
            said += (f" The fit ended after {self._step} {solution.passes:.3g}, since for {self.patience} of them none "
                     "was lower.")
        return replace(solution, coefficients=best["coefficients"], intercepts=best["intercepts"],
                       objective=tuple(best["objective"].tolist()), notes=(*solution.notes, said))

    def ended(self, history: tuple[float, ...], passes: float) -> Solution:
        """The solution of a fit that had come to its end before it was interrupted."""
        best = self._best
        return self.of(Solution(best["coefficients"], best["intercepts"], tuple(best["objective"].tolist()), passes,
                                history))
